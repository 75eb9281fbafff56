"""catalog.yaml against the registered pipelines, entry by entry."""

import importlib.metadata
import re

import pytest
import yaml
from install import ROOT

from strfcube.cube.schema import AREAS
from strfcube.records import Pipeline
from strfcube.sound.spectrogram import FRONT_ENDS

CATALOG = yaml.safe_load((ROOT / "catalog.yaml").read_text())
POINTS = {point.name: point for point in importlib.metadata.entry_points(group="strfcube.pipelines")}
TEXT = ("title", "description", "species", "account", "terms", "licence", "homepage", "doi")


def test_every_entry_has_a_pipeline_and_back():
    assert set(CATALOG) == set(POINTS)


@pytest.mark.parametrize("name", sorted(POINTS))
def test_pipeline_is_one(name):
    pipeline = POINTS[name].load()
    assert issubclass(pipeline, Pipeline)
    assert not pipeline.__abstractmethods__
    assert all(option.name.isidentifier() and option.help for option in pipeline.options)


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_entry_says_what_a_user_must_know(name):
    entry = CATALOG[name]
    assert {*TEXT, "areas", "citation", "recipe", "figures"} <= set(entry)
    assert all(isinstance(entry[key], str) for key in TEXT)
    assert all(entry[key] for key in ("title", "description", "species", "account", "terms", "licence"))
    assert set(entry["areas"]) <= set(AREAS)
    assert re.fullmatch(r"none|https://\S+", entry["account"])
    assert not entry["doi"] or re.fullmatch(r"10\.\d{4,}/\S+", entry["doi"])
    if name != "demo":
        assert entry["citation"]
        assert entry["files"]


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_recipe_and_figures(name):
    recipe, figures = CATALOG[name]["recipe"], CATALOG[name]["figures"]
    assert recipe["dt"] > 0
    front_end = dict(recipe["front_end"])
    FRONT_ENDS[front_end.pop("kind")](**front_end)
    assert "neuron" in figures
    assert all(isinstance(value, int) and value > 0 for value in figures.values())


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_files(name):
    for file in CATALOG[name].get("files", ()):
        assert file["name"]
        assert file["url"].startswith("https://")
        assert re.fullmatch(r"[0-9a-f]{32}|[0-9a-f]{64}", file.get("md5") or file.get("sha256") or "0" * 32)


def test_a_broken_catalog_of_another_package(tmp_path, monkeypatch, capsys):
    """It is left out with one line; one's own data sets and cubes have nothing to do with it."""
    from strfcube import catalog

    own = set(catalog.entries())
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(yaml.safe_dump({"other": CATALOG["demo"]}))
    for text in ("{", "x: 3\n", "x: {title: a}\n", "- a\n", "\x00", "x: {<<: *y}\n"):
        bad.write_text(text)
        monkeypatch.setattr(catalog, "_other_catalogs", lambda: [bad, good])
        catalog.entries.cache_clear()
        try:
            assert set(catalog.entries()) == own | {"other"}
        finally:
            catalog.entries.cache_clear()
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert said.startswith(f"strfcube: {bad} is no catalog, and its data sets are left out: ")
