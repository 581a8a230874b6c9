"""Which images a query asks for: one meaning, whatever the source.

The filters are those of the image API and Nova's proxy of it. A minimum (``min_ram``,
``min_disk``) matches the images that state exactly this requirement, as the image API compares.
``changes_since`` matches what was updated then or later. Properties compare as text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from basecache import errors
from basecache.model import Image
from basecache.sources import ImageQuery

SERVER_PROPERTY, TYPE_PROPERTY = "instance_uuid", "image_type"
_PROPERTY_PREFIX = "property-"


def parse_query(filters: Mapping[str, Any]) -> ImageQuery:
    """The query that ``filters`` (the words of the image API, Nova's or ours) ask for.

    UnknownChoice for a filter that is none, UsageError for a value that cannot be meant.
    """
    values: dict[str, Any] = {}
    properties: dict[str, str] = {}
    for word, value in filters.items():
        if word == "properties":
            properties.update({str(key): str(wanted) for key, wanted in value.items()})
        elif word.startswith(_PROPERTY_PREFIX) and word != _PROPERTY_PREFIX:
            properties[word.removeprefix(_PROPERTY_PREFIX)] = str(value)
        elif word in _FILTERS:
            name, read = _FILTERS[word]
            values[name] = read(word, value)
        else:
            known = (*sorted(_FILTERS), "properties", f"{_PROPERTY_PREFIX}<name>")
            raise errors.UnknownChoice("image filter", word, known)
    return ImageQuery(properties=properties, **values)


def matches(image: Image, query: ImageQuery) -> bool:
    """Whether ``image`` is one that ``query`` asks for, marker and limit left aside."""
    wanted = {**query.properties}
    if query.server is not None:
        wanted[SERVER_PROPERTY] = query.server
    if query.type is not None:
        wanted[TYPE_PROPERTY] = query.type
    return (
        query.name in (None, image.name)
        and query.status in (None, image.status)
        and query.min_ram_mib in (None, image.min_ram_mib)
        and query.min_disk_gib in (None, image.min_disk_gib)
        and _changed_since(image, query.changes_since)
        and all(
            key in image.properties and str(image.properties[key]) == value
            for key, value in wanted.items()
        )
    )


def select(images: Iterable[Image], query: ImageQuery, source: str) -> list[Image]:
    """The page of ``images`` that ``query`` asks for; NotFound when its marker is none of them."""
    listed = list(images)
    if query.marker is not None:
        ids = [image.id for image in listed]
        if query.marker not in ids:
            raise errors.NotFound("image", query.marker, source)
        listed = listed[ids.index(query.marker) + 1 :]
    return [image for image in listed if matches(image, query)][: query.limit]


def parse_time(text: str) -> datetime:
    """An ISO 8601 time, taken as UTC where it names no zone; ValueError when it is none."""
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _changed_since(image: Image, since: str | None) -> bool:
    if since is None:
        return True
    changed = image.updated_at or image.created_at
    return changed is not None and parse_time(changed) >= parse_time(since)


def _text(_: str, value: Any) -> str:
    return str(value)


def _status(_: str, value: Any) -> str:
    return str(value).lower()


def _server(_: str, value: Any) -> str:
    """A server's id, or the id at the end of its URL."""
    return str(value).rstrip("/").rpartition("/")[2]


def _number(word: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if number < 0:
        raise errors.UsageError(f"image filter {word} wants a whole number, not {value!r}")
    return number


def _time(word: str, value: Any) -> str:
    try:
        return parse_time(str(value)).isoformat()
    except ValueError:
        raise errors.UsageError(
            f"image filter {word} wants an ISO 8601 time, not {value!r}",
            "for example 2026-01-31T12:00:00Z",
        ) from None


_FILTERS: Mapping[str, tuple[str, Callable[[str, Any], Any]]] = {
    "name": ("name", _text),
    "status": ("status", _status),
    "server": ("server", _server),
    "type": ("type", _text),
    "minRam": ("min_ram_mib", _number),
    "min_ram": ("min_ram_mib", _number),
    "minDisk": ("min_disk_gib", _number),
    "min_disk": ("min_disk_gib", _number),
    "changes-since": ("changes_since", _time),
    "changes_since": ("changes_since", _time),
    "limit": ("limit", _number),
    "marker": ("marker", _text),
}
