"""A cube in other programs: what they read is what the cube holds."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from cubes import make_cube
from scipy.io import loadmat
from writers.ac1 import write as write_ac1
from writers.nat4 import write_nat4

import strfcube
from strfcube import StoreError, UsageError
from strfcube.analysis import tables


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    write_nat4(folder / "nat4")
    write_ac1(folder / "ac1")
    return folder


@pytest.fixture(scope="module")
def counted(raw):
    """A cube whose cells have exact spikes, but for those that are only in the population recording."""
    return strfcube.build("nat4", raw=raw / "nat4", out=raw / "nat4.zarr", jobs=1)


@pytest.fixture(scope="module")
def traces(raw):
    only = {"signal_type": "membrane_potential"}
    return strfcube.build("ac1", raw=raw / "ac1", out=raw / "ac1.zarr", jobs=1, only=only, spec="mel", bands=4)


def groups(path):
    trials = xr.open_zarr(path, group="trials", chunks=None).load()
    return strfcube.open(path), trials


@pytest.mark.slow
@pytest.mark.parametrize("which", ["demo", "counted", "traces"])
def test_matlab_reads_what_the_cube_holds(which, request, tmp_path):
    path = request.getfixturevalue(which)
    ds, trials = groups(path)
    (written,) = strfcube.export(path, tmp_path / "x.mat")
    got = loadmat(written, squeeze_me=False, chars_as_strings=True)
    for name in ("response", "stimulus"):
        assert got[name].dtype == np.float32
        np.testing.assert_array_equal(got[name], ds[name].values)
    np.testing.assert_array_equal(got["n_repeats"], ds["n_repeats"].values)
    np.testing.assert_allclose(got["time"][:, 0], ds["time"].values)
    neuron = got["neuron"][0, 0]
    assert [str(c[0]) for c in neuron["neuron"][:, 0]] == ds["neuron"].values.tolist()
    assert [str(c[0]) for c in neuron["area"][:, 0]] == ds["area"].values.tolist()
    assert set(neuron.dtype.names) >= {str(n) for n, c in ds.coords.items() if c.dims == ("neuron",)}
    rows = got["trials"][0, 0]
    first, size, times = (rows[n][:, 0] for n in ("first", "row_size", "spike_time"))
    ends = trials["row_size"].values.cumsum()
    for k in (0, len(size) // 2, len(size) - 1):
        start = int(first[k]) - 1  # as MATLAB counts
        expected = trials["spike_time"].values[ends[k] - trials["row_size"].values[k] : ends[k]] / 1e9
        np.testing.assert_array_equal(times[start : start + int(size[k])], expected)
        assert rows["stim_index"][k, 0] - 1 == trials["stim_index"].values[k]
    if "audio" in got:
        audio = got["audio"][0, 0]
        assert int(audio["first"][-1, 0]) - 1 + int(audio["row_size"][-1, 0]) == len(audio["samples"])


@pytest.mark.parametrize("which", ["demo", "counted", "traces"])
def test_netcdf_is_the_cube_again(which, request, tmp_path):
    pytest.importorskip("h5netcdf")
    path = request.getfixturevalue(which)
    (written,) = strfcube.export(path, tmp_path / "x.nc")
    ds = strfcube.open(path).load()
    with xr.open_dataset(written, engine="h5netcdf") as got:
        xr.testing.assert_equal(got.load(), ds)
        assert got.attrs["digest"] == ds.attrs["digest"]
        assert got["response"].encoding["dtype"] == ds["response"].encoding["dtype"]
    for name in ("trials", "findings"):
        with xr.open_dataset(written, engine="h5netcdf", group=name) as got:
            stored = xr.open_zarr(path, group=name, chunks=None).load()
            assert set(got.variables) == set(stored.variables)
            for variable in stored.variables:
                np.testing.assert_array_equal(got[variable].values, stored[variable].values.astype(got[variable].dtype))


@pytest.mark.slow
@pytest.mark.parametrize("which", ["demo", "counted", "traces"])
def test_tables_hold_every_event_and_every_trial(which, request, tmp_path):
    path = request.getfixturevalue(which)
    ds, trials = groups(path)
    written = strfcube.export(path, tmp_path / "x.csv")
    assert [p.rpartition("/")[2] for p in written] == ["x.csv", "x-trials.csv", "x-neurons.csv", "x-stimuli.csv"]
    events, rows = (pd.read_csv(p, keep_default_na=False, na_values={"time_s": ""}) for p in written[:2])
    assert len(rows) == trials.sizes["trial"]
    exact = rows[(rows["exact"].astype(str) == "True") & (rows["kept"].astype(str) == "True")]
    assert len(events.merge(exact)) == int(exact["n_spikes"].sum())
    # Every response bin can be made from the events again.
    dt = float(ds.attrs["dt_ms"]) / 1000
    response = ds["response"].values
    counts = np.zeros(response.shape)
    at = [ds.get_index(dim).get_indexer(events[dim]) for dim in ("stim", "neuron")]
    bins = np.floor(np.round(events["time_s"] / dt, 9)).astype(int).to_numpy()
    inside = (bins >= 0) & (bins < response.shape[3])
    where = (at[0][inside], at[1][inside], events["repeat"].to_numpy()[inside], bins[inside])
    np.add.at(counts, where, events["value"].to_numpy()[inside])
    seen = ~np.isnan(response)
    np.testing.assert_allclose(counts[seen], response[seen], rtol=1e-6)
    assert pd.read_csv(written[2]).shape[0] == ds.sizes["neuron"]
    assert pd.read_csv(written[3]).shape[0] == ds.sizes["stim"]


def test_what_cannot_be_exported_is_said(demo, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"x\.xlsx: the ending says .*there are \.mat, \.nc, \.csv"):
        strfcube.export(demo, tmp_path / "x.xlsx")
    with pytest.raises(StoreError, match="there is no folder"):
        strfcube.export(demo, tmp_path / "nowhere" / "x.mat")
    (tmp_path / "x-neurons.csv").touch()
    with pytest.raises(StoreError, match=r"x-neurons\.csv: there is such a file already"):
        strfcube.export(demo, tmp_path / "x.csv")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x-neurons.csv"]  # nothing half-written stays
    monkeypatch.setattr("strfcube.analysis.export.MAT_BYTES", 1000)
    with pytest.raises(UsageError, match=r"export a part .* or as \.nc"):
        strfcube.export(demo, tmp_path / "x.mat")


def test_tables_count_what_was_recorded(demo):
    ds = strfcube.open(demo)
    cells, sounds = tables.neurons(ds), tables.stimuli(ds)
    assert cells.index.name == "neuron"
    assert cells["trials"].sum() == sounds["trials"].sum() == int(ds["n_repeats"].sum())
    assert cells["stimuli"].tolist() == (ds["n_repeats"] > 0).sum("stim").values.tolist()
    assert {"area", "animal"} <= set(cells)
    assert {"duration", "stim_type", "n_bins"} <= set(sounds)


def test_an_export_says_that_it_holds_no_single_spikes(demo, tmp_path):
    pytest.importorskip("h5netcdf")
    (written,) = strfcube.export(demo, tmp_path / "x.nc")
    with (
        xr.open_dataset(written, engine="h5netcdf") as got,
        pytest.raises(StoreError, match="is no cube: open the cube"),
    ):
        got.strf.spikes(0, 0)


def test_coordinates_on_two_dimensions_and_names_that_clash(tmp_path):
    """Of a store that somebody saved: what is known of pairs, and names that MATLAB does not take."""
    ds = make_cube(stim=3, neuron=4)
    split = np.array([["est", "val", "", "est"], ["val"] * 4, ["est"] * 4], object)
    strength = np.arange(12.0).reshape(3, 4)
    ds = ds.assign_coords(
        {"split_of": (("stim", "neuron"), split), "strength": (("neuron", "stim"), strength.T),
         "my.depth": ("neuron", np.arange(4.0)), "my_depth": ("neuron", np.arange(4.0) + 10),
         "my-depth": ("neuron", np.arange(4.0) + 20)}
    )  # fmt: skip
    path = strfcube.save(ds, tmp_path / "x.zarr")
    got = loadmat(strfcube.export(path, tmp_path / "x.mat")[0])
    both = got["coordinates"][0, 0]
    assert [[str(c[0]) if c.size else "" for c in row] for row in both["split_of"]] == split.tolist()
    np.testing.assert_array_equal(both["strength"], strength)
    neuron = got["neuron"][0, 0]
    depths = {name: neuron[name][0, 0] for name in neuron.dtype.names if name.startswith("my_depth")}
    assert depths == {"my_depth": 10, "my_depth_2": 20, "my_depth_3": 0}


def test_a_pool_by_number_says_its_frequencies(tmp_path):
    a, b = make_cube(stim=2, neuron=2, bands=4), make_cube(stim=2, neuron=2, bands=4, seed=1)
    b = b.assign_coords(frequency=b["frequency"] * 2)
    pool = strfcube.concat([a, b], ["a", "b"], bands="by_number", duplicates="keep")
    path = strfcube.save(pool, tmp_path / "pool.zarr")
    got = loadmat(strfcube.export(path, tmp_path / "x.mat")[0])["coordinates"][0, 0]
    np.testing.assert_allclose(got["band_frequency"][[0, 2]], [a["frequency"], b["frequency"]])


@pytest.mark.slow
def test_the_table_of_trials_says_what_is_known_of_each_pair(demo, tmp_path):
    ds = strfcube.open(demo)
    known = np.arange(ds.sizes["stim"] * ds.sizes["neuron"]).reshape(ds.sizes["stim"], -1)
    path = strfcube.save(ds.assign_coords(known=(("stim", "neuron"), known)), tmp_path / "x.zarr")
    rows = pd.read_csv(strfcube.export(path, tmp_path / "x.csv")[1])
    at = [ds.get_index(dim).get_indexer(rows[dim]) for dim in ("stim", "neuron")]
    assert rows["known"].tolist() == known[at[0], at[1]].tolist()
