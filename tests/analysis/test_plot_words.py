"""What pictures write and colour: checksums, lines of like length, levels that the colours tell apart."""

import numpy as np
import pytest
from cubes import make_cube

from strfcube.analysis.plot import pair
from strfcube.analysis.plot.levels import limits_of
from strfcube.analysis.report.collect import spectrograms

FIRST, OTHER, ALIKE = "129376857190B344FAE5AC1B5BD26EC9", "24CE4290" + "0" * 24, "12937685" + "F" * 24


@pytest.mark.parametrize(
    ("labels", "title"),
    [
        ((FIRST, OTHER), "12937685…, conspecific"),
        ((FIRST, ALIKE), f"{FIRST}, conspecific"),  # eight digits would not tell them apart
        ((f"conspecific/{FIRST}", OTHER), "conspecific/12937685…"),
        ((f"{FIRST}00", OTHER), f"{FIRST}00, conspecific"),
        (("nat01", OTHER), "nat01, conspecific"),
    ],
)
def test_a_checksum_is_shown_by_its_first_digits(labels, title):
    cube = make_cube(stim=2, neuron=1).assign_coords(stim=list(labels), stim_type=("stim", ["conspecific"] * 2))
    assert pair.sound(cube, 0).title == title
    assert pair.stim_title(cube.isel(stim=0)).startswith(labels[0])  # where there is room for it


def test_lines_are_of_like_length():
    figures = pytest.importorskip("matplotlib.figure")
    from strfcube.analysis.plot.figure import _wrap

    text = figures.Figure(dpi=100).text(0, 0, "")
    words = "flatrip/" + "1A556365C919DC0B02CF08D2D5CE4F7B"
    text.set_text(words[8:-1])
    _wrap(text, words, text.get_window_extent().width, upright=False)
    lines = text.get_text().split("\n")
    assert "".join(lines) == words
    assert len(lines) == 3
    assert min(map(len, lines)) > 7


def test_digital_silence_does_not_take_the_colours():
    level = np.array([[-240.0, -60.0, 0.0]])
    assert limits_of([level], "dB") == (-90, 0, True, 1)
    assert limits_of([level + 240], "power^(1/3)") == (0, 240, False, 1)
    assert limits_of([np.array([[-60.0, 0.0]])], "dB") == (-60, 0, False, 1)


def test_levels_that_nothing_compressed_are_drawn_by_their_cube_root():
    level = np.append(np.full(99, 0.5), 900.0)[None]
    assert limits_of([level], "arbitrary").root == 3
    assert limits_of([level], "power^(1/3)").root == limits_of([np.arange(100.0)[None]], "arbitrary").root == 1


@pytest.mark.parametrize(("units", "steps"), [("dB", [0, 0, 127, 254]), ("arbitrary", None)])
def test_the_page_of_a_report_draws_the_same(units, steps):
    import base64
    import gzip

    cube = make_cube(stim=1, neuron=1, bins=40, bands=4)
    level = np.zeros((4, 40)) if steps is None else np.full((4, 40), -300.0)
    level[0, :4] = [0, 8, 216, 1000] if steps is None else [-300, -90, -45, 0]
    cube["stimulus"][:] = level
    cube["stimulus"].attrs["units"] = units
    (text,), (span,) = spectrograms(cube, 10**6)
    drawn = np.frombuffer(gzip.decompress(base64.b64decode(text)), np.uint8).reshape(4, -1)[0, :4]
    assert drawn.tolist() == (steps or [0, 51, 152, 254])  # 254 times the cube root of 0, 0.008, 0.216 and 1
    assert tuple(span) == ((0, 1000, False, 3) if steps is None else (-90, 0, True, 1))
