"""What an entry is, by its record, or by looking when no record of ours is about this file.

A data file without a valid record is *adopted* when it is first met: inspected, trusted as Nova
trusted it, never fetched again and never called corrupt. Its digest at rest is taken at its
first verification. Checks get stricter with time: an entry that passed fewer of them than are
asked now (:data:`CHECKS`) is inspected again before anything is made from it.
"""

from __future__ import annotations

import os

from basecache import errors, events
from basecache.agent.parts import Parts
from basecache.cache import records
from basecache.disks import Base
from basecache.images import digest, inspect
from basecache.model import Entry, EntryKind

# The number grows whenever inspection becomes stricter, so that older entries are looked at again.
CHECKS = "inspected-1"
DIGEST_CHECK = "digest"
LENGTH_CHECK = "length"

# Made by this host from nothing, so that their content is no stranger's.
_GENERATED = frozenset({EntryKind.SWAP, EntryKind.EPHEMERAL})


def read_base(parts: Parts, entry: Entry, image_id: str | None = None) -> Base:
    """The entry with its format and virtual size; the caller holds its lock, shared at least.

    UnsafeImage when it has to be inspected and does not pass; Unverifiable or Corrupt when it was
    fetched while no digest was asked for and cannot show the right one now; StorageFailed.
    """
    record = valid_record(parts, entry)
    if parts.rules.require_digest and record.text("source") and DIGEST_CHECK not in record.checks:
        record = _check_digest(parts, entry, record)
    if record.number("corrupt_since") is not None:
        why = "its bytes were not what they were at its last verification (cache verify --heal)"
        parts.emit(events.Trouble(f"entry {entry.name}", why))
    size = record.virtual_size_bytes
    if record.format not in (None, "iso") and size is not None and CHECKS in record.checks:
        return Base(entry, str(record.format), size)
    return _adopt(parts, entry, record, image_id)


def valid_record(parts: Parts, entry: Entry) -> records.Record:
    """The record that is about this very file; an empty one when there is none."""
    record = records.read(parts.store.layout, entry.name, parts.emit)
    try:
        status = os.stat(entry.path)
    except OSError as error:
        raise errors.from_os(error, entry.path, "looking at") from error
    return record if records.is_of(record, entry.path, status) else records.Record()


def _check_digest(parts: Parts, entry: Entry, record: records.Record) -> records.Record:
    """Compare an entry that came in without a digest with the one its source knows by now."""
    image_id = record.image_id
    if image_id is None or parts.source is None or record.format != record.text("source_format"):
        raise errors.Unverifiable(image_id or entry.name, "what is left of its coming in")
    expected = parts.source.describe(image_id).digest
    if expected is None:
        raise errors.Unverifiable(image_id, parts.source.name)
    found = digest.hash_file(entry.path, (expected.algorithm,), ignore_touch=True)[0]
    if found[expected.algorithm] != expected:
        raise errors.Corrupt(str(entry.path), str(expected), str(found[expected.algorithm]))
    fields = {
        "source_digest": str(expected),
        "digest": str(expected),
        "checks": sorted({*record.checks, DIGEST_CHECK}),
    }
    return records.update(parts.store.layout, entry.name, fields, emit=parts.emit)


def _adopt(parts: Parts, entry: Entry, record: records.Record, image_id: str | None) -> Base:
    if entry.kind in _GENERATED:
        found = inspect.Inspection("raw", entry.size_bytes)
    else:
        found = inspect.detect(entry.path)
        if found.format == "iso":
            found = inspect.Inspection("raw", found.virtual_size_bytes)
    facts = {
        "format": found.format,
        "virtual_size_bytes": found.virtual_size_bytes,
        "checks": sorted({*record.checks, CHECKS}),
    }
    if image_id is not None:
        facts["image_id"] = image_id
    why = "its checks were fewer than today's" if record.values else "it had no record of its own"
    parts.store.adopt(entry, facts, why, known=record.values)
    return Base(entry, found.format, found.virtual_size_bytes)
