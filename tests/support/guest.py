"""A real guest: the small bootable image, and booting a disk made from it under emulation."""

from __future__ import annotations

import fcntl
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.needs import need_tool

_ROOT = Path(__file__).resolve().parents[2]
_CACHE = _ROOT / ".run" / "cache"
_LINE = re.compile(
    r"^basecache guest: up, vda (?P<bytes>\d+) bytes, marker (?P<marker>[0-9a-f]{16}), "
    r"boot (?P<boot>\d+)$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class GuestReport:
    """What a guest said of the disk it booted from: size, a content mark, boots counted on it."""

    size_bytes: int
    marker: str
    boot: int


@pytest.fixture(scope="session")
def guest_image() -> Path:
    """The bootable image (qcow2, 64 MiB virtual), built once for all workers; read only, please."""
    image = _CACHE / "guest.qcow2"
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "guest.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.exists():
            for tool in ("cpio", "mcopy", "syslinux", "qemu-img"):
                need_tool(tool, "scripts/need-packages run image")
            subprocess.run([_ROOT / "scripts" / "build-guest-image", image], check=True)
    return image


def boot_disk(disk: Path, disk_format: str) -> GuestReport:
    """Boot ``disk``, wait until its guest has powered off, and give what the guest said."""
    need_tool("qemu-system-x86_64", "scripts/need-packages boot")
    booted = subprocess.run(
        [_ROOT / "scripts" / "boot-disk", disk, disk_format],
        check=False,
        capture_output=True,
        text=True,
    )
    assert booted.returncode == 0, booted.stderr
    line = _LINE.search(booted.stdout)
    assert line is not None, f"not the guest's line: {booted.stdout!r}"
    return GuestReport(int(line["bytes"]), line["marker"], int(line["boot"]))
