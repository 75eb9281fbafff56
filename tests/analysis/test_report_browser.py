"""The report in a real browser: Chromium without a window, offline. What it draws is what the cube holds."""

import json
import shutil

import numpy as np
import pytest
from cubes import make_cube
from writers import ac1

import strfcube
from strfcube.analysis.spikes import of_pair

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: CONTRIBUTING.md says how to get it")
NASTY = "</script><script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"
SHOWN = """() => { const p = strfcube.state.shown.pair; return p && {
  kind: p.kind, unit: p.unit, span: p.span, mean: strfcube.mean().map(v => Number.isNaN(v) ? null : v),
  times: p.times && p.times.map(t => [...t]),
  traces: p.traces && p.traces.map(t => [...t].map(v => Number.isNaN(v) ? null : v)) } }"""


@pytest.fixture(scope="module")
def chromium():
    place = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if place is None:
        pytest.skip("no Chromium: CONTRIBUTING.md says how to get it")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=place, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, tmp_path):
    """Write the report of a cube and open it; at the end nothing was requested, and nothing went wrong."""
    heard, contexts = [], []

    def call(path, hash_="", page=None, report=None, **how):
        target = tmp_path / "page.html"
        strfcube.report(path, target, force=True, **(report or {}))
        context = chromium.new_context(**({"viewport": {"width": 1100, "height": 900}} | how))
        contexts.append(context)
        context.set_offline(True)
        page = context.new_page()
        page.on("console", lambda m: heard.append(("console", m.text)))
        page.on("pageerror", lambda e: heard.append(("error", str(e))))
        page.on("dialog", lambda d: (heard.append(("dialog", d.message)), d.dismiss()))
        page.on("request", lambda r: None if r.url.startswith(target.as_uri()) else heard.append(("request", r.url)))
        page.goto(target.as_uri() + hash_)
        page.wait_for_selector("body[data-ready]", state="attached")
        return page

    yield call
    for context in contexts:
        context.close()
    assert heard == []


