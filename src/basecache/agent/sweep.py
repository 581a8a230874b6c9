"""The sweep: gather, plan, apply.

    one sweeper at a time            a lock on the storage, so a second sweep says Busy
    gather                           agent/gather.py; evidence that is missing is named
    plan                             cache/plan.py, pure; --dry-run prints it and stops here
    refresh what is used or pinned   so that nobody's age limit, Nova's neither, is reached
    remove, in batches               take the entries' locks without waiting,
                                     read again every instance folder that is new or changed,
                                     look again: same file, same time, still unused, still there
                                     remove; children went before parents

A removal that fails is reported and tried again next time; it never stops the pass. Dying
anywhere leaves either the file or no file: at worst an orphan record, which the next pass takes.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from basecache import errors, events
from basecache.agent.gather import Gathered, gather, guard_of
from basecache.agent.parts import Parts
from basecache.cache import locks, pins, sharers
from basecache.cache.plan import Policy, Use, plan_sweep
from basecache.cache.store import entry_of
from basecache.model import Action, Decision, Entry, FileId
from basecache.usage.chains import read_chains
from basecache.usage.references import References

_BATCH = 64


@dataclass(frozen=True, slots=True)
class Failure:
    """What could not be done to a file: its removal, or refreshing its time."""

    path: Path
    why: str


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What a pass decided and did.

    ``removed`` are paths; a dry run removes none. ``spared`` were to be removed and stayed, since
    another look under their lock showed a reason; they are no errors.
    """

    decisions: tuple[Decision, ...] = ()
    missing_evidence: tuple[str, ...] = ()
    removed: tuple[Path, ...] = ()
    spared: tuple[Failure, ...] = ()
    errors: tuple[Failure, ...] = ()
    freed_bytes: int = 0
    disks_read: int = 0
    references: References = field(default_factory=lambda: References({}, {}, {}, frozenset()))
    dry_run: bool = False


def sweep(parts: Parts, *, dry_run: bool = False) -> SweepReport:
    """One pass over the cache. Quiet and empty where there is no cache folder.

    Busy when another sweep of this storage goes on. Missing evidence is no error here: it is in
    the report, and nothing was removed.
    """
    layout = parts.store.layout
    if not os.path.lexists(layout.base):
        return SweepReport(dry_run=dry_run)
    if dry_run:
        return _plan(parts, dry_run=True)[1]
    with sole_sweeper(parts):
        unregistered = _register(parts)
        gathered, report = _plan(parts, dry_run=False)
        failures = [*unregistered, *_refresh(parts, report.decisions)]
        removals = [d for d in report.decisions if d.action is Action.REMOVE]
        outcome = remove_planned(parts, gathered, removals, parts.rules.sweep)
        pins.drop_ended(layout, parts.emit)
    return SweepReport(
        decisions=report.decisions,
        missing_evidence=report.missing_evidence,
        removed=tuple(outcome.removed),
        spared=tuple(outcome.spared),
        errors=(*failures, *outcome.errors),
        freed_bytes=outcome.freed_bytes,
        disks_read=report.disks_read,
        references=report.references,
    )


@contextlib.contextmanager
def sole_sweeper(parts: Parts, *, patience_seconds: float = 0.0) -> Iterator[None]:
    """Be the one that removes on this storage; Busy when another still is after that long."""
    lock = parts.store.layout.own_lock("sweep")
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locks.hold(lock, timeout_seconds=patience_seconds))
        except errors.Busy:
            raise errors.Busy("the sweep", "another sweep of this storage goes on") from None
        yield


def _plan(parts: Parts, *, dry_run: bool) -> tuple[Gathered, SweepReport]:
    gathered = gather(parts)
    decisions = plan_sweep(gathered.facts, parts.rules.sweep, time.time())
    report = SweepReport(
        decisions=decisions,
        missing_evidence=gathered.facts.missing,
        disks_read=gathered.chains.disks,
        references=gathered.references,
        dry_run=dry_run,
    )
    return gathered, report


def _register(parts: Parts) -> list[Failure]:
    try:
        sharers.register(parts.store.layout, parts.host)
    except errors.BasecacheError as error:
        return [Failure(parts.store.layout.registry, error.message)]
    return []


def _refresh(parts: Parts, decisions: Iterable[Decision]) -> Iterator[Failure]:
    for decision in decisions:
        if decision.action is Action.TOUCH:
            try:
                parts.store.touch(decision.path)
            except errors.BasecacheError as error:
                yield Failure(decision.path, error.message)
        if decision.action is not Action.REMOVE:
            parts.emit(
                events.Decided(decision.path, decision.action, decision.code, decision.reason)
            )


