"""Measuring side by side: A B A B, so that a busy machine slows both alike."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from figure import Spread

Command = Sequence[str | Path]

PATIENCE_SECONDS = 240.0
_GLANCE_SECONDS = 0.25
_QUIET = 0.1


def interleave(
    runs: int,
    *acts: Callable[[], float],
    scale: float = 1.0,
    before: Callable[[], None] = lambda: None,
) -> tuple[Spread, ...]:
    """Run ``acts`` in turn, ``runs`` times after one to warm up; each returns its seconds.

    ``before`` brings the machine into the same state ahead of each, for as long as it takes;
    then a quiet moment is waited for, in all not longer than :data:`PATIENCE_SECONDS`.
    """
    patience = PATIENCE_SECONDS
    taken: list[list[float]] = [[] for _ in acts]
    for turn in range(1 + runs):
        for act, seconds in zip(acts, taken, strict=True):
            before()
            patience -= wait_for_quiet(patience)
            value = act()
            if turn > 0:
                seconds.append(value)
    return tuple(Spread.of(seconds, scale) for seconds in taken)


def wait_for_quiet(most_seconds: float) -> float:
    """Wait until other programs use little of the processors; the seconds that took."""
    started = time.monotonic()
    while (waited := time.monotonic() - started) < most_seconds:
        busy, total = _processor_ticks()
        time.sleep(_GLANCE_SECONDS)
        busy_then, total_then = _processor_ticks()
        if busy_then - busy <= _QUIET * (total_then - total):
            break
    return waited


def _processor_ticks() -> tuple[int, int]:
    """Ticks of all processors since the start, busy and in all; see proc_stat(5)."""
    with open("/proc/stat") as file:
        ticks = [int(field) for field in file.readline().split()[1:9]]
    idle, waiting = ticks[3:5]
    return sum(ticks) - idle - waiting, sum(ticks)


def clock(act: Callable[[], object]) -> float:
    """The seconds ``act`` takes."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def clock_commands(*commands: Command) -> float:
    """The seconds some programs take one after the other, their start included."""

    def run_all() -> None:
        for command in commands:
            run(command)

    return clock(run_all)


def run(command: Command) -> None:
    """Run a program silently; CalledProcessError shows what it said."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {said}")
