"""A qcow2 disk of an image that the cache holds: through the library, and by the command."""

from __future__ import annotations

import statistics
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

from basecache.agent.host import Host
from figure import Figure
from place import GiB, MiB, Place, open_host, write_data, write_sums
from timing import clock, clock_commands, interleave

MOST_MS = 2.0
MOST_COMMAND_SECONDS = 0.4
_SIZE = 20 * GiB
# Disks made in one run, of which the median counts.
_BATCH = 20


def measure_library(place: Place) -> Iterator[Figure]:
    with place.folder("qcow2") as root:
        host, image, base = _hold_image(root)

        def create() -> None:
            host.create_disk(str(uuid.uuid4()), image=image, size=_SIZE, backend="qcow2")

        ours, other = interleave(
            place.choose(20, 3),
            lambda: statistics.median(clock(create) for _ in range(_BATCH)),
            lambda: statistics.median(_qemu_img_create(root, base) for _ in range(_BATCH)),
            scale=1e3,
        )
    yield Figure(
        name="qcow2 disk on a hit, through the library, durable",
        ours=ours,
        other=other,
        other_name="qemu-img create (not durable)",
        unit="ms",
        goal=f"at most {MOST_MS:.0f} ms",
        met=ours.median <= MOST_MS,
    )


def measure_command(place: Place) -> Iterator[Figure]:
    with place.folder("command") as root:
        _, image, base = _hold_image(root)
        options = _options(root)
        program = Path(sys.executable).with_name("basecache")
        _require_no_openstack([*options, *_disk_create(image)])
        ours, create, nothing = interleave(
            place.choose(15, 5),
            lambda: clock_commands([program, *options, *_disk_create(image)]),
            lambda: _qemu_img_create(root, base),
            lambda: clock_commands([sys.executable, "-c", "pass"]),
        )
    for other, other_name, goal in (
        (create, "qemu-img create (not durable)", f"at most {MOST_COMMAND_SECONDS} s"),
        (nothing, "python -c pass", ""),
    ):
        yield Figure(
            name="basecache disk create, on a hit, the whole command",
            ours=ours,
            other=other,
            other_name=other_name,
            unit="s",
            goal=goal,
            met=ours.median <= MOST_COMMAND_SECONDS if goal else None,
        )


def _hold_image(root: Path) -> tuple[Host, str, Path]:
    """A host that holds one image, the image's id, and the path of its base file."""
    offered = root / "images"
    offered.mkdir()
    write_data(offered / "image.raw", 64 * MiB, 256 * MiB)
    write_sums(offered)
    host = open_host(root / "instances", {"driver": "directory", "path": str(offered)})
    image = host.images()[0].id
    base = host.ensure(image).path
    assert base is not None
    return host, image, base


def _qemu_img_create(root: Path, base: Path) -> float:
    disk = root / f"{uuid.uuid4()}.qcow2"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(base)]
    return clock_commands([*command, str(disk), str(_SIZE)])


def _options(root: Path) -> list[str]:
    return [
        *("--set", f"instances_path={root / 'instances'}", "--set", "host=bench"),
        *("--set", "source.driver=directory", "--set", f"source.path={root / 'images'}"),
    ]


def _disk_create(image: str) -> list[str]:
    return [
        *("disk", "create", "--instance", str(uuid.uuid4()), "--image", image),
        *("--size", "20G", "--backend", "qcow2"),
    ]


def _require_no_openstack(arguments: list[str]) -> None:
    """The command may not import the OpenStack SDK, which alone takes longer than it may."""
    program = (
        "import sys; from basecache.cli.main import main; status = main(sys.argv[1:]); "
        "sys.exit(status or ('openstack' in sys.modules and 'it imports openstacksdk'))"
    )
    command = [sys.executable, "-c", program, *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
