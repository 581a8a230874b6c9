"""heal: a bad entry is replaced when nothing stands on it, else a good copy is put beside it.

Running VMs hold the bad file open, and their disks were written over what it said when they
were made; only an operator can decide what becomes of those. So a file that disks stand on is
never replaced: the good copy lies in ``.healed/<name>`` and the disks are named.
"""

from __future__ import annotations

import dataclasses

from basecache import errors, events
from basecache.agent.ensure import bring_in, describe, ensure
from basecache.agent.entry import valid_record
from basecache.agent.gather import Gathered, gather
from basecache.agent.parts import Parts
from basecache.cache import locks
from basecache.cache.layout import original_name
from basecache.model import Entry, EntryKind, ImageRole, Verdict, Verification
from basecache.usage.chains import read_chains


def heal_entry(parts: Parts, entry: Entry, outcome: Verification) -> Verification:
    """The outcome after healing; where healing fails it stays corrupt and says why."""
    try:
        image_id = _image_of(parts, entry)
        gathered = gather(parts)
        if gathered.facts.missing:
            raise errors.EvidenceMissing(gathered.facts.missing)
        use = gathered.facts.use
        if users := use.files.get(entry.file_id, ()) + use.names.get(entry.name, ()):
            return _copy_beside(parts, entry, outcome, image_id=image_id, users=users)
        return _replace(parts, entry, outcome, image_id=image_id, gathered=gathered)
    except errors.BasecacheError as error:
        parts.emit(events.Trouble(f"healing {entry.path}", error.message))
        reason = f"{outcome.reason}; healing failed: {error.message}"
        return dataclasses.replace(outcome, reason=reason)


def _replace(
    parts: Parts, entry: Entry, outcome: Verification, *, image_id: str, gathered: Gathered
) -> Verification:
    layout = parts.store.layout
    with locks.hold(layout.lock(entry.name)):
        now = parts.store.find(entry.name)
        if now is None or now.file_id != entry.file_id:
            raise errors.Busy(f"entry {entry.name}", "another file took its place")
        since = read_chains(
            layout, set_aside=parts.set_aside, known=gathered.chains.folders, emit=parts.emit
        )
        if since.missing or entry.file_id in since.files or entry.name in since.names:
            raise errors.Busy(f"entry {entry.name}", "a disk was made on it just now")
        quarantined = parts.store.quarantine(entry)
    ensure(parts, image_id, role=_role_of(entry))
    reason = f"nothing stood on it: fetched again, the bad file is at {quarantined}"
    return dataclasses.replace(outcome, verdict=Verdict.HEALED, reason=reason)


def _copy_beside(
    parts: Parts,
    entry: Entry,
    outcome: Verification,
    *,
    image_id: str,
    users: tuple[str, ...],
) -> Verification:
    """Fetch under a name and a lock of its own: VMs may still be made while this goes on."""
    image, source = describe(parts, image_id, None)
    name = f"{entry.name}.good"
    with (
        locks.hold(parts.store.layout.lock(name)),
        parts.store.stage(name) as stage,
    ):
        brought = bring_in(parts, stage, image, source, _role_of(entry))
        copy = parts.store.put_beside(entry.name, brought.path)
    reason = f"{len(users)} disks stand on it; a good copy is at {copy}"
    return dataclasses.replace(outcome, reason=reason, used_by=users, copy=copy)


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
