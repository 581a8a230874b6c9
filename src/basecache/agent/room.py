"""Room for what comes in: admitted before it is fetched, made by evicting what may go.

under the admission lock     so that two downloads are not given the same room
measure                      the device, the cache, what others still need
admit                        pure; fits: write the promise down, done
evict                        the sweep's plan with a lower age, the least recently used first,
                             never what is used, pinned or younger than its floor
measure and admit again      or NoSpace with both numbers
"""

from __future__ import annotations

import time
from dataclasses import replace

from basecache import errors, events
from basecache.agent.gather import gather
from basecache.agent.parts import Parts
from basecache.agent.sweep import remove_planned, sole_sweeper
from basecache.cache import locks, space
from basecache.cache.plan import choose_victims, plan_sweep
from basecache.cache.store import Stage
from basecache.images.convert import ToRaw, plan_conversion
from basecache.model import Image

_PATIENCE_SECONDS = 30.0
_READ_AS_RAW = {"ami": "raw", "aki": "raw", "ari": "raw", None: "raw"}


def admit(
    parts: Parts, stage: Stage, image: Image, *, virtual_size_bytes: int | None = None
) -> None:
    """Promise the room that bringing in ``image`` takes; NoSpace when it cannot be had.

    Once ``virtual_size_bytes`` is known by looking, the promise is made anew with it.
    """
    needed = needed_bytes(image, virtual_size_bytes, force_raw=parts.rules.force_raw_images)
    layout = parts.store.layout
    with locks.hold(layout.own_lock("admission")):
        shortage = _shortage(parts, stage, needed)
        if shortage is not None:
            make_room(parts, shortage.missing_bytes)
            shortage = _shortage(parts, stage, needed)
        if shortage is not None:
            still = max(0, needed - space.taken(stage))
            raise errors.NoSpace(layout.base, still, shortage.available_bytes, shortage.why)
        space.promise(stage, needed)


def needed_bytes(image: Image, virtual_size_bytes: int | None, *, force_raw: bool) -> int:
    """What a download and its conversion take at most, as far as can be told. Pure.

    A size nobody knows counts as nothing: writing then meets the device's own limit.
    """
    download = image.size_bytes or 0
    if virtual_size_bytes is not None:
        return download + virtual_size_bytes
    if not is_to_be_converted(image, force_raw=force_raw):
        return download
    return download + (image.virtual_size_bytes or download)


def is_to_be_converted(image: Image, *, force_raw: bool) -> bool:
    """Whether a conversion is to follow, by what is declared of the image. Pure."""
    declared = _READ_AS_RAW.get(image.disk_format, image.disk_format) or "raw"
    return isinstance(plan_conversion(declared, force_raw=force_raw), ToRaw)


def _shortage(parts: Parts, stage: Stage, needed: int) -> space.Shortage | None:
    now = space.measure(parts.store.layout, besides=stage)
    still_needed = max(0, needed - space.taken(stage))
    return space.admit(still_needed, now, parts.rules.limits(now.device_bytes))


def make_room(parts: Parts, missing_bytes: int) -> int:
    """Evict what frees ``missing_bytes``, or nothing when that much cannot be freed.

    Returns the bytes freed. Missing evidence, or a sweep that goes on, means that nothing goes,
    and is told.
    """
    rules = parts.rules
    policy = replace(
        rules.sweep,
        original_min_age_seconds=rules.eviction_min_age_seconds,
        resized_min_age_seconds=rules.eviction_min_age_seconds,
    )
    try:
        with sole_sweeper(parts, patience_seconds=_PATIENCE_SECONDS):
            gathered = gather(parts)
            if gathered.facts.missing:
                parts.emit(events.Trouble("making room", "; ".join(gathered.facts.missing)))
            planned = plan_sweep(gathered.facts, policy, time.time())
            victims = choose_victims(gathered.facts, planned, missing_bytes)
            return remove_planned(parts, gathered, victims, policy).freed_bytes
    except errors.Busy as error:
        parts.emit(events.Trouble("making room", error.message))
        return 0
