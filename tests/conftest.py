"""Fixtures shared by all tests."""

import logging
import os
from pathlib import Path

import pytest
from hypothesis import settings

# No test asserts how long something takes: what is slow on a busy machine is not wrong. And each run tries the same
# cases, so that a change is judged by what it changes; `pytest --hypothesis-profile=search` looks for new ones.
settings.register_profile("strfcube", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None)
settings.load_profile("strfcube")


@pytest.fixture(scope="session")
def real_data():
    """Folder of original recordings; the test is skipped where it is absent."""
    folder = Path(os.environ.get("STRFCUBE_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no original recordings in {folder}; name their folder in $STRFCUBE_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def real_ns1(real_data, tmp_path_factory):
    """Raw folder of the original NS1 recordings, and the cube built from it."""
    import strfcube

    raw = real_data / "ns1"
    return raw, strfcube.build("ns1", raw=raw, out=tmp_path_factory.mktemp("real") / "ns1-dt5.zarr", jobs=2)


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """Path of the demo cube."""
    import strfcube

    folder = tmp_path_factory.mktemp("demo-birds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRFCUBE_DATA_DIR", str(folder))
        return strfcube.build("demo", jobs=1)


@pytest.fixture(autouse=True)
def data_dir(monkeypatch, tmp_path_factory):
    """No test sees or touches the cubes of whoever runs it."""
    folder = tmp_path_factory.getbasetemp() / "data"
    monkeypatch.setenv("STRFCUBE_DATA_DIR", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _level_of_the_log():
    """What a test, such as a page of the documentation, sets for itself, it sets for itself."""
    log = logging.getLogger("strfcube")
    level = log.level
    yield
    log.setLevel(level)
