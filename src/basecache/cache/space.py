"""Room in the cache: who has promised themselves how much, and whether more will fit.

A download or conversion writes down what it needs, ``.staging/<name>.<token>.plan``, before it
starts. What it needs still counts as taken for everybody else, less what its files already
take, for as long as its entry's lock is held; a plan whose owner died counts for nothing.
The numbers are allocated blocks on the cache's own device. Deciding is pure (:func:`admit`).
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from basecache import errors
from basecache.cache import locks, records
from basecache.cache import store as store_
from basecache.cache.layout import Layout

PLAN = "plan"


@dataclass(frozen=True, slots=True)
class Space:
    """The cache's device and folder at one moment, in bytes.

    ``promised_bytes`` is what work in progress will still take.
    """

    device_bytes: int
    free_bytes: int
    cache_bytes: int
    promised_bytes: int


@dataclass(frozen=True, slots=True)
class Limits:
    """``max_size_bytes`` is the cache's own bound (None: none); ``min_free_bytes`` stay free."""

    max_size_bytes: int | None = None
    min_free_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Shortage:
    """How many bytes must go before the rest fits, and what the bound is called."""

    missing_bytes: int
    available_bytes: int
    why: str


def admit(needed_bytes: int, space: Space, limits: Limits) -> Shortage | None:
    """None when ``needed_bytes`` more fit, else the larger of the shortages."""
    free = space.free_bytes - space.promised_bytes - limits.min_free_bytes
    shortages = [Shortage(needed_bytes - free, max(free, 0), "free space on the cache's device")]
    if limits.max_size_bytes is not None:
        room = limits.max_size_bytes - space.cache_bytes - space.promised_bytes
        shortages.append(
            Shortage(needed_bytes - room, max(room, 0), "[basecache] max_size of the cache")
        )
    worst = max(shortages, key=lambda shortage: shortage.missing_bytes)
    return worst if worst.missing_bytes > 0 else None


def measure(layout: Layout, *, besides: store_.Stage | None = None) -> Space:
    """The space as it is now; what the stage ``besides`` itself was promised does not count."""
    try:
        status = os.statvfs(layout.base)
        return Space(
            device_bytes=status.f_blocks * status.f_frsize,
            free_bytes=status.f_bavail * status.f_frsize,
            cache_bytes=allocated(layout.base),
            promised_bytes=promised(layout, besides),
        )
    except OSError as error:
        raise errors.from_os(error, layout.base, "measuring") from error


def allocated(folder: Path) -> int:
    """The bytes that the regular files under ``folder`` take, each inode once."""
    seen: dict[int, int] = {}
    _add_allocated(os.fspath(folder), seen)
    return sum(seen.values())


def _add_allocated(folder: str, seen: dict[int, int]) -> None:
    try:
        with os.scandir(folder) as found:
            for item in found:
                if item.is_dir(follow_symlinks=False):
                    _add_allocated(item.path, seen)
                elif item.is_file(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError):
                        status = item.stat(follow_symlinks=False)
                        seen[status.st_ino] = status.st_blocks * 512
    except FileNotFoundError:
        return


def promised(layout: Layout, besides: store_.Stage | None = None) -> int:
    """What the work in progress of every process will still take."""
    own = None if besides is None else besides.path(PLAN)
    plans = layout.staging.glob(f"*.{PLAN}")
    return sum(_still_needed(layout, path) for path in plans if path != own)


def _still_needed(layout: Layout, plan: Path) -> int:
    staged = store_.staged_name(plan.name)
    if staged is None or not locks.is_held(layout.lock(staged[0])):
        return 0
    try:
        needed = int(json.loads(plan.read_bytes())["needed_bytes"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return 0
    return max(0, needed - taken(store_.Stage(staged[0], layout.staging, staged[1])))


def taken(stage: store_.Stage) -> int:
    """The bytes that the files of a stage take by now."""
    total = 0
    for path in stage.folder.glob(f"*.{stage.token}.*"):
        try:
            total += path.lstat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def promise(stage: store_.Stage, needed_bytes: int) -> None:
    """Write down what the work on ``stage`` needs; it goes with the stage."""
    content = json.dumps({"needed_bytes": needed_bytes}).encode()
    records.replace_file(stage.path(PLAN), content, durable=False)
