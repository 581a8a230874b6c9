"""The oldest qcow2 disks stand on a resized copy of their base; this gives them a lost one again.

Before Havana, Nova kept ``<sha1>_<GiB>`` beside each original, grown to the flavour's size, and
backed disks by that. Ours and Nova's sweeps may have removed it while the disk was elsewhere (a
shelved or restored instance). It can be made again from the original: a copy, grown.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from basecache.cache import locks
from basecache.cache.layout import Layout, parent_name
from basecache.cache.store import Stage
from basecache.disks import Base, files
from basecache.images import headers, qemu_img
from basecache.model import GiB

# A name may end in GiB, as Nova wrote it, or in bytes. A base below 1 MB was never resized to.
_RESIZED = re.compile(r"[0-9a-f]{40}_(?P<size>[0-9]+)\Z")
_GIB_DIGITS = 6


def resized_size(name: str) -> int | None:
    """The size in bytes that the name of a resized copy gives it, None when it is no such name."""
    match = _RESIZED.match(name)
    if match is None:
        return None
    digits = match["size"]
    return int(digits) * GiB if len(digits) <= _GIB_DIGITS else int(digits)


def missing_legacy_base(layout: Layout, disk_path: Path, header: headers.Header) -> str | None:
    """The name of the resized copy that a disk with ``header`` needs and that is gone, or None."""
    if header.format != "qcow2" or not header.backing:
        return None
    backing = headers.local_backing(header.backing, str(disk_path.parent))
    name = os.path.basename(backing or "")
    if backing is None or resized_size(name) is None:
        return None
    return None if os.path.lexists(backing) or layout.entry(name).exists() else name


def restore_legacy_base(layout: Layout, disk_path: Path, base: Base) -> Path | None:
    """Make the resized copy of ``base`` again that an existing disk stands on, if it is gone.

    The caller holds ``base`` under its shared lock and knows that ``disk_path`` was born as qcow2
    (a raw disk's header is its guest's word); the copy's own lock is taken here. Returns the
    path of the copy made, None when none was needed or ``base`` is not what it was made from.
    StorageFailed, NoSpace, ToolFailed.
    """
    header = files.read_header(disk_path)
    name = missing_legacy_base(layout, disk_path, header)
    if name is None or parent_name(name) != base.entry.name:
        return None
    with locks.hold(layout.lock(name)):
        if missing_legacy_base(layout, disk_path, header) is None:
            return None
        _make_resized(layout, name, base, header.backing_format or base.format)
    return layout.entry(name)


def _make_resized(layout: Layout, name: str, base: Base, wanted_format: str) -> None:
    target = layout.entry(name)
    size_bytes = max(resized_size(name) or 0, base.virtual_size_bytes)
    staged = Stage(name, layout.staging).path("resized")
    with files.reporting("making", target, size_bytes):
        files.make_folder(staged.parent)
        with files.discarded(staged):
            if base.format == wanted_format:
                files.copy(base.entry.path, staged)
            else:
                qemu_img.convert(base.entry.path, base.format, staged, wanted_format)
            if wanted_format == "raw":
                os.truncate(staged, size_bytes)
            else:
                qemu_img.resize(staged, wanted_format, size_bytes)
            files.publish(staged, target)
