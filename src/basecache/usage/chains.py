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
import re
import stat
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from basecache import errors, events
from basecache.cache.layout import (
    DISK_INFO,
    REGISTRY,
    Layout,
    entry_name_of,
    is_disk_leftover,
    is_info_litter,
)
from basecache.images import headers, qemu_img
from basecache.model import FileId

_LONGEST_CHAIN = 200
# Times move in ticks (4 ms on ext4, up to 1 s over NFS): two changes within one look like one, so
# what changed just before reading began counts as changed after it.
_SETTLED_NS = 2_000_000_000
_DEEPEST_FOLDER = 8
# libvirt writes these as root whoever runs the guest, and no guest's disk is ever named so.
# What a guest prints stands in the logs, the full ones of which virtlogd numbers.
_NEVER_DISK = re.compile(r"console\.log(?:\.[0-9]+)?|libvirt\.xml|disk\.info")


@dataclass(frozen=True, slots=True)
class Chains:
    """``files`` and ``names`` map what is stood on to the disks on it; ``disks`` were looked at.

    ``folders`` holds each instance folder's mtime, and ``begun_ns`` when reading began, both in
    nanoseconds, to find later what changed. ``leftovers`` are disks whose making was cut off.
    """

    files: dict[FileId, tuple[str, ...]]
    names: dict[str, tuple[str, ...]]
    missing: tuple[str, ...]
    folders: dict[str, int]
    begun_ns: int
    leftovers: tuple[Path, ...]
    disks: int


def read_chains(
    layout: Layout,
    *,
    set_aside: Collection[Path] = (),
    since: Chains | None = None,
    emit: events.Emit = events.ignore,
) -> Chains:
    """Read the chains of every disk; with ``since`` only where something changed since then."""
    reader = _Reader(frozenset(map(os.fspath, set_aside)), emit, _device_of(layout.base))
    begun_ns = time.time_ns()
    folders: dict[str, int] = {}
    reader.read_folder(os.fspath(layout.instances_path), besides={REGISTRY})
    for folder, mtime_ns in _instance_folders(layout, reader.missing):
        folders[folder] = mtime_ns
        if since is None or _changed(folder, mtime_ns, since):
            reader.read_tree(folder)
    return Chains(
        files={file: tuple(sorted(disks)) for file, disks in reader.files.items()},
        names={name: tuple(sorted(disks)) for name, disks in reader.names.items()},
        missing=tuple(reader.missing),
        folders=folders,
        begun_ns=begun_ns,
        leftovers=tuple(reader.leftovers),
        disks=reader.disks,
    )


def read_parents(
    paths: Iterable[Path],
    *,
    set_aside: Collection[Path] = (),
    emit: events.Emit = events.ignore,
) -> tuple[dict[FileId, tuple[FileId, ...]], tuple[str, ...]]:
    """What files of the cache stand on themselves, and what could not be told."""
    reader = _Reader(frozenset(os.fspath(p) for p in set_aside), emit)
    parents: dict[FileId, tuple[FileId, ...]] = {}
    for path in map(os.fspath, paths):
        link = reader.read_file(path)
        if link is not None:
            chain = reader.chain_of(link)
            reader.weigh(path, chain.troubles)
            if link.file is not None and chain.files:
                parents[link.file] = tuple(dict.fromkeys(chain.files))
    return parents, tuple(reader.missing)


def _instance_folders(layout: Layout, missing: list[str]) -> Iterator[tuple[str, int]]:
    skipped = layout.not_instances()
    try:
        with os.scandir(layout.instances_path) as found:
            for item in found:
                if item.name in skipped or not _is_folder(item):
                    continue
                try:
                    yield item.path, item.stat().st_mtime_ns
                except FileNotFoundError:
                    continue
    except FileNotFoundError:
        return
    except OSError as error:
        missing.append(f"{layout.instances_path} cannot be listed: {error.strerror}")


# Named tuples, where one is made for every file: a dataclass takes four times as long.
class _Trouble(NamedTuple):
    """What could not be told of one file; ``damaged`` where its content is what makes no sense."""

    path: str
    why: str
    damaged: bool = False


class _Step(NamedTuple):
    """A file that a backing name leads to; ``raw`` where the name says that it is no overlay."""

    path: str
    raw: bool


class _Link(NamedTuple):
    """What one file says: what it is, where it stands on others, what could not be told.

    ``file`` is None where it is not here or cannot be opened; ``name`` is the entry that a file
    which is not here has the name of.
    """

    file: FileId | None = None
    name: str | None = None
    below: tuple[_Step, ...] = ()
    troubles: tuple[_Trouble, ...] = ()


_NOTHING = _Link()


@dataclass(slots=True)
class _Chain:
    """What a file stands on: files that are here, names of entries that are not, and troubles."""

    files: list[FileId]
    names: list[str]
    troubles: list[_Trouble]


