"""The small parts: mirrors, proxies, dates, lists, records."""

import json
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from strfcube import catalog
from strfcube.errors import FetchError, UsageError
from strfcube.fetching import ledger
from strfcube.fetching.crcns import is_crcns, parse_list, parse_sums
from strfcube.fetching.mirrors import Mirrors
from strfcube.fetching.web import Patience, Web, retry_after


def test_mirrors(monkeypatch):
    monkeypatch.setenv("STRFCUBE_MIRRORS", " https://zenodo.org/=http://a:1/z/  https://zenodo.org/api/=https://b/ ")
    mirrors = Mirrors.from_environment()
    assert mirrors.real("https://zenodo.org/records/1") == "http://a:1/z/records/1"
    assert mirrors.real("https://zenodo.org/api/records/1") == "https://b/records/1"  # the longer one
    assert mirrors.real("https://zenodo.org.example/x") == "https://zenodo.org.example/x"
    assert mirrors.original("http://a:1/z/records/1?x=1") == "https://zenodo.org/records/1?x=1"
    monkeypatch.setenv("STRFCUBE_MIRRORS", "https://osf.io=http://a")
    assert Mirrors.from_environment().real("https://osf.io.example/") == "https://osf.io.example/"
    assert Mirrors.from_environment().real("https://osf.io/x") == "http://a/x"


@pytest.mark.parametrize("value", ["https://zenodo.org/", "zenodo.org=http://a", "https://a=", "=https://a",
                                   "ftp://a=http://b", "https://a/=https://me:hush@b/"])  # fmt: skip
def test_mirrors_that_are_none(monkeypatch, value):
    monkeypatch.setenv("STRFCUBE_MIRRORS", value)
    with pytest.raises(UsageError, match="is not FROM=TO, two URL prefixes") as caught:
        Mirrors.from_environment()
    assert "hush" not in str(caught.value)


def test_who_is_crcns():
    assert all(map(is_crcns, ("https://crcns.org/x", "https://download.crcns.org/", "https://CRCNS.org")))
    others = ("http://crcns.org/", "https://crcns.org.example/", "https://notcrcns.org/", "https://a@b/crcns.org",
              "https://crcns.org@elsewhere.example/")  # fmt: skip
    assert not any(map(is_crcns, others))


def test_retry_after():
    assert retry_after("12") == 12
    assert retry_after("-1") == 0
    assert 8 < retry_after(formatdate(time.time() + 10, usegmt=True)) <= 10
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after("soon") is None
    assert retry_after(None) is None


@pytest.mark.parametrize("value", ["soon", "0", "-3", "nan", "inf"])
def test_a_timeout_that_is_none(monkeypatch, value):
    monkeypatch.setenv("STRFCUBE_TIMEOUT", value)
    with pytest.raises(UsageError, match="STRFCUBE_TIMEOUT"):
        Patience.from_environment()


def test_lists_of_crcns():
    text = "# Files of aa-1\n crcns-aa1.zip\t17000000\t(17 MB)\n+docs/a b.pdf 12\n#old.zip\t3\n\nTotal size\n"
    assert parse_list(text) == {"crcns-aa1.zip": 17000000, "docs/a b.pdf": 12, "old.zip": 3}
    md5 = "0123456789abcdef0123456789ABCDEF"
    assert parse_sums(f"{md5}  crcns-aa1.zip\n{md5} *docs/a b.pdf\nnothing\n") == {
        "crcns-aa1.zip": md5.lower(), "docs/a b.pdf": md5.lower(),
    }  # fmt: skip


def test_a_damaged_record_is_an_error(tmp_path):
    for text in ("{", "[]", '{"files": {"a": {"url": 1}}}', '{"files": 3}'):
        (tmp_path / ledger.NAME).write_text(text)
        with pytest.raises(FetchError, match="cannot be read"):
            ledger.read(tmp_path)


def test_records_of_many_writers(tmp_path):
    """None is lost, whoever writes at the same time; what a newer strfcube adds is no error."""
    record = ledger.Record("https://x", 1, "0" * 32)
    threads = [threading.Thread(target=ledger.write, args=(tmp_path, f"f{i}", record)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(ledger.read(tmp_path)) == {f"f{i}" for i in range(20)}
    file = tmp_path / ledger.NAME
    known = json.loads(file.read_text())
    known["files"]["f0"]["colour"] = "red"
    file.write_text(json.dumps(known))
    assert ledger.read(tmp_path)["f0"] == record


def test_a_proxy_is_asked(monkeypatch):
    """``https_proxy`` gets a CONNECT for a host that no mirror stands for; its refusal is one line."""
    asked = []

    class Proxy(BaseHTTPRequestHandler):
        def do_CONNECT(self):
            asked.append(self.path)
            self.send_error(403)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("STRFCUBE_MIRRORS", raising=False)
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    try:
        with pytest.raises(FetchError, match=r"the proxy did not connect to zenodo\.invalid, 2 times"):
            Web(patience=Patience(2, 0.01, 0.01, 2)).text("https://zenodo.invalid/api/records/1")
    finally:
        server.shutdown()
        server.server_close()
    assert asked == ["zenodo.invalid:443"] * 2


@pytest.mark.parametrize(("exact", "about", "words"), [
    (0, 0, "unknown"), (5217, 0, "5.2 kB"), (12, 0, "12 bytes"), (0, 155_000_000, "about 155 MB"),
    (999_960, 0, "1.0 MB"), (0, 1_600_000_000, "about 1.6 GB"), (155_123_456, 155_000_000, "155.1 MB"),
])  # fmt: skip
def test_bytes_in_words(exact, about, words):
    assert catalog.in_words(exact, about) == words
