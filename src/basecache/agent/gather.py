"""All the evidence for one pass, gathered before anything is decided.

What could not be gathered is named in ``Facts.missing``, and then the plan holds no removal.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from basecache import errors
from basecache.agent.parts import Parts
from basecache.cache import layout as layout_
from basecache.cache import locks, pins, sharers, tenants
from basecache.cache.layout import Layout
from basecache.cache.plan import Facts, Use
from basecache.cache.store import entry_of, staged_name
from basecache.model import Entry, EntryKind, Instance
from basecache.usage import Report, UsageProvider
from basecache.usage.chains import Chains, read_chains, read_parents
from basecache.usage.references import References, count_references

# What nobody's lock is named after; its writer is dead once it is old enough to go.
_LITTER = "litter"
_STANDS_ON_OTHERS = frozenset(
    {EntryKind.ORIGINAL, EntryKind.RESIZED, EntryKind.KERNEL, EntryKind.UNKNOWN}
)


@dataclass(frozen=True, slots=True)
class Gathered:
    """The facts of a pass and what they were made from."""

    facts: Facts
    chains: Chains
    references: References


def gather(parts: Parts) -> Gathered:
    """Look at everything once. Raises only what makes looking itself impossible."""
    layout = parts.store.layout
    entries, irregular = list_entries(layout)
    reports, missing = collect_reports(parts.providers)
    missing += unspoken_hosts(layout, reports)
    missing += tenants.find_others(layout)
    chains = read_chains(layout, set_aside=parts.set_aside, emit=parts.emit)
    parents, untold = read_parents(
        (e.path for e in entries if e.kind in _STANDS_ON_OTHERS),
        set_aside=parts.set_aside,
        emit=parts.emit,
    )
    references = count_references(_instances(reports), parts.host)
    leftovers = [e for path in chains.leftovers if (e := _staging_entry(path)) is not None]
    facts = Facts(
        folder=layout.base,
        entries=(*entries, *leftovers),
        use=Use(references.images, references.generated, chains.files, chains.names),
        pins=pins.read_all(layout, parts.emit),
        parents=parents,
        busy=frozenset(e.path for e in (*entries, *leftovers) if is_busy(layout, e)),
        irregular=irregular,
        missing=(*missing, *chains.missing, *untold),
    )
    return Gathered(facts, chains, references)


def collect_reports(providers: Sequence[UsageProvider]) -> tuple[list[Report], list[str]]:
    """What each provider says, and what those that could not say it lack."""
    reports: list[Report] = []
    missing: list[str] = []
    for provider in providers:
        try:
            reports.append(provider.collect())
        except errors.EvidenceMissing as error:
            missing += error.missing
    if not providers:
        missing.append("no usage provider is configured ([basecache] usage)")
    return reports, missing


def unspoken_hosts(layout: Layout, reports: Sequence[Report]) -> list[str]:
    """What is missing because a host that shares this storage is spoken for by nobody."""
    try:
        known = sharers.read(layout)
    except errors.EvidenceMissing as error:
        return list(error.missing)
    if any(report.hosts is None for report in reports):
        return []
    spoken = frozenset[str]().union(*(report.hosts or () for report in reports))
    return [
        f"nobody speaks for host {sharer.host}, which shares this storage "
        "(`basecache sharer retire` takes it out)"
        for sharer in known
        if sharer.host not in spoken
    ]


def _instances(reports: Sequence[Report]) -> Iterator[Instance]:
    """Each instance once; where reports differ on one, all that they say of it counts."""
    seen: set[Instance] = set()
    for report in reports:
        for instance in report.instances:
            if instance not in seen:
                seen.add(instance)
                yield instance


def list_entries(layout: Layout) -> tuple[list[Entry], tuple[Path, ...]]:
    """Every file of the cache, and the paths of links and folders that stand where files would."""
    entries: list[Entry] = []
    irregular: list[Path] = []
    for path, status in _list_folder(layout.base):
        if path.name in layout_.OWN_FOLDERS:
            continue
        if not stat.S_ISREG(status.st_mode):
            irregular.append(path)
            continue
        entries.append(entry_of(path, _kind(layout, path.name), status))
    for folder, kind in (
        (layout.templates, EntryKind.TEMPLATE),
        (layout.staging, EntryKind.STAGING),
        (layout.quarantine, EntryKind.QUARANTINED),
        (layout.healed, EntryKind.HEALED),
        (layout.pins, EntryKind.RECORD),
        (layout.locks, EntryKind.RECORD),
    ):
        entries += _list_own(folder, kind)
    return entries, tuple(irregular)


def _list_own(folder: Path, kind: EntryKind) -> Iterator[Entry]:
    """The files of a folder of ours; of pins and locks only what a dead writer left there."""
    for path, status in _list_folder(folder):
        litter = layout_.is_litter(path.name)
        if stat.S_ISREG(status.st_mode) and (litter or kind is not EntryKind.RECORD):
            yield entry_of(path, EntryKind.PARTIAL if litter else kind, status)


def _kind(layout: Layout, name: str) -> EntryKind:
    kind = layout_.recognise(name)
    if kind is EntryKind.UNKNOWN and layout.is_record(name):
        owner = layout_.recognise(name.rpartition(".")[0])
        return kind if owner in (EntryKind.UNKNOWN, EntryKind.PARTIAL) else EntryKind.RECORD
    return kind


def _list_folder(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    try:
        with os.scandir(folder) as found:
            for item in found:
                try:
                    yield Path(item.path), item.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
    except FileNotFoundError:
        if folder.is_symlink():
            why = "it is a link that leads nowhere"
            raise errors.StorageFailed(folder, "listing", why) from None
    except OSError as error:
        raise errors.from_os(error, folder, "listing") from error


def _staging_entry(path: Path) -> Entry | None:
    try:
        kind = EntryKind.PARTIAL if layout_.is_litter(path.name) else EntryKind.STAGING
        return entry_of(path, kind, os.lstat(path))
    except FileNotFoundError:
        return None


def is_busy(layout: Layout, entry: Entry) -> bool:
    """Whether somebody works on this unfinished file now: its lock is held."""
    if entry.kind not in (EntryKind.PARTIAL, EntryKind.STAGING):
        return False
    return locks.is_held(guard_of(layout, entry))


def guard_of(layout: Layout, entry: Entry) -> Path:
    """The lock under which a file of the cache, or an unfinished disk, is changed or removed."""
    if (disk := layout_.leftover_disk(entry.name)) is not None:
        instance = entry.path.parent.name
        if disk == layout_.DISK_INFO:
            return layout.own_lock(layout_.disk_info_lock_name(instance))
        return layout.own_lock(layout_.disk_lock_name(instance, disk))
    if layout_.is_litter(entry.name):
        return layout.own_lock(_LITTER)
    return layout.lock(_guarded_name(entry))


def _guarded_name(entry: Entry) -> str:
    match entry.kind:
        case EntryKind.STAGING:
            staged = staged_name(entry.name)
            return staged[0] if staged else entry.name
        case EntryKind.TEMPLATE:
            return entry.name.rsplit("_", 2)[0]
        case EntryKind.RECORD:
            return entry.name.rpartition(".")[0]
        case EntryKind.QUARANTINED:
            return entry.name.partition(".")[0]
        case _:
            return layout_.parent_name(entry.name)
