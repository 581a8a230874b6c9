"""Every write to the cache folder.

Publishing, line by line, and what is on disk if the process dies right after it:

    stage = store.stage(name)      .staging/<name>.<token>.*; nothing visible
    ... fill stage.path("part")    the same; reclaimed once nobody holds the entry's lock
    store.publish(stage, ...)      fsync the data
                                   mark it (xattr), give it its folder's owner
                                   rename the record in: an orphan record, litter that ages out
                                   rename the data in: THE COMMIT POINT, the entry is there
                                   fsync the folder

Whoever calls ``stage``, ``publish``, ``quarantine`` or ``remove`` holds the entry's exclusive
lock; ``touch`` and ``find`` may be called with or without it. On removal the data goes first and
the record after it, so a record may be left over but never a file that looks unrecorded.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from basecache import errors, events
from basecache.cache import layout as layout_
from basecache.cache import locks, records, renames, tenants
from basecache.cache.layout import Layout
from basecache.model import Entry, EntryKind, FileId

_STAGED = re.compile(r"(?P<name>.+)\.(?P<token>[0-9a-f]{16})\.(?P<what>[a-z0-9]+)\Z")
_ENTRY_MODE = 0o644


@dataclass(frozen=True, slots=True)
class Stage:
    """Room for work in progress on one entry; all its files vanish with it."""

    name: str
    folder: Path
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    def path(self, what: str) -> Path:
        """A path for one file of this work: ``what`` is a short lower-case word."""
        return self.folder / f"{self.name}.{self.token}.{what}"


def staged_name(file_name: str) -> tuple[str, str] | None:
    """The entry name and token of a staging file, or None when it is not one of ours."""
    match = _STAGED.match(file_name)
    return (match["name"], match["token"]) if match else None


def entry_of(path: Path, kind: EntryKind, status: os.stat_result) -> Entry:
    """The Entry that a stat result of ``path`` describes."""
    return Entry(
        name=path.name,
        path=path,
        kind=kind,
        file_id=FileId(status.st_dev, status.st_ino),
        size_bytes=status.st_size,
        allocated_bytes=status.st_blocks * 512,
        mtime_ns=status.st_mtime_ns,
    )


class Store:
    """The cache folder of one :class:`~basecache.cache.layout.Layout`."""

    def __init__(self, layout: Layout, emit: events.Emit = events.ignore) -> None:
        self.layout = layout
        self.emit = emit

    def prepare(self) -> None:
        """Make the cache folder and the locks' if missing, owned as the folder they are in.

        The folders inside the cache folder are made when something goes into them.
        """
        for folder in (self.layout.base, self.layout.locks):
            try:
                locks.make_folder(folder)
            except OSError as error:
                raise errors.from_os(error, folder, "making the folder") from error
        tenants.note(self.layout)

    def find(self, name: str) -> Entry | None:
        """The entry ``name``, or None. StorageFailed when its path is no regular file."""
        path = self.layout.entry(name)
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise errors.from_os(error, path, "looking for") from error
        if not stat.S_ISREG(status.st_mode):
            raise errors.StorageFailed(path, "using the entry", "it is not a regular file")
        kind = layout_.recognise(name)
        return entry_of(path, EntryKind.KERNEL if kind is EntryKind.UNKNOWN else kind, status)

    def touch(self, path: Path) -> None:
        """Note that an entry is in use now: its age runs from this moment.

        One that went meanwhile is no error here; StorageFailed when the time may not be set.
        """
        try:
            os.utime(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise errors.from_os(error, path, "refreshing the time of") from error

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Room to make the entry ``name`` in; whatever is left in it at the end goes.

        So does what dead makers of the entry left: the caller holds its exclusive lock.
        """
        try:
            locks.make_folder(self.layout.staging)
            for path in self.layout.staging.iterdir():
                if (staged := staged_name(path.name)) and staged[0] == name:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise errors.from_os(error, self.layout.staging, "making room in") from error
        stage = Stage(name, self.layout.staging)
        try:
            yield stage
        finally:
            for path in self.layout.staging.glob(f"*.{stage.token}.*"):
                path.unlink(missing_ok=True)

    def publish(self, name: str, staged: Path, facts: Mapping[str, Any]) -> Entry:
        """Make the staged file the entry ``name``, with ``facts`` in its record; durable.

        FileExistsError when a file of that name has appeared, by Nova's pre-cache for one, which
        takes no lock: it may have disks on it already and is never replaced.
        """
        target = self.layout.entry(name)
        try:
            _settle(staged, self.layout.base)
            bound = {**facts, **records.bind(staged)}
            record = records.fresh(bound, time.time())
            records.write(self.layout.record(name), record, durable=True)
            renames.rename_new(staged, target)
            records.sync_folder(self.layout.base)
            status = os.lstat(target)
        except FileExistsError:
            raise
        except OSError as error:
            raise errors.from_os(error, target, "publishing") from error
        entry = entry_of(target, layout_.recognise(name), status)
        image = str(facts.get("image_id") or name)
        self.emit(events.Published(image, target, entry.size_bytes, entry.allocated_bytes))
        return entry

    def adopt(
        self, entry: Entry, facts: Mapping[str, Any], why: str, known: Mapping[str, Any]
    ) -> records.Record:
        """Write a record for a file that has none of its own. Its time stays.

        What is ``known`` already is kept with the times at which it was learnt, or without.
        """
        try:
            bound = {**facts, **records.bind(entry.path)}
        except OSError as error:
            raise errors.from_os(error, entry.path, "adopting") from error
        record = records.fresh(bound, time.time(), known)
        with locks.hold(self.layout.lock(f"info-{entry.name}")):
            records.write(self.layout.record(entry.name), record, durable=False)
        self.emit(events.Adopted(entry.path, why))
        return record

    def remove(self, entry: Entry) -> None:
        """Remove the entry and then its record. The caller has made sure that it may go.

        A good copy beside a bad entry has its name, but the record is the entry's.
        """
        try:
            os.unlink(entry.path)
            if entry.path.parent != self.layout.base:
                return
            for record in (self.layout.record(entry.name), self.layout.old_checksum(entry.name)):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(record)
        except FileNotFoundError:
            return
        except OSError as error:
            raise errors.from_os(error, entry.path, "removing") from error

    def put_beside(self, name: str, staged: Path) -> Path:
        """Keep the staged file as the good copy of the bad entry ``name``; durable."""
        target = self.layout.healed / name
        try:
            locks.make_folder(self.layout.healed)
            _settle(staged, self.layout.base)
            os.rename(staged, target)
            records.sync_folder(self.layout.healed)
        except OSError as error:
            raise errors.from_os(error, target, "publishing") from error
        return target

    def quarantine(self, entry: Entry) -> Path:
        """Move a bad entry out of everybody's way and take its record with it."""
        target = self.layout.quarantine / f"{entry.name}.{secrets.token_hex(8)}.bad"
        try:
            locks.make_folder(self.layout.quarantine)
            os.rename(entry.path, target)
            os.utime(target)
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.layout.record(entry.name), target.with_suffix(".info"))
            records.sync_folder(self.layout.base)
        except OSError as error:
            raise errors.from_os(error, entry.path, "quarantining") from error
        return target


def _settle(staged: Path, folder: Path) -> None:
    """The staged file's bytes are on disk, its mode and owner those of an entry."""
    descriptor = os.open(staged, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fchmod(descriptor, _ENTRY_MODE)
        locks.give_owner(descriptor, folder.stat())
        os.utime(descriptor)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
