"""Facts for the plan, made from little: a cache that is nowhere but in the test's mind."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from basecache.cache import layout as layout_
from basecache.cache.layout import Layout
from basecache.cache.pins import Pin
from basecache.cache.plan import Facts, Policy, plan_sweep
from basecache.model import Action, Decision, Entry, EntryKind, FileId

NOW = 1_700_000_000.0
HOUR = 3600.0
DAY = 24 * HOUR
OLD = 3 * DAY
LAYOUT = Layout(Path("/instances"))
POLICY = Policy()

_inodes = itertools.count(1000)


def make_entry(
    name: str,
    *,
    age: float = OLD,
    kind: EntryKind | None = None,
    folder: Path = LAYOUT.base,
    file_id: FileId | None = None,
    allocated: int = 4096,
) -> Entry:
    """A file of the cache, last seen in use ``age`` seconds before NOW."""
    return Entry(
        name=name,
        path=folder / name,
        kind=layout_.recognise(name) if kind is None else kind,
        file_id=file_id or FileId(1, next(_inodes)),
        size_bytes=allocated,
        allocated_bytes=allocated,
        mtime_ns=int((NOW - age) * 1e9),
    )


def make_record(name: str, *, age: float = OLD) -> Entry:
    return make_entry(f"{name}.info", age=age, kind=EntryKind.RECORD)


def make_template(owner: str, *, age: float = OLD, size: int = 1 << 30) -> Entry:
    name = LAYOUT.template(owner, size, "raw").name
    return make_entry(name, age=age, kind=EntryKind.TEMPLATE, folder=LAYOUT.templates)


def make_staging(owner: str, *, age: float = OLD) -> Entry:
    name = f"{owner}.0123456789abcdef.part"
    return make_entry(name, age=age, kind=EntryKind.STAGING, folder=LAYOUT.staging)


def make_pin(name: str, *, until: float | None = None) -> Pin:
    return Pin(name, "a reason", until, NOW - DAY)


def make_facts(entries: Iterable[Entry], **facts: Any) -> Facts:
    return Facts(folder=LAYOUT.base, entries=tuple(entries), **facts)


def stand_on(*pairs: tuple[Entry, Entry]) -> Mapping[FileId, tuple[FileId, ...]]:
    """``parents`` by (child, parent) pairs, each child with all that is below it."""
    direct: dict[FileId, list[FileId]] = {}
    for child, parent in pairs:
        direct.setdefault(child.file_id, []).append(parent.file_id)

    def below(file: FileId, seen: tuple[FileId, ...]) -> tuple[FileId, ...]:
        for parent in direct.get(file, ()):
            if parent not in seen:
                seen = below(parent, (*seen, parent))
        return seen

    return {file: below(file, ()) for file in direct}


def plan(facts: Facts, policy: Policy = POLICY, now: float = NOW) -> tuple[Decision, ...]:
    return plan_sweep(facts, policy, now)


def decide(facts: Facts, entry: Entry, policy: Policy = POLICY) -> Decision:
    """The one decision on ``entry``."""
    (decision,) = [d for d in plan(facts, policy) if d.path == entry.path]
    return decision


def removed(decisions: Iterable[Decision]) -> list[Path]:
    return [d.path for d in decisions if d.action is Action.REMOVE]
