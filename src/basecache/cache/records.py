"""The facts kept beside an entry: ``<name>.info``, JSON of ``field`` and ``field-timestamp``.

The format is the one Nova's cache manager wrote, with fields of ours added, so that either reads
the other's. A record is taken and given under the very lock Nova used (``nova-info-<name>``) and
replaced by a rename, so a reader never sees half of one.

A record belongs to one file. It holds the file's inode, size and a token which the file bears
too, in the extended attribute ``user.basecache`` where the file system has those. A record that
does not match its file is *stale*, never proof of corruption: Nova removes and re-fetches data
and leaves records behind. Nothing that safety needs lives in a record alone.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from basecache import errors, events
from basecache.cache import locks
from basecache.cache.layout import Layout
from basecache.model import Digest

XATTR = "user.basecache"
TOKEN, INODE, SIZE = "file_token", "file_inode", "file_size"
_MODE = 0o664
_NO_XATTRS = (errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.ENODATA)


@dataclass(frozen=True, slots=True)
class Record:
    """What a record file says, as it stands there."""

    values: Mapping[str, Any] = field(default_factory=dict)

    def text(self, name: str) -> str | None:
        value = self.values.get(name)
        return value if isinstance(value, str) and value else None

    def number(self, name: str) -> float | None:
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return value if math.isfinite(value) else None

    def taken_at(self, name: str) -> float | None:
        """When a field was written, in seconds since the epoch; None when nobody noted it."""
        return self.number(f"{name}-timestamp")

    @property
    def image_id(self) -> str | None:
        return self.text("image_id")

    @property
    def format(self) -> str | None:
        return self.text("format")

    @property
    def virtual_size_bytes(self) -> int | None:
        value = self.number("virtual_size_bytes")
        return None if value is None else int(value)

    @property
    def checks(self) -> frozenset[str]:
        """The names of the checks this entry passed on its way in."""
        value = self.values.get("checks")
        return frozenset(str(item) for item in value) if isinstance(value, list) else frozenset()

    @property
    def source_digest(self) -> Digest | None:
        """The image service's digest of the bytes as they were fetched."""
        return _digest(self.text("source_digest"))

    @property
    def at_rest(self) -> tuple[str, Digest] | None:
        """The field and digest to verify the file with: BLAKE3, the service's own, or old SHA-1."""
        for name in ("blake3", "digest", "sha1"):
            text = self.text(name)
            digest = _digest(text if name == "digest" else text and f"{name}:{text}")
            if digest is not None:
                return name, digest
        return None

    @property
    def bound(self) -> bool:
        """Whether the record names the one file it is about; Nova's own never do."""
        return INODE in self.values or TOKEN in self.values


def _digest(text: str | None) -> Digest | None:
    try:
        return Digest.parse(text) if text else None
    except ValueError:
        return None


def read(layout: Layout, name: str, emit: events.Emit = events.ignore) -> Record:
    """The record of the entry ``name``; empty when there is none or it is broken.

    A broken one is an event: an operator must see it, and the cache works on without. An Essex
    ``.sha1`` file is taken over into the record.
    """
    path = layout.record(name)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return _take_over_checksum(layout, name)
    except OSError as error:
        raise errors.from_os(error, path, "reading the record") from error
    record = _parse(content, path, events.ignore)
    return record if record.values else _read_locked(layout, name, emit)


def _read_locked(layout: Layout, name: str, emit: events.Emit) -> Record:
    """Once more while nobody writes: Nova's writers empty the file before they fill it."""
    path = layout.record(name)
    with locks.hold(layout.lock(f"info-{name}"), shared=True):
        try:
            return _parse(path.read_bytes(), path, emit)
        except FileNotFoundError:
            return Record()
        except OSError as error:
            raise errors.from_os(error, path, "reading the record") from error


def _parse(content: bytes, path: Path, emit: events.Emit) -> Record:
    try:
        values = json.loads(content)
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__}, not an object")
    except (ValueError, RecursionError) as error:
        emit(events.Trouble(f"record {path}", f"cannot be read as JSON: {error}"))
        return Record()
    return Record(values)


def _take_over_checksum(layout: Layout, name: str) -> Record:
    old = layout.old_checksum(name)
    try:
        value = old.read_text("ascii", "replace").strip().split(" ")[0]
    except FileNotFoundError:
        return Record()
    except OSError as error:
        raise errors.from_os(error, old, "reading the old checksum") from error
    record = update(layout, name, {"sha1": value}, timestamp=False)
    old.unlink(missing_ok=True)
    return record


