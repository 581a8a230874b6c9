"""What an entry is, by its record, or by looking when no record of ours is about this file.

A data file without a valid record is *adopted* when it is first met: inspected, trusted as Nova
trusted it, never fetched again and never called corrupt. Its digest at rest is taken at its
first verification. Checks get stricter with time: an entry that passed fewer of them than are
asked now (:data:`CHECKS`) is inspected again before anything is made from it.
"""

from __future__ import annotations

import os

from basecache import errors
from basecache.agent.parts import Parts
from basecache.cache import records
from basecache.disks import Base
from basecache.images import inspect
from basecache.model import Entry, EntryKind

# The number grows whenever inspection becomes stricter, so that older entries are looked at again.
CHECKS = "inspected-1"
DIGEST_CHECK = "digest"
LENGTH_CHECK = "length"

# Made by this host from nothing, so that their content is no stranger's.
_GENERATED = frozenset({EntryKind.SWAP, EntryKind.EPHEMERAL})


def read_base(parts: Parts, entry: Entry, image_id: str | None = None) -> Base:
    """The entry with its format and virtual size; the caller holds its lock, shared at least.

    UnsafeImage when it has to be inspected and does not pass; StorageFailed.
    """
    record = valid_record(parts, entry)
    size = record.virtual_size_bytes
    if record.format and size is not None and CHECKS in record.checks:
        return Base(entry, record.format, size)
    return _adopt(parts, entry, record, image_id)


def valid_record(parts: Parts, entry: Entry) -> records.Record:
    """The record that is about this very file; an empty one when there is none."""
    record = records.read(parts.store.layout, entry.name, parts.emit)
    try:
        status = os.stat(entry.path)
    except OSError as error:
        raise errors.from_os(error, entry.path, "looking at") from error
    return record if records.is_of(record, entry.path, status) else records.Record()


def _adopt(parts: Parts, entry: Entry, record: records.Record, image_id: str | None) -> Base:
    if entry.kind in _GENERATED:
        found = inspect.Inspection("raw", entry.size_bytes)
    else:
        found = inspect.detect(entry.path)
    known = {name: value for name, value in record.values.items() if "-timestamp" not in name}
    facts = {
        **known,
        "format": found.format,
        "virtual_size_bytes": found.virtual_size_bytes,
        "checks": sorted({*record.checks, CHECKS}),
    }
    if image_id is not None:
        facts["image_id"] = image_id
    why = "its checks were fewer than today's" if record.values else "it had no record of its own"
    parts.store.adopt(entry, facts, why)
    return Base(entry, found.format, found.virtual_size_bytes)
