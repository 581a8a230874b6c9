"""Images of an OpenStack image service (Image API v2).

keystoneauth does the credentials and the catalogue; it is imported when the service is first
asked. The image service is found in the catalogue, or at ``api_servers``, which are tried in turn
from a random one on. A request is sent ``num_retries + 1`` times at most; after each round of all
servers comes a pause. Bytes are read from the raw stream.

What the caller may not see is "not found", whether the service says 404 or 403. An image's digest
is the service's multihash; its MD5 is taken only where there is nothing else.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from basecache import errors
from basecache.cache.layout import require_image_id
from basecache.model import Digest, Image
from basecache.sources import ImageQuery, Reader, filters, require_active, stream

if TYPE_CHECKING:
    from basecache.sources.keystone import Access

T = TypeVar("T")

_PAGE = 500
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 4.0
_RESERVED = frozenset(
    {"limit", "marker", "sort", "sort_key", "sort_dir", "member_status", "tag", "changes-since"}
)
_NO_PROPERTIES = frozenset(
    {"id", "name", "status", "visibility", "owner", "created_at", "updated_at", "tags"}
    | {"disk_format", "container_format", "size", "virtual_size", "min_disk", "min_ram"}
    | {"checksum", "os_hash_algo", "os_hash_value", "os_hidden", "protected"}
    | {"self", "file", "schema", "stores", "locations", "direct_url"}
)


@dataclass(frozen=True, slots=True)
class GlanceSettings:
    """How to reach the image service.

    ``auth`` holds ``auth_type`` (``password`` where it is missing; ``none`` for a service without
    Keystone) and that plugin's options by keystoneauth's names; ``cloud`` names an entry of
    ``clouds_file``, or of the clouds.yaml where OpenStack's clients look for it.
    """

    auth: Mapping[str, str] | None = None
    cloud: str | None = None
    clouds_file: Path | None = None
    api_servers: tuple[str, ...] = ()
    region_name: str | None = None
    service_type: str = "image"
    interfaces: tuple[str, ...] = ("internal", "public")
    cafile: Path | None = None
    insecure: bool = False
    certfile: Path | None = None
    keyfile: Path | None = None
    num_retries: int = 3
    timeout_seconds: float = 60
    connect_timeout_seconds: float = 10


class GlanceSource:
    """The images of one image service. Errors are those of :class:`basecache.sources.Source`."""

    def __init__(self, settings: GlanceSettings, *, name: str = "glance") -> None:
        self._settings = settings
        self._name = name
        self._opening = threading.Lock()
        self._access: Access | None = None

    @property
    def name(self) -> str:
        return self._name

    def list_images(self, query: ImageQuery) -> list[Image]:
        wanted = translate_query(query)
        images: list[Image] = []
        marker, left = query.marker, query.limit
        while left is None or left > 0:
            page = {**wanted, "limit": str(_PAGE if left is None else min(left, _PAGE))}
            if marker is not None:
                page["marker"] = marker
            found, more = self._list_page(page)
            images += found
            if not more or not found:
                break
            marker = found[-1].id
            left = None if left is None else left - len(found)
        return images

    def describe(self, image_id: str) -> Image:
        path = f"/v2/images/{quote(require_image_id(image_id), safe='')}"
        with self._get(path) as answer:
            if answer.status_code in (403, 404):
                raise errors.NotFound("image", image_id, self._name)
            self._require(answer, 200, f"image {image_id}")
            return self._read(answer, make_image)

    @contextmanager
    def open(self, image: Image, offset: int = 0) -> Iterator[Reader]:
        require_active(image, self._name)
        if image.size_bytes is not None and offset == image.size_bytes:
            yield stream.EmptyReader()
            return
        path = f"/v2/images/{quote(require_image_id(image.id), safe='')}/file"
        with self._get(path, headers=stream.range_headers(offset), stream=True) as answer:
            if answer.status_code == 204:
                raise errors.SourceRefused(self._name, f"image {image.id} has no data")
            if answer.status_code not in (200, 206):
                raise stream.refuse_status(answer.status_code, self._name, image.id)
            yield stream.start_reading(answer.raw, self._name, offset, image.size_bytes)

    def _list_page(self, page: Mapping[str, str]) -> tuple[list[Image], bool]:
        """One page, and whether there are more."""
        with self._get("/v2/images", params=page) as answer:
            if answer.status_code == 400 and "marker" in page:
                self.describe(page["marker"])  # NotFound where that is what was wrong
            self._require(answer, 200, "the list of images")
            return self._read(
                answer,
                lambda facts: (list(map(make_image, facts["images"])), bool(facts.get("next"))),
            )

    def _require(self, answer: Any, status: int, what: str) -> None:
        if answer.status_code != status:
            raise stream.refuse_status(answer.status_code, self._name, what)

    def _read(self, answer: Any, build: Callable[[Any], T]) -> T:
        try:
            return build(answer.json())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise errors.SourceRefused(
                self._name, f"{answer.url} does not speak the image API: {error!r}"
            ) from error

    @contextmanager
    def _get(self, path: str, **request: Any) -> Iterator[Any]:
        """The answer of the first server that gives one."""
        answer = self._ask_in_turn(path, request)
        try:
            yield answer
        finally:
            answer.close()

    def _ask_in_turn(self, path: str, request: Mapping[str, Any]) -> Any:
        servers = max(1, len(self._settings.api_servers))
        start = random.randrange(servers)  # noqa: S311
        pause = _FIRST_PAUSE_SECONDS
        for attempt in range(self._settings.num_retries + 1):
            if attempt and attempt % servers == 0:
                time.sleep(random.uniform(pause / 2, pause))  # noqa: S311
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            try:
                return self._ask(start + attempt, path, request)
            except errors.SourceUnreachable as error:
                if not error.retryable or attempt == self._settings.num_retries:
                    raise
        raise AssertionError("num_retries is negative")

    def _ask(self, turn: int, path: str, request: Mapping[str, Any]) -> Any:
        access = self._open_access()
        with access.translated(self._name):
            answer = access.session.get(
                self._server(access, turn) + path,
                raise_exc=False,
                redirect=False,
                log=False,
                timeout=(self._settings.connect_timeout_seconds, self._settings.timeout_seconds),
                **request,
            )
        if answer.status_code >= 500 or answer.status_code in (401, 408, 429):
            answer.close()
            raise stream.refuse_status(answer.status_code, self._name, answer.url)
        return answer

    def _server(self, access: Access, turn: int) -> str:
        """The image service's address without version."""
        servers = self._settings.api_servers
        catalogued = None if servers else access.find_endpoint(self._settings.service_type)
        found = servers[turn % len(servers)] if servers else catalogued
        if not found:
            raise errors.SourceRefused(
                self._name,
                f"the catalogue has no {self._settings.service_type} endpoint for "
                f"{' or '.join(access.interfaces)}, region {access.region_name or 'any'}",
            )
        address = found.rstrip("/")
        head, _, version = address.rpartition("/")
        return head if version.startswith("v2") else address

    def _open_access(self) -> Access:
        with self._opening:
            if self._access is None:
                try:
                    from basecache.sources import keystone  # noqa: PLC0415
                except ImportError as error:
                    raise errors.ToolFailed(
                        "keystoneauth1", str(error), "pip install 'basecache[openstack]'"
                    ) from error
                self._access = keystone.open_access(self._settings)
            return self._access


