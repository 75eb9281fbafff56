"""Networks and servers as they are met: IPv6, proxies, mirrors below a path, sessions that end, lists with doubles."""

import hashlib
import socket
import threading
import time
import urllib.request
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from services import HOSTS, Services
from test_faults import CONTENT, OTHER, PLACES, check_line, check_log

from strfcube.catalog import RemoteFile
from strfcube.errors import FetchError
from strfcube.fetching.crcns import Crcns
from strfcube.fetching.web import Patience, Web, retry_after

MD5 = hashlib.md5(CONTENT).hexdigest()


class Proxy:
    """A proxy for plain HTTP that passes requests on and remembers for whom."""

    def __init__(self):
        asked = self.asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
                with opener.open(self.path) as reply:
                    body = reply.read()
                    self.send_response(reply.status)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    made = Proxy()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_a_proxy_of_plain_http_is_asked_unless_no_proxy_says_otherwise(services, take, proxy, monkeypatch, tmp_path):
    monkeypatch.setenv("http_proxy", proxy.url)
    assert (take("github") / "units.bin").read_bytes() == CONTENT
    assert len(proxy.asked) == 1
    (tmp_path / "raw" / "units.bin").unlink()
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    assert (take("github") / "units.bin").read_bytes() == CONTENT
    assert len(proxy.asked) == 1


