"""verify: what lies in the cache is still what came in.

    read the record               stale: adopted anew, never called corrupt
    checked a short while ago     by us or another host that shares this storage: skip
    hash the file                 at idle priority, past the page cache, without the entry's lock,
                                  for VMs start meanwhile; one verifier per entry
    no digest yet                 write one down: BLAKE3, which the next pass compares with
    it matches                    note the time
    it does not                   look again under the lock: the same file, the same record?
                                  then it is corrupt: an event, an exit code, and the disks on it
    heal, nothing stands on it    move it to quarantine; fetch it again
    heal, disks stand on it       fetch a good copy beside it, and say which disks those are

While ``checksum_base_images`` is off nothing is checked and nothing written, unless one entry is
named: whoever names an entry wants it looked at.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from basecache import errors, events
from basecache.agent.entry import read_base, valid_record
from basecache.agent.gather import gather, list_entries
from basecache.agent.heal import heal_entry
from basecache.agent.parts import Parts
from basecache.agent.stock import resolve_name
from basecache.cache import locks, records
from basecache.images import digest
from basecache.model import CONTENT_KINDS, Digest, Entry, Verdict, Verification

BASELINE = "blake3"


def verify_all(
    parts: Parts, *, name: str | None = None, heal: bool = False, force: bool = False
) -> Iterator[Verification]:
    """Verify every entry, or the one named, each with its outcome; NotFound for a bad name.

    ``name`` is an entry's or its image's id. ``force`` checks whatever the options and the
    interval say, as naming an entry does.
    """
    entries, _ = list_entries(parts.store.layout)
    only = None if name is None else resolve_name(parts, name)
    chosen = [e for e in entries if e.kind in CONTENT_KINDS and only in (None, e.name)]
    if name is not None and not chosen:
        raise errors.NotFound("entry", name, str(parts.store.layout.base))
    for entry in sorted(chosen, key=lambda e: e.name):
        outcome = _verify_reporting(parts, entry, force=force or name is not None)
        if outcome.verdict is Verdict.CORRUPT:
            outcome = _report_corrupt(parts, entry, outcome)
            if heal:
                outcome = heal_entry(parts, entry, outcome)
        yield outcome


def _verify_reporting(parts: Parts, entry: Entry, *, force: bool) -> Verification:
    try:
        return verify_entry(parts, entry, force=force)
    except errors.Busy as error:
        return Verification(entry.name, entry.path, Verdict.BUSY, error.message)
    except errors.BasecacheError as error:
        if not os.path.lexists(entry.path):
            return _say(entry, Verdict.GONE, "it was removed meanwhile")
        parts.emit(events.Trouble(f"verifying {entry.path}", error.message))
        return Verification(entry.name, entry.path, Verdict.FAILED, error.message)


@dataclass(frozen=True, slots=True)
class Skip:
    """Do not look at the content now."""

    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True)
class Compare:
    """Hash the file and compare with the record's ``field``; ``digest`` None: write one down."""

    field: str
    digest: Digest | None


def plan_check(record: records.Record, now: float, *, interval_seconds: float) -> Skip | Compare:
    """What is due for a file with this record. Pure."""
    found = record.at_rest
    if found is None:
        return Compare(BASELINE, None)
    field, digest_ = found
    last = record.number("verified_at") or record.taken_at(field)
    if last is not None and 0 <= now - last < interval_seconds:
        return Skip(Verdict.RECENT, f"it was verified {now - last:.0f} s ago")
    return Compare(field, digest_)


def verify_entry(parts: Parts, entry: Entry, *, force: bool) -> Verification:
    """Verify one file now if it is due. Busy when somebody else verifies it or it changes."""
    if not parts.rules.checksum and not force:
        return _say(entry, Verdict.OFF, "checksum_base_images is off")
    interval = 0.0 if force else parts.rules.checksum_interval_seconds
    with locks.hold(parts.store.layout.lock(f"hash-{entry.name}"), wait=False):
        record = _own_record(parts, entry)
        match plan_check(record, time.time(), interval_seconds=interval):
            case Skip(verdict, reason):
                return _say(entry, verdict, reason)
            case Compare(_, None):
                return _write_baseline(parts, entry, record)
            case Compare(field, Digest() as expected):
                return _compare(parts, entry, record, field=field, expected=expected)
    raise AssertionError("plan_check answered with neither")


