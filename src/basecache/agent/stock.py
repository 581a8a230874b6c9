"""What the cache holds: listed, shown, pinned, removed by name, summed up."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from basecache import errors
from basecache.agent.ensure import identify
from basecache.agent.entry import valid_record
from basecache.agent.gather import gather, list_entries
from basecache.agent.parts import Parts
from basecache.agent.sweep import remove_planned, sole_sweeper
from basecache.cache import layout as layout_
from basecache.cache import pins, records, space
from basecache.cache.pins import Pin
from basecache.cache.plan import Policy, plan_sweep
from basecache.model import CONTENT_KINDS, Action, Decision, Entry, EntryKind, Reason


@dataclass(frozen=True, slots=True)
class Held:
    """One entry with what its record and its pin say; ``age_seconds`` since last seen in use."""

    entry: Entry
    record: records.Record
    pin: Pin | None
    age_seconds: float


@dataclass(frozen=True, slots=True)
class Stock:
    """The cache in figures, bytes where not said otherwise; ``entries`` by kind."""

    folder: str
    entries: dict[str, int]
    allocated_bytes: int
    device_bytes: int
    free_bytes: int
    promised_bytes: int
    max_size_bytes: int | None
    min_free_bytes: int
    pinned: int


def list_held(parts: Parts) -> Iterator[Held]:
    """Every entry, by name; nothing where there is no cache folder."""
    entries, _ = list_entries(parts.store.layout)
    held = pins.read_all(parts.store.layout, parts.emit)
    now = time.time()
    for entry in sorted(entries, key=lambda e: e.name):
        if entry.kind in CONTENT_KINDS:
            try:
                record = valid_record(parts, entry)
            except errors.StorageFailed:
                if entry.path.exists():
                    raise
                continue
            yield Held(entry, record, _holding(held.get(entry.name), now), now - entry.mtime)


def _holding(pin: Pin | None, now: float) -> Pin | None:
    return pin if pin is not None and pin.holds(now) else None


def show_held(parts: Parts, what: str) -> Held:
    """One entry, by its name or its image's id; NotFound."""
    name = resolve_name(parts, what)
    entry = parts.store.find(name)
    if entry is None:
        raise errors.NotFound("entry", what, str(parts.store.layout.base))
    now = time.time()
    pin = _holding(pins.read_all(parts.store.layout, parts.emit).get(name), now)
    return Held(entry, valid_record(parts, entry), pin, now - entry.mtime)


def resolve_name(parts: Parts, what: str) -> str:
    """The entry that a person means by its name, its image's id, or its image's name.

    The name of an image is looked for in the records of what is here; UsageError when several
    entries have it.
    """
    image_id = identify(parts, what)
    if image_id == what and layout_.recognise(what) is not EntryKind.UNKNOWN:
        known = parts.store.find(what) is not None
        if known or layout_.recognise(what) is not EntryKind.KERNEL:
            return what
    name = layout_.original_name(layout_.require_image_id(image_id))
    return name if parts.store.find(name) is not None else _find_named(parts, what) or name


def _find_named(parts: Parts, image_name: str) -> str | None:
    """The entry whose record has this name of an image."""
    held = [h.entry.name for h in list_held(parts) if h.record.text("image_name") == image_name]
    if len(held) > 1:
        raise errors.UsageError(
            f"{len(held)} entries are of an image named {image_name!r}",
            f"name one: {', '.join(held)}",
        )
    return held[0] if held else None


def pin_entry(
    parts: Parts, what: str, *, reason: str = "pinned by hand", until: float | None = None
) -> Pin:
    """Keep an entry, there or still to come, until a time (seconds since the epoch) or for good."""
    name = resolve_name(parts, what)
    asked = identify(parts, what)
    image_id = asked if layout_.original_name(asked) == name else None
    if asked == what and image_id is not None and parts.store.find(name) is None:
        name, image_id = _name_at_source(parts, what)
    parts.store.prepare()
    return pins.write(parts.store.layout, name, reason=reason, until=until, image_id=image_id)


def _name_at_source(parts: Parts, what: str) -> tuple[str, str]:
    """The entry to come of an image that only its source knows so far, by id or by name.

    Without a source, or while it is away, only what looks like an id can be pinned beforehand.
    """
    try:
        if parts.source is None:
            raise errors.NotFound("image", what, "the cache, and no image source is set")
        image_id = parts.source.describe(what).id
    except errors.BasecacheError:
        if layout_.recognise(what) is EntryKind.UNKNOWN:
            raise
        image_id = what
    return layout_.original_name(image_id), image_id


def unpin_entry(parts: Parts, what: str) -> None:
    """Take a pin away; NotFound when there is none."""
    try:
        pins.remove(parts.store.layout, resolve_name(parts, what))
    except errors.NotFound as error:
        raise errors.NotFound("pin", what, error.where) from None


def remove_entry(parts: Parts, what: str) -> Decision:
    """Remove one entry now, whatever its age, unless it is used or pinned.

    InUse with its users; EvidenceMissing when use cannot be told; NotFound.
    """
    name = resolve_name(parts, what)
    entry = parts.store.find(name)
    if entry is None:
        raise errors.NotFound("entry", what, str(parts.store.layout.base))
    if layout_.recognise(name) is EntryKind.UNKNOWN:
        raise errors.InUse(entry.path, "its name is not one of the cache's")
    policy = Policy(0.0, 0.0, remove_unused_kernels=parts.rules.remove_unused_kernels)
    with sole_sweeper(parts):
        gathered = gather(parts)
        planned = plan_sweep(gathered.facts, policy, time.time())
        decision = next(d for d in planned if d.path == entry.path)
        if decision.code is Reason.EVIDENCE_MISSING:
            raise errors.EvidenceMissing(gathered.facts.missing)
        if decision.action is not Action.REMOVE:
            raise errors.InUse(entry.path, decision.reason, decision.used_by)
        own = [d for d in planned if d.action is Action.REMOVE and _goes_with(d, name)]
        outcome = remove_planned(parts, gathered, own, policy)
    if entry.path not in outcome.removed:
        why = "; ".join(failure.why for failure in (*outcome.spared, *outcome.errors))
        raise errors.InUse(entry.path, why or "it went meanwhile")
    return decision


def _goes_with(decision: Decision, name: str) -> bool:
    if decision.kind is EntryKind.TEMPLATE:
        return decision.path.name.rsplit("_", 2)[0] == name
    return decision.path.name == name


def measure_stock(parts: Parts) -> Stock:
    """The cache in figures."""
    layout = parts.store.layout
    entries, _ = list_entries(layout)
    now = space.measure(layout)
    limits = parts.rules.limits(now.device_bytes)
    kinds = Counter(str(e.kind) for e in entries)
    held = pins.read_all(layout, parts.emit).values()
    return Stock(
        folder=str(layout.base),
        entries=dict(sorted(kinds.items())),
        allocated_bytes=now.cache_bytes,
        device_bytes=now.device_bytes,
        free_bytes=now.free_bytes,
        promised_bytes=now.promised_bytes,
        max_size_bytes=limits.max_size_bytes,
        min_free_bytes=limits.min_free_bytes,
        pinned=sum(pin.holds(time.time()) for pin in held),
    )
