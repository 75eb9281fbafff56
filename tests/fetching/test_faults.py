"""Faults of the services, each where it applies: a verified file or one line, nothing twice, no password elsewhere."""

import dataclasses
import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
from services import PAGE, PASSWORD, USER

from strfcube.catalog import Entry, RemoteFile
from strfcube.errors import FetchError
from strfcube.fetching import ledger, terms
from strfcube.fetching.crcns import is_crcns
from strfcube.fetching.fetch import carry_out
from strfcube.fetching.mirrors import Mirrors
from strfcube.fetching.plan import look
from strfcube.fetching.visit import Visit
from strfcube.fetching.web import host_of

CONTENT = np.random.default_rng(0).bytes(400_000)
OTHER = np.random.default_rng(1).bytes(400_000)
PLACES = {
    "zenodo": "https://zenodo.org/api/records/17/files/units.bin/content",
    "osf": "https://osf.io/download/abcde/",
    "crcns": "https://download.crcns.org/aa-9/units.bin",
    "github": "https://raw.githubusercontent.com/lab/repository/main/units.bin",
}
# What a fault of the file itself is switched on for, in the request log's words.
AT = {"zenodo": "units.bin", "osf": "files.osf.io", "crcns": "aa-9/units.bin", "github": "units.bin"}
ALL = tuple(PLACES)
OPEN = ("zenodo", "osf", "github")
KNOWN = ("zenodo", "osf", "crcns")  # publish sizes and checksums
STORES = ("files.osf.io", "elsewhere.example")
METADATA = {"zenodo": "api/records/17", "osf": "api.osf.io", "crcns": "filelist.txt"}


def entry_of(service):
    account = "https://crcns.org/register" if service == "crcns" else "none"
    return Entry("toy", "Toy", "", "", (), account, "Be kind.", "", "", "", (), {"dt": 5},
                 files=(RemoteFile("units.bin", PLACES[service]),))  # fmt: skip


@pytest.fixture
def bring(services, tmp_path):
    """Fetch the one file of a service; returns its content."""

    def call(service):
        entry = entry_of(service)
        terms.remember(entry)
        services.files.setdefault(PLACES[service].removeprefix("https://"), CONTENT)
        raw = tmp_path / "raw"
        carry_out(look(entry, raw, {}), Visit.begin())
        return (raw / "units.bin").read_bytes()

    return call


def check_log(services):
    """Passwords, names and cookies went to CRCNS, over its own names, and nowhere else."""
    for request in services.log:
        inside = request.host == "crcns.org" or request.host.endswith(".crcns.org")
        if not inside:
            assert PASSWORD not in request.everything
            assert USER not in request.everything
            assert "ada" not in request.everything
            assert "Cookie" not in request.headers
            assert "Authorization" not in request.headers
        assert PASSWORD not in request.path
        assert "strfcube/" in request.headers["User-Agent"]


