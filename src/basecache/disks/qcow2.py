"""qcow2 disks: an overlay of a few KiB over the base, which stays needed.

qemu-img makes one overlay per base and size, the *template*; a disk is a copy of it, so that a
hit runs no program. The copy is checked before it becomes a disk: its header must name this
base, the base's format and the wanted size, else the template is made again (the base moved, or
the file is damaged). The backing format always stands in the header, so that nothing probes.

A disk without a base is made raw, filled when there is something to fill it with, and converted.
"""

from __future__ import annotations

from pathlib import Path

from basecache import errors
from basecache.cache.layout import Layout
from basecache.cache.store import Stage
from basecache.disks import Base, DiskRequest, files
from basecache.disks.flat import fill_raw
from basecache.images import headers, qemu_img
from basecache.model import Disk

# qemu-img rounds the size of what it creates up to these.
_SECTOR_BYTES = 512


class Qcow2:
    """The backend of ``images_type`` ``qcow2``; templates are kept in the cache of ``layout``."""

    name = "qcow2"
    format = "qcow2"

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def create(self, request: DiskRequest) -> Disk:
        """NoSpace, StorageFailed; ToolFailed when qemu-img is needed and fails."""
        with files.making(request.path, request.size_bytes) as temporary:
            if request.base is None:
                _convert_raw(temporary, request)
            else:
                self._copy_template(temporary, request.base, _whole_sectors(request.size_bytes))
            if request.preallocate:
                files.allocate(temporary, request.size_bytes)
        return self._look(request.instance, request.name, request.path)

    def find(self, instance: str, name: str, path: Path) -> Disk | None:
        """Corrupt when the file is no qcow2; StorageFailed when it is no file or unreadable."""
        if files.regular(path) is None:
            return None
        return self._look(instance, name, path)

    def grow(self, disk: Disk, size_bytes: int, *, preallocate: bool = False) -> Disk:
        """ToolFailed also when a running guest holds the disk; NoSpace, StorageFailed."""
        now = self._look(disk.instance, disk.name, disk.path)
        if size_bytes <= now.size_bytes:
            return now
        with files.reporting("growing", disk.path, size_bytes):
            if preallocate:
                files.allocate(disk.path, size_bytes)
            qemu_img.resize(disk.path, self.format, size_bytes)
            files.sync(disk.path)
        return self._look(disk.instance, disk.name, disk.path)

    def delete(self, disk: Disk) -> None:
        """StorageFailed."""
        files.remove(disk.path)

    def _look(self, instance: str, name: str, path: Path) -> Disk:
        with files.reporting("looking at", path):
            allocated = path.stat().st_blocks * 512
        header = _qcow2_header(path)
        return Disk(
            instance=instance,
            name=name,
            path=path,
            backend=self.name,
            format=self.format,
            size_bytes=header.virtual_size_bytes or 0,
            allocated_bytes=allocated,
            backing=_local_backing(path, header),
        )

    def _copy_template(self, target: Path, base: Base, size_bytes: int) -> None:
        template = self._layout.template(base.entry.name, size_bytes, base.format)
        try:
            files.copy(template, target)
            if _is_overlay(target, base, size_bytes):
                return
            target.unlink()
        except FileNotFoundError:
            target.unlink(missing_ok=True)
        self._make_template(template, base, size_bytes)
        files.copy(template, target)

    def _make_template(self, template: Path, base: Base, size_bytes: int) -> None:
        # The caller's shared lock on the entry keeps the staging file from being reclaimed.
        staged = Stage(base.entry.name, self._layout.staging).path("template")
        for folder in (template.parent, staged.parent):
            files.make_folder(folder)
        with files.reporting("making", template), files.discarded(staged):
            backing = base.entry.path.absolute()
            qemu_img.create_overlay(staged, size_bytes, backing, base.format)
            files.dig_holes(staged)
            files.publish(staged, template, replacing=True)


def _whole_sectors(size_bytes: int) -> int:
    return -(-size_bytes // _SECTOR_BYTES) * _SECTOR_BYTES


def _is_overlay(path: Path, base: Base, size_bytes: int) -> bool:
    try:
        header = headers.read_header_of(path)
    except headers.DamagedHeader:
        return False
    return (
        header.format == "qcow2"
        and header.backing == str(base.entry.path.absolute())
        and header.backing_format == base.format
        and header.data_file is None
        and header.virtual_size_bytes == size_bytes
    )


def _convert_raw(target: Path, request: DiskRequest) -> None:
    with files.discarded(files.temporary(request.path, "raw")) as raw:
        fill_raw(raw, request)
        qemu_img.convert(raw, "raw", target, "qcow2")


def _qcow2_header(path: Path) -> headers.Header:
    header = files.read_header(path)
    if header.format != "qcow2":
        raise errors.Corrupt(str(path), "a qcow2 header", header.format)
    return header


def _local_backing(path: Path, header: headers.Header) -> Path | None:
    if not header.backing:
        return None
    try:
        backing = headers.local_backing(header.backing, str(path.parent))
    except headers.DamagedHeader as error:
        raise errors.Corrupt(str(path), "a backing file's name", str(error)) from error
    return Path(backing) if backing else None
