"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data():
    """Folder of original recordings; the test is skipped where it is absent."""
    folder = Path(os.environ.get("STRFCUBE_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no original recordings in {folder}; name their folder in $STRFCUBE_TEST_DATA")
    return folder
