"""The report as a file: what is in it is what is in the cube, whatever kind of cube it is, and nothing in it runs."""

import json
import os
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from cubes import make_cube
from pages import COUNTS, EXACT, TRACES, Page
from writers import ac1

import strfcube
from strfcube.analysis.report.packing import folded, varints
from strfcube.analysis.spikes import SpikeTrains, of_pair
from strfcube.catalog import entries
from strfcube.cli.main import main
from strfcube.errors import StoreError, UsageError

pytestmark = pytest.mark.slow

NASTY = "</script><script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def ac1_cube(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ac1")
    ac1.write(folder / "raw", wehr_cells=3)
    return strfcube.build("ac1", raw=folder / "raw", out=folder / "ac1.zarr", jobs=1)


@pytest.fixture
def saved(tmp_path):
    """Save a cube in memory; returns its path."""
    return lambda cube, name="cube": strfcube.save(cube, tmp_path / f"{name}.zarr")


class Tags(HTMLParser):
    """What a browser makes of a page."""

    def __init__(self, text):
        super().__init__()
        self.names, self.attributes, self.urls, self.scripts, self.text = set(), set(), [], 0, ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.scripts += tag == "script"
        self.attributes |= {name for name, _ in attrs}
        self.urls += [value for name, value in attrs if name in ("href", "src", "srcset", "action", "data")]

    def handle_data(self, data):
        self.text += data


def written(path, folder, **options):
    return Page(folder / "page.html") if strfcube.report(path, folder / "page.html", force=True, **options) else None


def held_against(page, path):
    """Every response of the page is that of the cube; returns the kinds and the number of pairs."""
    ds = strfcube.open(path)
    unit_s = page.data["dt"] / page.data["units"]
    response, repeats = ds["response"].transpose("stim", "neuron", "repeat", "time").values, ds["n_repeats"].values
    kinds, number = set(), 0
    for n in range(ds.sizes["neuron"]):
        for s, pair in page.pairs(n).items():
            number += 1
            kinds.add(pair["kind"])
            own = response[s, n, : repeats[s, n], : int(ds["n_bins"][s])]
            assert pair["repeats"] == repeats[s, n]
            missing = np.zeros(own.shape, bool)
            for row, first, length in pair["gaps"]:
                missing[row, first : first + length] = True
            np.testing.assert_array_equal(missing, np.isnan(own))
            if pair["kind"] == EXACT:
                trains = of_pair(ds, s, n)
                assert isinstance(trains, SpikeTrains)
                for row, times, window, stated in zip(
                    pair["rows"], trains.times, trains.window, pair["windows"], strict=True
                ):
                    np.testing.assert_allclose(np.array(row) * unit_s, times, atol=1.0001 * unit_s)
                    bins = np.floor_divide(np.rint(times * 1e9).astype(int), round(page.data["dt"] * 1e9))
                    np.testing.assert_array_equal(np.floor_divide(np.array(row, int), page.data["units"]), bins)
                    known = [np.nan if v is None else v * unit_s for v in stated]
                    np.testing.assert_allclose(known, window, atol=1.0001 * unit_s)
            elif pair["kind"] == COUNTS:
                counts = np.zeros(own.shape)
                for r, (row, more) in enumerate(zip(pair["rows"], pair["more"], strict=True)):
                    counts[r, row] = np.array(more, int) + 1
                np.testing.assert_array_equal(counts, np.nan_to_num(own))
            else:
                step = page.data["mv"] if page.data["neurons"][n]["mV"] else page.data["other"]
                levels = np.array(pair["rows"]) * step
                np.testing.assert_allclose(levels[~missing], own[~missing], atol=0.5001 * step)
    return kinds, number


def test_numbers_survive_packing():
    numbers = np.array([0, 1, 127, 128, 16383, 16384, 2**40, 2**62])
    from pages import _numbers

    assert list(_numbers(varints(numbers))) == numbers.tolist()
    assert folded(np.array([0, -1, 1, -2, 2])).tolist() == [0, 1, 2, 3, 4]
    assert varints(np.empty(0, int)) == b""