def update(
    layout: Layout,
    name: str,
    fields: Mapping[str, Any],
    *,
    emit: events.Emit = events.ignore,
    timestamp: bool = True,
    durable: bool = False,
) -> Record:
    """Write ``fields`` into the record, each with the time, and leave the rest as it is.

    A field whose value is None is taken out together with its time.
    """
    path = layout.record(name)
    with locks.hold(layout.lock(f"info-{name}")):
        try:
            values = dict(_parse(path.read_bytes(), path, emit).values)
        except FileNotFoundError:
            values = {}
        except OSError as error:
            raise errors.from_os(error, path, "reading the record") from error
        _merge(values, fields, time.time() if timestamp else None)
        record = Record(values)
        write(path, record, durable=durable)
    return record


def fresh(fields: Mapping[str, Any], now: float, known: Mapping[str, Any] | None = None) -> Record:
    """A new record of ``fields``, each taken at ``now``, over what is ``known``."""
    values: dict[str, Any] = dict(known or {})
    _merge(values, fields, now)
    return Record(values)


def _merge(values: dict[str, Any], fields: Mapping[str, Any], now: float | None) -> None:
    for name, value in fields.items():
        if value is None:
            values.pop(name, None)
            values.pop(f"{name}-timestamp", None)
        else:
            values[name] = value
            if now is not None:
                values[f"{name}-timestamp"] = now


def write(path: Path, record: Record, *, durable: bool) -> None:
    """Replace the record at ``path`` in one step; with ``durable`` its bytes are on disk first."""
    locks.make_folder(path.parent)
    content = json.dumps(dict(record.values), sort_keys=True).encode() + b"\n"
    replace_file(path, content, durable=durable)


def replace_durably(path: Path, content: bytes, *, beside: Path | None = None) -> None:
    """Replace a file as ``replace_file`` does; when this returns, it stays whatever happens."""
    replace_file(path, content, durable=True, beside=beside)
    try:
        sync_folder(path.parent)
    except OSError as error:
        raise errors.from_os(error, path, "writing") from error


def replace_file(path: Path, content: bytes, *, durable: bool, beside: Path | None = None) -> None:
    """Write ``content`` under a name of its own (in ``beside``), then rename it over ``path``.

    What a writer that dies leaves is litter by :func:`basecache.cache.layout.is_litter`.
    """
    temporary = (beside or path.parent) / f".{path.name[:200]}.{secrets.token_hex(4)}"
    try:
        with _new_file(temporary) as descriptor:
            os.write(descriptor, content)
            if durable:
                os.fsync(descriptor)
        os.rename(temporary, path)
    except OSError as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise errors.from_os(error, path, "writing") from error


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems have no fsync of folders; their server orders names itself.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    try:
        os.fchmod(descriptor, _MODE)
        locks.give_owner(descriptor, path.parent.stat())
        yield descriptor
    finally:
        os.close(descriptor)


def bind(path: Path) -> dict[str, Any]:
    """Give the file a token and return the fields that tie a record to it.

    Where the file system has no extended attributes the inode and the size must do.
    """
    token = secrets.token_hex(8)
    fields: dict[str, Any] = {}
    try:
        os.setxattr(path, XATTR, token.encode())
        fields[TOKEN] = token
    except OSError as error:
        if error.errno not in _NO_XATTRS:
            raise errors.from_os(error, path, "marking") from error
    status = os.stat(path)
    return {**fields, INODE: status.st_ino, SIZE: status.st_size}


def is_of(record: Record, path: Path, status: os.stat_result) -> bool:
    """Whether ``record`` is about the file at ``path``; an unbound record of Nova's is believed."""
    if not record.bound:
        return bool(record.values)
    if record.number(INODE) != status.st_ino or record.number(SIZE) != status.st_size:
        return False
    token = record.text(TOKEN)
    if token is None:
        return True
    try:
        return os.getxattr(path, XATTR) == token.encode()
    except OSError as error:
        if error.errno in (*_NO_XATTRS, errno.ENOENT):
            return False
        raise errors.from_os(error, path, "reading the mark of") from error


def is_record_name(layout: Layout, path: Path) -> bool:
    """Whether ``path`` is where the record of some entry of ours would be."""
    return path.name.endswith(".info") and layout.record(path.name[:-5]) == path
