"""What a pipeline says of its coordinates before a file is there, against those of what it reads."""

import pytest
from writers import ac1
from writers.aa import write_aa1, write_aa2
from writers.aa4 import write_aa4
from writers.nat4 import write_nat4
from writers.ns1 import write_ns1

from strfcube import catalog

WRITERS = {
    "aa1": write_aa1,
    "aa2": write_aa2,
    "aa4": write_aa4,
    "ac1": ac1.write,
    "nat4": lambda raw: write_nat4(raw, sites={"A1": {"ARM029a": 2}, "PEG": {"ARM017a": 2}}, extra={},
                                   population_only={}, est=4, val=1, val_repeats=2),
    "ns1": lambda raw: write_ns1(raw, units=3, repeats=2, drc_repeats=1, clip_seconds=0.2),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_the_coordinates_are_those_that_are_declared(name, tmp_path):
    WRITERS[name](tmp_path / "raw")
    kind = catalog.pipeline_class(name)
    survey = kind(tmp_path / "raw").survey(lambda finding: None)
    metas = [item.meta for items in (survey.stimuli, survey.neurons) for item in items]
    assert {key for meta in metas for key in meta} == set(kind.coordinates)
    for meta in metas:
        for key, value in meta.items():
            known = kind.coordinates[key]
            assert not known or value in known, (key, value)
