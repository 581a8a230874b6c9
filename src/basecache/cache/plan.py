"""What a sweep does with every file, and why: facts and a time in, decisions out. Pure.

How a file earns its removal. In this order, the first that holds decides:

 1. it is no file of ours, or no file at all             report, never removed
 2. somebody works on it now (its lock is held)          keep
 3. an instance refers to it, or a disk stands on it     touch (its age starts again)
 4. it is pinned                                         touch
 5. it was seen in use too lately, or in the future      keep
 6. evidence of use is missing, or removal is off        keep
 7. a file that stays stands on it                       keep
 8. otherwise                                            remove, children before parents

The same rules serve eviction: its policy has a floor of its own in place of the ages, and asks
for no more than it needs (:func:`choose_victims`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from basecache.cache import layout
from basecache.cache.pins import Pin
from basecache.model import CONTENT_KINDS, Action, Decision, Entry, EntryKind, FileId, Reason


@dataclass(frozen=True, slots=True)
class ImageUse:
    """How instances refer to one image: on this host, on other sharers, and by what names."""

    local: int = 0
    remote: int = 0
    instances: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Use:
    """The union of all evidence of use.

    ``images`` is by image id, ``generated`` by the name of a swap or the stem of an ephemeral
    template (``ephemeral_<GiB>``), ``files`` by file and ``names`` by the name of entries that
    disks name without their being there. Values of the last three are instances or disk paths.
    """

    images: Mapping[str, ImageUse] = field(default_factory=dict)
    generated: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    files: Mapping[FileId, tuple[str, ...]] = field(default_factory=dict)
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything gathered for one pass.

    ``parents`` maps a cache file to the files it stands on. ``busy`` holds the paths of what
    somebody works on now, ``irregular`` what is a link or folder where a file would be.
    """

    folder: Path
    entries: tuple[Entry, ...]
    use: Use = field(default_factory=Use)
    pins: Mapping[str, Pin] = field(default_factory=dict)
    parents: Mapping[FileId, tuple[FileId, ...]] = field(default_factory=dict)
    busy: frozenset[Path] = frozenset()
    irregular: tuple[Path, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """The names of the entries that are there."""
        return frozenset(e.name for e in self.entries if e.kind in CONTENT_KINDS)


# A record or lock on its way to its name is written under no lock that a sweep could look at.
_WRITING_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of one pass; ages in seconds since a file was last seen in use."""

    original_min_age_seconds: float = 24 * 3600
    resized_min_age_seconds: float = 3600
    remove_unused: bool = True
    remove_unused_kernels: bool = True

    def min_age(self, kind: EntryKind) -> float:
        """The age from which a file may go; 0 where age does not matter, not even a future one."""
        if kind is EntryKind.RESIZED:
            return self.resized_min_age_seconds
        if kind in (EntryKind.STAGING, EntryKind.TEMPLATE):
            return 0.0
        if kind is EntryKind.PARTIAL:
            return max(self.original_min_age_seconds, _WRITING_SECONDS)
        return self.original_min_age_seconds

    def is_young(self, entry: Entry, now: float) -> bool:
        least = self.min_age(entry.kind)
        return least > 0 and now - entry.mtime < least


def plan_sweep(facts: Facts, policy: Policy, now: float) -> tuple[Decision, ...]:
    """One decision for every file, and one for every image that is used without being there.

    Removals stand last, children before the files they stand on.
    """
    pass_ = _Pass(facts, policy, now, _Uses(facts.use))
    independent = [e for e in facts.entries if e.kind not in _DEPENDENT]
    judged = _keep_parents([(e, pass_.judge(e)) for e in independent], facts.parents)
    staying = {
        e.name
        for e, decision in judged
        if e.path.parent == facts.folder and decision.action is not Action.REMOVE
    }
    present = facts.names
    dependents = [
        pass_.judge_dependent(e, present, staying) for e in facts.entries if e.kind in _DEPENDENT
    ]
    depth = _depths(facts.parents)
    ranked = sorted(judged, key=lambda pair: (-depth.get(pair[0].file_id, 0), pair[0].path))
    everything = [*dependents, *(decision for _, decision in ranked)]
    return (
        *(_say_irregular(path) for path in facts.irregular),
        *_say_absent(facts, pass_.uses),
        *(d for d in everything if d.action is not Action.REMOVE),
        *(d for d in everything if d.action is Action.REMOVE),
    )


def choose_victims(
    facts: Facts, decisions: Iterable[Decision], missing_bytes: int
) -> tuple[Decision, ...]:
    """Of the removals of a plan those, least recently used first, that free ``missing_bytes``.

    What stands on a victim goes before it. Empty when all together are not enough.
    """
    removals = [d for d in decisions if d.action is Action.REMOVE]
    candidates = [d for d in removals if d.kind not in _DEPENDENT]
    idle = _idle_seconds(facts, candidates)
    chosen: list[Decision] = []
    freed = 0
    for victim in sorted(candidates, key=lambda d: -idle[d.path]):
        if freed >= missing_bytes:
            break
        chosen.append(replace(victim, code=Reason.EVICTED, reason=_SENTENCES[Reason.EVICTED]))
        freed += victim.allocated_bytes
    if freed < missing_bytes:
        return ()
    names = {d.path.name for d in chosen}
    templates = [d for d in removals if d.kind is EntryKind.TEMPLATE and owner_name(d) in names]
    return (*templates, *chosen)


def _idle_seconds(facts: Facts, removals: Iterable[Decision]) -> dict[Path, float]:
    """How long each file was of no use, a file being of use to those that stand on it."""
    file_ids = {entry.path: entry.file_id for entry in facts.entries}
    idle: dict[Path, float] = {}
    most: dict[FileId, float] = {}
    for removal in removals:
        file = file_ids[removal.path]
        seconds = min(removal.age_seconds or 0.0, most.get(file, math.inf))
        idle[removal.path] = seconds
        for parent in facts.parents.get(file, ()):
            most[parent] = min(seconds, most.get(parent, seconds))
    return idle


def owner_name(dependent: Decision | Entry) -> str:
    """The entry that a template (``<entry>_<bytes>_<format>``), record or copy belongs to."""
    if dependent.kind is EntryKind.TEMPLATE:
        return dependent.path.name.rsplit("_", 2)[0]
    if dependent.kind is EntryKind.HEALED:
        return dependent.path.name
    return dependent.path.name.rpartition(".")[0]


# What lives and dies with an entry, and is judged after it.
_DEPENDENT = frozenset({EntryKind.TEMPLATE, EntryKind.RECORD, EntryKind.HEALED})

_SENTENCES = {
    Reason.UNKNOWN_NAME: "its name is not one of the cache's: only an operator may remove it",
    Reason.NOT_A_FILE: "a link or a folder stands where a file of the cache would be",
    Reason.KERNEL_BY_ID: "a kernel or ramdisk under its own id, named so by "
    "remove_unused_kernels being off; such files are never aged",
    Reason.IN_PROGRESS: "somebody holds its lock and works on it now",
    Reason.FUTURE: "its time lies in the future, so it counts as just used",
    Reason.REMOVAL_OFF: "nothing uses it, but removing is switched off",
    Reason.UNUSED: "no instance, disk or pin needs it, and it is old enough",
    Reason.EVICTED: "no instance, disk or pin needs it, and its room is wanted",
    Reason.RECORD: "the record of an entry, which goes when the entry goes",
    Reason.ORPHAN_RECORD: "the record of an entry that is gone",
    Reason.LEFTOVER: "unfinished work whose owner is gone",
    Reason.TEMPLATE_IN_USE: "new disks of this size are copied from it",
    Reason.TEMPLATE_STALE: "the entry it stands on is gone or goes",
    Reason.QUARANTINED: "bytes that failed verification, moved aside and old enough",
    Reason.HEALED_COPY: "the good copy of a bad entry that stays, for an operator to use",
    Reason.BACKING_OF_KEPT: "a file that stays stands on it",
    Reason.ABSENT_BUT_USED: "instances refer to image {}, but the cache does not hold it",
}

_REMOVAL_CODES = {
    EntryKind.PARTIAL: Reason.LEFTOVER,
    EntryKind.STAGING: Reason.LEFTOVER,
    EntryKind.TEMPLATE: Reason.TEMPLATE_STALE,
    EntryKind.RECORD: Reason.ORPHAN_RECORD,
    EntryKind.QUARANTINED: Reason.QUARANTINED,
}


class _Uses:
    """Use turned round: asked by entry instead of by image."""

    def __init__(self, use: Use) -> None:
        self._use = use
        self._by_fingerprint = {layout.original_name(i): (i, u) for i, u in use.images.items()}
        self.fingerprints = {name: image for name, (image, _) in self._by_fingerprint.items()}

    def of(self, entry: Entry) -> tuple[Reason, str, tuple[str, ...]] | None:
        """Why and by whom an entry is used, or None: the union of records and disks."""
        disks = self._use.files.get(entry.file_id, ()) + self._use.names.get(entry.name, ())
        on_it = f"{_count(len(disks), 'disk')} {'stands' if len(disks) == 1 else 'stand'} on it"
        recorded = self._recorded(entry)
        if recorded is not None:
            text, users = recorded
            return Reason.USED, f"{text}; {on_it}" if disks else text, users + disks
        if not disks:
            return None
        if entry.kind not in (EntryKind.ORIGINAL, EntryKind.RESIZED, EntryKind.KERNEL):
            return Reason.USED, on_it, disks
        return Reason.USED_UNKNOWN_IMAGE, f"{on_it}, but no known instance has its image", disks

    def _recorded(self, entry: Entry) -> tuple[str, tuple[str, ...]] | None:
        match entry.kind:
            case EntryKind.SWAP | EntryKind.EPHEMERAL:
                users = self._use.generated.get(layout.generated_stem(entry.name), ())
                have = "has" if len(users) == 1 else "have"
                text = f"{_count(len(users), 'instance')} {have} such a disk"
                return (text, users) if users else None
            case EntryKind.ORIGINAL | EntryKind.RESIZED | EntryKind.KERNEL | EntryKind.UNKNOWN:
                return self._of_image(entry)
            case _:
                return None

    def _of_image(self, entry: Entry) -> tuple[str, tuple[str, ...]] | None:
        found = self._by_fingerprint.get(layout.parent_name(entry.name))
        if found is None and entry.name in self._use.images:
            found = entry.name, self._use.images[entry.name]
        if found is None:
            return None
        image, use = found
        here = _count(use.local, "instance")
        return f"image {image} is used by {here} here, {use.remote} elsewhere", use.instances


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


@dataclass(frozen=True, slots=True)
class _Pass:
    facts: Facts
    policy: Policy
    now: float
    uses: _Uses

    def judge(self, entry: Entry) -> Decision:
        if entry.path in self.facts.busy:
            return self._say(entry, Action.KEEP, Reason.IN_PROGRESS)
        if used := self.uses.of(entry):
            code, sentence, users = used
            return self._say(entry, Action.TOUCH, code, sentence, users)
        if entry.kind is EntryKind.UNKNOWN:
            return self._say(entry, Action.REPORT, Reason.UNKNOWN_NAME)
        pin = self.facts.pins.get(entry.name)
        if pin is not None and pin.holds(self.now):
            return self._say(entry, Action.TOUCH, Reason.PINNED, f"pinned: {pin.reason}")
        if entry.kind is EntryKind.KERNEL:
            return self._say(entry, Action.KEEP, Reason.KERNEL_BY_ID)
        return self._age_out(entry)

    def judge_dependent(
        self, entry: Entry, present: Collection[str], staying: Collection[str]
    ) -> Decision:
        if entry.path in self.facts.busy:
            return self._say(entry, Action.KEEP, Reason.IN_PROGRESS)
        if used := self.uses.of(entry):
            return self._say(entry, Action.TOUCH, *used)
        if entry.kind is EntryKind.RECORD and owner_name(entry) in present:
            return self._say(entry, Action.KEEP, Reason.RECORD)
        if entry.kind is EntryKind.TEMPLATE and owner_name(entry) in staying:
            return self._say(entry, Action.KEEP, Reason.TEMPLATE_IN_USE)
        if entry.kind is EntryKind.HEALED and owner_name(entry) in staying:
            return self._say(entry, Action.KEEP, Reason.HEALED_COPY)
        return self._age_out(entry)

    def _age_out(self, entry: Entry) -> Decision:
        if self.policy.is_young(entry, self.now):
            age, least = self.now - entry.mtime, self.policy.min_age(entry.kind)
            if age < 0:
                return self._say(entry, Action.KEEP, Reason.FUTURE)
            text = f"unused; last seen in use {age:.0f} s ago, it may go after {least:.0f} s"
            return self._say(entry, Action.KEEP, Reason.YOUNG, text)
        if self.facts.missing:
            text = f"unused as far as is known, but {'; '.join(self.facts.missing)}"
            return self._say(entry, Action.KEEP, Reason.EVIDENCE_MISSING, text)
        if not self.policy.remove_unused:
            return self._say(entry, Action.KEEP, Reason.REMOVAL_OFF)
        return self._say(entry, Action.REMOVE, _REMOVAL_CODES.get(entry.kind, Reason.UNUSED))

    def _say(
        self,
        entry: Entry,
        action: Action,
        code: Reason,
        sentence: str = "",
        used_by: tuple[str, ...] = (),
    ) -> Decision:
        return Decision(
            path=entry.path,
            kind=entry.kind,
            action=action,
            code=code,
            reason=sentence or _SENTENCES[code],
            age_seconds=self.now - entry.mtime,
            allocated_bytes=entry.allocated_bytes,
            used_by=used_by,
        )


def _keep_parents(
    judged: list[tuple[Entry, Decision]], parents: Mapping[FileId, tuple[FileId, ...]]
) -> list[tuple[Entry, Decision]]:
    """Whatever a staying file stands on stays too, however far down."""
    waiting = [e.file_id for e, decision in judged if decision.action is not Action.REMOVE]
    needed: set[FileId] = set()
    while waiting:
        below = {*parents.get(waiting.pop(), ())} - needed
        needed |= below
        waiting += below
    code = Reason.BACKING_OF_KEPT
    return [
        (e, replace(decision, action=Action.KEEP, code=code, reason=_SENTENCES[code]))
        if decision.action is Action.REMOVE and e.file_id in needed
        else (e, decision)
        for e, decision in judged
    ]


def _depths(parents: Mapping[FileId, tuple[FileId, ...]]) -> dict[FileId, int]:
    """How many files each file stands on at most, a file that stands on itself once."""
    depths: dict[FileId, int] = {}

    def depth(file: FileId, above: frozenset[FileId]) -> int:
        if file in above:
            return 0
        if file not in depths:
            below = (depth(parent, above | {file}) + 1 for parent in parents.get(file, ()))
            depths[file] = max(below, default=0)
        return depths[file]

    for file in parents:
        depth(file, frozenset())
    return depths


def _say_irregular(path: Path) -> Decision:
    code = Reason.NOT_A_FILE
    return Decision(path, EntryKind.UNKNOWN, Action.REPORT, code, _SENTENCES[code])


def _say_absent(facts: Facts, uses: _Uses) -> list[Decision]:
    there = {e.name for e in facts.entries if e.path.parent == facts.folder}
    there |= {layout.parent_name(name) for name in facts.names}
    code = Reason.ABSENT_BUT_USED
    return [
        Decision(
            path=facts.folder / name,
            kind=EntryKind.ORIGINAL,
            action=Action.REPORT,
            code=code,
            reason=_SENTENCES[code].format(image),
            used_by=facts.use.images[image].instances,
        )
        for name, image in sorted(uses.fingerprints.items())
        if name not in there and image not in there
    ]