def _own_record(parts: Parts, entry: Entry) -> records.Record:
    """The record of this very file; a file without one is adopted first."""
    record = valid_record(parts, entry)
    if record.values:
        return record
    with locks.hold(parts.store.layout.lock(entry.name), shared=True):
        read_base(parts, entry)
    return valid_record(parts, entry)


def _write_baseline(parts: Parts, entry: Entry, record: records.Record) -> Verification:
    found = _hash(parts, entry, (BASELINE,))[BASELINE]
    _note(parts, entry, record, {BASELINE: found.value, "verified_at": time.time()})
    return _say(entry, Verdict.BASELINE, "no digest was known; one is written down now")


def _compare(
    parts: Parts, entry: Entry, record: records.Record, *, field: str, expected: Digest
) -> Verification:
    algorithms = tuple(dict.fromkeys((expected.algorithm, BASELINE)))
    hashes = _hash(parts, entry, algorithms)
    found = hashes[expected.algorithm]
    if found == expected:
        fields: dict[str, Any] = {
            BASELINE: hashes[BASELINE].value,
            "verified_at": time.time(),
            "corrupt_since": None,
        }
        if record.taken_at(field) is None:
            fields[field] = record.values[field]
        _note(parts, entry, record, fields)
        return _say(entry, Verdict.OK, f"its {expected.algorithm} is what it was")
    _note(parts, entry, record, {"corrupt_since": record.number("corrupt_since") or time.time()})
    return Verification(
        entry.name,
        entry.path,
        Verdict.CORRUPT,
        f"its {expected.algorithm} is not what it was",
        expected=str(expected),
        found=str(found),
    )


def _hash(parts: Parts, entry: Entry, algorithms: tuple[str, ...]) -> dict[str, Digest]:
    def report(done_bytes: int) -> None:
        parts.emit(events.Verifying(entry.path, done_bytes, entry.size_bytes))

    hashes, status = digest.hash_file(
        entry.path, algorithms, progress=report, background=True, ignore_touch=True
    )
    if (status.st_dev, status.st_ino) != (entry.file_id.device, entry.file_id.inode):
        raise errors.Busy(f"entry {entry.name}", "another file took its place")
    return hashes


def _note(parts: Parts, entry: Entry, record: records.Record, fields: dict[str, Any]) -> None:
    """Write what was found into the record, unless that is another file's by now."""
    with locks.hold(parts.store.layout.lock(entry.name), shared=True):
        _require_same(parts, entry, record)
        records.update(parts.store.layout, entry.name, fields, emit=parts.emit)


def _require_same(parts: Parts, entry: Entry, record: records.Record) -> None:
    """Busy unless file and record are the ones that were read; the caller holds the entry's lock.

    Inode numbers are used again at once, so that the record has the last word.
    """
    now = parts.store.find(entry.name)
    same_file = now is not None and (now.file_id, now.size_bytes) == (
        entry.file_id,
        entry.size_bytes,
    )
    if not same_file or valid_record(parts, entry).values != record.values:
        raise errors.Busy(f"entry {entry.name}", "the file or its record was replaced meanwhile")


def _report_corrupt(parts: Parts, entry: Entry, outcome: Verification) -> Verification:
    """Find the disks that stand on the bad file, and tell."""
    use = gather(parts).facts.use
    users = use.files.get(entry.file_id, ()) + use.names.get(entry.name, ())
    outcome = dataclasses.replace(outcome, used_by=users)
    error = errors.Corrupt(
        str(entry.path), outcome.expected or "", outcome.found or "", used_by=users
    )
    parts.emit(events.Trouble(f"entry {entry.name}", error.message))
    return outcome


def _say(entry: Entry, verdict: Verdict, reason: str) -> Verification:
    return Verification(entry.name, entry.path, verdict, reason)