def test_all_of_the_demo_is_in_it(demo, tmp_path):
    page = written(demo, tmp_path)
    kinds, number = held_against(page, demo)
    ds = strfcube.open(demo)
    assert kinds == {EXACT}
    assert number == int((ds["n_repeats"] > 0).sum())
    np.testing.assert_array_equal(
        np.frombuffer(page.blocks["coverage"], np.uint8).reshape(ds.sizes["neuron"], -1), ds["n_repeats"].values.T
    )
    for s, sound in enumerate(page.data["stims"]):
        level = ds["stimulus"].values[s, :, : sound["bins"]]
        low, high, below, root = sound["span"]
        assert (below, root) == (False, 1)
        steps = np.frombuffer(page.blocks[f"s{s}"], np.uint8).reshape(level.shape)
        np.testing.assert_allclose(low + steps * (high - low) / 254, level, atol=0.51 * (high - low) / 254)


def test_it_says_what_the_cube_is(demo, tmp_path):
    page = written(demo, tmp_path)
    attrs = strfcube.open(demo).attrs
    words = page.words
    for text in (attrs["title"], attrs["digest"], attrs["licence"], attrs["history"], "How to cite", "demo-dt5.zarr"):
        assert " ".join(str(text).split()) in words
    for line in attrs["citation"].splitlines():
        assert " ".join(line.split()) in words
    for key, value in json.loads(attrs["recipe"]).items():
        assert f'"{key}": {json.dumps(value)}' in words or f'"{key}"' in words
    quality = strfcube.open(demo).strf.quality().compute()
    found = [n["ccmax"] for n in page.data["neurons"]]
    np.testing.assert_allclose(np.array(found, float), quality["ccmax"], atol=1e-6)
    assert np.sum(page.data["quality"]["ccmax"]["counts"]) == np.isfinite(quality["ccmax"]).sum()


