"""What services may do without being out of order: forms with tokens, lists of other tools, headers that mislead."""

import gzip
import hashlib
import io
import zipfile

import pytest
from services import PASSWORD, USER
from test_faults import CONTENT, PLACES, check_line, check_log, entry_of

import strfcube
from strfcube.catalog import RemoteFile
from strfcube.cli.main import main
from strfcube.errors import FetchError, SelectionError
from strfcube.fetching import ledger
from strfcube.fetching.crcns import parse_list, parse_sums
from strfcube.fetching.plan import look

MD5 = hashlib.md5(CONTENT).hexdigest()
FORM = """<html><body><form action="/search"><input name="q"><input type="hidden" name="__ac_name" value="x"></form>
<form method="post" action="{}"><input type="hidden" name="came_from" value=""/>
<input type='hidden' name='_authenticator' value='0f&amp;1e'><input name="__ac_name">
<input type=password name="__ac_password"></form>
<form><input type="hidden" name="_authenticator" value="of another"></form></body></html>"""


@pytest.mark.parametrize("action", ["https://crcns.org/login", "login", "/login"])
def test_a_login_form_says_where_it_goes_and_what_it_hides(services, take, action):
    services.form, services.token = FORM.format(action), "0f&1e"
    assert (take("crcns") / "units.bin").read_bytes() == CONTENT
    posts = [r for r in services.log if r.method == "POST"]
    assert [r.path for r in posts] == ["/login"]
    assert "__ac_name=ada" in posts[0].body  # what we say is not replaced by what another form hides
    check_log(services)


@pytest.mark.parametrize("action", ["https://elsewhere.example/login", "//elsewhere.example/login", "http://crcns.org/x",
                                    "https://crcns.org.example/login", "https://elsewhere.example\\@crcns.org/login",
                                    "https://[x"])  # fmt: skip
def test_a_login_form_that_goes_elsewhere(services, take, action):
    services.form = FORM.format(action)
    with pytest.raises(FetchError, match="which is not CRCNS; nothing was sent there") as caught:
        take("crcns")
    check_line(str(caught.value))
    assert all(PASSWORD not in r.everything and USER not in r.everything for r in services.log)
    assert [r.method for r in services.log] == ["GET"]


@pytest.mark.parametrize("line", [
    "{md5}  units.bin", "{md5} *units.bin", "{up}  ./units.bin", "{md5}  aa-9/units.bin",
    "{md5}  /srv/crcns/aa-9/units.bin", "MD5 (units.bin) = {md5}", "MD5(./aa-9/units.bin)= {up}",
    "\\{md5}  units.bin", "\ufeff{md5}  units.bin",
])  # fmt: skip
def test_checksums_as_any_tool_writes_them(services, take, line):
    services.lists["checksums.md5"] = line.format(md5=MD5, up=MD5.upper()) + "\r\n"
    services.fault("corrupt", "aa-9/units.bin", 99)
    with pytest.raises(FetchError, match="another checksum than is published"):
        take("crcns")
    services.faults.clear()
    assert (take("crcns") / "units.bin").read_bytes() == CONTENT


def test_checksums_that_cannot_be_read_are_not_taken_for_none(services, take):
    services.lists["checksums.md5"] = "sha512-of-everything: 12ab\n"
    with pytest.raises(FetchError, match="expected '<md5>  <path>' a line, found 'sha512-of-everything: 12ab'"):
        take("crcns")


def test_comments_of_a_list_are_no_files():
    text = "\ufeff# files of the data set, in all 2\r\n#\r\n+b.zip\t7 (7 B)\r\n#c.zip 8\r\n d e.zip\t9\r\n"
    assert parse_list(text) == {"b.zip": 7, "c.zip": 8, "d e.zip": 9}
    assert parse_sums(f"# sums\n{MD5}  d e.zip\n") == {"d e.zip": MD5}


@pytest.mark.parametrize("name", ["bird.tar.gz", "sites.tgz"])
@pytest.mark.parametrize("service", ["crcns", "zenodo"])
@pytest.mark.parametrize("word", ["gzip", "x-gzip"])
def test_a_server_that_calls_the_compression_of_the_file_an_encoding(services, take, name, service, word):
    content = gzip.compress(CONTENT, 1)
    services.fault("called gzip", name, 99, word)
    raw = take(service, RemoteFile(name, PLACES[service].replace("units.bin", name)), content=content)
    assert (raw / name).read_bytes() == content


@pytest.mark.parametrize("kind", ["typed", "chunked and typed"])
def test_a_file_that_is_called_a_page_is_none(services, take, kind):
    services.fault(kind, "units.bin", 99, "text/html; charset=utf-8")
    assert (take("zenodo") / "units.bin").read_bytes() == CONTENT


def test_an_archive_that_came_broken_is_not_met_again(services, take, tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.txt", CONTENT)
    file = RemoteFile("units.zip", PLACES["github"].replace("units.bin", "units.zip"), unpack="units")
    services.fault("no length", "units.zip", 1, 150_000)  # ends early, and nobody can tell
    with pytest.raises(FetchError, match=r"units\.zip: .* is cut off.*the same command fetches it anew") as caught:
        take("github", file, content=packed.getvalue())
    check_line(str(caught.value))
    assert str(tmp_path) not in str(caught.value)
    raw = take("github", file, content=packed.getvalue())
    assert (raw / "units" / "a.txt").read_bytes() == CONTENT


def test_a_file_in_the_place_of_the_raw_folder(services, tmp_path):
    (tmp_path / "file").write_text("")
    for raw in (tmp_path / "file", tmp_path / "file" / "raw"):
        with pytest.raises(FetchError, match="a file is in its place; give another"):
            look(entry_of("zenodo"), raw, {})
    assert ledger.read(tmp_path / "none") == {}


def test_a_fetch_that_cannot_obey_its_choice_fetches_nothing(services, capsys):
    for name, key, by in (("nat4", "aera", "area alone"), ("aa4", "area", "animal alone"), ("aa1", "area", "nothing")):
        with pytest.raises(SelectionError, match=f"--only {key}: the files of {name} are told apart by {by}"):
            strfcube.fetch(name, only={key: "A1"})
        with pytest.raises(SystemExit) as end:
            main(["fetch", name, "--only", f"{key}=A1", "--yes"])
        assert end.value.code == 2
        assert f"told apart by {by}" in capsys.readouterr().err
    assert not services.log


def test_a_proxy_that_is_no_address(services, take, monkeypatch):
    monkeypatch.setenv("STRFCUBE_MIRRORS", "")
    monkeypatch.setenv("https_proxy", "me:hush@ foo")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(FetchError, match="the address of the proxy or mirror cannot be used") as caught:
        take("zenodo")
    assert "hush" not in str(caught.value)
