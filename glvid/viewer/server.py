"""The web server of `glvid view`: one run, read only, this machine unless told otherwise, Python's own http.server.

/                  the page, and the fixed files it consists of
/run.json          facts
/cloud.bin         the fused cloud; the answer waits until it is made
/depth/N.png  /flow/N.png  /image/N.jpg     maps of row N
"""

import errno
import hashlib
import os
import re
import socket
import socketserver
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from ipaddress import ip_address
from typing import Any

from glvid import __version__
from glvid.colors import Range
from glvid.errors import UsageError
from glvid.parallel import cores
from glvid.results import INFO, RunFolder
from glvid.viewer import content

PORT = 8123
TRIES = 20  # further ports tried when it is taken
HTML, CSS, JS, SVG = "text/html; charset=utf-8", "text/css; charset=utf-8", "text/javascript", "image/svg+xml"
SCRIPTS = ("main", "frames", "matrix", "orbit", "panels", "player", "points", "scene", "shaders")
PAGE = {"/": ("page.html", HTML), "/page.css": ("page.css", CSS), "/icon.svg": ("icon.svg", SVG)}
PAGE |= {f"/{name}.js": (f"{name}.js", JS) for name in SCRIPTS}
MAP = re.compile(r"/(?:(depth|flow)/([0-9]{1,7})\.png|(image)/([0-9]{1,7})\.jpg)", re.ASCII)
TYPES = {"depth": "image/png", "flow": "image/png", "image": "image/jpeg"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # kept, but asked for again: another run may be shown at the same address
}


class Viewer:
    """A run on the web: `serve_forever()`, or `with open_server(run) as viewer:` to serve beside what one does.

    What is made once (limits of colours, facts, the cloud: the page comes first) is begun at once, beside the serving.
    """

    def __init__(self, run: RunFolder, server: ThreadingHTTPServer, host: str) -> None:
        self.run, self.host, self.port = run, host, server.server_address[1]
        stamp = (run.path / INFO).stat()
        about = f"{__version__} {run.path} {stamp.st_mtime_ns} {run.numbers} {run.info['depth']} {run.stretch}"
        self.tag = hashlib.sha256(os.fsencode(about)).hexdigest()[:16]
        self._once, self._maps = ThreadPoolExecutor(1), ThreadPoolExecutor(cores())
        self.limits: Future[Range] = self._once.submit(content.limits_of, run)
        self.facts: Future[bytes] = self._once.submit(lambda: content.facts_json(run, self.limits.result()))
        self.cloud: Future[bytes] = self._once.submit(content.fused, run)
        self._server, self._closed, self._idle = server, threading.Event(), threading.Event()
        self._idle.set()
        server.viewer = self

    @property
    def url(self) -> str:
        """Where a browser on this machine finds the page."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    def serve_forever(self) -> None:
        """Answers until Ctrl-C, which is how it ends, or until `close` is called in another thread."""
        self._idle.clear()
        try:
            while not self._closed.is_set():
                self._server.handle_request()
        except KeyboardInterrupt:
            pass
        finally:
            self._idle.set()

    def close(self) -> None:
        """Stops answering and frees the port; waits for what is being made, at most the seconds a cloud takes."""
        self._closed.set()
        self._idle.wait()
        self._server.server_close()
        for workers in (self._maps, self._once):
            workers.shutdown(cancel_futures=True)

    def __enter__(self) -> "Viewer":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def allows(self, host: str) -> bool:
        """May a request name this host? Pages of other sites that point a name of theirs at this machine may not.

        Through a tunnel the port may be another. Who listens for other machines is asked for by any name.
        """
        name = re.sub(r":[0-9]*$", "", host).strip("[]").lower()
        return not is_loopback(self._server.server_address[0]) or name in (
            "localhost",
            "127.0.0.1",
            "::1",
            self.host.lower(),
        )

    def map(self, kind: str, number: int) -> bytes:
        """A map of row `number`; as many are made at once as there are cores."""
        return self._maps.submit(self._made, kind, number).result()

    def _made(self, kind: str, number: int) -> bytes:
        row = self.run.rows[number]
        if kind == "depth":
            return content.depth_png(self.run, row)
        if kind == "image":
            return content.image_jpg(self.run, row)
        return content.flow_png(self.run, row, self.limits.result())


def open_server(run: RunFolder, host: str = "127.0.0.1", port: int = PORT) -> Viewer:
    """Listens on `host`; on the first free of `port` and the 20 after it, on any free one if `port` is 0.

    Raises UsageError when the address is none of this machine's, or every port is taken, or may not be used.
    """
    last = min(port + TRIES, 65535) if port else 0
    for candidate in range(port, last + 1):
        try:
            found = socket.getaddrinfo(host, candidate, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            return Viewer(run, _Server(found[0][0], found[0][4]), host)
        except OSError as error:
            if error.errno == errno.EACCES:
                raise UsageError(f"port {candidate}: may not be used; give --port 1024 or more") from error
            if error.errno != errno.EADDRINUSE:
                raise UsageError(
                    f"{host}: cannot be listened on ({error.strerror or error}); leave --host out"
                ) from error
    raise UsageError(f"{host}: ports {port} to {last} are taken; give another --port, or 0 for any free one")


def is_loopback(host: str) -> bool:
    """Does the address reach this machine only?"""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


# ---------------------------------------------------------------- requests


class _Server(ThreadingHTTPServer):
    """A thread for every connection; they end with the program."""

    daemon_threads = True
    allow_reuse_address = os.name == "posix"  # elsewhere it lets two programs have one port
    timeout = 0.1  # s, after which it looks whether it is to end
    viewer: Viewer

    def __init__(self, family: socket.AddressFamily, address: tuple) -> None:
        self.address_family = family
        super().__init__(address[:2], _Handler)

    def server_bind(self) -> None:
        """Without http.server's question for this machine's full name, which can take seconds offline."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is none of the user's business."""