def rows():
    """(service, fault, its value, how often, what comes of it, most bytes sent): the bytes of the file unless more."""
    size = len(CONTENT)
    table = [
        ("none", None, 0, ALL, "", 0),
        # The connection: resumed, and not a byte is sent twice.
        ("drop", 150_000, 1, ALL, "", 0),
        ("drop", 30_000, 3, ALL, "", 0),
        ("reset", 150_000, 1, ALL, "", 200_000),  # a reset may take bytes along that were sent already
        ("stall", 100_000, 1, ALL, "", 0),
        ("trickle", 100_000, 1, ALL, "", 40),
        ("refuse", None, 2, ALL, "", 0),
        ("chunked drop", 150_000, 1, ALL, "", 0),
        ("chunked drop", 0, 1, ALL, "", 0),
        ("hang", 0.8, 1, ALL, "", 0),
        ("hang", 0.8, 99, ALL, "did not answer in 0.6 s, 4 times; the same command goes on", 0),
        ("drop", 0, 99, OPEN, "ended at 0 of 400,000 bytes, 4 times|was cut, 4 times", 0),
        # What the server says.
        ("chunked", None, 1, ALL, "", 0),
        ("no length", None, 1, KNOWN, "", 0),
        ("status", 503, 2, ALL, "", 0),
        ("status", (429, {"Retry-After": "1"}), 1, ALL, "", 0),
        ("soon", None, 1, ALL, "", 0),
        ("status", (503, {"Retry-After": "3600"}), 1, ALL, "asks to wait for 3600 s; give the same command then", 0),
        ("status", 500, 99, ALL, "answered 500 .*, 4 times", 0),
        ("status", 404, 99, ALL, "there is no such file", 0),
        ("status", 403, 99, OPEN, "answered 403", 0),
        ("redirect", "https://elsewhere.example/signed?key=1", 99, ALL, "", 0),
        ("redirect", "", 99, ALL, "redirected to nowhere", 0),
        ("redirect", "ftp://elsewhere.example/x", 99, ALL, "redirected to nowhere", 0),
        ("redirect", "https://elsewhere.example/units.bin", 99, ("zenodo", "github"), "more than 10 times", 0),
        ("gzip", None, 1, ALL, "", size),
        # What the server sends.
        ("page", None, 99, ALL, "a web page in place of the file", 0),
        ("corrupt", None, 1, KNOWN, "", size),
        ("corrupt", None, 99, KNOWN, "another checksum than is published", size),
        ("other size", None, 99, KNOWN, "400,000 bytes are published, the server has 399,999", 0),
        ("longer", None, 1, KNOWN, "", 10),
    ]  # fmt: skip
    for kind, value, times, places, result, more in table:
        for service in places:
            label = f"{service}-{kind}-{times}" + (f"-{value}" if isinstance(value, (int, str)) else "")
            yield pytest.param(service, kind, value, times, result, more, id=label[:60])


@pytest.mark.parametrize(("service", "kind", "value", "times", "result", "more"), list(rows()))
def test_a_fault_of_the_file(services, bring, tmp_path, service, kind, value, times, result, more):
    services.add("https://elsewhere.example/signed", CONTENT)
    services.fault(kind, AT[service], times, value)
    if result:
        with pytest.raises(FetchError, match=result) as caught:
            bring(service)
        check_line(str(caught.value))
        assert not (tmp_path / "raw" / "units.bin").exists()
    else:
        assert bring(service) == CONTENT
        record = ledger.read(tmp_path / "raw")["units.bin"]
        assert (record.bytes, record.md5) == (len(CONTENT), hashlib.md5(CONTENT).hexdigest())
        assert record.url == PLACES[service]
        before = len(services.log)
        assert bring(service) == CONTENT
        assert len(services.log) == before  # what is there is not asked for again
    files = [r for r in services.log if r.status in (200, 206) and ("units.bin" in r.path or r.host in STORES)]
    assert sum(r.sent for r in files) <= len(CONTENT) + more + sum(len(PAGE) for r in files if r.sent == len(PAGE))
    check_log(services)


def check_line(text):
    assert len(text.splitlines()) == 1
    assert PASSWORD not in text
    assert USER not in text


# --- going on from what is there -------------------------------------------------------------------------------------


def interrupted(services, bring, service, at=150_000):
    """A fetch that ends with a part of `at` bytes there."""
    services.fault("drop", AT[service], 1, at)
    services.fault("status", AT[service], 1, (503, {"Retry-After": "3600"}))
    with pytest.raises(FetchError, match="asks to wait"):
        bring(service)


@pytest.mark.parametrize("service", ALL)
def test_a_later_command_goes_on(services, bring, service):
    interrupted(services, bring, service)
    assert bring(service) == CONTENT
    ranges = [r.headers["Range"] for r in services.log if "Range" in r.headers and r.status == 206]
    assert ranges == ["bytes=150000-"]
    assert sum(r.sent for r in services.log if r.status in (200, 206) and r.sent > 50_000) == len(CONTENT)


@pytest.mark.parametrize("service", ALL)
@pytest.mark.parametrize("kind", ["ignores range", "wrong range", "wrong total"])
def test_a_server_with_another_range_starts_over(services, bring, service, kind):
    interrupted(services, bring, service)
    services.fault(kind, AT[service])
    assert bring(service) == CONTENT


@pytest.mark.parametrize("service", OPEN)
@pytest.mark.parametrize(
    ("etags", "modified", "weak"),
    [(True, True, False), (False, True, False), (False, False, False), (True, False, True)],
)
def test_a_file_that_changed_starts_over(services, bring, service, etags, modified, weak):
    """Whatever marks a version: the parts of two are never joined."""
    services.etags, services.modified, services.weak = etags, modified, weak
    interrupted(services, bring, service)
    services.add(PLACES[service], OTHER)
    assert bring(service) == OTHER


