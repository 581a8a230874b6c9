"""A web server as fast as the kernel: a folder's files through sendfile(2), in its own process.

``web.py FOLDER`` serves it on a free port of 127.0.0.1 and prints the port. curl and basecache
are measured against the same server.
"""

from __future__ import annotations

import contextlib
import os
import re
import socketserver
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_RANGE = re.compile(r"bytes=(\d+)-(\d*)\Z")


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve ``folder`` while the block lasts; gives the address, without a slash at its end."""
    command = [sys.executable, __file__, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            port = server.stdout.readline().strip() if server.stdout else ""
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = Path(sys.argv[1]) / Path(self.path).name
        if not path.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start, end = self._begin(size)
            self._send(file.fileno(), start, end)

    def _begin(self, size: int) -> tuple[int, int]:
        """Send the headers; which bytes are to follow."""
        wanted = _RANGE.match(self.headers.get("Range", ""))
        start, end = 0, size
        if wanted:
            start = int(wanted[1])
            end = min(size, int(wanted[2]) + 1) if wanted[2] else size
        self.send_response(HTTPStatus.PARTIAL_CONTENT if wanted else HTTPStatus.OK)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        return start, end

    def _send(self, descriptor: int, start: int, end: int) -> None:
        try:
            while start < end:
                start += os.sendfile(self.connection.fileno(), descriptor, start, end - start)
        except ConnectionError:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


def main() -> None:
    socketserver.TCPServer.request_queue_size = 128
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
