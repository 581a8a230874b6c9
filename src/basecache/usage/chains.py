"""What the disks on this storage really stand on, read from their headers in process.

Every regular file directly in every folder under ``instances_path`` is looked at, whoever knows
the folder: a file is told by its magic, not by its name. From a disk the whole chain is followed.
Backing names are compared by device and inode of what they resolve to, never as text. A name
that does not exist on this machine but ends in the name of an entry counts as use of that entry,
for a container or another host sees the same cache under another path.

What cannot be read is *missing evidence*, and then nothing may be removed:

* a folder or disk that may not be read, a damaged header, a chain longer than any honest one;
* an overlay of a format that neither we nor ``qemu-img info`` can follow.

What is not: a disk that vanished while looking; a damaged header in a disk that was born raw, by
its folder's ``disk.info`` (its guest can write what it likes there); a disk set aside by the
operator.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from basecache import errors, events
from basecache.cache.layout import (
    DISK_INFO,
    Layout,
    entry_name_of,
    is_disk_leftover,
    is_info_litter,
)
from basecache.images import headers, qemu_img
from basecache.model import FileId

_LONGEST_CHAIN = 200
# A folder's mtime moves in ticks (4 ms on ext4, up to 1 s over NFS): two changes within one look
# like one, so a folder that changed just now is read again whatever its mtime says later.
_SETTLED_NS = 2_000_000_000
_UNSETTLED = -1
# libvirt writes these as root whoever runs the guest, and no guest's disk is ever named so.
_NEVER_DISKS = frozenset({"console.log", "libvirt.xml", DISK_INFO})


@dataclass(frozen=True, slots=True)
class Chains:
    """``files`` and ``names`` map what is stood on to the disks on it; ``disks`` were looked at.

    ``folders`` holds each instance folder's mtime in nanoseconds, to find later what changed.
    ``leftovers`` are disks whose making was cut off.
    """

    files: dict[FileId, tuple[str, ...]]
    names: dict[str, tuple[str, ...]]
    missing: tuple[str, ...]
    folders: dict[str, int]
    leftovers: tuple[Path, ...]
    disks: int


def read_chains(
    layout: Layout,
    *,
    set_aside: Collection[Path] = (),
    known: dict[str, int] | None = None,
    emit: events.Emit = events.ignore,
) -> Chains:
    """Read the chains of every disk; with ``known`` only of folders new or changed since."""
    reader = _Reader(frozenset(os.fspath(p) for p in set_aside), emit)
    folders: dict[str, int] = {}
    settled_ns = time.time_ns() - _SETTLED_NS
    for folder, mtime_ns in _instance_folders(layout, reader.missing):
        folders[folder] = mtime_ns if mtime_ns < settled_ns else _UNSETTLED
        if known is None or known.get(folder) != mtime_ns:
            reader.read_folder(folder)
    return Chains(
        files={file: tuple(disks) for file, disks in reader.files.items()},
        names={name: tuple(disks) for name, disks in reader.names.items()},
        missing=tuple(reader.missing),
        folders=folders,
        leftovers=tuple(reader.leftovers),
        disks=reader.disks,
    )


def read_parents(paths: Iterable[Path]) -> tuple[dict[FileId, tuple[FileId, ...]], tuple[str, ...]]:
    """What files of the cache stand on themselves, and what could not be told."""
    reader = _Reader(frozenset(), events.ignore)
    parents: dict[FileId, tuple[FileId, ...]] = {}
    for path in paths:
        found = reader.chain_of_file(os.fspath(path))
        if found is not None and found[1].files:
            parents[found[0]] = found[1].files
    return parents, tuple(reader.missing)


def _instance_folders(layout: Layout, missing: list[str]) -> Iterator[tuple[str, int]]:
    skipped = layout.not_instances()
    try:
        with os.scandir(layout.instances_path) as found:
            for item in found:
                if item.name in skipped or not item.is_dir():
                    continue
                try:
                    yield item.path, item.stat().st_mtime_ns
                except FileNotFoundError:
                    continue
    except FileNotFoundError:
        return
    except OSError as error:
        missing.append(f"{layout.instances_path} cannot be listed: {error.strerror}")


@dataclass(frozen=True, slots=True)
class _Chain:
    """What one backing name leads to: files that are here, names of entries that are not."""

    files: tuple[FileId, ...] = ()
    names: tuple[str, ...] = ()


_NOTHING = _Chain()


class _Reader:
    """One reading: every file behind a backing name is opened once."""

    def __init__(self, set_aside: frozenset[str], emit: events.Emit) -> None:
        self.files: defaultdict[FileId, list[str]] = defaultdict(list)
        self.names: defaultdict[str, list[str]] = defaultdict(list)
        self.missing: list[str] = []
        self.leftovers: list[Path] = []
        self.disks = 0
        self._set_aside = set_aside
        self._emit = emit
        self._behind: dict[str, _Chain] = {}
        self._following: list[str] = []

    def read_folder(self, folder: str) -> None:
        try:
            with os.scandir(folder) as found:
                items = [item for item in found if not item.is_dir()]
        except FileNotFoundError:
            return
        except OSError as error:
            self.missing.append(f"{folder} cannot be listed: {error.strerror}")
            return
        for item in items:
            ours = is_disk_leftover(item.name) or is_info_litter(item.name)
            if ours:
                self.leftovers.append(Path(item.path))
            self._read_disk(item.path, optional=ours or item.name in _NEVER_DISKS)

    def _read_disk(self, path: str, *, optional: bool) -> None:
        found = self.chain_of_file(path, optional=optional)
        if found is None:
            return
        self.disks += 1
        for file in found[1].files:
            self.files[file].append(path)
        for entry in found[1].names:
            self.names[entry].append(path)

    def chain_of_file(self, path: str, *, optional: bool = False) -> tuple[FileId, _Chain] | None:
        """The file at ``path`` and what it stands on; None when it is no regular file.

        An ``optional`` one is no guest's disk, or not yet: if it cannot be read, nothing is
        missing; what it does say still protects.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            if not optional and _is_regular(path):
                self._say_missing(path, f"cannot be read: {error.strerror}")
            return None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return None
            header = headers.read_header(descriptor)
        except headers.DamagedHeader as error:
            if not optional:
                self._say_damaged(path, str(error))
            return None
        except OSError as error:
            if not optional:
                self._say_missing(path, f"cannot be read: {error.strerror}")
            return None
        finally:
            os.close(descriptor)
        return FileId(status.st_dev, status.st_ino), self._chain_of(path, header)

    def _chain_of(self, path: str, header: headers.Header) -> _Chain:
        if header.asks_qemu:
            return self._ask_qemu(path, header.format)
        chain = _NOTHING
        for name in (header.backing, header.data_file):
            if name:
                chain = _join(chain, self._chain_behind(name, path))
        return chain

    def _chain_behind(self, backing: str, path: str) -> _Chain:
        """What a backing name written in ``path`` leads to, itself first, then all below it."""
        try:
            target = headers.local_backing(backing, os.path.dirname(path))
        except headers.DamagedHeader as error:
            self._say_damaged(path, str(error))
            return _NOTHING
        if target is None:
            return _NOTHING
        if target not in self._behind:
            self._behind[target] = _NOTHING
            self._following.append(target)
            self._behind[target] = self._follow(target, path)
            self._following.pop()
        return self._behind[target]

    def _follow(self, target: str, path: str) -> _Chain:
        try:
            status = os.stat(target)
        except (FileNotFoundError, NotADirectoryError):
            name = entry_name_of(target)
            return _Chain(names=(name,)) if name else _NOTHING
        except OSError as error:
            self._say_missing(path, f"its backing file {target}: {error.strerror}")
            return _NOTHING
        here = _Chain(files=(FileId(status.st_dev, status.st_ino),))
        if len(self._following) >= _LONGEST_CHAIN:
            self._say_missing(path, "its backing chain has no end")
            return here
        below = self.chain_of_file(target)
        return here if below is None else _join(here, below[1])

    def _ask_qemu(self, path: str, image_format: str) -> _Chain:
        """An overlay format not parsed here: qemu-img follows it, being told the format."""
        try:
            names = qemu_img.chain(Path(path), image_format)
        except errors.BasecacheError as error:
            self._say_damaged(path, error.message)
            return _NOTHING
        chain = _NOTHING
        for name in names[1:]:
            chain = _join(chain, self._chain_behind(name, path))
        return chain

    def _say_damaged(self, path: str, why: str) -> None:
        if _born_raw(path):
            self._emit(events.Trouble(f"disk {path}", f"raw by its record, though: {why}"))
            return
        self._say_missing(path, why)

    def _say_missing(self, path: str, why: str) -> None:
        if path in self._set_aside:
            self._emit(events.Trouble(f"disk {path}", f"set aside by the operator, though: {why}"))
            return
        if os.path.lexists(path):
            self.missing.append(f"disk {path} {why}")


def _join(one: _Chain, other: _Chain) -> _Chain:
    if other is _NOTHING:
        return one
    return _Chain(
        tuple(dict.fromkeys((*one.files, *other.files))),
        tuple(dict.fromkeys((*one.names, *other.names))),
    )


def _is_regular(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False
    except OSError as error:
        return error.errno != errno.ELOOP


def _born_raw(path: str) -> bool:
    """Whether ``disk.info`` beside the disk says that it was born raw (Nova bug 1221190)."""
    folder = os.path.dirname(path)
    try:
        with open(os.path.join(folder, DISK_INFO), "rb") as file:
            formats = json.load(file)
    except (OSError, ValueError):
        return False
    if not isinstance(formats, dict):
        return False
    name = os.path.basename(path)
    return any(os.path.basename(disk) == name and born == "raw" for disk, born in formats.items())
