"""Batches of the trials that there are hold what the dense ones hold, and nothing else."""

import numpy as np
import pytest
from cubes import make_cube
from stores import make_store, rewrite

import strfcube
from strfcube import UsageError
from strfcube.loading import CubeView


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Six stimuli of different lengths, 21 neurons of which most heard two of them, in several blocks."""
    cube, path = make_store(tmp_path_factory.mktemp("cubes"), stim=6, neuron=21, repeat=5, bins=40, seed=4)
    rng = np.random.default_rng(1)
    counts = np.where(rng.random((6, 21)) < 0.3, rng.integers(1, 6, (6, 21)), 0).astype("u2")
    counts[0, 7], counts[5, 20] = 5, 1
    there = cube["repeat"] < cube["n_repeats"].copy(data=counts)
    cube = cube.assign(n_repeats=(("stim", "neuron"), counts), response=cube["response"].where(there))
    cube = cube.assign_coords(weight=(("stim", "neuron"), rng.random((6, 21))))
    cube["response"][0, 7, 1, 3:9] = np.nan  # within a recording
    return cube, path


def dense(batch):
    """The arrays of the dense layout."""
    b, t = len(batch["stim_meta"]), batch["responses"].shape[1]
    repeats = int(batch["repeat_index"].max(initial=0)) + 1
    shape = (b, len(batch["neuron"]), repeats, t)
    values, mask = np.full(shape, np.nan, batch["responses"].dtype), np.zeros(shape, bool)
    at = batch["stim_index"], batch["neuron_index"], batch["repeat_index"]
    assert len(np.unique(np.stack(at), axis=1).T) == len(at[0])
    values[at], mask[at] = batch["responses"], batch["valid_mask"]
    return values, mask


def same_as_dense(view, items):
    ragged, box = view.using(layout="ragged").batch(items), view.using(layout="dense").batch(items)
    values, mask = dense(ragged)
    np.testing.assert_array_equal(mask, box["valid_mask"])
    # A mean of smoothed values is summed in another order
    slack = 1e-5 if view._reading.smooth_ms else 0
    np.testing.assert_allclose(values, box["responses"], rtol=slack, atol=slack)
    assert ragged["neuron"].tolist() == box["neuron"].tolist()
    for key in box.keys() - {"responses", "valid_mask", "neuron", "stim_meta"}:
        np.testing.assert_array_equal(ragged[key], box[key])
    assert ragged["stim_meta"] == box["stim_meta"]
    return ragged


OPTIONS = [
    {}, {"average_repeats": True}, {"smooth_ms": 25.0}, {"average_repeats": True, "smooth_ms": 25.0},
    {"extra": ("weight", "stim_type", "split")}, {"cache": "ram"}, {"cache": "none"},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS)
def test_the_same_values(made, options):
    view = CubeView(made[0], **options)
    for items in ([0], [1, 3, 5], range(6)):
        same_as_dense(view, items)
    alone = view.isel(neuron=[int(np.argmin((view.n_repeats > 0).sum(0)))])  # heard few: some stimuli have no trial
    assert not len(same_as_dense(alone, np.flatnonzero(alone.n_repeats[:, 0] == 0)[:1].tolist())["responses"])
    scaled = view.normalize("zscore").standardize()
    same_as_dense(scaled, range(6))
    same_as_dense(view.normalize("max"), [2, 0])
    same_as_dense(view.isel(neuron=[20, 3, 4, 7]), range(5))
    shown = same_as_dense(view.sel(where=made[0]["n_repeats"] > 1), range(3))  # pairs
    assert len(shown["responses"]) < len(same_as_dense(view, range(6))["responses"])


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("repeats_first", [False, True])
def test_the_same_from_shards(made, tmp_path, dtype, repeats_first):
    from strfcube.builder.save import save

    path = save(made[0].drop_vars("weight"), tmp_path / "cube.zarr")
    rewrite(path, made[0]["response"].values, (1, 8, 2, 40), (3, 8, 6, 40), dtype, repeats_first)
    view = CubeView(path)
    for chosen in (view, view[::-1], view.isel(neuron=slice(None, None, -3)), view.isel(neuron=[9, 2, 17, 3])):
        same_as_dense(chosen, range(6))
    other = made[0].drop_vars("weight").assign_attrs(dataset="b")
    for stimuli, count in (("separate", 12), ("shared", 6)):
        pool = strfcube.concat([strfcube.open(path), other], stimuli=stimuli, duplicates="keep")
        same_as_dense(CubeView(pool), range(count))
    item = view.using(layout="ragged")[5]
    batch = view.using(layout="ragged").batch([5])
    assert "stim_index" not in item
    for key in ("responses", "neuron_index", "repeat_index"):
        np.testing.assert_array_equal(item[key], batch[key])
    assert item["stims"].shape == batch["stims"].shape[1:]


def test_what_nobody_heard_is_not_read(made, tmp_path):
    from strfcube.builder.save import save

    path = save(made[0].drop_vars("weight"), tmp_path / "cube.zarr")
    rewrite(path, made[0]["response"].values, (1, 1, 5, 40), (6, 1, 5, 40), "u1")  # a chunk a pair
    view = CubeView(path, layout="ragged", cache="none")
    source = view._source._responses.parts[0].source
    read, asked = source.read, []
    source.read = lambda at: asked.append(at) or read(at)
    batch = view.batch([0, 1])
    assert len(asked) == int((view.n_repeats[:2] > 0).sum()) < 21
    assert len(batch["responses"]) == view.n_repeats[:2].sum()


def test_a_loader_gives_every_trial_once(made):
    view = CubeView(made[0], layout="ragged").sel()
    found = [
        (meta["stim_name"], *one)
        for batch in view.loader(2, shuffle=True, seed=0, prefetch=1)
        for s, *one in zip(*(batch[f"{n}_index"].tolist() for n in ("stim", "neuron", "repeat")), strict=True)
        for meta in [batch["stim_meta"][s]]
    ]
    assert len(set(found)) == len(found) == view.n_repeats.sum()


def test_what_cannot_be_is_refused(made):
    with pytest.raises(UsageError, match="layout='nested', expected one of dense, ragged"):
        CubeView(made[0], layout="nested")
    with pytest.raises(UsageError, match="cache='device'"):
        CubeView(made[0], cache="device", layout="ragged")


def test_memory_is_of_what_was_recorded(tmp_path):
    """A batch of a cube of which one pair in forty was recorded is a thirtieth of the dense one."""
    import tracemalloc

    cube = make_cube(stim=2, neuron=4000, repeat=2, bins=50, bands=2, holes=False)
    counts = np.zeros((2, 4000), "u2")
    counts[:, ::40] = 2
    path = strfcube.save(cube.assign(
        n_repeats=(("stim", "neuron"), counts),
        response=cube["response"].where(cube["n_repeats"].copy(data=counts) > 0),
    ), tmp_path / "sparse.zarr")  # fmt: skip
    most = {}
    for layout in ("ragged", "dense"):
        view = CubeView(path, layout=layout, cache="none")
        view._reader.check()
        view.batch([0])
        view._source.buffers._fresh()
        tracemalloc.start()
        view.batch([1])
        most[layout] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert most["ragged"] < most["dense"] / 3