@pytest.fixture(scope="module")
def ac1_cube(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ac1")
    ac1.write(folder / "raw", wehr_cells=3)
    return strfcube.build("ac1", raw=folder / "raw", out=folder / "ac1.zarr", jobs=1)


def go(page, neuron, stim):
    page.evaluate("([n, s]) => strfcube.show(n, s)", [neuron, stim])
    return page.evaluate(SHOWN)


def press(page, *keys):
    """Press keys, each once the one before has done its work; returns what is shown then: neuron, stimulus."""
    for key in keys:
        before = page.evaluate("document.body.dataset.shown")
        page.keyboard.press(key)
        page.wait_for_function("b => document.body.dataset.shown !== b", arg=before)
    return shown(page)


def shown(page):
    return tuple(map(int, page.evaluate("document.body.dataset.shown").split(",")))


PIXELS = """id => {
  const drawn = document.getElementById(id), copy = document.createElement("canvas");
  copy.width = drawn.width; copy.height = drawn.height;
  const pen = copy.getContext("2d", { willReadFrequently: true });
  pen.drawImage(drawn, 0, 0);
  const data = pen.getImageData(0, 0, copy.width, copy.height).data;
  return { corner: [...data.slice(0, 3)], colours: new Set(new Uint32Array(data.buffer)).size };
}"""


def is_ink(page, canvas):
    """Number of different colours in a canvas: 1 where nothing was drawn."""
    return page.evaluate(PIXELS, canvas)["colours"]


def floats(values):
    return np.array([np.nan if v is None else v for v in values], float)


@pytest.mark.parametrize("smooth", [0, 21, 50])
def test_exact_spikes_and_psths(opened, demo, smooth):
    page = opened(demo)
    page.select_option("#smooth", str(smooth))
    ds = strfcube.open(demo)
    psth = ds.strf.psth(smooth_ms=smooth or None).compute()
    for s, n in np.argwhere(ds["n_repeats"].values > 0)[::17].tolist():
        own, trains = go(page, n, s), of_pair(ds, s, n)
        for drawn, times in zip(own["times"], trains.times, strict=True):
            np.testing.assert_allclose(drawn, times, atol=1.01e-4)
        want = psth.isel(stim=s, neuron=n).values[: int(ds["n_bins"][s])]
        np.testing.assert_allclose(floats(own["mean"]), want, rtol=1e-4, atol=1e-3)
        assert own["unit"] == "spikes/s"
        every = np.concatenate([*trains.times, trains.window[np.isfinite(trains.window)]])
        ends = [min(0, every.min()), max(float(ds["n_bins"][s]) * 0.005, every.max())]
        np.testing.assert_allclose(own["span"], ends, atol=2e-4)
    assert is_ink(page, "pair") > 50


def test_potentials(opened, ac1_cube):
    page = opened(ac1_cube)
    page.select_option("#smooth", "0")
    ds = strfcube.open(ac1_cube)
    psth = ds.strf.psth().compute()
    units = set()
    for s, n in np.argwhere(ds["n_repeats"].values > 0).tolist():
        own, bins = go(page, n, s), int(ds["n_bins"][s])
        np.testing.assert_allclose(
            floats(own["mean"]), psth.isel(stim=s, neuron=n).values[:bins], rtol=1e-4, atol=0.0501
        )
        units.add(own["unit"])
        if own["traces"]:
            values = ds["response"].isel(stim=s, neuron=n).values[: int(ds["n_repeats"][s, n]), :bins]
            np.testing.assert_allclose(np.array([floats(t) for t in own["traces"]]), values, atol=0.0501)
        assert is_ink(page, "pair") > 10
    assert units == {"mV", "spikes/s"}


def test_bins_and_gaps(opened, tmp_path):
    cube = make_cube(trace=(1,))
    cube["response"][:, :, 1, 3:9] = np.nan
    cube["response"][:, :, :, 20:22] = np.nan
    path = strfcube.save(cube, tmp_path / "cube.zarr")
    page = opened(path)
    for smooth in (0, 21):
        page.select_option("#smooth", str(smooth))
        psth = strfcube.open(path).strf.psth(smooth_ms=smooth or None).compute()
        for s, n in np.argwhere(cube["n_repeats"].values > 0).tolist():
            want = psth.isel(stim=s, neuron=n).values[: int(cube["n_bins"][s])]
            np.testing.assert_allclose(floats(go(page, n, s)["mean"]), want, rtol=1e-4, atol=0.0501)


@pytest.mark.parametrize("sizes", [{"neuron": 1}, {"repeat": 1}, {"stim": 1, "neuron": 1, "repeat": 1, "bands": 1}])
def test_small_cubes(opened, tmp_path, sizes):
    cube = make_cube(holes=False, **sizes)
    cube["stimulus"][-1] = np.nan
    page = opened(strfcube.save(cube, tmp_path / "cube.zarr"))
    own = go(page, cube.sizes["neuron"] - 1, cube.sizes["stim"] - 1)
    assert len(own["times"]) == cube.sizes["repeat"]
    assert page.evaluate("strfcube.state.shown.level") is None
    assert is_ink(page, "pair") > 2
    assert page.locator("#pair-text").inner_text().startswith("3 repeats" if "repeat" not in sizes else "1 repeat,")


def test_picking(opened, demo):
    page = opened(demo)
    ds = strfcube.open(demo)
    heard = ds["n_repeats"].values > 0
    n, s = shown(page)
    right, down = press(page, "ArrowRight"), press(page, "ArrowDown")
    assert right == (n, min(i for i in np.flatnonzero(heard[:, n]) if i > s))
    assert down[0] == n + 1
    assert press(page, "ArrowUp")[0] == n
    before = shown(page)
    assert press(page, "ArrowRight", "ArrowLeft") == before
    page.select_option("#neuron", "5")
    page.wait_for_function("() => document.body.dataset.shown.startsWith('5,')")
    stim = int(np.flatnonzero(heard[:, 5])[-1])
    page.select_option("#stim", str(stim))
    page.wait_for_function("s => document.body.dataset.shown === '5,' + s", arg=stim)
    assert str(ds["neuron"].values[5]) in page.locator("#pair-title").inner_text()
    assert str(ds["stim"].values[stim]) in page.locator("#pair-title").inner_text()
    page.click("#neuron-after")
    page.wait_for_function("() => document.body.dataset.shown.startsWith('6,')")
    label = str(ds["neuron"].values[2])
    page.fill("#find", label)
    page.wait_for_function("() => document.body.dataset.shown.startsWith('2,')")
    assert page.locator("#neuron option").count() == 1
    page.fill("#find", "nothing is called so")
    assert page.locator("#neuron").is_disabled()
    page.fill("#find", "")
    assert page.locator("#neuron option").count() == 8
    # In a field the arrows belong to the field
    page.focus("#find")
    still = shown(page)
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(100)
    assert shown(page) == still


def test_a_click_on_the_map(opened, demo):
    page = opened(demo)
    box = page.evaluate("strfcube.state.map.box")
    at = page.locator("#map").bounding_box()
    x, y = at["x"] + box["x"] + box["w"] * 3.5 / 16, at["y"] + box["y"] + box["h"] * 6.5 / 8
    page.mouse.wheel(0, 0)
    page.locator("#map").click(position={"x": x - at["x"], "y": y - at["y"]})
    page.wait_for_function("() => document.body.dataset.shown === '6,3'")
    # The cube counts from 0, and so does the page
    assert page.locator("#pair-text").inner_text().endswith("neuron 6 and stimulus 3 of the cube")
    page.locator("#map").hover(position={"x": x - at["x"], "y": y - at["y"]})
    assert str(strfcube.open(demo)["neuron"].values[6]) in page.locator("#map").get_attribute("title")


def test_a_link_to_a_pair(opened, demo):
    ds = strfcube.open(demo)
    s, n = np.argwhere(ds["n_repeats"].values > 0)[40].tolist()
    page = opened(demo, f"#neuron={ds['neuron'].values[n]}&stim={ds['stim'].values[s]}")
    assert shown(page) == (n, s)
    press(page, "ArrowDown")
    assert f"neuron={ds['neuron'].values[n + 1]}".replace("/", "%2F") in page.url


def test_pairs_that_are_not_there(opened, demo):
    page = opened(demo, report={"megabytes": 0.4})
    assert page.evaluate(SHOWN) is not None, "what is seen first is in the page"
    press(page, "ArrowDown")
    assert page.evaluate(SHOWN) is not None, "and so is what the keys lead to"
    repeats = strfcube.open(demo)["n_repeats"].values
    said = set()
    for s, n in np.argwhere(repeats >= 0).tolist():
        if go(page, n, s) is None:
            said.add((page.locator("#pair-text").inner_text().partition(",")[0], bool(repeats[s, n])))
    assert said == {
        ("this response is left out of the page", True),
        ("this stimulus was never presented to this neuron", False),
    }
    assert "(left out)" in page.locator("#stim").inner_text()
    assert "Cut to fit 0.4 MB" in page.locator("#look").inner_text()


def test_labels_do_nothing(opened, tmp_path):
    cube = make_cube(stim=2, neuron=3)
    for name in ("stim", "neuron", "stim_type", "animal", "split", "stim_name"):
        values = np.array([f"{NASTY}{v}" for v in cube[name].values], object)
        cube = cube.assign_coords({name: (cube[name].dims, values)})
    for name in ("title", "citation", "licence", "history"):
        cube.attrs[name] = NASTY
    cube["stimulus"].attrs["units"] = NASTY
    page = opened(strfcube.save(cube, tmp_path / "cube.zarr"))
    press(page, "ArrowDown")
    assert NASTY in page.locator("#pair-title").inner_text()
    assert page.locator("h1").inner_text() == NASTY
    assert page.locator("img").count() == 0
    assert any(text.startswith(NASTY) for text in page.locator("#map-legend span").all_inner_texts())


def test_findings_are_searched(opened, ac1_cube):
    page = opened(ac1_cube)
    table = strfcube.cube.groups.open_group(ac1_cube, "findings")
    total = table.sizes["finding"]
    assert f"{total} of {total} findings" in page.locator("#findings-count").inner_text()
    for summary in page.locator("#findings-list summary").all():
        summary.click()
    page.wait_for_function("n => document.querySelectorAll('#findings-list li').length === n", arg=total)
    listed = page.locator("#findings-list li").all_inner_texts()
    assert len(listed) == total
    assert all(any(str(w) in text for text in listed) for w in table["what"].values)
    warnings = int((table["severity"] == "warning").sum())
    page.fill("#search", "WARNING")
    assert f"{warnings} of {total} findings" in page.locator("#findings-count").inner_text()
    page.fill("#search", "no finding has these words")
    assert page.locator("#findings-list details").count() == 0


def test_quality_is_drawn(opened, ac1_cube):
    page = opened(ac1_cube)
    known = int(np.isfinite(strfcube.open(ac1_cube).strf.quality()["ccmax"].values).sum())
    bars = page.locator("#ccmax rect title").all_text_contents()
    assert sum(int(b.rpartition(": ")[2]) for b in bars) == known > 0
    assert "not shown" in page.locator("#quality-note").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_dark_and_printed(opened, demo, scheme):
    page = opened(demo, color_scheme=scheme)

    def ground():
        return page.evaluate(PIXELS, "pair")["corner"]

    assert (sum(ground()) < 200) == (scheme == "dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert ground() == [255, 255, 255]
    page.emulate_media(media="print")
    assert not page.locator("#controls").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert (sum(ground()) < 200) == (scheme == "dark")
    assert page.pdf()[:5] == b"%PDF-"


def test_narrow(opened, demo):
    page = opened(demo, viewport={"width": 340, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 340
    page.set_viewport_size({"width": 900, "height": 700})
    page.wait_for_function('() => document.getElementById("pair").clientWidth > 600')
    assert is_ink(page, "pair") > 50


def test_times_of_the_real_recordings(opened, real_ns1, record_property):
    _, path = real_ns1
    page = opened(path)
    took = []
    for key in ["ArrowRight", "ArrowDown"] * 5:
        press(page, key)
        took.append(page.evaluate("strfcube.state.took"))
    figures = {"opened_ms": int(page.evaluate("document.body.dataset.ready")), "picked_ms": sorted(took)}
    record_property("browser", json.dumps(figures))
    print(figures)
    assert len(took) == 10
