"""The contract: a cube keeps it, and every way to break it is named."""

import numpy as np
import pytest
from cubes import make_cube

from strfcube.cube.schema import AREAS, NEURON_COORDS, STIM_COORDS, area_of, problems, validate
from strfcube.errors import StoreError


def test_a_cube_keeps_it():
    for ds in (make_cube(), make_cube(trace=(1,)), make_cube(stim=1, neuron=1, repeat=1, bins=2)):
        assert problems(ds) == []
        validate(ds)


@pytest.mark.parametrize("name", ["response", "stimulus", "n_repeats", "n_rejected", "n_bins", "duration"])
def test_missing_variable(name):
    assert any(f"variable '{name}'" in p for p in problems(make_cube().drop_vars(name)))


@pytest.mark.parametrize("name", [*STIM_COORDS, *NEURON_COORDS, "stim", "neuron", "repeat", "time", "frequency"])
def test_missing_coordinate(name):
    assert any(f"coordinate '{name}'" in p for p in problems(make_cube().drop_vars(name)))


@pytest.mark.parametrize("name", sorted(make_cube().attrs))
def test_missing_attribute(name):
    ds = make_cube()
    del ds.attrs[name]
    assert problems(ds) == [f"root attribute '{name}' is missing"]


def change(**values):
    def apply(ds):
        for name, value in values.items():
            changed = ds[name].values.copy()
            changed[(0,) * changed.ndim] = value
            ds[name] = ds[name].copy(data=changed)
        return ds

    return apply


@pytest.mark.parametrize(
    ("apply", "expected"),
    [
        (lambda ds: ds.assign_attrs(format_version=2), "format_version is 2, expected 1"),
        (lambda ds: ds.assign_attrs(dt_ms=4.0), "'time' does not advance by dt_ms = 4.0"),
        (lambda ds: ds.transpose("neuron", ...), "'response' has dims"),
        (lambda ds: ds.assign(stimulus=ds["n_bins"] * ds["stimulus"].notnull()), "'stimulus' is stored as int32"),
        (lambda ds: ds.assign_coords(area=("stim", ds["stim"].values)), "'area' has dims"),
        (change(area="mld"), "'area' has ['mld']"),
        (change(region="L1"), "'region' has ['L1']"),
        (change(stim_category="conspecific"), "'stim_category' has ['conspecific']"),
        (change(units="mV"), "signal_type 'spikes' with units 'mV'"),
        (change(n_bins=99), "n_bins reaches 99"),
        (change(n_repeats=99), "n_repeats reaches 99"),
        (lambda ds: ds.isel(repeat=slice(None, None, -1)), "'repeat' does not count from 0"),
        (
            lambda ds: ds.assign_coords(stim=np.array(["a"] * ds.sizes["stim"], object)),
            "labels of 'stim' are not unique",
        ),
    ],
)
def test_other_breaches(apply, expected):
    found = problems(apply(make_cube()))
    assert any(expected in p for p in found), found


def test_validate_names_all_of_them():
    ds = make_cube().drop_vars(["duration", "animal"])
    with pytest.raises(StoreError, match=r"x.zarr is no cube of format 1: .*'duration'.*; .*'animal'"):
        validate(ds, "x.zarr")


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("mld", ("MLd", "MLd")), ("MLd", ("MLd", "MLd")), ("L2a", ("L2a", "Field_L")), ("l", ("L", "Field_L")),
        (" OV ", ("OV", "OV")), ("None", ("unknown", "unknown")), ("", ("unknown", "unknown")), ("CLM", ("CLM", "CM")),
        ("V1", None),
    ],
)  # fmt: skip
def test_one_vocabulary_of_areas(label, expected):
    assert area_of(label) == expected
    assert expected is None or expected[0] in AREAS
