"""From a qcow2 image to a raw entry: inspected, converted, durable, published."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from basecache.agent.host import Host
from basecache.cache import locks
from basecache.cache.layout import original_name
from basecache.images import inspect, qemu_img
from figure import Figure
from place import GiB, MiB, Place, open_host, write_data, write_sums
from timing import clock, clock_commands, interleave, run

LEAST_RATIO = 0.85


def measure(place: Place) -> Iterator[Figure]:
    data = place.choose(GiB, 128 * MiB)
    with place.folder("convert") as root:
        image = _offer(root, data)
        target = root / "target"
        step, whole, qemu, by_hand = interleave(
            place.choose(9, 3),
            lambda: _convert_staged(place, image),
            lambda: _ensure(place, image),
            lambda: _convert_by_hand(image, target),
            lambda: _fetch_by_hand(image, target),
            before=lambda: place.settle(2 * data),
        )
    yield Figure(
        name="qcow2 to raw: inspected, converted, durable, published",
        ours=step,
        other=qemu,
        other_name="qemu-img convert -W -m 16 + sync",
        unit="s",
        goal=f"at least {LEAST_RATIO} of qemu-img convert + sync",
        met=qemu.median / step.median >= LEAST_RATIO,
    )
    yield Figure(
        name="qcow2 to raw from a folder, copied and verified first",
        ours=whole,
        other=by_hand,
        other_name="cp + sha256sum + qemu-img convert + sync",
        unit="s",
    )


def _offer(root: Path, data_bytes: int) -> Path:
    """A qcow2 image of twice its data's size, with its digest, alone in its folder."""
    offered, raw = root / "images", root / "raw"
    offered.mkdir()
    write_data(raw, data_bytes, 2 * data_bytes)
    image = offered / "image.qcow2"
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image])
    raw.unlink()
    write_sums(offered)
    os.sync()
    return image


def _open(instances: Path, image: Path) -> Host:
    return open_host(instances, {"driver": "directory", "path": str(image.parent)})


def _ensure(place: Place, image: Path) -> float:
    with place.folder("cache") as instances:
        host = _open(instances, image)
        offered = host.images()[0].id
        return clock(lambda: host.ensure(offered))


def _convert_staged(place: Place, image: Path) -> float:
    """What ensure does once the bytes are in staging: from there to the published entry."""
    with place.folder("cache") as instances:
        host = _open(instances, image)
        offered, store = host.images()[0], host.parts.store
        name = original_name(offered.id)
        with locks.hold(store.layout.lock(name)), store.stage(name) as stage:
            part, raw = stage.path("part"), stage.path("raw")
            shutil.copyfile(image, part)
            run(["sync", part])

            def convert() -> None:
                found = inspect.require_safe(part, offered, max_virtual_size_bytes=None)
                qemu_img.convert(part, found.format, raw, "raw", progress=lambda _: None)
                store.publish(name, raw, {"format": "raw"})

            return clock(convert)


def _convert_by_hand(image: Path, target: Path) -> float:
    seconds = clock_commands(_qemu_img(image, target), ["sync", target])
    target.unlink()
    return seconds


def _fetch_by_hand(image: Path, target: Path) -> float:
    part = target.with_suffix(".part")
    seconds = clock_commands(
        ["cp", image, part],
        ["sha256sum", part],
        _qemu_img(part, target),
        ["sync", target],
    )
    part.unlink()
    target.unlink()
    return seconds


def _qemu_img(image: Path, target: Path) -> list[str | Path]:
    return ["qemu-img", "convert", "-W", "-m", "16", "-f", "qcow2", "-O", "raw", image, target]