def translate_query(query: ImageQuery) -> dict[str, str]:
    """The image API's parameters for a query, marker and limit left aside.

    UsageError for a property that the API would take for something else.
    """
    reserved = _RESERVED & query.properties.keys()
    if reserved:
        raise errors.UsageError(f"images cannot be filtered by a property {min(reserved)!r}")
    wanted: dict[str, str | None] = {
        **query.properties,
        "name": _plain(query.name),
        "status": query.status,
        filters.SERVER_PROPERTY: query.server,
        filters.TYPE_PROPERTY: query.type,
        "min_ram": None if query.min_ram_mib is None else str(query.min_ram_mib),
        "min_disk": None if query.min_disk_gib is None else str(query.min_disk_gib),
        "updated_at": f"gte:{query.changes_since}" if query.changes_since else None,
    }
    return {key: value for key, value in wanted.items() if value is not None}


def make_image(facts: Mapping[str, Any]) -> Image:
    """An image as the image API tells of it; KeyError or ValueError when it is not one."""
    size, virtual_size = facts.get("size"), facts.get("virtual_size")
    return Image(
        id=require_image_id(str(facts["id"])),
        name=facts.get("name"),
        status=str(facts["status"]),
        disk_format=facts.get("disk_format"),
        container_format=facts.get("container_format"),
        size_bytes=None if size is None else int(size),
        virtual_size_bytes=None if virtual_size is None else int(virtual_size),
        digest=_digest(facts),
        min_disk_gib=int(facts.get("min_disk") or 0),
        min_ram_mib=int(facts.get("min_ram") or 0),
        visibility=facts.get("visibility"),
        owner=facts.get("owner"),
        created_at=facts.get("created_at"),
        updated_at=facts.get("updated_at"),
        properties={key: value for key, value in facts.items() if key not in _NO_PROPERTIES},
    )


def _digest(facts: Mapping[str, Any]) -> Digest | None:
    if facts.get("os_hash_algo") and facts.get("os_hash_value"):
        return Digest.parse(f"{facts['os_hash_algo']}:{facts['os_hash_value']}")
    return Digest.parse(f"md5:{facts['checksum']}") if facts.get("checksum") else None


def _plain(name: str | None) -> str | None:
    """A name in which the image API sees no operator such as ``in:``."""
    if name is None or ":" not in name:
        return name
    quoted = name.replace('"', '\\"')
    return f'in:"{quoted}"'