class _Reader:
    """One reading: every file behind a backing name is opened once."""

    def __init__(
        self, set_aside: frozenset[str], emit: events.Emit, device: int | None = None
    ) -> None:
        self.files: defaultdict[FileId, list[str]] = defaultdict(list)
        self.names: defaultdict[str, list[str]] = defaultdict(list)
        self.missing: list[str] = []
        self.leftovers: list[Path] = []
        self.disks = 0
        self._set_aside = set_aside
        self._emit = emit
        self._device = device
        self._behind: dict[_Step, _Link] = {}
        self._told: set[_Trouble] = set()

    def read_tree(self, folder: str, depth: int = 0) -> None:
        """The disks of a folder and of the folders in it, as snapshots are sometimes kept."""
        below = self.read_folder(folder)
        if below and depth == _DEEPEST_FOLDER:
            self.missing.append(f"{folder} holds folders too deep to look into")
            return
        for inner in below:
            self.read_tree(inner, depth + 1)

    def read_folder(self, folder: str, besides: Collection[str] = ()) -> list[str]:
        """The disks directly in a folder, but for names ``besides``; returns the folders in it."""
        try:
            with os.scandir(folder) as found:
                all_items = [item for item in found if item.name not in besides]
        except FileNotFoundError:
            return []
        except OSError as error:
            self.missing.append(f"{folder} cannot be listed: {error.strerror}")
            return []
        self._read_items([item for item in all_items if _may_be_disk(item)])
        return [item.path for item in all_items if item.is_dir(follow_symlinks=False)]

    def _read_items(self, items: Iterable[os.DirEntry[str]]) -> None:
        for item in items:
            hidden = item.name.startswith(".")
            ours = hidden and (is_disk_leftover(item.name) or is_info_litter(item.name))
            if ours:
                self.leftovers.append(Path(item.path))
            no_disk = ours or _NEVER_DISK.fullmatch(item.name) is not None
            self._read_disk(item, no_disk=no_disk)

    def _read_disk(self, item: os.DirEntry[str], *, no_disk: bool) -> None:
        """Take one file in. What is no guest's disk, or not yet, protects, but is never missed.

        A disk that is a link stands on what it leads to.
        """
        path = item.path
        link: _Link | None
        if item.is_symlink():
            link = _Link(below=(_Step(_target_of(path), no_disk),))
        else:
            link = self.read_file(path, raw=no_disk)
        if link is None:
            return
        self.disks += link.file is not None
        if not link.below and not link.troubles:
            return
        chain = self.chain_of(link)
        for file in dict.fromkeys(chain.files):
            self.files[file].append(path)
        for name in dict.fromkeys(chain.names):
            self.names[name].append(path)
        if not no_disk:
            self.weigh(path, chain.troubles)

    def chain_of(self, link: _Link) -> _Chain:
        """Everything below a file, each once, loops or not."""
        chain = _Chain([], [], [*link.troubles])
        waiting, met = [*link.below], {*link.below}
        while waiting:
            step = waiting.pop()
            below = self._follow(step)
            if below.file is not None:
                chain.files.append(below.file)
            if below.name is not None:
                chain.names.append(below.name)
            chain.troubles += below.troubles
            fresh = [further for further in below.below if further not in met]
            if len(met) + len(fresh) > _LONGEST_CHAIN:
                chain.troubles.append(_Trouble(step.path, "its backing chain has no end", True))
                break
            waiting += fresh
            met.update(fresh)
        return chain

    def _follow(self, step: _Step) -> _Link:
        if step not in self._behind:
            self._behind[step] = self._look_behind(step)
        return self._behind[step]

    def _look_behind(self, step: _Step) -> _Link:
        try:
            status = os.stat(step.path)
        except OSError as error:
            if error.errno not in _NOWHERE:
                return _unread(step.path, error)
            return _Link(name=entry_name_of(step.path))
        here = _Link(FileId(status.st_dev, status.st_ino), self._name_elsewhere(step, status))
        # Opening a device can act: a guest may name /dev/watchdog as its disk's backing file.
        if not stat.S_ISREG(status.st_mode):
            return here
        found = self.read_file(step.path, raw=step.raw)
        if found is None:
            return here
        return found._replace(file=here.file, name=here.name)

    def _name_elsewhere(self, step: _Step, status: os.stat_result) -> str | None:
        """The entry that a file on another device has the name of.

        The cache seen through another mount (an overlay, a second mount of one export) has other
        device and inode numbers, so there the name must do.
        """
        if self._device in (None, status.st_dev):
            return None
        return entry_name_of(step.path)

    def read_file(self, path: str, *, raw: bool = False) -> _Link | None:
        """What the file at ``path`` says; None when it is no regular file, or gone.

        Where it is known to be ``raw`` nobody takes its first bytes for a header: if they cannot
        be read as one, nothing is missing; what they do say still protects.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            if not _is_regular(path):
                return None
            return _NOTHING if raw else _unread(path, error)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return None
            file = FileId(status.st_dev, status.st_ino)
            header = headers.read_header(descriptor)
            return self._link_of(file, path, header, raw=raw)
        except headers.DamagedHeader as error:
            return _Link(file) if raw else _damaged(file, path, str(error))
        except OSError as error:
            return _NOTHING if raw else _unread(path, error)
        finally:
            os.close(descriptor)

    def _link_of(self, file: FileId, path: str, header: headers.Header, *, raw: bool) -> _Link:
        """What the header names; DamagedHeader when a name cannot be understood."""
        if header.asks_qemu:
            # What a guest wrote into its raw disk is not for qemu-img: it follows names anywhere.
            no_overlay = raw or _born_raw(path)
            return _Link(file) if no_overlay else self._ask_qemu(file, path, header.format)
        below: list[_Step] = []
        if header.backing:
            below += _steps((header.backing,), path, raw=header.backing_format == "raw")
        if header.data_file:
            below += _steps((header.data_file,), path, raw=True)
        return _Link(file, below=tuple(below))

    def _ask_qemu(self, file: FileId, path: str, image_format: str) -> _Link:
        """An overlay format not parsed here: qemu-img says what it names, being told the format.

        It looks at this one file: a name may lead to a server that never answers.
        """
        try:
            backing = qemu_img.info(Path(path), image_format, shared=True).backing
        except errors.BasecacheError as error:
            return _damaged(file, path, error.message)
        return _Link(file, below=_steps((backing,) if backing else (), path, raw=False))

    def weigh(self, disk: str, troubles: Iterable[_Trouble]) -> None:
        """What could not be told is missing evidence, unless the operator or the disk's own
        record of its birth says that there is nothing to be told. Each trouble is told once."""
        for trouble in troubles:
            below = "" if trouble.path == disk else f"stands on {trouble.path}: "
            why = f"{below}{trouble.why}"
            if {disk, trouble.path} & self._set_aside:
                why = f"set aside by the operator, though: {why}"
                self._emit(events.Trouble(f"disk {disk}", why))
            elif _is_born_junk(disk, trouble):
                self._emit(events.Trouble(f"disk {disk}", f"raw by its record, though: {why}"))
            elif trouble not in self._told and not _is_gone(disk):
                self._told.add(trouble)
                self.missing.append(f"disk {disk} {why}")


# A name that leads nowhere on this machine, or that is longer than any may be.
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


def _steps(names: Iterable[str], path: str, *, raw: bool) -> tuple[_Step, ...]:
    """Where backing names written in the file ``path`` lead; those to other machines do not."""
    found = (headers.local_backing(name, os.path.dirname(path)) for name in names)
    return tuple(_Step(target, raw) for target in found if target is not None)


def _target_of(link: str) -> str:
    try:
        return os.path.join(os.path.dirname(link), str(Path(link).readlink()))
    except OSError:
        return link


def _unread(path: str, error: OSError) -> _Link:
    return _Link(troubles=(_Trouble(path, f"cannot be read: {error.strerror}"),))


def _damaged(file: FileId, path: str, why: str) -> _Link:
    return _Link(file, troubles=(_Trouble(path, why, damaged=True),))


def _device_of(folder: Path) -> int | None:
    try:
        return os.stat(folder).st_dev
    except OSError:
        return None


def _changed(folder: str, mtime_ns: int, since: Chains) -> bool:
    """Whether the folder, or a file in it, may have changed since ``since`` was read.

    A rebase rewrites a disk in place, which moves no folder's time but the file's own.
    """
    before_ns = since.begun_ns - _SETTLED_NS
    if since.folders.get(folder) != mtime_ns or mtime_ns >= before_ns:
        return True
    try:
        with os.scandir(folder) as found:
            return any(_item_changed(item, before_ns) for item in found)
    except OSError:
        return True


def _item_changed(item: os.DirEntry[str], before_ns: int) -> bool:
    """A folder may have changed inside; what a guest prints always changes, and is no disk."""
    if item.is_dir(follow_symlinks=False):
        return True
    if _NEVER_DISK.fullmatch(item.name):
        return False
    return item.stat(follow_symlinks=False).st_ctime_ns >= before_ns


def _may_be_disk(item: os.DirEntry[str]) -> bool:
    """Whether it is a file, or a link that does not lead to a folder."""
    return item.is_file(follow_symlinks=False) or (item.is_symlink() and not _is_folder(item))


def _is_folder(item: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or leads to one; a link that leads to itself does not."""
    try:
        return item.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise


def _is_gone(path: str) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _is_regular(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False
    except OSError as error:
        return error.errno != errno.ELOOP


def _is_born_junk(disk: str, trouble: _Trouble) -> bool:
    """Whether the trouble is in what a guest wrote into a raw disk, or behind it."""
    if trouble.path == disk and not trouble.damaged:
        return False
    return _born_raw(disk) or (trouble.damaged and _born_raw(trouble.path))


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
