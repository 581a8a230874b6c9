"""heal: a bad entry is replaced when nothing stands on it, else a good copy is put beside it.

Running VMs hold the bad file open, and their disks were written over what it said when they
were made; only an operator can decide what becomes of those. So a file that disks stand on is
never replaced: the good copy lies in ``.healed/<name>`` and the disks are named.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from basecache import errors, events
from basecache.agent.ensure import Brought, bring_in, describe
from basecache.agent.entry import valid_record
from basecache.agent.gather import Gathered, gather
from basecache.agent.parts import Parts
from basecache.cache import locks
from basecache.cache.layout import original_name
from basecache.cache.store import Stage
from basecache.images import digest
from basecache.model import Digest, Entry, EntryKind, ImageRole, Verdict, Verification
from basecache.sources import Identifying
from basecache.usage.chains import read_chains


def heal_entry(parts: Parts, entry: Entry, outcome: Verification) -> Verification:
    """The outcome after healing; where healing fails it stays corrupt and says why."""
    try:
        image_id = _image_of(parts, entry)
        gathered = gather(parts)
        if gathered.facts.missing:
            raise errors.EvidenceMissing(gathered.facts.missing)
        use = gathered.facts.use
        users = use.files.get(entry.file_id, ()) + use.names.get(entry.name, ())
        name = f"{entry.name}.good"
        # A name and a lock of its own: VMs may still be made while this goes on.
        with locks.hold(parts.store.layout.lock(name)), parts.store.stage(name) as stage:
            brought = _fetch_good(parts, entry, outcome, image_id, stage)
            if users:
                copy = parts.store.put_beside(entry.name, brought.path)
                stand = f"{len(users)} disk{'s stand' if len(users) > 1 else ' stands'} on it"
                reason = f"{stand}; a good copy is at {copy}"
                return dataclasses.replace(outcome, reason=reason, used_by=users, copy=copy)
            quarantined = _put_in_place(parts, entry, brought, gathered)
        reason = f"nothing stood on it: fetched again, the bad file is at {quarantined}"
        return dataclasses.replace(outcome, verdict=Verdict.HEALED, reason=reason)
    except errors.BasecacheError as error:
        parts.emit(events.Trouble(f"healing {entry.path}", error.message))
        reason = f"{outcome.reason}; healing failed: {error.message}"
        return dataclasses.replace(outcome, reason=reason)


def _fetch_good(
    parts: Parts, entry: Entry, outcome: Verification, image_id: str, stage: Stage
) -> Brought:
    """The image again, in the very bytes that the entry's digest promised; Corrupt otherwise.

    A source may have other content under the same id by now, and disks may stand on the old one.
    """
    known = valid_record(parts, entry).text("source_url")
    image, source = describe(parts, known if known and _takes_urls(parts) else image_id, None)
    brought = bring_in(parts, stage, image, source, _role_of(entry))
    expected = Digest.parse(outcome.expected or "")
    found = digest.hash_file(brought.path, (expected.algorithm,))[0][expected.algorithm]
    if found != expected:
        raise errors.Corrupt(f"what {source.name} has of {image_id} now", str(expected), str(found))
    return brought


def _put_in_place(parts: Parts, entry: Entry, brought: Brought, gathered: Gathered) -> Path:
    """Move the bad file to quarantine and the good one into its place; Busy when it is used."""
    layout = parts.store.layout
    with locks.hold(layout.lock(entry.name)):
        now = parts.store.find(entry.name)
        if now is None or now.file_id != entry.file_id:
            raise errors.Busy(f"entry {entry.name}", "another file took its place")
        since = read_chains(
            layout, set_aside=parts.set_aside, since=gathered.chains, emit=parts.emit
        )
        if since.missing or entry.file_id in since.files or entry.name in since.names:
            raise errors.Busy(f"entry {entry.name}", "a disk was made on it just now")
        quarantined = parts.store.quarantine(entry)
        parts.store.publish(entry.name, brought.path, brought.facts)
        (layout.healed / entry.name).unlink(missing_ok=True)
    return quarantined


def _takes_urls(parts: Parts) -> bool:
    """Whether the source takes a URL for an image; the id alone leads to no address."""
    return (
        isinstance(parts.source, Identifying)
        and parts.source.identify("http://a/b") != "http://a/b"
    )


def _role_of(entry: Entry) -> ImageRole:
    """What the entry's name says that its image is used as."""
    return ImageRole.KERNEL if entry.kind is EntryKind.KERNEL else ImageRole.DISK


def _image_of(parts: Parts, entry: Entry) -> str:
    """The image that an entry was made from, by its record or by who uses it."""
    record = valid_record(parts, entry)
    if record.image_id is not None:
        return record.image_id
    for image_id in gather(parts).references.images:
        if original_name(image_id) == entry.name:
            return image_id
    raise errors.NotFound("image id of entry", entry.name, "its record or any instance")
