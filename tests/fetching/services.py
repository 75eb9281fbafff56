"""Zenodo, OSF, CRCNS and GitHub on loopback: a threaded server that behaves like each, with faults to be switched on.

Every original host has its folder on the server (``http://127.0.0.1:PORT/zenodo.org/...``), and `Services.mirrors` is
the value of ``STRFCUBE_MIRRORS`` that leads there. Every request is logged with all that was sent.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

USER, PASSWORD = "ada@example.org", "s3cret-of-ada"
HOSTS = ("zenodo.org", "osf.io", "api.osf.io", "files.osf.io", "crcns.org", "download.crcns.org",
         "raw.githubusercontent.com", "elsewhere.example")  # fmt: skip
PAGE = "<!DOCTYPE html><html><head><title>Login below</title></head><body><form>password</form></body></html>"


@dataclass
class Fault:
    """What goes wrong at requests whose host and path contain `where`, so many `times`."""

    kind: str
    where: str
    times: int = 1
    value: object = None
    method: str = ""


@dataclass
class Request:
    """One request, as it came, and how many bytes of a body it was answered with."""

    method: str
    host: str
    path: str
    headers: dict[str, str]
    body: str
    status: int = 0
    sent: int = 0

    @property
    def everything(self):
        return f"{self.path} {self.headers} {self.body}"


@dataclass
class Services:
    """The server, what it holds, what goes wrong, and what was asked."""

    files: dict[str, bytes] = field(default_factory=dict)  # "host/path" to content
    faults: list[Fault] = field(default_factory=list)
    log: list[Request] = field(default_factory=list)
    sessions: set[str] = field(default_factory=set)
    etags: bool = True
    modified: bool = True
    weak: bool = False
    heeds: bool = True  # If-Range
    checksums: bool = True  # whether the services publish them
    form: str = ""  # the login form's page, in place of one without fields; sent to where it says
    token: str = ""  # what the form's hidden field must bring back
    lists: dict[str, str] = field(default_factory=dict)  # CRCNS's lists, in place of those of the files
    address: str = "127.0.0.1"
    form_works: bool = True  # whether CRCNS's login form gives a session; else only the page of the data set does

    def __post_init__(self):
        self.lock = threading.Lock()
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        kind = type("Server", (ThreadingHTTPServer,), {"address_family": family})
        self.server = kind((self.address, 0), type("Bound", (_Handler,), {"services": self}))
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    @property
    def base(self):
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"http://{host}:{self.server.server_address[1]}"

    @property
    def mirrors(self):
        return " ".join(f"https://{host}/={self.base}/{host}/" for host in HOSTS)

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def add(self, url, content):
        """Publish a file at its original URL."""
        self.files[url.removeprefix("https://")] = content

    def publish(self, entry, folder):
        """Publish the files of a catalog entry that lie in a folder."""
        for file in entry.files:
            if (folder / file.name).is_file():
                self.add(file.url, (folder / file.name).read_bytes())

    def fault(self, *args, **more):
        self.faults.append(Fault(*args, **more))

    def sent(self, name):
        """Bytes of a file that were sent in all."""
        return sum(r.sent for r in self.log if name in unquote(r.path) and r.status in (200, 206) and r.method == "GET")

    def struck(self, method, host, path):
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.where in f"{host}{path}" and fault.method in ("", method):
                    fault.times -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    services: Services

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.answer("GET")

    def do_HEAD(self):
        self.answer("HEAD")

    def do_POST(self):
        self.answer("POST")

    def answer(self, method):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        _, host, rest = self.path.split("/", 2)
        path = f"/{rest}"
        self.request_log = Request(method, host, path, dict(self.headers), body)
        with self.services.lock:
            self.services.log.append(self.request_log)
        fault = self.services.struck(method, host, path)
        if fault and self.strike(fault):
            return
        parts = host.split(".")
        name = "crcns" if host.endswith("crcns.org") else "osf" if "osf" in parts else parts[0]
        getattr(self, name, self.plain)(method, host, path, body, fault)

    # --- answers -----------------------------------------------------------------------------------------------------

    def reply(self, status, body=b"", kind="text/html", **headers):
        body = body.encode() if isinstance(body, str) else body
        self.request_log.status = status
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.request_log.sent += len(body)

    def strike(self, fault):
        """Faults that need no file; whether the request is answered with it."""
        kind, value = fault.kind, fault.value
        if kind == "status":
            status, headers = value if isinstance(value, tuple) else (value, {})
            self.reply(status, "busy", **headers)
        elif kind == "soon":
            self.reply(429, "busy", Retry_After=formatdate(time.time() + 1.5, usegmt=True))
        elif kind == "page":
            self.reply(200, PAGE)
        elif kind == "redirect":
            self.reply(302, Location=str(value))
        elif kind == "redirect307":
            self.reply(307, Location=str(value))
        elif kind == "hang":
            time.sleep(float(value))
            self.close_connection = True
        elif kind == "refuse":
            self.close_connection = True
            self.connection.close()
        elif kind == "text":
            self.reply(200, str(value), kind="application/json")
        elif kind == "forget":  # the service has lost its sessions
            self.services.sessions.clear()
            return False
        else:
            return False
        return True

    def file(self, key, fault):
        """A file, whole or a range of it."""
        services = self.services
        content = services.files.get(key)
        if content is None:
            self.reply(404, "no such file")
            return
        kind, value = (fault.kind, fault.value) if fault else ("", None)
        if kind == "changes":
            services.files[key] = content = bytes(value)
        if kind == "corrupt":
            content = bytes([content[0] ^ 1]) + content[1:]
        if kind == "other size":
            content = content[:-1]
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        etag = f"W/{etag}" if services.weak else etag
        date = formatdate(1.6e9 + len(content) + content[0], usegmt=True)
        begin, status, wanted = 0, 200, self.headers.get("Range")
        match = re.fullmatch(r"bytes=(\d+)-", wanted or "")
        condition = self.headers.get("If-Range", "")
        valid = condition in ("", etag if services.etags and not services.weak else "", date)
        if match and (valid or not services.heeds) and kind not in ("ignores range", "changes"):
            begin, status = int(match[1]), 206
            if begin >= len(content):
                self.reply(416, Content_Range=f"bytes */{len(content)}")
                return
            if kind == "wrong range":
                begin = max(0, begin - 100)
        body = content[begin : begin + 50_000] if kind == "window" and status == 206 else content[begin:]
        if kind == "gzip":
            body, status = gzip.compress(content), 200
        self.request_log.status = status
        self.send_response(status)
        self.send_header(
            "Content-Type", str(value) if kind in ("typed", "chunked and typed") else "application/octet-stream"
        )
        if kind == "called gzip":
            self.send_header("Content-Encoding", str(value))
        if services.etags and not (kind == "forgets ETag" and status == 206):
            self.send_header("ETag", etag)
        if services.modified:
            self.send_header("Last-Modified", date)
        if status == 206:
            total = "*" if kind == "window" else len(content) + 7 * (kind == "wrong total")
            self.send_header("Content-Range", f"bytes {begin}-{begin + len(body) - 1}/{total}")
        if kind == "gzip":
            self.send_header("Content-Encoding", "gzip")
        chunked = kind in ("chunked", "chunked and typed", "chunked drop")
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif kind == "no length":
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        stop = (
            int(value)
            if kind in ("drop", "reset", "stall", "trickle", "chunked drop", "no length") and value is not None
            else len(body)
        )
        self.send_body(body[:stop], chunked, slow=value if kind == "slow" else 0)
        if kind in ("stall", "trickle"):
            for _ in range(40):
                time.sleep(0.1)
                if kind == "trickle":
                    self.send_body(body[stop : stop + 1], False)
                    stop += 1
        if kind == "longer":
            self.send_body(b"x" * 10, False)
        if chunked and kind != "chunked drop":
            self.wfile.write(b"0\r\n\r\n")
        if stop < len(body) or kind == "longer":
            self.close_connection = True
        if kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def send_body(self, body, chunked, slow=0):
        step = 1 << 16
        for at in range(0, len(body), step):
            piece = body[at : at + step]
            try:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            except OSError:  # the other end is gone
                self.close_connection = True
                return
            self.request_log.sent += len(piece)
            if slow:
                time.sleep(slow)

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except (OSError, ValueError):  # what a fault or a killed client closed
            self.close_connection = True

    # --- the services ------------------------------------------------------------------------------------------------

    def plain(self, method, host, path, body, fault):
        self.file(f"{host}{urlsplit(path).path}", fault)

    def zenodo(self, method, host, path, body, fault):
        record = re.fullmatch(r"/api/records/(\d+)", path)
        if not record:
            self.file(f"{host}{path}", fault)
            return
        start = f"zenodo.org{path}/files/"
        listed = [
            {"key": key.removeprefix(start).removesuffix("/content"), "size": len(content), "links": {"self": key}}
            | ({"checksum": f"md5:{hashlib.md5(content).hexdigest()}"} if self.services.checksums else {})
            for key, content in self.services.files.items() if key.startswith(start)
        ]  # fmt: skip
        self.reply(200, json.dumps({"id": int(record[1]), "files": listed}), kind="application/json")

    def osf(self, method, host, path, body, fault):
        if host == "osf.io" and path.startswith("/download/"):
            guid = path.split("/")[2]
            self.reply(302, Location=f"https://files.osf.io/v1/resources/{guid}/providers/osfstorage/x")
        elif host == "api.osf.io":
            content = self.services.files.get(f"osf.io/download/{path.split('/')[3]}/")
            if content is None:
                self.reply(404, '{"errors": []}', kind="application/json")
                return
            hashes = {"md5": hashlib.md5(content).hexdigest(), "sha256": hashlib.sha256(content).hexdigest()}
            about = {"size": len(content), "extra": {"hashes": hashes if self.services.checksums else {}}}
            self.reply(200, json.dumps({"data": {"attributes": about}}), kind="application/json")
        else:
            self.file(f"osf.io/download/{path.split('/')[3]}/", fault)

    def crcns(self, method, host, path, body, fault):
        services, form = self.services, {k: v[0] for k, v in parse_qs(body).items()}
        session = re.search(r"__ac=(\w+)", self.headers.get("Cookie", ""))
        inside = bool(session) and session[1] in services.sessions
        if host == "crcns.org" and path in ("/login_form", "/login"):
            right = (form.get("__ac_name"), form.get("__ac_password")) == (USER, PASSWORD)
            right &= form.get("_authenticator", "") == services.token
            right &= (path == "/login") == ('login"' in services.form)
            if method == "POST" and right and services.form_works:
                token = hashlib.md5(str(time.time()).encode()).hexdigest()
                services.sessions.add(token)
                self.reply(302, Location="https://crcns.org/logged_in", Set_Cookie=f"__ac={token}; Path=/; HttpOnly")
            else:
                self.reply(200, services.form or PAGE)
            return
        dataset, _, name = path.strip("/").partition("/")
        start = f"download.crcns.org/{dataset}/"
        mine = {k.removeprefix(start): v for k, v in services.files.items() if k.startswith(start)}
        if not name:
            if not mine:
                self.reply(200, "<html>The data set identifier is invalid</html>")
            elif method == "POST" and (form.get("username"), form.get("password")) == (USER, PASSWORD):
                services.sessions.add("fallback")
                self.reply(200, f"<html>Logged in as {USER}</html>", Set_Cookie="__ac=fallback; Path=/")
            else:
                self.reply(200, f"<html>Logged in as {USER}</html>" if inside else PAGE)
        elif not inside:
            self.reply(200, PAGE)
        elif name in services.lists:
            self.reply(200, services.lists[name], kind="text/plain")
        elif name == "filelist.txt":
            lines = [f" {k}\t{len(v)}\t({len(v) / 1e6:.1f} MB)" for k, v in sorted(mine.items())]
            self.reply(200, "# the files of this data set\n" + "\n".join(lines) + "\n", kind="text/plain")
        elif name == "checksums.md5":
            if not services.checksums:
                self.reply(404, "no such file")
                return
            lines = [f"{hashlib.md5(v).hexdigest()}  {k}" for k, v in sorted(mine.items())]
            self.reply(200, "\n".join(lines) + "\n", kind="text/plain")
        else:
            self.file(f"{host}{urlsplit(path).path}", fault)
