"""Measuring side by side: A B A B, so that a busy machine slows both alike."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from figure import Spread

Command = Sequence[str | Path]


def interleave(
    runs: int, *acts: Callable[[], float], scale: float = 1.0, warm_up: int = 1
) -> tuple[Spread, ...]:
    """Run ``acts`` in turn, ``runs`` times after the warm-up; each returns the seconds it took."""
    taken: list[list[float]] = [[] for _ in acts]
    for turn in range(warm_up + runs):
        for act, seconds in zip(acts, taken, strict=True):
            value = act()
            if turn >= warm_up:
                seconds.append(value)
    return tuple(Spread.of(seconds, scale) for seconds in taken)


def clock(act: Callable[[], object]) -> float:
    """The seconds ``act`` takes."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def clock_commands(*commands: Command) -> float:
    """The seconds some programs take one after the other, their start included."""
    return clock(lambda: [run(command) for command in commands])


def run(command: Command) -> None:
    """Run a program silently; CalledProcessError shows what it said."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {said}")
