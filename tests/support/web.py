"""A web server on loopback with real sockets, which behaves or misbehaves as a test says.

Every path has a list of answers: each request takes the next, and the last one stays.
``bytes_sent`` (by path) and ``requests`` tell afterwards what really went over the wire.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import re
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import pytest


@dataclass(frozen=True)
class Answer:
    """What a path answers.

    ``cut_after`` ends the connection after so many bytes of the body: ``reset`` says with an RST,
    ``stall`` that it is not ended at all until the server stops. ``promised`` is a Content-Length
    other than the body's. ``ranges`` off is a server that ignores Range; ``shift`` answers a range
    that begins elsewhere.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    reset: bool = False
    stall: bool = False
    stall_before_headers: bool = False
    promised: int | None = None
    ranges: bool = True
    shift: int = 0
    chunked: bool = False


@dataclass(frozen=True)
class Request:
    """A request as it came."""

    path: str
    headers: Mapping[str, str]


class Web:
    """The server. ``put`` says what a path answers; ``url`` names it."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.requests: list[Request] = []
        self.bytes_sent: Counter[str] = Counter()
        self._answers: dict[str, list[Answer]] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def root(self) -> str:
        scheme = "https" if self._tls else "http"
        return f"{scheme}://127.0.0.1:{self.port}"

    def url(self, path: str) -> str:
        return self.root + path

    def put(self, path: str, *answers: Answer) -> str:
        """Let ``path`` give these answers in turn; its URL."""
        with self._lock:
            self._answers[path] = list(answers)
        return self.url(path)

    def put_file(self, path: str, body: bytes, **how: object) -> str:
        """An image with an ETag, served as it should be unless ``how`` says otherwise."""
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        answer = Answer(
            body=body, headers={"ETag": etag, "Content-Type": "application/octet-stream"}
        )
        return self.put(path, replace(answer, **how))  # type: ignore[arg-type]

    def asked(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]

    def stop(self) -> None:
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.ExitStack() as open_, contextlib.suppress(OSError):
            open_.enter_context(connection)
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
                open_.enter_context(connection)
            request = _read_request(connection)
            if request is None:
                return
            with self._lock:
                self.requests.append(request)
                answers = self._answers.get(request.path, [Answer(b"no such thing", 404)])
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if answer.stall_before_headers:
                self._stopping.wait()
                return
            self._answer(connection, request.path, _apply_range(answer, request))

    def _answer(self, connection: socket.socket, path: str, answer: Answer) -> None:
        headers = {"Connection": "close", **answer.headers}
        body = answer.body
        if answer.chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(
                len(body) if answer.promised is None else answer.promised
            )
        lines = [f"HTTP/1.1 {answer.status} answer", *(f"{k}: {v}" for k, v in headers.items())]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        sent = body if answer.cut_after is None else body[: answer.cut_after]
        for start in range(0, len(sent), 1 << 16):
            piece = sent[start : start + (1 << 16)]
            self.bytes_sent[path] += len(piece)
            connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if answer.chunked else piece)
        if answer.stall:
            self._stopping.wait()
        elif answer.reset:
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        elif answer.chunked and answer.cut_after is None:
            connection.sendall(b"0\r\n\r\n")
        else:
            # Closing with unread input would send an RST that overtakes the body.
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass


def gzipped(body: bytes) -> Answer:
    """A server that compresses although nobody asked it to."""
    return Answer(gzip.compress(body), headers={"Content-Encoding": "gzip"}, ranges=False)


def redirect(to: str, status: int = 302) -> Answer:
    return Answer(status=status, headers={"Location": to}, ranges=False)


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    try:
        yield server
    finally:
        server.stop()


def _read_request(connection: socket.socket) -> Request | None:
    text = b""
    while b"\r\n\r\n" not in text:
        more = connection.recv(65536)
        if not more:
            return None
        text += more
    first, *lines = text.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    return Request(first.split()[1], headers)


def _apply_range(answer: Answer, request: Request) -> Answer:
    wanted = re.match(r"bytes=(\d+)-(\d*)\Z", request.headers.get("range", ""))
    condition = request.headers.get("if-range")
    known = (answer.headers.get("ETag"), answer.headers.get("Last-Modified"))
    if not answer.ranges or answer.status != 200 or wanted is None:
        return answer
    if condition is not None and condition not in known:
        return answer
    first, total = int(wanted[1]), len(answer.body)
    last = min(int(wanted[2] or total), total - 1)
    if first >= total:
        headers = {**answer.headers, "Content-Range": f"bytes */{total}"}
        return replace(answer, status=416, headers=headers, body=b"")
    first = first + answer.shift if first else first
    headers = {**answer.headers, "Content-Range": f"bytes {first}-{last}/{total}"}
    return replace(answer, status=206, headers=headers, body=answer.body[first : last + 1])
