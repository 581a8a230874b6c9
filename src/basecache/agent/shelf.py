"""The disks that are there: listed, shown, taken out as an image, deleted."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from basecache import disks, errors
from basecache.agent.disk import hold_disk, info_lock
from basecache.agent.parts import Parts
from basecache.cache import renames
from basecache.cache.layout import DISK_INFO, is_disk_leftover, is_info_litter
from basecache.disks import info
from basecache.images import headers, qemu_img
from basecache.model import Disk

EXTRACT_FORMATS = ("raw", "qcow2", "vmdk", "vdi", "vpc", "vhdx")


def list_disks(parts: Parts, instance: str | None = None) -> Iterator[Disk]:
    """Every disk in the instance folders, or in one instance's."""
    layout = parts.store.layout
    if instance is not None:
        yield from _disks_in(parts, layout.instance(instance))
        return
    try:
        folders = sorted(path for path in layout.instances_path.iterdir() if path.is_dir())
    except OSError as error:
        raise errors.from_os(error, layout.instances_path, "listing") from error
    for folder in folders:
        if folder.name not in layout.not_instances():
            yield from _disks_in(parts, folder)


def _disks_in(parts: Parts, folder: Path) -> Iterator[Disk]:
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return
    except OSError as error:
        raise errors.from_os(error, folder, "listing") from error
    for name in names:
        recorded = info.recorded_format(folder, folder / name)
        named_so = name == "disk" or name.startswith("disk.")
        if name == DISK_INFO or is_disk_leftover(name) or is_info_litter(name):
            continue
        if recorded is not None or named_so:
            disk = find_disk(parts, folder.name, name)
            if disk is not None:
                yield disk


def find_disk(parts: Parts, instance: str, name: str) -> Disk | None:
    """One disk as it is now, in the format it was born with; told by its magic if none knows."""
    path = parts.store.layout.disk(instance, name)
    if not path.is_file():
        return None
    recorded = info.recorded_format(path.parent, path)
    if recorded is None:
        try:
            recorded = headers.read_header_of(path).format
        except headers.DamagedHeader:
            recorded = "raw"
        except OSError as error:
            raise errors.from_os(error, path, "reading") from error
    backend = disks.by_name("qcow2" if recorded == "qcow2" else "raw", parts.store.layout)
    return backend.find(instance, name, path)


def require_disk(parts: Parts, instance: str, name: str) -> Disk:
    """The disk; NotFound when it is not there."""
    disk = find_disk(parts, instance, name)
    if disk is None:
        raise errors.NotFound("disk", name, str(parts.store.layout.instance(instance)))
    return disk


def extract_disk(
    parts: Parts,
    instance: str,
    name: str,
    target: Path,
    *,
    target_format: str,
    progress: Callable[[float], None] | None = None,
) -> Path:
    """Write the whole content of a disk, its base's too, to ``target`` as a new image.

    The file appears when it is whole. UsageError when something is at ``target``.
    """
    if target_format not in EXTRACT_FORMATS:
        raise errors.UnknownChoice("format", target_format, EXTRACT_FORMATS)
    if target.exists():
        raise errors.UsageError(f"{target} is there already", "name a file that is not")
    disk = require_disk(parts, instance, name)
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(8)}.basecache-new")
    try:
        qemu_img.convert(disk.path, disk.format, fresh, target_format, progress=progress)
        renames.rename_new(fresh, target)
    except OSError as error:
        raise errors.from_os(error, target, "writing") from error
    finally:
        fresh.unlink(missing_ok=True)
    return target


def delete_disk(parts: Parts, instance: str, name: str) -> Disk:
    """Remove a disk and its line in disk.info; NotFound when it is not there."""
    with hold_disk(parts, instance, name):
        disk = require_disk(parts, instance, name)
        disks.by_name(disk.backend, parts.store.layout).delete(disk)
        info.forget_format(disk.path.parent, disk.path, info_lock(parts, instance))
    with contextlib.suppress(OSError):
        disk.path.parent.rmdir()
    return disk
