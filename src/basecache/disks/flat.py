"""Flat disks: a raw copy of the base, which needs the base no more.

Blocks are shared with the base where the file system can (XFS with reflink, btrfs); elsewhere
the data is copied and the holes stay holes. A base that is not raw is converted. The disk then
grows to its size, which takes no space unless ``preallocate`` asks for all of it now.
"""

from __future__ import annotations

import os
from pathlib import Path

from basecache.disks import DiskRequest, files
from basecache.images import qemu_img
from basecache.model import Disk


class Flat:
    """The backend of ``images_type`` ``raw`` and ``flat``."""

    name = "raw"
    format = "raw"

    def create(self, request: DiskRequest) -> Disk:
        """NoSpace, StorageFailed; ToolFailed when a base must be converted and cannot be."""
        with files.making(request.path, request.size_bytes) as temporary:
            fill_raw(temporary, request)
            if request.preallocate:
                files.allocate(temporary, request.size_bytes)
        return self._look(request.instance, request.name, request.path)

    def find(self, instance: str, name: str, path: Path) -> Disk | None:
        """StorageFailed when something else than a regular file is there."""
        if files.regular(path) is None:
            return None
        return self._look(instance, name, path)

    def grow(self, disk: Disk, size_bytes: int, *, preallocate: bool = False) -> Disk:
        """NoSpace, StorageFailed."""
        with files.reporting("growing", disk.path, size_bytes):
            if size_bytes > disk.path.stat().st_size:
                if preallocate:
                    files.allocate(disk.path, size_bytes)
                os.truncate(disk.path, size_bytes)
                files.sync(disk.path)
        return self._look(disk.instance, disk.name, disk.path)

    def delete(self, disk: Disk) -> None:
        """StorageFailed."""
        files.remove(disk.path)

    def _look(self, instance: str, name: str, path: Path) -> Disk:
        with files.reporting("looking at", path):
            status = path.stat()
        return Disk(
            instance=instance,
            name=name,
            path=path,
            backend=self.name,
            format=self.format,
            size_bytes=status.st_size,
            allocated_bytes=status.st_blocks * 512,
        )


def fill_raw(target: Path, request: DiskRequest) -> None:
    """Make ``target`` the raw content that ``request`` asks for, at its full size; OSError."""
    if request.base is None:
        files.make_sparse(target, request.size_bytes)
        if request.generate is not None:
            request.generate(target)
        return
    source = request.base.entry.path
    if request.base.format == "raw":
        files.copy(source, target)
    else:
        qemu_img.convert(source, request.base.format, target, "raw")
    os.truncate(target, request.size_bytes)
