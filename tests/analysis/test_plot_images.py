"""Pictures as they look: each beside a small grey one that a person has looked at.

What is compared is the light of some 40 x 40 fields, so that fonts and versions of matplotlib do not matter, and rows,
panels, ticks and colours do. After a change that is meant, look at the new picture and write the small one again::

    STRFCUBE_WRITE_BASELINES=1 pytest tests/analysis/test_plot_images.py
"""

import functools
import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from cubes import make_cube

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
from matplotlib.image import imread, imsave  # noqa: E402

BASELINES = Path(__file__).with_name("pictures")
FIELDS = 40
ALIKE = 0.94  # correlation of the light of two pictures


def light(figure):
    """Mean light of FIELDS x FIELDS parts of a picture, 0 is black [shape=(row, column)]."""
    with matplotlib.rc_context({"font.family": "DejaVu Sans"}):
        figure.canvas.draw()
        pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255 @ [0.299, 0.587, 0.114]
    rows = np.array_split(pixels, FIELDS, axis=0)
    return np.array([[part.mean() for part in np.array_split(row, FIELDS, axis=1)] for row in rows])


def blurred(image):
    """Neighbours together: an axis may lie a field further."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(image, 0.8)


def alike(a, b):
    return float(np.corrcoef(blurred(a).ravel(), blurred(b).ravel())[0, 1])


@functools.cache
def drawings():
    cube = make_cube(stim=4, neuron=24, repeat=6, bins=160, bands=20)
    slow = np.sin(np.arange(160) / 9)[None, None, None] > np.linspace(-0.9, 0.9, 24)[None, :, None, None]
    cube = cube.assign(response=cube["response"] * slow)
    cube = cube.assign_coords(electrode=("neuron", np.arange(24) * 7 % 24 + 1))
    cube["stimulus"][:] = np.sin(np.arange(20)[:, None] / 3 + np.arange(160) / 15) + 1
    field = np.outer(np.hanning(20), np.sin(np.arange(12) / 2))
    lags = {"frequency": cube["frequency"].values, "lag": np.arange(12) * 0.005}
    plots = cube.strf.plot
    return {
        "response": lambda: plots.response(0, 3),
        "cell": lambda: plots.cell(3),
        "population": lambda: plots.population(1, sort="electrode", edges=16),
        "coverage": lambda: plots.coverage(by="area"),
        "quality": lambda: plots.quality(by="area"),
        "strf": lambda: plots.strf(xr.DataArray(field, lags, ("frequency", "lag"))),
    }


@functools.cache
def drawn(name):
    """A picture and its light: drawn once for both tests, of which the second takes it to pieces."""
    figure = drawings()[name]()
    return figure, light(figure)


NAMES = ("response", "cell", "population", "coverage", "quality", "strf")


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_looks_as_it_did(name):
    assert tuple(drawings()) == NAMES
    found = drawn(name)[1]
    path = BASELINES / f"{name}.png"
    if os.environ.get("STRFCUBE_WRITE_BASELINES"):
        BASELINES.mkdir(exist_ok=True)
        imsave(path, found, cmap="gray", vmin=0, vmax=1)
    wanted = imread(path)[..., 0]
    assert alike(found, wanted) > ALIKE
    assert abs(found.mean() - wanted.mean()) < 0.04


@pytest.mark.parametrize("name", NAMES)
def test_another_picture_is_noticed(name):
    """The comparison itself: upside down, another one, or without its data, a picture is not the same."""
    wanted = imread(BASELINES / f"{name}.png")[..., 0]
    figure, found = drawn(name)
    assert alike(found[::-1], wanted) < ALIKE
    for ax in figure.axes:
        for artist in [*ax.images, *ax.collections, *ax.patches, *ax.lines]:
            artist.remove()
    assert alike(light(figure), wanted) < ALIKE