@pytest.mark.parametrize("service", ["github", "osf"])
@pytest.mark.parametrize(
    ("etags", "modified", "weak"), [(True, True, False), (False, True, False), (True, False, True)]
)
@pytest.mark.parametrize("kind", ["", "forgets ETag"])
def test_a_file_that_changed_on_a_server_that_heeds_no_if_range(services, bring, service, etags, modified, weak, kind):
    """Nobody publishes a checksum that would find it."""
    services.etags, services.modified, services.weak, services.heeds = etags, modified, weak, False
    services.checksums = False
    interrupted(services, bring, service)
    services.add(PLACES[service], OTHER)
    services.fault(kind, AT[service], 99)
    assert bring(service) == OTHER


def test_a_part_of_the_rest_is_not_taken_for_its_end(services, bring):
    """The server tells the size neither at first nor with the rest, and nobody publishes it."""
    services.fault("chunked drop", "units.bin", 1, 150_000)
    services.fault("window", "units.bin", 1)
    assert bring("github") == CONTENT


@pytest.mark.parametrize("service", ALL)
def test_a_login_page_does_not_end_a_part(services, bring, service):
    interrupted(services, bring, service)
    services.fault("page", AT[service], 2)
    with pytest.raises(FetchError, match="a web page in place of the file"):
        bring(service)
    services.faults.clear()
    before = sum(r.sent for r in services.log)
    assert bring(service) == CONTENT
    assert sum(r.sent for r in services.log) - before < len(CONTENT) - 140_000


@pytest.mark.parametrize("service", KNOWN)
def test_a_part_that_is_too_long_starts_over(services, bring, service, tmp_path):
    interrupted(services, bring, service)
    part = tmp_path / "raw" / ledger.WORK / "units.bin" / "units.bin.part"
    with part.open("ab") as file:
        file.write(bytes(len(CONTENT)))
    assert bring(service) == CONTENT


# --- what is published, and what was seen first ----------------------------------------------------------------------


@pytest.mark.parametrize("service", KNOWN)
@pytest.mark.parametrize(("kind", "value", "times", "message"), [
    ("status", 503, 2, ""),
    ("status", 500, 99, "answered 500 .*, 4 times"),
    ("hang", 0.8, 1, ""),
    ("refuse", None, 1, ""),
    ("page", None, 99, "expected JSON|web page in place of its list"),
])  # fmt: skip
def test_a_fault_of_what_is_published(services, bring, service, kind, value, times, message):
    services.fault(kind, METADATA[service], times, value)
    if message:
        with pytest.raises(FetchError, match=message) as caught:
            bring(service)
        check_line(str(caught.value))
    else:
        assert bring(service) == CONTENT
    check_log(services)


@pytest.mark.parametrize(("service", "text"), [
    ("zenodo", "[1, 2]"), ("zenodo", '{"files": [{"key": "other.bin"}]}'), ("osf", '{"data": {}}'), ("osf", "[]"),
    ("crcns", "# nothing\n other.bin\t12\n"),
])  # fmt: skip
def test_a_record_without_the_file(services, bring, service, text):
    services.fault("text", METADATA[service], 99, text)
    services.checksums = service != "crcns"
    with pytest.raises(FetchError, match="is there a newer strfcube") as caught:
        bring(service)
    check_line(str(caught.value))
    assert services.sent("units.bin") == 0


def test_the_newer_form_of_a_zenodo_record(services, bring):
    entries = {
        "units.bin": {"key": "units.bin", "size": len(CONTENT), "checksum": f"md5:{hashlib.md5(CONTENT).hexdigest()}"}
    }
    services.fault("text", "api/records/17", 1, json.dumps({"files": {"entries": entries}}))
    services.fault("none", "units.bin")
    assert bring("zenodo") == CONTENT


