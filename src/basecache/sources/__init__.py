"""Where image bytes come from.

A driver is a :class:`Source` of three methods. Retry, limits and chains are wrappers that are
sources themselves; a driver knows nothing of them. Every driver runs one contract suite.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from basecache import errors
from basecache.model import Digest, Image


@dataclass(frozen=True, slots=True)
class ImageQuery:
    """Which images to list, with the filters of the image API; None or empty asks for any.

    ``marker`` is the id of the last image already seen; ``limit`` None means all. ``changes_since``
    is an ISO 8601 time. ``server`` and ``type`` are Nova's words: the server an image was made
    from, and ``snapshot`` or ``base``.
    """

    name: str | None = None
    status: str | None = None
    server: str | None = None
    type: str | None = None
    min_ram_mib: int | None = None
    min_disk_gib: int | None = None
    changes_since: str | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    marker: str | None = None


class Reader(Protocol):
    """A stream of an image's bytes."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill ``buffer`` from its start as far as bytes are at hand; 0 at the end of the stream.

        SourceInterrupted when the stream breaks or stalls.
        """
        ...


class Source(Protocol):
    """A place that has images.

    Errors are NotFound, SourceUnreachable (worth another try) and SourceRefused (final).
    """

    @property
    def name(self) -> str:
        """What people call this source; stands in results and messages."""
        ...

    def list_images(self, query: ImageQuery) -> list[Image]:
        """The images that match, in a stable order; unusable ones are not hidden here.

        NotFound when ``query.marker`` is no image.
        """
        ...

    def describe(self, image_id: str) -> Image:
        """What the source says of one image; NotFound also when the caller may not see it."""
        ...

    def open(self, image: Image, offset: int = 0) -> AbstractContextManager[Reader]:
        """The bytes of ``image``, as ``describe`` gave it, from ``offset`` on.

        SourceRefused where the image is not active; SourceInterrupted when it breaks off later.
        """
        ...


def require_active(image: Image, source: str) -> None:
    """SourceRefused unless ``image`` is active: nothing else has bytes to give."""
    if image.status != "active":
        raise errors.SourceRefused(source, f"image {image.id} is {image.status}, not active")


@runtime_checkable
class Identifying(Source, Protocol):
    """A source that knows, without asking anybody, the id behind what people type."""

    def identify(self, image: str) -> str:
        """The id that ``image`` (an id, a URL) stands for; itself where it stands for none."""
        ...

    def stated(self, image: str) -> Digest | None:
        """The digest that stands in ``image``, as in a URL's fragment."""
        ...