class _Handler(BaseHTTPRequestHandler):
    """GET and HEAD of the addresses above."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "glvid", ""
    timeout = 60  # s without a request, after which a connection is closed
    server: _Server

    def do_GET(self) -> None:  # noqa: N802
        """Called by http.server."""
        viewer = self.server.viewer
        if not viewer.allows(self.headers.get("Host", "")):
            return self._send(HTTPStatus.FORBIDDEN, b"this host name is not served here\n")
        tag = f'"{viewer.tag}"'
        try:
            answer = answer_to(viewer, self.path, self.headers.get("If-None-Match") == tag)
        except Exception as error:  # a damaged map, or a mistake of ours: the page shows the sentence
            return self._send(HTTPStatus.INTERNAL_SERVER_ERROR, f"{content.reason(error)}\n".encode())
        if answer is None:
            return self._send(HTTPStatus.NOT_FOUND, b"there is nothing here\n")
        kind, data, kept = answer
        status = HTTPStatus.NOT_MODIFIED if data is None else HTTPStatus.OK
        self._send(status, data or b"", kind, {"ETag": tag} if kept else {})

    do_HEAD = do_GET  # noqa: N815

    def _send(self, status: HTTPStatus, data: bytes, kind: str = "text/plain; charset=utf-8", more: Any = ()) -> None:
        self.send_response(status)
        for name, value in (HEADERS | dict(more)).items():
            self.send_header(name, value)
        if status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""


def answer_to(viewer: Viewer, path: str, known: bool) -> tuple[str, bytes | None, bool] | None:
    """Type, bytes and whether the browser may keep them; no bytes if it is `known` already; None: no such address."""
    if path in PAGE:
        name, kind = PAGE[path]
        return kind, (files("glvid.viewer") / "page" / name).read_bytes(), False
    if path == "/run.json":
        return "application/json", viewer.facts.result(), False
    if path == "/cloud.bin":
        return "application/octet-stream", None if known else viewer.cloud.result(), True
    asked = MAP.fullmatch(path)
    if asked is None:
        return None
    kind, number = next((kind, int(number)) for kind, number in (asked.group(1, 2), asked.group(3, 4)) if kind)
    rows = viewer.run.rows
    if number >= len(rows) or not (getattr(rows[number], kind) or (kind == "depth" and rows[number].mask)):
        return None
    return TYPES[kind], None if known else viewer.map(kind, number), True
