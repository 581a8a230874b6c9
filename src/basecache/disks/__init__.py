"""VM disks made from cache entries.

A backend is a :class:`DiskBackend`. The caller (:mod:`basecache.agent.disk`) holds the entry
under a shared lock and the disk's own lock while it creates; a backend makes the disk under a
temporary name and renames, so that a disk is there whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from basecache import errors
from basecache.cache.layout import Layout
from basecache.model import Disk, Entry

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Base:
    """The entry a disk is made from: its file, its true format and what a guest would see of it."""

    entry: Entry
    format: str
    virtual_size_bytes: int


@dataclass(frozen=True, slots=True)
class DiskRequest:
    """One disk to make. ``size_bytes`` is final: never 0, never below the base's virtual size.

    ``base`` is None for a disk that no entry stands behind (``generate`` fills it instead, when
    given, working on a path that is a sparse raw file of the full size).
    """

    instance: str
    name: str
    path: Path
    size_bytes: int
    base: Base | None = None
    generate: Callable[[Path], None] | None = None
    preallocate: bool = False


class DiskBackend(Protocol):
    """One way to keep VM disks."""

    @property
    def name(self) -> str:
        """As in ``images_type``."""
        ...

    @property
    def format(self) -> str:
        """The format recorded beside the disk at its birth."""
        ...

    def create(self, request: DiskRequest) -> Disk:
        """Make the disk, durable when this returns. The caller knows that it does not exist."""
        ...

    def find(self, instance: str, name: str, path: Path) -> Disk | None:
        """The disk as it is now, or None."""
        ...

    def grow(self, disk: Disk, size_bytes: int, *, preallocate: bool = False) -> Disk:
        """Make the disk larger, durably; asked for less or the same it changes nothing."""
        ...

    def delete(self, disk: Disk) -> None:
        """Remove the disk; one that is gone already is no error."""
        ...


def by_name(name: str | None, layout: Layout, *, use_cow_images: bool = True) -> DiskBackend:
    """The backend of that ``images_type``; none or ``default`` leaves it to ``use_cow_images``.

    UnknownChoice lists the names there are.
    """
    if not name or name == DEFAULT:
        name = "qcow2" if use_cow_images else "raw"
    if name not in _BACKENDS:
        raise errors.UnknownChoice("images_type", name, (*_BACKENDS, DEFAULT))
    return _BACKENDS[name](layout)


def _flat(_: Layout) -> DiskBackend:
    from basecache.disks.flat import Flat  # noqa: PLC0415

    return Flat()


def _qcow2(layout: Layout) -> DiskBackend:
    from basecache.disks.qcow2 import Qcow2  # noqa: PLC0415

    return Qcow2(layout)


_BACKENDS: dict[str, Callable[[Layout], DiskBackend]] = {
    "raw": _flat,
    "flat": _flat,
    "qcow2": _qcow2,
}


def names() -> tuple[str, ...]:
    """Every name that :func:`by_name` knows."""
    return (*_BACKENDS, DEFAULT)
