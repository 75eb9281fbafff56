"""Fixtures of the fetching tests."""

import dataclasses

import pytest
from services import PASSWORD, USER, Services
from test_faults import CONTENT, entry_of

from strfcube.fetching import terms
from strfcube.fetching.fetch import carry_out
from strfcube.fetching.plan import look
from strfcube.fetching.visit import Visit
from strfcube.fetching.web import Patience


@pytest.fixture
def services(monkeypatch, tmp_path):
    """The services on loopback, an account, and no patience to speak of."""
    made = Services()
    monkeypatch.setenv("STRFCUBE_MIRRORS", made.mirrors)
    monkeypatch.setenv("STRFCUBE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("CRCNS_USERNAME", USER)
    monkeypatch.setenv("CRCNS_PASSWORD", PASSWORD)
    monkeypatch.setenv("DEEPSTRF_DATA_DIR", str(tmp_path / "no-deepstrf"))
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setattr(Patience, "from_environment", lambda: Patience(4, 0.01, 0.05, 0.6, 30.0))
    yield made
    made.close()


@pytest.fixture
def take(services, tmp_path):
    """Fetch files, and give the raw folder."""

    def call(service, *files, content=CONTENT):
        entry = dataclasses.replace(entry_of(service), files=files or entry_of(service).files)
        terms.remember(entry)
        for file in entry.files:
            services.add(file.url, content)
        return carry_out(look(entry, tmp_path / "raw", {}), Visit.begin())

    return call
