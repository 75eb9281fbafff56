"""Recipes: what is the same, what is another one, and how both are named."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strfcube.builder.recipe import Recipe, among, parse_only
from strfcube.errors import UsageError
from strfcube.sound.spectrogram import FRONT_ENDS, Cochleagram, LogDFT, Mel, Published

DEFAULT = Recipe("ns1", 5_000_000, front_end=Cochleagram(), options={"drc": False})

recipes = st.builds(
    Recipe,
    dataset=st.sampled_from(["ns1", "ü b/c"]),
    dt_ns=st.integers(1, 60_000).map(lambda us: us * 1000),
    post_ns=st.integers(0, 10**6).map(lambda us: us * 1000),
    align=st.sampled_from(["centre", "causal"]),
    front_end=st.sampled_from([Mel(), Mel(bands=7, f_max=8000.0), Cochleagram(), LogDFT(window_ms=3.0), Published()]),
    audio=st.booleans(),
    only=st.dictionaries(st.text(min_size=1), st.lists(st.text(), min_size=1), max_size=3).map(parse_only),
    options=st.dictionaries(st.sampled_from("abc"), st.booleans() | st.floats(0, 9) | st.integers(0, 9) | st.text()),
)


@given(recipes)
def test_to_json_and_back(recipe):
    again = Recipe.from_json(recipe.to_json())
    assert again == recipe
    assert again.to_json() == recipe.to_json()


def test_the_order_of_values_makes_no_other_recipe():
    a = dataclasses.replace(DEFAULT, only=parse_only({"area": ["OV", "MLd"], "sex": "m"}))
    b = dataclasses.replace(DEFAULT, only=parse_only({"sex": ("m",), "area": ["MLd", "OV", "OV"]}))
    assert a.to_json() == b.to_json()


def test_names():
    assert DEFAULT.store_name(DEFAULT) == "ns1-dt5.zarr"
    finer = dataclasses.replace(DEFAULT, dt_ns=2_500_000)
    assert finer.store_name(finer) == "ns1-dt2.5.zarr"
    changes = [
        {"post_ns": 10**6}, {"align": "causal"}, {"audio": False}, {"front_end": Mel()}, {"options": {"drc": True}},
        {"front_end": Cochleagram(bands=20)}, {"only": {"area": ("A1",)}},
    ]  # fmt: skip
    names = [dataclasses.replace(DEFAULT, **change).store_name(DEFAULT) for change in changes]
    assert len(set(names)) == len(names)
    assert all(name.startswith("ns1-dt5-") and len(name) == len("ns1-dt5-3f9c1a2b.zarr") for name in names)


def test_values_of_only_are_text():
    assert parse_only({"valid_unit": True, "level_db": 80.0, "id": range(2)}) == {
        "valid_unit": ("True",), "level_db": ("80.0",), "id": ("0", "1"),
    }  # fmt: skip
    assert parse_only(None) == {}


def test_an_empty_choice_is_never_everything():
    with pytest.raises(UsageError, match="names no value"):
        parse_only({"area": []})


def test_front_ends_go_by_their_kind():
    assert {kind: front_end.kind for kind, front_end in FRONT_ENDS.items()} == {k: k for k in FRONT_ENDS}


@pytest.mark.parametrize("given", ["true", "TRUE", True, np.True_])
def test_a_flag_is_one_however_it_is_written(given):
    assert parse_only({"valid_unit": given}) == {"valid_unit": ("True",)}
    assert among(True, ("True",))
    assert among(np.True_, ("True",))
    assert not among(False, ("True",))
    assert among("true", parse_only({"word": "True"})["word"])


@pytest.mark.parametrize(
    ("value", "wanted", "same"),
    [
        (80.0, "80", True), (80, "80.0", True), (304, "0304", True), ("0304", "304", False), ("304", "304", True),
        (float("nan"), "nan", True), (float("nan"), "80", False), (1, "True", False), (True, "1", False),
        (None, "", True),
    ],
)  # fmt: skip
def test_numbers_are_compared_as_numbers_and_text_as_text(value, wanted, same):
    assert among(value, (wanted,)) is same