@pytest.mark.parametrize("service", ALL)
@pytest.mark.parametrize("checksums", [True, False])
def test_a_file_that_changed_since_it_was_seen_first(services, bring, tmp_path, service, checksums):
    services.checksums = checksums
    bring(service)
    (tmp_path / "raw" / "units.bin").unlink()
    services.add(PLACES[service], OTHER)
    with pytest.raises(FetchError, match=r"was changed since it was fetched on 20\d\d-") as caught:
        bring(service)
    check_line(str(caught.value))
    assert not (tmp_path / "raw" / "units.bin").exists()
    services.add(PLACES[service], CONTENT)
    assert bring(service) == CONTENT


@pytest.mark.parametrize(("known", "what"), [({"md5": "0" * 32}, "md5"), ({"bytes": 5}, "bytes")])
@pytest.mark.parametrize("service", KNOWN)
def test_a_service_that_contradicts_the_catalog(services, tmp_path, service, known, what):
    services.add(PLACES[service], CONTENT)
    entry = dataclasses.replace(entry_of(service), files=(RemoteFile("units.bin", PLACES[service], **known),))
    terms.remember(entry)
    with pytest.raises(FetchError, match=f"has been changed: the catalog of this strfcube knows {what}"):
        carry_out(look(entry, tmp_path / "raw", {}), Visit.begin())
    assert services.sent("units.bin") == 0


def test_a_catalog_with_checksums_needs_no_service_that_has_them(services, tmp_path):
    services.add(PLACES["github"], CONTENT)
    services.fault("corrupt", "units.bin")
    file = RemoteFile("sub/units.bin", PLACES["github"], len(CONTENT), hashlib.md5(CONTENT).hexdigest())
    carry_out(look(dataclasses.replace(entry_of("github"), files=(file,)), tmp_path / "raw", {}), Visit.begin())
    assert (tmp_path / "raw" / "sub" / "units.bin").read_bytes() == CONTENT


def test_a_disk_that_is_full(services, bring, monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**6))
    with pytest.raises(FetchError, match=r"400\.0 kB are to be fetched, and 1\.0 MB are free there"):
        bring("zenodo")
    assert services.sent("units.bin") == 0


def test_what_the_user_put_there_is_verified_not_fetched(services, bring, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "units.bin").write_bytes(CONTENT)
    assert bring("zenodo") == CONTENT
    assert services.sent("units.bin") == 0
    (tmp_path / "raw" / "units.bin").write_bytes(OTHER)
    with pytest.raises(FetchError, match="this is not the published file"):
        bring("zenodo")
    assert (tmp_path / "raw" / "units.bin").read_bytes() == OTHER


def test_the_cache_of_deepstrf_is_used_where_it_verifies(services, bring, tmp_path, monkeypatch):
    cache = tmp_path / "deepstrf" / "toy"
    cache.mkdir(parents=True)
    monkeypatch.setenv("DEEPSTRF_DATA_DIR", str(cache.parent))
    (cache / "units.bin").write_bytes(OTHER)
    assert bring("zenodo") == CONTENT
    assert services.sent("units.bin") == len(CONTENT)
    (tmp_path / "raw" / "units.bin").unlink()
    (cache / "units.bin").write_bytes(CONTENT)
    assert bring("zenodo") == CONTENT
    assert services.sent("units.bin") == len(CONTENT)
    assert (tmp_path / "raw" / "units.bin").stat().st_ino == (cache / "units.bin").stat().st_ino


# --- CRCNS -----------------------------------------------------------------------------------------------------------


def test_the_page_of_the_data_set_takes_the_account_where_the_form_does_not(services, bring):
    services.form_works = False
    assert bring("crcns") == CONTENT
    check_log(services)


def test_a_forgotten_session_is_begun_anew(services, bring):
    services.fault("forget", "aa-9/units.bin")
    assert bring("crcns") == CONTENT
    assert sum(r.method == "POST" for r in services.log) == 2
    services.faults.clear()


def test_a_session_that_is_forgotten_again_ends_in_a_line(services, bring):
    services.fault("forget", "aa-9/units.bin", 99)
    with pytest.raises(FetchError, match="a web page in place of the file"):
        bring("crcns")
    assert sum(r.method == "POST" for r in services.log) == 2


def test_a_wrong_password(services, bring, monkeypatch):
    monkeypatch.setenv("CRCNS_PASSWORD", "wrong-one")
    with pytest.raises(FetchError, match="CRCNS did not accept the name and the password") as caught:
        bring("crcns")
    assert "wrong-one" not in str(caught.value)
    check_line(str(caught.value))


