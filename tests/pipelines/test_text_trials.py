"""The trial grammar and the folder grammar of aa-1 and aa-2."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from writers.aa import spike_text, write_pair

from strfcube import limits
from strfcube.errors import RawDataError
from strfcube.pipelines.aa2 import AA2
from strfcube.pipelines.raw_folder import find_root
from strfcube.pipelines.text_trials import pair_files, parse_trials, slurp, trial_text, unix_lines

times = st.floats(-2000, 4000).map(lambda t: round(t, 3))
trials = st.lists(st.lists(times, max_size=6), max_size=8)


def rows(text: bytes) -> list[list[float]]:
    parsed = parse_trials(unix_lines(text))
    assert not parsed.malformed
    ends = np.cumsum(parsed.row_size).tolist()
    return [parsed.times_ms[a:b].tolist() for a, b in zip([0, *ends], ends, strict=False)]


@given(trials, st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_every_trial_comes_back_exactly(many, trailing_blank, end):
    assert rows(spike_text(many, trailing_blank, end)) == many


@given(trials.filter(len))
def test_old_mac_line_ends(many):
    assert rows(spike_text(many, end="\r")) == many


@given(st.lists(st.lists(times, min_size=1), min_size=1), st.sampled_from([" ", "\t", "  ", "\v"]))
def test_any_white_space_parts_the_numbers(many, blank):
    text = "\n".join(blank + blank.join(map(repr, trial)) for trial in many)  # and no LF after the last line
    assert rows(text.encode()) == many


@given(trials, st.lists(st.text("0123456789.-+e nax_,", max_size=12), max_size=5))
def test_fast_and_careful_parse_agree(many, garbage):
    """Whatever the text, a trial holds exactly the words that are plain numbers."""
    text = spike_text(many) + "".join(line + "\n" for line in garbage).encode()
    parsed = parse_trials(text)
    at = np.cumsum(parsed.row_size)
    for i, line in enumerate(text.split(b"\n")[:-1]):
        good, bad = [], []
        for word in line.split():
            try:
                value = float(word)
            except ValueError:
                value = np.nan
            plain = np.isfinite(value) and abs(value) < 1e3 * limits.SPIKE_SECONDS and b"_" not in word
            (good if plain else bad).append(value if plain else word)
        assert parsed.times_ms[at[i] - parsed.row_size[i] : at[i]].tolist() == good
        assert parsed.malformed.get(i, []) == bad


@pytest.mark.parametrize("word", [b"5-3", b"1.2.3", b"--1", b"-", b".", b"1e3x", b"1,5", b"nan", b"inf", b"1_0",
                                  b"9e99", b"9" * 30, b"0x1f"])  # fmt: skip
def test_a_word_that_is_no_number_is_named_and_the_rest_is_read(word):
    parsed = parse_trials(b"1.0 2.0 \n3.0 " + word + b" 4.0 \n\n5.0 \n")
    assert parsed.malformed == {1: [word]}
    assert parsed.row_size.tolist() == [2, 2, 0, 1]
    assert parsed.times_ms.tolist() == [1, 2, 3, 4, 5]


def test_silent_trials_are_lines():
    assert rows(b"\n\n") == [[], []]
    assert rows(b"\n1.5 \n \n") == [[], [1.5], []]
    assert rows(b"") == []
    assert rows(b"  ") == []
    assert rows(b"1.5 \n  ") == [[1.5]]


def test_slurp_reads_large_files(tmp_path):
    content = os.urandom(200_000)
    (tmp_path / "f").write_bytes(content)
    assert slurp(str(tmp_path / "f")) == content


@pytest.mark.parametrize(
    ("content", "severity", "line", "word"),
    [(b"1.0 \n\0\0", "error", 2, "binary"), (b"", "warning", 0, "0 bytes"), (b" ", "warning", 0, "no line"),
     (b"1.0 \n2.0 \xff\n", "error", 2, "binary")],
)  # fmt: skip
def test_files_that_hold_no_trials(tmp_path, content, severity, line, word):
    (tmp_path / "spike1").write_bytes(content)
    found = []
    assert trial_text(tmp_path, "spike1", found.append) == b""
    assert [(f.severity, f.file, f.line) for f in found] == [(severity, "spike1", line)]
    assert word in found[0].what


def test_a_file_that_vanished(tmp_path):
    found = []
    assert trial_text(tmp_path, "spike1", found.append) == b""
    assert "No such file" in found[0].what


def test_pairs_in_numeric_order_and_every_hole_is_reported(tmp_path):
    for k in (1, 2, 10):
        write_pair(tmp_path / "c", k, f"w{k % 2}.wav", [[1.0]])
    write_pair(tmp_path / "c", 3, "x.wav", None)
    write_pair(tmp_path / "c", 4, None, [[1.0]])
    write_pair(tmp_path / "c", 5, "", [[1.0]])
    write_pair(tmp_path / "c", 6, "../secret", [[1.0]])
    (tmp_path / "c" / "stim7").write_bytes(b"\x00\x01.wav")
    write_pair(tmp_path / "c", 7, None, [[1.0]])
    for other in ("stim01", "notes.txt", ".DS_Store"):
        (tmp_path / "c" / other).write_text("w1.wav")
    found = []
    assert pair_files(tmp_path, "c", found.append) == {1: "w1.wav", 2: "w0.wav", 10: "w0.wav"}
    assert {(f.severity, f.file) for f in found} == {
        ("info", "c"), ("warning", "c"), ("warning", "c/stim3"), ("warning", "c/spike4"), ("error", "c/stim5"),
        ("error", "c/stim6"), ("error", "c/stim7"),
    }  # fmt: skip
    text = " ".join(f.what for f in found)
    assert "notes.txt" in text
    assert "stim01" in text
    assert ".DS_Store" not in text
    assert "stim2 and stim10" in text


def test_stim_file_with_cr_and_without_line_end(tmp_path):
    for k, name in enumerate((b"A.wav\r\n", b"B.wav", b"  C.WAV \n \n", b"D.wav\nE.wav\n"), start=1):
        write_pair(tmp_path / "c", k, "", [[1.0]])
        (tmp_path / "c" / f"stim{k}").write_bytes(name)
    found = []
    assert pair_files(tmp_path, "c", found.append) == {1: "A.wav", 2: "B.wav", 3: "C.WAV", 4: "D.wav"}
    assert [f.place for f in found] == ["c/stim4, line 2"]
    assert found[0].what == "expected the name of one wav, found 1 more line"


def test_root_is_found_under_its_wrapping_folders(tmp_path):
    (tmp_path / "crcns" / "aa2" / "all_cells").mkdir(parents=True)
    assert find_root(tmp_path, AA2.marks) == tmp_path / "crcns" / "aa2"
    assert find_root(tmp_path / "crcns" / "aa2", AA2.marks) == tmp_path / "crcns" / "aa2"
    (tmp_path / "crcns" / "copy" / "all_cells").mkdir(parents=True)
    with pytest.raises(RawDataError, match="several: aa2, copy"):
        find_root(tmp_path, AA2.marks)
    with pytest.raises(RawDataError, match="expected the folder all_cells"):
        find_root(tmp_path / "nowhere", AA2.marks)
