"""create disk: a VM disk from an image, or from nothing, in milliseconds when the image is there.

    the disk's own lock           two makers of one disk: the second finds it
    it is there already           grown when more is asked; a lost base is given back; done
    hold the entry, ensured       under a shared lock: nothing removes it while a disk is made
    check the size                against the *virtual* size, on a hit as on a miss
    record its format             before it exists: no disk is ever met without its format
    the backend makes it          under a temporary name, then renames: there whole or not at all
    refresh the entry's time      its age starts again

Dying on any line leaves no disk, or the disk; the temporary file is overwritten by the next try
or taken by the next sweep.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from basecache import disks, errors, events
from basecache.agent.ensure import (
    ensure,
    entry_name,
    identify,
    refresh,
    require_stated,
    stated_digest,
)
from basecache.agent.entry import CHECKS, read_base, valid_record
from basecache.agent.parts import Parts
from basecache.agent.presence import note_presence
from basecache.cache import layout as layout_
from basecache.cache import locks
from basecache.disks import Base, DiskBackend, DiskRequest, files, generated, info, legacy
from basecache.model import Digest, Disk, GiB, ImageRole, MiB

_TRIES = 3
_BASE_XATTR = "user.basecache.base"
# Short enough for the inode: a longer value would cost ext4 a block, and each disk 4 KiB.
_MARK_LENGTH = 40


@dataclass(frozen=True, slots=True)
class FromImage:
    """Content of an image; a kernel or ramdisk is copied as it is and never grown.

    ``digest``, where given, is the one the image must have at its source.
    """

    image_id: str
    role: ImageRole = ImageRole.DISK
    fallback_from_host: str | None = None
    digest: Digest | None = None


@dataclass(frozen=True, slots=True)
class Swap:
    """A swap area."""

    size_mib: int


@dataclass(frozen=True, slots=True)
class Ephemeral:
    """An empty file system, made for the instance's OS type."""

    size_gib: int
    os_type: str | None = None
    guest_format: str | None = None


@dataclass(frozen=True, slots=True)
class Blank:
    """Nothing at all."""


Content = FromImage | Swap | Ephemeral | Blank


@dataclass(frozen=True, slots=True)
class DiskOrder:
    """A disk somebody wants. ``size_bytes`` 0 is the content's own size; ``backend`` None the
    host's ``images_type``."""

    instance: str
    name: str
    content: Content
    size_bytes: int = 0
    backend: str | None = None


def create_disk(parts: Parts, order: DiskOrder) -> Disk:
    """Make the disk, or grow the one that is there.

    Errors: those of ensure, DiskTooSmall, FormatChange, UnknownChoice (the backend), BadName,
    NoSpace, ToolFailed, StorageFailed.
    """
    started = time.monotonic()
    layout = parts.store.layout
    backend = backend_of(parts, order)
    path = layout.disk(order.instance, order.name)
    with hold_disk(parts, order.instance, order.name):
        disk = _find(parts, order, backend, path)
        if disk is not None:
            return _update_existing(parts, order, backend, disk)
        disk = _make(parts, order, backend, path)
    note_presence(parts)
    seconds = time.monotonic() - started
    parts.emit(events.DiskCreated(path, backend.name, disk.size_bytes, seconds))
    return disk


def backend_of(parts: Parts, order: DiskOrder) -> DiskBackend:
    """The backend for an order; kernels and ramdisks are plain files whatever images_type is."""
    name = order.backend or parts.rules.images_type
    if isinstance(order.content, FromImage) and order.content.role is not ImageRole.DISK:
        name = "raw"
    return disks.by_name(name, parts.store.layout, use_cow_images=parts.rules.use_cow_images)


@contextlib.contextmanager
def hold_disk(parts: Parts, instance: str, name: str) -> Iterator[None]:
    """The lock under which one disk is made, grown and removed; BadName."""
    parts.store.layout.disk(instance, name)
    lock_name = layout_.disk_lock_name(instance, name)
    with locks.hold(parts.store.layout.own_lock(lock_name), disposable=True):
        yield


def info_lock(parts: Parts, instance: str) -> Path:
    """The lock of an instance's disk.info."""
    return parts.store.layout.own_lock(layout_.disk_info_lock_name(instance))