def test_a_proxy_that_is_down_is_told_of_soon(services, take, proxy, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("http_proxy", f"http://me:hush@127.0.0.1:{port}")
    monkeypatch.setattr(Patience, "from_environment", lambda: Patience(9, 0.01, 0.05))
    with pytest.raises(FetchError, match=r"the proxy did not connect to \S+, 3 times; is the proxy that") as caught:
        take("github")
    assert "hush" not in str(caught.value)
    check_line(str(caught.value))


def test_a_server_by_its_number_of_six_parts(services, take, monkeypatch):
    try:
        six = Services(address="::1")
    except OSError:
        pytest.skip("no IPv6 on this machine")
    try:
        monkeypatch.setenv("STRFCUBE_MIRRORS", six.mirrors)
        for service in ("crcns", "osf"):
            six.add(PLACES[service], CONTENT)
        assert (take("crcns") / "units.bin").read_bytes() == CONTENT
        assert sum(r.sent == len(CONTENT) for r in six.log) == 1
        check_log(six)
    finally:
        six.close()


def test_a_server_that_is_down_at_first(services, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("STRFCUBE_MIRRORS", f"https://zenodo.org/=http://127.0.0.1:{port}/")
    got = []
    web = Web(patience=Patience(600, 0.05, 0.05, 5))
    asker = threading.Thread(target=lambda: got.append(web.text("https://zenodo.org/x")))
    asker.start()
    time.sleep(0.3)

    class Late(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"here")

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Late)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    asker.join(60)
    server.shutdown()
    server.server_close()
    assert got == ["here"]


@pytest.mark.parametrize("service", ["zenodo", "crcns", "github"])
def test_a_mirror_that_passes_on_a_path_of_the_original(services, take, service):
    """A redirection to ``/path`` is one of the original's, unless it lies below the mirror's own prefix."""
    host, _, path = PLACES[service].removeprefix("https://").partition("/")
    services.add(f"https://{host}/aa-9/other.bin", CONTENT)
    for target in ("/aa-9/other.bin", f"/{host}/aa-9/other.bin"):
        services.fault("redirect", path, 1, target)
        raw = take(service, RemoteFile("units.bin", PLACES[service]))
        assert (raw / "units.bin").read_bytes() == CONTENT
        (raw / "units.bin").unlink()
    assert all(r.host in HOSTS for r in services.log)
    check_log(services)


def test_a_login_that_redirects_within_a_mirror(services, take):
    services.fault("redirect", "crcns.org/login_form", 1, "/login_form", method="GET")
    assert (take("crcns") / "units.bin").read_bytes() == CONTENT
    check_log(services)


def test_no_request_is_a_head(services, take):
    """So a service that refuses them is none that needs care."""
    for service in ("zenodo", "osf", "crcns", "github"):
        (take(service) / "units.bin").unlink()
    assert {r.method for r in services.log} == {"GET", "POST"}


@pytest.mark.parametrize(("line", "gone"), [
    ("__ac=x; Max-Age=0", True), ("__ac=x; Max-Age=-5", True), ("__ac=x; Max-Age=60", False),
    ("__ac=x; Expires=Wed, 01 Jan 2020 00:00:00 GMT", True), ("__ac=x; Expires=Thu, 01-Jan-1970 00:00:00 GMT", True),
    ("__ac=x; Expires=Fri, 01 Jan 2100 00:00:00 GMT", False), ("__ac=deleted", True), ("__ac=", True),
    ("__ac=x; Max-Age=60; Expires=Wed, 01 Jan 2020 00:00:00 GMT", False), ("__ac=x; Expires=some day", False),
])  # fmt: skip
def test_a_cookie_that_is_taken_away(line, gone):
    crcns = Crcns(Web(), lambda: None)
    crcns._keep("__ac=first; Path=/")
    crcns._keep(line)
    assert ("__ac" not in crcns._cookies) == gone


def test_a_session_that_ends_between_two_files(services, take):
    base = PLACES["crcns"].removesuffix("units.bin")
    files = [RemoteFile(name, base + name) for name in ("a.bin", "b.bin")]
    services.fault("forget", "aa-9/b.bin")
    raw = take("crcns", *files)
    assert all((raw / file.name).read_bytes() == CONTENT for file in files)
    assert sum(r.method == "POST" for r in services.log) == 2
    check_log(services)


def test_retry_after_as_servers_write_it():
    assert retry_after(formatdate(time.time() - 1e6, usegmt=True)) == 0
    assert retry_after(formatdate(time.time() + 1e8, usegmt=True)) > 9e7
    for text in ("inf", "nan", "1e999", "", "tomorrow"):
        assert retry_after(text) is None


def test_a_server_that_wants_to_be_asked_in_years(services, take):
    late = formatdate(time.time() + 1e8, usegmt=True)
    services.fault("status", "units.bin", 99, (503, {"Retry-After": late}))
    with pytest.raises(FetchError, match=r"asks to wait for \d+ s") as caught:
        take("zenodo")
    check_line(str(caught.value))


def test_a_list_with_blanks_in_names_and_doubles(services, take):
    url = PLACES["crcns"].replace("units.bin", "the%20units.bin")
    services.add("https://download.crcns.org/aa-9/the%20units.bin", CONTENT)
    size = len(CONTENT)
    services.lists["filelist.txt"] = f"# all\r\n the units.bin\t{size}\t(0.4 MB)\r\n the units.bin {size}\r\n"
    services.lists["checksums.md5"] = f"{MD5.upper()} *./aa-9/the units.bin\r\n{MD5}  the units.bin\r\n"
    assert (take("crcns", RemoteFile("units.bin", url)) / "units.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("which", ["filelist.txt", "checksums.md5"])
def test_a_list_that_contradicts_itself(services, take, which):
    lines = {"filelist.txt": [f" units.bin\t{len(c)}" for c in (CONTENT, OTHER + b"x")],
             "checksums.md5": [f"{hashlib.md5(c).hexdigest()}  units.bin" for c in (CONTENT, OTHER)]}  # fmt: skip
    services.lists[which] = "\n".join(lines[which]) + "\n"
    with pytest.raises(FetchError, match="CRCNS lists it twice, with different sizes or checksums") as caught:
        take("crcns")
    check_line(str(caught.value))
    assert services.sent("units.bin") == 0
    services.lists[which] = lines[which][0] + "\n other.bin\t1\n other.bin\t2\n" * (which == "filelist.txt")
    assert (take("crcns") / "units.bin").read_bytes() == CONTENT  # of another file, that is nothing to us
