"""Images at http and https addresses.

An image is a URL: one of the configured catalogue, or any other that is asked for. Its id is the
one the catalogue gives it, else the version 5 UUID of the URL, so it may stand in a file name. A
fragment ``#sha256=<hex>`` or ``#sha512:<hex>`` states the digest; otherwise it is looked for in
SHA512SUMS, SHA256SUMS or CHECKSUM in the same folder and in ``<url>.sha512`` and ``.sha256``.

Redirects are followed a few times, never in a circle and never to another scheme than http and
https, nor from https back to http. Certificates are checked against the system's store or
``ca_file``.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import urllib3

from basecache import errors
from basecache.model import Digest, Image
from basecache.sources import ImageQuery, Reader, declared, filters, require_active, stream, sums

SCHEMES = ("http", "https")
MOST_REDIRECTS = 5

_ETAG, _LAST_MODIFIED = "etag", "last_modified"
_MOVED = frozenset({301, 302, 303, 307, 308})
_LARGEST_SUMS_BYTES = 4 << 20
_HTML = (b"<!doctype html", b"<html")


@dataclass(frozen=True, slots=True)
class UrlImage:
    """One image of the catalogue; what is None is derived."""

    url: str
    digest: Digest | None = None
    name: str | None = None
    disk_format: str | None = None
    id: str | None = None

    @property
    def image_id(self) -> str:
        return self.id or derive_id(self.url)


class UrlSource:
    """The images of ``catalogue``, and any http(s) URL that is asked for.

    ``timeout_seconds`` is how long a server may be silent. Errors are those of
    :class:`basecache.sources.Source`; UsageError and BadName for what is no image's URL.
    """

    def __init__(
        self,
        catalogue: Sequence[UrlImage] = (),
        *,
        name: str = "url",
        timeout_seconds: float = 60,
        connect_timeout_seconds: float = 10,
        ca_file: Path | None = None,
    ) -> None:
        self._catalogue = {image.image_id: _checked(image) for image in catalogue}
        if len(self._catalogue) < len(catalogue):
            raise errors.ConfigError("two images of the URL catalogue have the same id")
        self._name = name
        self._http = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=connect_timeout_seconds, read=timeout_seconds),
            ca_certs=str(ca_file) if ca_file else None,
            cert_reqs="CERT_REQUIRED",
        )

    @property
    def name(self) -> str:
        return self._name

    def identify(self, image: str) -> str:
        """The id of the image at a URL, by the URL alone; anything else is an id already."""
        return self._resolve(image).image_id if "://" in image else image

    def stated(self, image: str) -> Digest | None:
        """The digest in the fragment of a URL, or that the catalogue has for it."""
        return self._resolve(image).digest if "://" in image else None

    def list_images(self, query: ImageQuery) -> list[Image]:
        """The catalogue's images; one whose URL is gone is listed with status ``deleted``."""
        return filters.select(map(self._describe_or_gone, self._by_id()), query, self._name)

    def describe(self, image_id: str) -> Image:
        """By the id of a configured image, or by any URL."""
        return self._describe(self._resolve(image_id))

    @contextmanager
    def open(self, image: Image, offset: int = 0) -> Iterator[Reader]:
        require_active(image, self._name)
        if image.location is None:
            image = self.describe(image.id)
        if image.size_bytes is not None and offset == image.size_bytes:
            yield stream.EmptyReader()
            return
        url = str(image.location)
        wanted = stream.range_headers(offset, _validator(image))
        with self._get(url, wanted) as answer:
            if answer.status not in (200, 206):
                raise stream.refuse_status(answer.status, self._name, url)
            if offset:
                self._require_same(image, answer)
            reader = stream.start_reading(answer, self._name, offset, image.size_bytes)
            if offset == 0 and _is_html(reader.peek(declared.HEAD_BYTES)):
                raise self._refuse_html(url)
            yield reader

    def _by_id(self) -> list[UrlImage]:
        return [self._catalogue[image_id] for image_id in sorted(self._catalogue)]

    def _resolve(self, image_id: str) -> UrlImage:
        """The catalogue's image of this id or URL, or the URL's own."""
        if image_id in self._catalogue:
            return self._catalogue[image_id]
        if ":" not in image_id:
            raise errors.NotFound("image", image_id, self._name)
        asked = parse_url(image_id)
        known = self._catalogue.get(asked.image_id) or next(
            (image for image in self._by_id() if image.url == asked.url), asked
        )
        return replace(known, digest=asked.digest or known.digest)

    def _describe_or_gone(self, known: UrlImage) -> Image:
        try:
            return self._describe(known)
        except errors.NotFound:
            name = known.name or _file_name(known.url)
            return Image(known.image_id, name, "deleted", location=known.url)

    def _describe(self, known: UrlImage) -> Image:
        """Ask for the first bytes: they tell length, kind and validators, also where HEAD fails."""
        head_range = {
            "Accept-Encoding": "identity",
            "Range": f"bytes=0-{declared.HEAD_BYTES - 1}",
        }
        with self._get(known.url, head_range) as answer:
            size, head = self._read_head(answer, known.url)
            headers = answer.headers
        if _is_html(head):
            raise self._refuse_html(known.url)
        modified = headers.get("Last-Modified")
        facts = {_ETAG: headers.get("ETag"), _LAST_MODIFIED: modified}
        file_name = _file_name(known.url)
        return Image(
            id=known.image_id,
            name=known.name or PurePosixPath(file_name).stem,
            disk_format=known.disk_format or declared.declared_format(file_name, head),
            container_format="bare",
            size_bytes=size,
            digest=known.digest or self._find_digest(known.url, file_name),
            updated_at=_iso_time(modified),
            properties={key: value for key, value in facts.items() if value},
            location=known.url,
        )

    def _read_head(self, answer: urllib3.BaseHTTPResponse, url: str) -> tuple[int | None, bytes]:
        """The whole length, None when the server does not say, and the first bytes."""
        if answer.status == 416:  # no byte can be asked of an empty file
            _, total = stream.content_range(answer, self._name)
            return total, b""
        if answer.status not in (200, 206):
            raise stream.refuse_status(answer.status, self._name, url)
        stream.require_unencoded(answer, self._name)
        length = stream.content_length(answer)
        size = stream.content_range(answer, self._name)[1] if answer.status == 206 else length
        head = stream.HttpReader(answer, self._name, length).read_up_to(declared.HEAD_BYTES)
        return size, head

    def _find_digest(self, url: str, file_name: str) -> Digest | None:
        """The digest published beside the image; None only where the server has no such file."""
        plain = urlsplit(url)._replace(query="").geturl()
        for name in sums.FOLDER_NAMES:
            digest = sums.find_digest(self._read_sums(urljoin(plain, name)), file_name)
            if digest is not None:
                return digest
        for suffix in sums.SUFFIXES:
            digest = sums.find_only_digest(self._read_sums(plain + suffix), file_name)
            if digest is not None:
                return digest
        return None

    def _read_sums(self, url: str) -> str:
        with self._get(url, {"Accept-Encoding": "identity"}) as answer:
            if answer.status in (401, 403, 404, 410):
                return ""
            if answer.status != 200:
                raise stream.refuse_status(answer.status, self._name, url)
            reader = stream.HttpReader(answer, self._name, stream.content_length(answer))
            text = reader.read_up_to(_LARGEST_SUMS_BYTES)
        if len(text) == _LARGEST_SUMS_BYTES:
            raise errors.SourceRefused(self._name, f"{url} is too large for a checksum file")
        return text.decode(errors="replace")

    @contextmanager
    def _get(self, url: str, headers: dict[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
        """The answer at the end of all redirects, its body not read yet."""
        visited = [url]
        while True:
            with stream.translated(self._name):
                answer = self._http.request(
                    *("GET", visited[-1]),
                    headers=headers,
                    preload_content=False,
                    redirect=False,
                    retries=False,
                )
            try:
                if answer.status not in _MOVED:
                    yield answer
                    return
                visited.append(self._next_hop(visited, answer.headers.get("Location", "")))
            finally:
                # What is left of a body is not worth reading to keep the connection.
                answer.close()

    def _next_hop(self, visited: list[str], location: str) -> str:
        here = visited[-1]
        there = urldefrag(urljoin(here, location)).url
        scheme = urlsplit(there).scheme
        if not location:
            raise errors.SourceRefused(self._name, f"{here} redirects to nowhere")
        if scheme not in SCHEMES:
            raise errors.SourceRefused(self._name, f"{here} redirects to {scheme}: {there}")
        if scheme == "http" and urlsplit(here).scheme == "https":
            raise errors.SourceRefused(self._name, f"{here} redirects from https to http: {there}")
        if there in visited:
            raise errors.SourceRefused(self._name, f"{here} redirects in a circle, to {there}")
        if len(visited) > MOST_REDIRECTS:
            raise errors.SourceRefused(
                self._name, f"{visited[0]} redirects more than {MOST_REDIRECTS} times"
            )
        return there

    def _require_same(self, image: Image, answer: urllib3.BaseHTTPResponse) -> None:
        """SourceRefused when reading goes on in another content than it began with."""
        for key, header in ((_ETAG, "ETag"), (_LAST_MODIFIED, "Last-Modified")):
            described, now = image.properties.get(key), answer.headers.get(header)
            if described and now:
                if described != now:
                    raise errors.SourceRefused(
                        self._name, f"{image.location} changed since it was described"
                    )
                return

    def _refuse_html(self, url: str) -> errors.SourceRefused:
        return errors.SourceRefused(
            self._name, f"{url} answers with a web page (HTML), not with an image"
        )


def derive_id(url: str) -> str:
    """The id of the image at ``url`` where the catalogue gives it none."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, urldefrag(url).url))


def _checked(image: UrlImage) -> UrlImage:
    parsed = parse_url(image.url)
    return replace(image, url=parsed.url, digest=image.digest or parsed.digest, id=image.image_id)


def parse_url(text: str) -> UrlImage:
    """A URL with its fragment read; UsageError when it is none that may be fetched."""
    url, fragment = urldefrag(text)
    if any(ord(c) <= 32 or ord(c) == 127 for c in url):
        raise errors.UsageError(f"{text[:200]!r} is no URL: it holds a space or control character")
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise errors.UsageError(f"{text[:200]!r} is no URL: {error}") from error
    if parts.scheme not in SCHEMES or not host:
        raise errors.UsageError(
            f"images are fetched from http and https URLs, not from {text[:200]!r}"
        )
    if parts.username is not None:
        raise errors.UsageError("credentials in an image's URL are not supported")
    return UrlImage(url, digest=_parse_fragment(fragment) if fragment else None)


def _parse_fragment(fragment: str) -> Digest:
    try:
        digest = Digest.parse(fragment.replace("=", ":", 1))
    except ValueError:
        digest = Digest("", "")
    lengths = {"sha256": 64, "sha384": 96, "sha512": 128}
    if lengths.get(digest.algorithm) != len(digest.value):
        raise errors.UsageError(
            f"the URL's fragment {fragment[:80]!r} states no digest",
            "write #sha256=<64 hex digits> or #sha512=<128 hex digits>",
        )
    return digest


def _file_name(url: str) -> str:
    parts = urlsplit(url)
    return unquote(PurePosixPath(parts.path).name) or str(parts.hostname)


def _validator(image: Image) -> str | None:
    """What If-Range may hold: a strong ETag, else the time of the last change."""
    etag: str = image.properties.get(_ETAG, "")
    if etag and not etag.startswith("W/"):
        return etag
    return image.properties.get(_LAST_MODIFIED)


def _iso_time(http_date: str | None) -> str | None:
    try:
        return parsedate_to_datetime(http_date).isoformat() if http_date else None
    except ValueError:
        return None


def _is_html(head: bytes) -> bool:
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_HTML)