def _find(parts: Parts, order: DiskOrder, backend: DiskBackend, path: Path) -> Disk | None:
    """The disk that is there; FormatChange when it was born with another format.

    Of one whose birth nobody recorded the content must tell.
    """
    recorded = info.recorded_format(path.parent, path)
    if recorded not in (None, backend.format) and files.regular(path) is not None:
        raise errors.FormatChange(path, str(recorded), backend.format)
    if recorded is None and files.regular(path) is not None:
        found = files.read_header(path).format
        if "qcow2" in (found, backend.format) and found != backend.format:
            raise errors.FormatChange(path, found, backend.format)
    disk = backend.find(order.instance, order.name, path)
    if disk is not None and recorded is None:
        info.record_format(path.parent, path, backend.format, info_lock(parts, order.instance))
    return disk


def _make(parts: Parts, order: DiskOrder, backend: DiskBackend, path: Path) -> Disk:
    if isinstance(order.content, Blank):
        if order.size_bytes <= 0:
            raise errors.UsageError(f"a blank disk {order.name} needs a size", "give --size")
        return _create(parts, backend, _request(parts, order, path, None))
    with held_base(parts, order.content) as base:
        disk = _create(parts, backend, _request(parts, order, path, base))
        if disk.backing is not None:
            _mark_base(parts, disk, base)
        refresh(parts, base.entry.path, must_refresh=False)
        return disk


def _mark_base(parts: Parts, disk: Disk, base: Base) -> None:
    """Note on the disk which bytes it stands on, where the file system can.

    Should its base ever be lost, it is given back only with those.
    """
    known = valid_record(parts, base.entry).source_digest
    if known is not None:
        with contextlib.suppress(OSError):
            os.setxattr(disk.path, _BASE_XATTR, str(known)[:_MARK_LENGTH].encode())


def _marked_base(disk: Disk) -> Digest | None:
    try:
        return Digest.parse(os.getxattr(disk.path, _BASE_XATTR).decode("ascii", "replace"))
    except (OSError, ValueError):
        return None


def _create(parts: Parts, backend: DiskBackend, request: DiskRequest) -> Disk:
    """The disk, its format recorded before it is there; where none comes the line goes again."""
    folder, lock = request.path.parent, info_lock(parts, request.instance)
    is_new = not folder.is_dir()
    with files.reporting("making the folder of", request.path):
        locks.make_folder(folder)
    earlier = info.recorded_format(folder, request.path)
    info.record_format(folder, request.path, backend.format, lock, unborn=True)
    try:
        disk = backend.create(request)
    except errors.BasecacheError:
        # A line too many does no harm: the next disk of this name rewrites it.
        with contextlib.suppress(errors.StorageFailed, errors.NoSpace):
            _take_back(request.path, earlier, lock)
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    if is_new:
        # Now that the disk is on disk a journal has the folder's name, too: this waits for nothing.
        with files.reporting("making the folder of", request.path):
            files.sync(folder.parent)
    return disk


def _take_back(path: Path, earlier: str | None, lock: Path) -> None:
    """The line of disk.info as it was: a disk of somebody else's may have appeared meanwhile."""
    if earlier is not None:
        info.record_format(path.parent, path, earlier, lock, unborn=True)
    elif not os.path.lexists(path):
        info.forget_format(path.parent, path, lock)


def _request(parts: Parts, order: DiskOrder, path: Path, base: Base | None) -> DiskRequest:
    return DiskRequest(
        instance=order.instance,
        name=order.name,
        path=path,
        size_bytes=order.size_bytes if base is None else final_size(order, base),
        base=base,
        preallocate=parts.rules.preallocate,
    )


def final_size(order: DiskOrder, base: Base) -> int:
    """The size of the disk: what is asked, never less than the guest sees in the base. Pure.

    A kernel or ramdisk has its own length, which need be no whole number of sectors.
    """
    is_file = isinstance(order.content, FromImage) and order.content.role is not ImageRole.DISK
    if is_file and base.format == "raw":
        return base.entry.size_bytes
    if is_file or order.size_bytes == 0:
        return base.virtual_size_bytes
    if order.size_bytes < base.virtual_size_bytes:
        what = order.content.image_id if isinstance(order.content, FromImage) else order.name
        raise errors.DiskTooSmall(what, order.size_bytes, base.virtual_size_bytes)
    return order.size_bytes


def _update_existing(parts: Parts, order: DiskOrder, backend: DiskBackend, disk: Disk) -> Disk:
    """The disk that is there: its base given back if it is gone, and grown if more is asked."""
    _require_same_content(parts, order, disk)
    if disk.backing is not None and isinstance(order.content, FromImage):
        if not disk.backing.exists():
            wanted = dataclasses.replace(order.content, digest=_marked_base(disk))
            with held_base(parts, wanted) as base:
                legacy.restore_legacy_base(parts.store.layout, disk.path, base)
        if not disk.backing.exists():
            why = (
                f"it stands on {disk.backing}, which is gone and is not of {order.content.image_id}"
            )
            raise errors.StorageFailed(disk.path, "giving its base back to", why)
        refresh(parts, disk.backing, must_refresh=False)
    if order.size_bytes > disk.size_bytes:
        return backend.grow(disk, order.size_bytes, preallocate=parts.rules.preallocate)
    return disk


