"""HTTP answers as readers, and HTTP troubles as the domain's errors.

The bytes are taken one ``recv`` at a time (urllib3's ``read1``), so what came before a break is
never lost and a stall is noticed after one timeout, however large the buffer is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import urllib3
from urllib3 import exceptions

from basecache import errors

# Asking for more at once makes urllib3 allocate more than a socket ever has at hand.
_LARGEST_READ = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (?:(?P<first>\d+)-\d+|\*)/(?P<total>\d+|\*)\Z")
_BUSY = frozenset({408, 425, 429})


class HttpReader:
    """The body of an answer.

    ``expected_bytes`` is how long it must be, None when nobody knows; a body that ends earlier is
    interrupted, one that is longer is given whole (its length is the caller's to check).
    """

    def __init__(
        self, answer: urllib3.BaseHTTPResponse, source: str, expected_bytes: int | None
    ) -> None:
        self._answer = answer
        self._source = source
        self._missing = expected_bytes
        self._ahead = b""

    def peek(self, count: int) -> bytes:
        """What comes first, at most ``count`` bytes, without taking it; before any reading."""
        self._ahead = self._receive(count)
        return self._ahead

    def read_up_to(self, count: int) -> bytes:
        """The first ``count`` bytes, or all where there are fewer."""
        data = bytearray()
        while len(data) < count and (more := self._receive(count - len(data))):
            data += more
        return bytes(data)

    def readinto(self, buffer: memoryview, /) -> int:
        if self._ahead:
            data, self._ahead = self._ahead[: len(buffer)], self._ahead[len(buffer) :]
        else:
            data = self._receive(min(len(buffer), _LARGEST_READ))
        buffer[: len(data)] = data
        return len(data)

    def skip(self, count: int) -> None:
        """Throw ``count`` bytes away; SourceInterrupted when there are fewer."""
        while count:
            data = self._receive(min(count, _LARGEST_READ))
            if not data:
                raise errors.SourceInterrupted(self._source, "the answer ended before its offset")
            count -= len(data)

    def _receive(self, count: int) -> bytes:
        with translated(self._source, broken=True):
            data: bytes = self._answer.read1(count, decode_content=False)
        if self._missing is not None:
            self._missing -= len(data)
            if not data and self._missing > 0:
                raise errors.SourceInterrupted(
                    self._source, f"the answer ended {self._missing} bytes early"
                )
        return data


@dataclass(frozen=True, slots=True)
class EmptyReader:
    """A reader at the end of its image."""

    def readinto(self, buffer: memoryview, /) -> int:  # noqa: ARG002
        return 0


def range_headers(offset: int, validator: str | None = None) -> dict[str, str]:
    """What asks for the bytes from ``offset`` on, unencoded, if ``validator`` still holds."""
    wanted = {"Accept-Encoding": "identity"}
    if offset:
        wanted["Range"] = f"bytes={offset}-"
        if validator:
            wanted["If-Range"] = validator
    return wanted


def start_reading(
    answer: urllib3.BaseHTTPResponse, source: str, offset: int, size_bytes: int | None
) -> HttpReader:
    """A reader that stands at ``offset`` of an image of ``size_bytes`` (None: not known).

    ``answer`` is a 200 or 206 to a request for that range. A server that ignored the range has
    its first bytes thrown away; one that answers another range, or an image of another length
    than was described, is refused.
    """
    require_unencoded(answer, source)
    length = content_length(answer)
    if answer.status == 206:
        first, total = content_range(answer, source)
        if first != offset:
            raise errors.SourceRefused(source, f"asked for bytes from {offset}, got {first}")
        reader = HttpReader(answer, source, length)
    else:
        total = length
        reader = HttpReader(answer, source, length if length is not None else size_bytes)
    if offset and None not in (total, size_bytes) and total != size_bytes:
        raise errors.SourceRefused(
            source, f"the image was {size_bytes} bytes long and is {total} bytes now"
        )
    if answer.status == 200:
        reader.skip(offset)
    return reader


def content_range(answer: urllib3.BaseHTTPResponse, source: str) -> tuple[int | None, int | None]:
    """The first byte and the whole length that a Content-Range names, None where it does not."""
    text = answer.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.match(text.strip())
    if match is None:
        raise errors.SourceRefused(source, f"a partial answer with Content-Range {text!r}")
    first, total = match["first"], match["total"]
    return (int(first) if first else None), (None if total == "*" else int(total))


def content_length(answer: urllib3.BaseHTTPResponse) -> int | None:
    """The length of the body as the server states it."""
    text = answer.headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def require_unencoded(answer: urllib3.BaseHTTPResponse, source: str) -> None:
    """SourceRefused where a server compressed what was asked for as it is."""
    encoding = answer.headers.get("Content-Encoding", "identity").lower()
    if encoding not in ("", "identity"):
        raise errors.SourceRefused(
            source, f"the server answers with Content-Encoding {encoding}, which was not asked for"
        )


def refuse_status(status: int, source: str, what: str) -> errors.BasecacheError:
    """The error that an HTTP status other than success means; 404 and 410 are NotFound."""
    if status in (404, 410):
        return errors.NotFound("image", what, source)
    if status >= 500 or status in _BUSY:
        return errors.SourceUnreachable(source, f"{what}: the server answered {status}")
    if status in (401, 407):
        return errors.SourceRefused(
            source, f"{what}: the server answered {status}: check the credentials"
        )
    return errors.SourceRefused(source, f"{what}: the server answered {status}")


@contextmanager
def translated(source: str, *, broken: bool = False) -> Iterator[None]:
    """Turn urllib3's errors into ours; ``broken`` when bytes were already coming."""
    kind = errors.SourceInterrupted if broken else errors.SourceUnreachable
    try:
        yield
    except exceptions.ReadTimeoutError as error:
        raise kind(source, "the server stalled: no byte within the timeout") from error
    except exceptions.NewConnectionError as error:
        raise kind(source, f"connecting failed: {error.__cause__ or error}") from error
    except exceptions.ConnectTimeoutError as error:
        raise kind(source, "no connection within the timeout") from error
    except exceptions.SSLError as error:
        if broken:
            raise kind(source, f"the TLS connection broke: {error}") from error
        raise errors.SourceRefused(source, f"TLS: {error}") from error
    except (exceptions.LocationValueError, exceptions.InvalidHeader) as error:
        raise errors.SourceRefused(source, str(error)) from error
    except exceptions.HTTPError as error:
        raise kind(source, f"the connection failed: {error}") from error