@dataclass(slots=True)
class Removals:
    """What removing came to, file by file."""

    removed: list[Path] = field(default_factory=list)
    spared: list[Failure] = field(default_factory=list)
    errors: list[Failure] = field(default_factory=list)
    freed_bytes: int = 0


def remove_planned(
    parts: Parts, gathered: Gathered, removals: Sequence[Decision], policy: Policy
) -> Removals:
    """Carry out the removals of a plan, each after another look under its lock."""
    pass_ = _Removal(parts, gathered, policy)
    for start in range(0, len(removals), _BATCH):
        pass_.remove_batch(removals[start : start + _BATCH])
    return pass_.outcome


class _Removal:
    """The removals of one pass: what was gathered, what is still there, how it went."""

    def __init__(self, parts: Parts, gathered: Gathered, policy: Policy) -> None:
        self.outcome = Removals()
        self._parts = parts
        self._policy = policy
        self._chains = gathered.chains
        self._entries = {entry.path: entry for entry in gathered.facts.entries}
        self._children = _children(gathered.facts.parents)
        self._there = {entry.file_id for entry in gathered.facts.entries}

    def remove_batch(self, batch: Iterable[Decision]) -> None:
        """Take the batch's locks without waiting, read what changed once, and go through it."""
        with contextlib.ExitStack() as held:
            guards: set[Path] = set()
            ready = [decision for decision in batch if self._take_lock(held, guards, decision)]
            use, missing = self._look_again()
            for decision in ready:
                self._remove_one(decision, use, missing)

    def _spare(self, path: Path, why: str) -> None:
        self.outcome.spared.append(Failure(path, why))

    def _take_lock(self, held: contextlib.ExitStack, guards: set[Path], decision: Decision) -> bool:
        guard = guard_of(self._parts.store.layout, self._entries[decision.path])
        if guard in guards:
            return True
        try:
            held.enter_context(locks.hold(guard, wait=False))
        except errors.Busy as error:
            self._spare(decision.path, error.message)
            return False
        except errors.BasecacheError as error:
            self.outcome.errors.append(Failure(decision.path, error.message))
            return False
        guards.add(guard)
        return True

    def _look_again(self) -> tuple[Use, tuple[str, ...]]:
        """Use by the disks of every instance folder that is new or changed since gathering."""
        chains = read_chains(
            self._parts.store.layout,
            set_aside=self._parts.set_aside,
            since=self._chains,
            emit=self._parts.emit,
        )
        return Use(files=chains.files, names=chains.names), chains.missing

    def _remove_one(self, decision: Decision, use: Use, missing: tuple[str, ...]) -> None:
        entry = self._entries[decision.path]
        try:
            why = self._why_not(entry, use, missing)
            if why is not None:
                self._spare(entry.path, why)
                return
            self._parts.store.remove(entry)
        except errors.BasecacheError as error:
            self.outcome.errors.append(Failure(entry.path, error.message))
            return
        self._there.discard(entry.file_id)
        self.outcome.removed.append(entry.path)
        self.outcome.freed_bytes += decision.allocated_bytes
        self._parts.emit(events.Decided(entry.path, Action.REMOVE, decision.code, decision.reason))

    def _why_not(self, entry: Entry, use: Use, missing: tuple[str, ...]) -> str | None:
        now_there = _look(entry)
        if now_there is None or now_there.file_id != entry.file_id:
            return "another file has taken its place since it was looked at"
        if now_there.mtime_ns != entry.mtime_ns:
            return "it was used since it was looked at"
        if self._policy.is_young(entry, time.time()):
            return "it is too young"
        if missing:
            return "; ".join(missing)
        if users := use.files.get(entry.file_id, ()) + use.names.get(entry.name, ()):
            return f"{users[0]} stands on it by now"
        if children := self._children.get(entry.file_id, set()) & self._there:
            return f"{len(children)} files of the cache stand on it and are still there"
        return None


def _look(entry: Entry) -> Entry | None:
    """The entry as it is now. NFS asks the server again when a file is opened, not when only its
    attributes are wanted: another host's touch would stay unseen for up to a minute."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(entry.path, flags)
        try:
            return entry_of(entry.path, entry.kind, os.fstat(descriptor))
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise errors.from_os(error, entry.path, "looking at") from error


def _children(parents: Mapping[FileId, tuple[FileId, ...]]) -> dict[FileId, set[FileId]]:
    children: dict[FileId, set[FileId]] = {}
    for child, below in parents.items():
        for parent in below:
            children.setdefault(parent, set()).add(child)
    return children