def _require_same_content(parts: Parts, order: DiskOrder, disk: Disk) -> None:
    """A disk that stands on another entry than the one asked for is not what was asked for."""
    base = disk.backing
    if base is None or isinstance(order.content, Blank) or base.parent != parts.store.layout.base:
        return
    name, _ = _name_content(parts, order.content)
    if layout_.parent_name(base.name) == layout_.parent_name(name):
        return
    if isinstance(order.content, FromImage):
        entry = parts.store.find(layout_.parent_name(base.name))
        record = valid_record(parts, entry) if entry is not None else None
        if record is None or order.content.image_id in (None, record.text("image_name")):
            return
    raise errors.UsageError(
        f"{disk.path} is there already and stands on {base.name}, not on {name}",
        "delete it first, or name another disk",
    )


@contextlib.contextmanager
def held_base(parts: Parts, content: FromImage | Swap | Ephemeral) -> Iterator[Base]:
    """The entry of a content, made or fetched when it is not there, held so that it stays."""
    name, image_id = _name_content(parts, content)
    for _ in range(_TRIES):
        is_hit = parts.store.find(name) is not None
        if not is_hit:
            name, image_id = _bring_about(parts, content)
        with locks.hold(parts.store.layout.lock(name), shared=True):
            entry = parts.store.find(name)
            if entry is not None:
                if is_hit and image_id is not None:
                    parts.emit(events.Hit(image_id, entry.path))
                base = read_base(parts, entry, image_id)
                if isinstance(content, FromImage):
                    stated = content.digest or stated_digest(parts, content.image_id)
                    require_stated(parts, base, stated)
                yield base
                return
    raise errors.Busy(f"entry {name}", "it is removed as soon as it is made")


def _name_content(parts: Parts, content: FromImage | Swap | Ephemeral) -> tuple[str, str | None]:
    """The entry's name, and the image's id if it is one, as far as can be told without asking."""
    if isinstance(content, FromImage):
        image_id = identify(parts, content.image_id)
        return entry_name(parts, image_id, content.role), image_id
    return _plan_generated(parts, content)[0], None


def _bring_about(parts: Parts, content: FromImage | Swap | Ephemeral) -> tuple[str, str | None]:
    """Have the entry there for now; its name, and the image's id if it is one."""
    if isinstance(content, FromImage):
        result = ensure(
            parts,
            content.image_id,
            role=content.role,
            fallback_from_host=content.fallback_from_host,
            must_refresh=False,
            expected=content.digest,
        )
        return entry_name(parts, result.image, content.role), result.image
    name, fill = _plan_generated(parts, content)
    if parts.store.find(name) is None:
        with locks.hold(parts.store.layout.lock(name)):
            if parts.store.find(name) is None:
                with parts.store.stage(name) as stage:
                    _generate(parts, stage.path("raw"), name, fill)
    return name, None


def _generate(parts: Parts, staged: Path, name: str, fill: _Fill) -> None:
    size_bytes = fill.size_bytes
    if fill.plan is None:
        generated.make_swap(staged, size_bytes // MiB)
    else:
        generated.make_file_system(staged, fill.plan, size_bytes=size_bytes)
    facts = {"format": "raw", "virtual_size_bytes": size_bytes, "checks": [CHECKS]}
    with contextlib.suppress(FileExistsError):
        parts.store.publish(name, staged, facts)


@dataclass(frozen=True, slots=True)
class _Fill:
    size_bytes: int
    plan: generated.MkfsPlan | None


def _plan_generated(parts: Parts, content: Swap | Ephemeral) -> tuple[str, _Fill]:
    """The name of a generated entry and what goes into it. Pure."""
    if isinstance(content, Swap):
        return layout_.swap_name(content.size_mib), _Fill(content.size_mib * MiB, None)
    plan = generated.plan_ephemeral(
        content.os_type,
        content.guest_format,
        parts.rules.virt_mkfs,
        parts.rules.default_ephemeral_format,
    )
    name = layout_.ephemeral_name(content.size_gib, plan.name_key)
    return name, _Fill(content.size_gib * GiB, plan)
