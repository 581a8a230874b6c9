"""A sweep of 1,000, 10,000 and 100,000 instances over 100 bases.

Each sweep runs in a process of its own, with the instances file and the disks as evidence, and
finds one base to remove, so that the second look at the instance folders before a removal is in
the time. The yardstick reads the first bytes of every file, too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from figure import Figure, Spread
from place import Place
from timing import clock_commands, interleave
from tree import Tree, plant

MOST_MS_PER_DISK = 0.08
MOST_BYTES = 300e6
MOST_GROWTH = 1.25
_YARDSTICK = "find -type f -exec head -c 512"


def measure(place: Place) -> Iterator[Figure]:
    counts = (1000, 5000) if place.quick else (1000, 10_000, 100_000)
    per_disk: list[Spread] = []
    peaks: list[float] = []
    with place.folder("sweep") as root:
        tree = plant(root)
        for count in counts:
            tree.grow(count)
            peaks.clear()
            runs = place.choose(5 if count > 10_000 else 9, 3)
            ours, other = interleave(
                runs,
                lambda: _sweep_once(tree, peaks),
                lambda: _read_heads(tree),
                scale=1e3 / count,
            )
            per_disk.append(ours)
            yield Figure(
                name=f"sweep of {count:,} instances",
                ours=ours,
                other=other,
                other_name=_YARDSTICK,
                unit="ms per disk",
                goal=f"at most {MOST_MS_PER_DISK} ms per disk",
                met=ours.median <= MOST_MS_PER_DISK,
            )
    yield _growth(counts, per_disk)
    yield Figure(
        name=f"sweep of {counts[-1]:,} instances, memory",
        ours=Spread.of(peaks, 1e-6),
        other=None,
        other_name="",
        unit="MB resident",
        goal=f"under {MOST_BYTES / 1e6:.0f} MB",
        met=max(peaks) < MOST_BYTES,
    )


def _growth(counts: tuple[int, ...], per_disk: list[Spread]) -> Figure:
    return Figure(
        name=f"sweep, time per disk at {counts[-1]:,} against at {counts[-2]:,}",
        ours=per_disk[-1],
        other=per_disk[-2],
        other_name=f"the sweep of {counts[-2]:,}",
        unit="ms per disk",
        goal=f"linear: at most {MOST_GROWTH} times",
        met=per_disk[-1].median <= MOST_GROWTH * per_disk[-2].median,
    )


def _sweep_once(tree: Tree, peaks: list[float]) -> float:
    unused = tree.make_unused_base()
    child = Path(__file__).with_name("child_sweep.py")
    command = [sys.executable, str(child), str(tree.path), str(tree.usage_file)]
    said = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    if said["missing"] or said["removed"] != [str(unused)] or said["disks"] < tree.count:
        raise RuntimeError(f"this was no sweep of {tree.count} disks: {said}")
    peaks.append(said["peak_bytes"])
    return float(said["seconds"])


def _read_heads(tree: Tree) -> float:
    """The first 512 bytes of every file, read by as few processes as the argument list allows."""
    where = ["find", str(tree.path), "-mindepth", "2", "-type", "f"]
    return clock_commands([*where, "-exec", "head", "-q", "-c", "512", "{}", "+"])
