"""One host's cache as programs use it: the stories, bound to the parts they are told with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from basecache import errors
from basecache.agent import disk as disk_
from basecache.agent import ensure as ensure_
from basecache.agent import shelf, stock, verify
from basecache.agent import sweep as sweep_
from basecache.agent.parts import Parts
from basecache.cache import sharers
from basecache.cache.pins import Pin
from basecache.cache.sharers import Sharer
from basecache.model import Decision, Disk, Image, ImageRole, Instance, Result, Verification
from basecache.sources import ImageQuery, Source
from basecache.usage.file import GivenUsage, parse_instances


class Host:
    """What :func:`basecache.open_host` returns. Its methods may be called from many threads.

    Every method raises errors of :mod:`basecache.errors`.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    @property
    def source(self) -> Source:
        """The image source; ConfigError when none is set."""
        if self.parts.source is None:
            raise errors.ConfigError("no image source is configured", "set [source] driver")
        return self.parts.source

    def images(self, query: ImageQuery | None = None, **filters: Any) -> list[Image]:
        """What the source offers; ``filters`` are fields of ImageQuery."""
        return self.source.list_images(query or ImageQuery(**filters))

    def image(self, image_id: str) -> Image:
        """What the source says of one image."""
        return self.source.describe(image_id)

    def ensure(
        self,
        image: str,
        *,
        role: str = "disk",
        fallback_from_host: str | None = None,
    ) -> Result:
        """Have an image in the cache, verified; ``role`` is disk, kernel or ramdisk."""
        return ensure_.ensure(
            self.parts, image, role=_read_role(role), fallback_from_host=fallback_from_host
        )

    def ensure_all(
        self,
        images: Sequence[str],
        *,
        role: str = "disk",
        fallback_from_host: str | None = None,
    ) -> Iterator[Result]:
        """Ensure several; each has a Result, failed ones with their error."""
        return ensure_.ensure_all(
            self.parts, images, role=_read_role(role), fallback_from_host=fallback_from_host
        )

    def create_disk(
        self,
        instance: str,
        name: str = "disk",
        *,
        image: str | None = None,
        content: disk_.Content | None = None,
        size: int = 0,
        backend: str | None = None,
    ) -> Disk:
        """Make a VM disk of ``size`` bytes (0: its content's own) from an image or else."""
        if (image is None) == (content is None):
            raise errors.UsageError("a disk is made from an image or from a content, one of them")
        if content is None:
            role = ImageRole(name) if name in ("kernel", "ramdisk") else ImageRole.DISK
            content = disk_.FromImage(str(image), role)
        order = disk_.DiskOrder(instance, name, content, size, backend)
        return disk_.create_disk(self.parts, order)

    def disks(self, instance: str | None = None) -> list[Disk]:
        """The disks in the instance folders."""
        return list(shelf.list_disks(self.parts, instance))

    def disk(self, instance: str, name: str = "disk") -> Disk:
        """One disk."""
        return shelf.require_disk(self.parts, instance, name)

    def extract_disk(
        self,
        instance: str,
        name: str,
        target: Path | str,
        *,
        format: str = "raw",  # noqa: A002
    ) -> Path:
        """Write a disk's whole content to a new image file."""
        return shelf.extract_disk(self.parts, instance, name, Path(target), target_format=format)

    def delete_disk(self, instance: str, name: str) -> Disk:
        """Remove a disk."""
        return shelf.delete_disk(self.parts, instance, name)

    def sweep(
        self,
        *,
        instances: Iterable[Instance | Mapping[str, Any]] | None = None,
        dry_run: bool = False,
    ) -> sweep_.SweepReport:
        """One pass; ``instances``, when given, are all there are, on every host."""
        parts = self.parts
        if instances is not None:
            given = GivenUsage(parse_instances(instances))
            parts = dataclasses.replace(parts, providers=(*parts.providers, given))
        return sweep_.sweep(parts, dry_run=dry_run)

    def verify(
        self, name: str | None = None, *, heal: bool = False, force: bool = False
    ) -> list[Verification]:
        """Compare entries with their digests; corrupt ones are among the outcomes."""
        return list(verify.verify_all(self.parts, name=name, heal=heal, force=force))

    def entries(self) -> list[stock.Held]:
        """What the cache holds."""
        return list(stock.list_held(self.parts))

    def entry(self, what: str) -> stock.Held:
        """One entry, by name or image id."""
        return stock.show_held(self.parts, what)

    def pin(self, what: str, *, reason: str = "pinned by hand", until: float | None = None) -> Pin:
        """Keep an entry until a time (seconds since the epoch), or for good."""
        return stock.pin_entry(self.parts, what, reason=reason, until=until)

    def unpin(self, what: str) -> None:
        """Take a pin away."""
        stock.unpin_entry(self.parts, what)

    def remove(self, what: str) -> Decision:
        """Remove one entry now, unless it is needed."""
        return stock.remove_entry(self.parts, what)

    def stat(self) -> stock.Stock:
        """The cache in figures."""
        return stock.measure_stock(self.parts)

    def sharers(self) -> list[Sharer]:
        """Who shares this storage."""
        return list(sharers.read(self.parts.store.layout))

    def retire_sharer(self, host: str) -> None:
        """Take a host out of those who share this storage."""
        sharers.retire(self.parts.store.layout, host)


def _read_role(role: str) -> ImageRole:
    try:
        return ImageRole(role)
    except ValueError:
        raise errors.UnknownChoice("role", role, tuple(ImageRole)) from None
