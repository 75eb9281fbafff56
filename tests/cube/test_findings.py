"""Findings are told by kind: nothing is lost, and forty times the same is one line."""

import numpy as np
import pytest
import xarray as xr

from strfcube.cube.findings import kinds, told


def table(*rows):
    names = ("severity", "file", "line", "what", "consequence")
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    dtypes = (object, object, int, object, object)
    return xr.Dataset(
        {n: ("finding", np.array(list(c), dtype)) for n, c, dtype in zip(names, columns, dtypes, strict=True)}
    )


def missing(k):
    return ("warning", f"all_stims/{k:032X}.wav", 0, f"the wav of stim{k} is not there", "it has no spectrogram")


def test_one_kind_is_one_line_with_its_number_and_an_example():
    found = kinds(table(*(missing(k) for k in range(40)), ("info", "a", 3, "an odd line", "it is read")))
    assert [(k.severity, k.count) for k in found] == [("warning", 40), ("info", 1)]
    text = "\n".join(told(table(*(missing(k) for k in range(40))), 78, path="x"))
    assert text.startswith("findings in the raw files: 40 warnings")
    assert "40 times: the wav of stim0 is not there" in text
    assert "(such as all_stims/0000" in text.replace("\n    ", " ")


def test_other_words_are_another_kind():
    rows = [("warning", "f", 1, "a cell is lost", "x"), ("warning", "f", 2, "a wav is lost", "x"),
            ("error", "g", 0, "a cell is lost", "x"), ("warning", "f", 1, "a cell is lost", "y")]  # fmt: skip
    found = kinds(table(*rows))
    assert sum(kind.count for kind in found) == len(found) == 4
    assert found[0].severity == "error"


def test_every_finding_can_be_told_and_lines_keep_the_width():
    several = table(*(missing(k) for k in range(7)), ("info", "", 0, "a note", "nothing follows"))
    lines = told(several, 78, path="x", every=True)
    assert max(map(len, lines)) <= 78
    assert sum(line.startswith("  warning: all_stims/") for line in lines) == 7
    assert lines[0] == "findings in the raw files: 7 warnings, 1 note"


@pytest.mark.parametrize("every", [False, True])
def test_no_findings_no_lines(every):
    assert told(table(), 78, path="x", every=every) == []