def test_an_unknown_data_set(services, bring):
    services.fault("text", "/aa-9", 99, "<html>The data set identifier is invalid</html>")
    with pytest.raises(FetchError, match="CRCNS knows no data set 'aa-9'"):
        bring("crcns")


@pytest.mark.parametrize("target", ["https://elsewhere.example/login", "http://crcns.org/login_form",
                                    "https://crcns.org.example/x", "https://notcrcns.org/"])  # fmt: skip
@pytest.mark.parametrize(("where", "kind", "method"), [
    ("crcns.org/login_form", "redirect", "GET"), ("crcns.org/login_form", "redirect307", "POST"),
    ("crcns.org/login_form", "redirect", "POST"), ("download.crcns.org/aa-9", "redirect", "GET"),
])  # fmt: skip
def test_a_login_that_leads_elsewhere(services, bring, target, where, kind, method):
    services.fault(kind, where, 99, target, method)
    with pytest.raises(FetchError, match=r"which is not CRCNS|without https") as caught:
        bring("crcns")
    check_line(str(caught.value))
    assert all(r.host in ("crcns.org", "download.crcns.org") for r in services.log)
    if method == "GET" and where.startswith("crcns"):
        assert all(PASSWORD not in r.everything for r in services.log)  # nothing was sent at all
    check_log(services)


@pytest.mark.parametrize("target", [
    "https://elsewhere.example\\@crcns.org/x", "https://elsewhere.example:443\\@download.crcns.org/x",
    "//a\\.crcns.org/x", "https://elsewhere.example@crcns.org/x", "https://[::1/", "https://a:b/",
])  # fmt: skip
@pytest.mark.parametrize("where", ["aa-9/units.bin", "crcns.org/login_form", "download.crcns.org/aa-9"])
def test_a_url_that_programs_read_in_two_ways(services, bring, monkeypatch, target, where):
    """One finds the host before the backslash, another after it: who asks, and who decides what may be told there."""
    asked, real = [], Mirrors.real
    monkeypatch.setattr(Mirrors, "real", lambda self, url: asked.append(url) or real(self, url))
    services.fault("redirect", where, 99, target)
    with pytest.raises(FetchError, match=r"redirected to nowhere") as caught:
        bring("crcns")
    check_line(str(caught.value))
    assert all(url.startswith(("https://crcns.org/", "https://download.crcns.org/")) for url in asked)


def test_who_is_asked_is_read_as_by_what_asks():
    for url in ("https://elsewhere.example\\@crcns.org/x", "https://elsewhere.example#@crcns.org", "https://[x/", "//"):
        assert not is_crcns(url)
        assert host_of(url) in ("elsewhere.example", "")
    assert host_of("https://CRCNS.org:443/x?y") == "crcns.org"


def test_a_file_that_lies_elsewhere_gets_no_cookie(services, bring):
    services.add("https://elsewhere.example/signed", CONTENT)
    services.fault("redirect", "aa-9/units.bin", 99, "https://elsewhere.example/signed?key=1")
    assert bring("crcns") == CONTENT
    check_log(services)


@pytest.mark.parametrize(("line", "fault"), [
    ("machine crcns.org login {u} password {p}\n", ""),
    ("machine osf.io login no password no\nmachine download.crcns.org\n  login {u}\n  password {p}\n", ""),
    ("default login {u} password {p}\n", "those who have an account"),
    ("machine crcns.org login {u} pasword {p}\n", "line 1: cannot be read as a netrc file"),
    ("", "those who have an account"),
])  # fmt: skip
def test_netrc(services, bring, tmp_path, monkeypatch, line, fault):
    for name in ("CRCNS_USERNAME", "CRCNS_PASSWORD"):
        monkeypatch.delenv(name)
    netrc = tmp_path / "netrc"
    netrc.write_text(
        line.format(u=USER, p=PASSWORD) + f"machine zenodo.org login {USER} password {PASSWORD}\n" * (not fault)
    )
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    if fault:
        with pytest.raises(FetchError, match=fault) as caught:
            bring("crcns")
        check_line(str(caught.value))
        assert not services.log
    else:
        assert bring("crcns") == CONTENT
    check_log(services)


def test_netrc_goes_to_no_other_service(services, bring, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert bring("zenodo") == CONTENT
    check_log(services)
