"""A fetch over HTTP: verified with SHA-512, fsynced, published. And how much memory it takes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from figure import Figure, Spread
from place import GiB, MiB, Place, open_host, write_data
from timing import clock, clock_commands, interleave
from web import serve

LEAST_RATIO = 0.85
MOST_BYTES = 120e6


def measure_speed(place: Place) -> Iterator[Figure]:
    size = place.choose(GiB, 128 * MiB)
    with place.folder("fetch") as root:
        image = _offer(root, size, size)
        with serve(image.parent) as address:
            url = f"{address}/{image.name}"
            digest = _sha512(image)
            ours, curl, openssl, python = interleave(
                place.choose(9, 3),
                lambda: _ensure(place, f"{url}#sha512={digest}"),
                lambda: _curl(root / "curl", url),
                lambda: clock_commands(["openssl", "dgst", "-sha512", image]),
                lambda: clock(lambda: _sha512(image)),
                before=lambda: place.settle(size),
            )
    alone, alone_name = min((openssl, "openssl dgst"), (python, "hashlib"), key=_median)
    other, other_name = max(
        (curl, "curl + sync"), (alone, f"SHA-512 alone, {alone_name}"), key=_median
    )
    met = other.median / ours.median >= LEAST_RATIO
    goal = f"at least {LEAST_RATIO} of the slower of curl + sync and SHA-512 alone"
    for against, name in ((curl, "curl + sync"), (alone, f"SHA-512 alone, {alone_name}")):
        slower = name == other_name
        yield Figure(
            name=f"fetch of {size // MiB} MiB over HTTP, verified, fsynced, published",
            ours=ours,
            other=against,
            other_name=name,
            unit="s",
            goal=goal if slower else "",
            met=met if slower else None,
        )


def measure_memory(place: Place) -> Iterator[Figure]:
    for size in place.choose((256 * MiB, GiB, 4 * GiB), (64 * MiB, 256 * MiB)):
        with place.folder("memory") as root:
            image = _offer(root, min(size, 256 * MiB), size)
            with serve(image.parent) as address:
                url = f"{address}/{image.name}#sha512={_sha512(image)}"
                peaks = [_fetch_in_child(url, root / f"instances-{n}") for n in range(3)]
        yield Figure(
            name=f"fetch of {size // MiB} MiB, memory",
            ours=Spread.of(peaks, 1e-6),
            other=None,
            other_name="",
            unit="MB resident",
            goal=f"at most {MOST_BYTES / 1e6:.0f} MB",
            met=max(peaks) <= MOST_BYTES,
        )


def _offer(root: Path, data_bytes: int, size_bytes: int) -> Path:
    offered = root / "images"
    offered.mkdir()
    write_data(offered / "image.raw", data_bytes, size_bytes)
    return offered / "image.raw"


def _ensure(place: Place, url: str) -> float:
    with place.folder("cache") as instances:
        host = open_host(instances, {"driver": "url"})
        return clock(lambda: host.ensure(url))


def _curl(target: Path, url: str) -> float:
    seconds = clock_commands(["curl", "-sSf", "-o", target, url], ["sync", target])
    target.unlink()
    return seconds


def _sha512(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha512").hexdigest()


def _fetch_in_child(url: str, instances: Path) -> float:
    child = Path(__file__).with_name("child_fetch.py")
    command = [sys.executable, str(child), str(instances), url]
    said = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    if said["status"] != "cached":
        raise RuntimeError(f"nothing was fetched: {said}")
    return float(said["peak_bytes"])


def _median(measured: tuple[Spread, str]) -> float:
    return measured[0].median