def test_the_same_cube_gives_the_same_page(demo, tmp_path):
    for name in ("a", "b"):
        strfcube.report(demo, tmp_path / f"{name}.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_potentials_spikes_and_findings_of_one_set(ac1_cube, tmp_path):
    page = written(ac1_cube, tmp_path)
    assert held_against(page, ac1_cube)[0] == {EXACT, TRACES}
    found = page.data["findings"]
    table = strfcube.cube.groups.open_group(ac1_cube, "findings")
    assert found["total"] == found["listed"] == table.sizes["finding"] > 0
    assert sum(k["count"] for k in found["kinds"]) == sum(len(k["each"]) for k in found["kinds"]) == found["total"]
    assert {e[1] for k in found["kinds"] for e in k["each"]} == set(table["what"].values)


@pytest.mark.parametrize(
    ("sizes", "kinds"),
    [
        ({}, {COUNTS}),
        ({"neuron": 1}, {COUNTS}),
        ({"repeat": 1, "holes": False}, {COUNTS}),
        ({"neuron": 1, "stim": 1, "repeat": 1, "holes": False, "bands": 1}, {COUNTS}),
        ({"trace": (0, 2)}, {COUNTS, TRACES}),
        ({"rate": 400.0}, {COUNTS}),
        ({"dt_ms": 7.3}, {COUNTS}),
    ],
)
def test_cubes_without_trials(saved, tmp_path, sizes, kinds):
    cube = make_cube(**sizes)
    page = written(saved(cube), tmp_path)
    assert held_against(page, saved(cube, "again")) == (kinds, int((cube["n_repeats"] > 0).sum()))


def test_bins_that_were_not_observed(saved, tmp_path):
    cube = make_cube(trace=(1,), holes=False)
    cube["response"][:, :, 1, 3:9] = np.nan
    cube["response"][0, :, 0, -2:] = np.nan
    path = saved(cube)
    assert held_against(written(path, tmp_path), path)[0] == {COUNTS, TRACES}


def test_responses_that_are_no_counts_any_more(demo, saved, tmp_path):
    cube = make_cube(holes=False)
    cube["response"] = cube["response"] * 0.37 - 1
    path = saved(cube)
    assert held_against(written(path, tmp_path), path)[0] == {TRACES}


def test_no_spectrogram(saved, tmp_path):
    cube = make_cube()
    cube["stimulus"][1:] = np.nan
    page = written(saved(cube), tmp_path)
    assert [s["span"] is None for s in page.data["stims"]] == [False, True, True, True]
    assert {n for n in page.blocks if n.startswith("s")} == {"s0"}


def test_a_later_part_in_time(demo, saved, tmp_path):
    part = strfcube.open(demo).isel(time=slice(40, 200))
    path = saved(part)
    page = written(path, tmp_path)
    assert page.data["start"] == pytest.approx(0.2)
    assert held_against(page, path)[0] == {COUNTS}  # what is saved of some bins has no single trials


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
def test_repeats_that_stand_in_another_order(tmp_path):
    path = str(tmp_path / "cube.zarr")
    cube = make_cube(seed=3, repeat=5)
    strfcube.save(cube, path)
    reversed_ = strfcube.open(path).load().isel(repeat=slice(None, None, -1))
    reversed_.to_zarr(tmp_path / "turned.zarr")
    with pytest.raises(StoreError, match="'repeat' does not count from 0"):
        written(str(tmp_path / "turned.zarr"), tmp_path)
    page = written(strfcube.save(reversed_, tmp_path / "saved.zarr"), tmp_path)
    assert held_against(page, path) == ({COUNTS}, int((cube["n_repeats"] > 0).sum()))


def test_strips_along_the_map_have_colours_of_their_own(saved, tmp_path):
    cube = make_cube(stim=8, neuron=6)
    cube = cube.assign_coords(area=("neuron", np.array(["MLd"] * 3 + ["OV"] * 3, object)))
    coverage = written(saved(cube), tmp_path).data["coverage"]
    strips = [*coverage["above"], *coverage["beside"]]
    assert [s["label"] for s in strips] == ["stim type", "split", "area", "animal"]
    every = [colour for s in strips for colour in s["colours"].values()]
    assert len(set(every)) == len(every) == 8
    assert all(set(s["colours"]) == {g[0] for g in s["groups"]} for s in strips)


def test_fine_and_odd_bins(demo, tmp_path):
    for dt in (0.25, 1.7):
        path = strfcube.rebin(demo, dt, out=tmp_path / f"{dt}.zarr", jobs=1)
        page = written(path, tmp_path)
        assert page.data["dt"] / page.data["units"] <= 1e-4
        assert held_against(page, path)[0] == {EXACT}


def test_it_is_cut_to_fit(demo, tmp_path):
    whole = written(demo, tmp_path)
    room = len(whole.text) * 0.6
    page = written(demo, tmp_path, megabytes=room / 1e6)
    assert len(page.text.encode()) <= room
    number = held_against(page, demo)[1]
    pairs = int((strfcube.open(demo)["n_repeats"] > 0).sum())
    assert 0.2 * pairs < number < pairs
    assert all(page.pairs(n) for n in range(8))
    assert f"the page holds {number} of {pairs} responses" in page.words
    assert "Cut to fit" not in whole.words


def test_a_size_in_which_little_fits(demo, tmp_path):
    sizes = []
    for megabytes in (0.3, 0.12, 0.08):
        page = written(demo, tmp_path, megabytes=megabytes)
        assert len(page.text.encode()) <= megabytes * 1e6
        sizes.append(held_against(page, demo)[1])
    assert sizes[0] > sizes[1] >= sizes[2]
    assert "spectrograms are left out" in page.words
    with pytest.raises(UsageError, match="has no room for this cube"):
        written(demo, tmp_path, megabytes=0.001)


def test_labels_are_texts_and_nothing_else(saved, tmp_path):
    cube = make_cube(stim=2, neuron=3)
    for name in ("stim", "neuron", "stim_type", "animal", "area_label", "split", "stim_name"):
        cube = cube.assign_coords(
            {name: (cube[name].dims, np.array([f"{NASTY}{v}" for v in cube[name].values], object))}
        )
    for name in ("title", "dataset", "citation", "licence", "history", "doi"):
        cube.attrs[name] = f"{NASTY} https://doi.org/10.1/a{NASTY}"
    cube.attrs["sources"] = json.dumps([f"javascript:{NASTY}", f"https://example.org/{NASTY}"])
    cube["stimulus"].attrs["units"] = NASTY
    page = written(saved(cube), tmp_path)
    seen = Tags(page.text)
    assert seen.scripts == len(page.blocks) + 1
    assert not seen.names & {"img", "iframe", "object", "embed", "form", "base"}
    assert not {name for name in seen.attributes if name.startswith("on")}
    urls = [u for u in seen.urls if not u.startswith("#") and u != "data:,"]
    assert urls
    assert all(re.match(r"https://(doi\.org|example\.org)/", url) for url in urls)
    for text in (NASTY, f"javascript:{NASTY}"):
        assert " ".join(text.split()) in " ".join(seen.text.split())
    assert page.data["neurons"][0]["label"].startswith(NASTY)
    assert "default-src 'none'" in page.text


def test_nothing_is_fetched(demo, tmp_path):
    page = written(demo, tmp_path)
    bare = re.sub(r'<a [^>]*href="[^"]*"|http://www.w3.org/2000/svg', "", page.text)
    assert not re.findall(r"""(?:src|href|url|import|fetch|XMLHttp)[=(]\s*["']?https?:""", bare)


@pytest.mark.parametrize(
    ("target", "options", "error", "said"),
    [
        ("page.pdf", {}, UsageError, r"there are \.html"),
        ("nowhere/page.html", {}, StoreError, "there is no folder"),
        ("folder.html", {}, StoreError, "this is a folder"),
        ("page.html", {"megabytes": 0}, UsageError, "expected a size above 0"),
        ("page.html", {"megabytes": float("nan")}, UsageError, "expected a size above 0"),
    ],
)
def test_what_cannot_be_written(demo, tmp_path, target, options, error, said):
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(error, match=said):
        strfcube.report(demo, tmp_path / target, **options)


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text there")
def test_a_name_that_is_no_text(saved, tmp_path):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff.zarr")
    os.rename(saved(make_cube(), "plain"), odd)  # saved there, it would be logged, which no report of tests can hold
    assert "odd\\xff.zarr" in written(odd, tmp_path).text


def test_no_such_cube(tmp_path):
    with pytest.raises(StoreError, match="no such cube"):
        strfcube.report(tmp_path / "none.zarr", tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


def test_the_command(demo, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["report", str(demo)])
    assert end.value.code == 0
    assert re.fullmatch(r"report\.html  \d+\.\d (MB|kB)\n", capsys.readouterr().out)
    assert held_against(Page(tmp_path / "report.html"), demo)[1] > 0
    with pytest.raises(SystemExit) as end:
        main(["report", str(demo), "--only", "area=MLd", "-o", "part.html"])
    assert end.value.code == 0
    strfcube.save(strfcube.open(demo).strf.sel(area="MLd"), tmp_path / "part.zarr")
    part, known = Page(tmp_path / "part.html"), " ".join(entries()["demo"].description.split())
    assert held_against(part, tmp_path / "part.zarr")[1] > 0
    assert f"The whole data set, of which this is not all: {known}" in part.words
    assert known in Page(tmp_path / "report.html").words
    assert "of which this is not all" not in Page(tmp_path / "report.html").words
    assert sorted(p.name for p in tmp_path.iterdir()) == ["part.html", "part.zarr", "report.html"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["report", str(demo), "--megabytes", "-1", "-o", "other.html"])
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == "strfcube: error: --megabytes -1.0: expected a size above 0"


def test_the_real_recordings(real_ns1, tmp_path):
    _, path = real_ns1
    page = written(path, tmp_path)
    assert len(page.text) < 15_000_000
    ds = strfcube.open(path)
    assert sum(len(page.pairs(n)) for n in range(0, ds.sizes["neuron"], 20)) == 6 * ds.sizes["stim"]
