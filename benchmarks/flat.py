"""A flat disk of 2 GiB with 1 GiB of data, of an image that the cache holds, durable."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

from figure import Figure, Spread
from place import GiB, MiB, Place, file_system, open_host, write_data, write_sums
from timing import clock, clock_commands, interleave

MOST_TIMES_CP = 1.15
MOST_MS_ON_XFS = 20.0


def measure(place: Place) -> Iterator[Figure]:
    with place.folder("flat") as root:
        yield _measure_copy(place, root)


def measure_xfs(place: Place) -> Iterator[Figure]:
    with place.loop("xfs", 8 * GiB) as root:
        yield _measure_clone(place, root)


def _measure_copy(place: Place, root: Path) -> Figure:
    kind = file_system(root)
    ours, other = _measure_pair(place, root, ["cp", "--sparse=always", "--reflink=never"], 9, 1.0)
    return Figure(
        name=f"flat disk, 1 GiB of data, durable, on {kind}",
        ours=ours,
        other=other,
        other_name="cp --sparse=always + sync",
        unit="s",
        goal=f"at most {MOST_TIMES_CP} times cp" if kind == "ext4" else "",
        met=ours.median <= MOST_TIMES_CP * other.median if kind == "ext4" else None,
    )


def _measure_clone(place: Place, root: Path) -> Figure:
    ours, other = _measure_pair(place, root, ["cp", "--reflink=always"], 30, 1e3)
    return Figure(
        name="flat disk, 1 GiB of data, durable, on XFS",
        ours=ours,
        other=other,
        other_name="cp --reflink=always + sync",
        unit="ms",
        goal=f"at most {MOST_MS_ON_XFS:.0f} ms",
        met=ours.median <= MOST_MS_ON_XFS,
    )


def _measure_pair(
    place: Place, root: Path, cp: list[str], runs: int, scale: float
) -> tuple[Spread, ...]:
    """Ours and cp in turn, each disk removed, and its blocks given back, before the next."""
    offered = root / "images"
    offered.mkdir()
    data = place.choose(GiB, 128 * MiB)
    write_data(offered / "image.raw", data, 2 * data)
    write_sums(offered)
    host = open_host(root / "instances", {"driver": "directory", "path": str(offered)})
    image = host.images()[0].id
    base, copy = host.ensure(image).path, root / "copy"
    assert base is not None

    def create() -> float:
        instance = str(uuid.uuid4())
        seconds = clock(lambda: host.create_disk(instance, image=image, backend="raw"))
        host.delete_disk(instance, "disk")
        return seconds

    def copy_base() -> float:
        seconds = clock_commands([*cp, base, copy], ["sync", copy])
        copy.unlink()
        return seconds

    return interleave(
        place.choose(runs, 3), create, copy_base, scale=scale, before=lambda: place.settle(data)
    )
