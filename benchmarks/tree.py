"""A host with very many instances: what a sweep has to read.

A hundred base images come in through ``Host.ensure``, and the first hundred disks on them through
``Host.create_disk``. Every further disk is byte for byte a copy of one of those, holes left out,
in a folder as Nova leaves it: ``disk``, ``disk.info``, ``console.log``.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from basecache.cache.layout import original_name
from place import GiB, MiB, open_host, write_sums

BASES = 100
_BLOCK = 4096
_AGE_SECONDS = 3 * 24 * 3600
_CONSOLE = b"[    0.000000] Linux version 6.1.0-13-cloud-amd64\n" * 80


@dataclass(slots=True)
class Tree:
    """``path`` holds the instances; ``usage_file`` lists them."""

    path: Path
    usage_file: Path
    images: list[str]
    count: int = 0
    started: float = field(default_factory=time.time)
    _patterns: list[tuple[int, list[tuple[int, bytes]]]] = field(default_factory=list)

    def grow(self, count: int) -> None:
        """Add instances until there are ``count``, and list them all."""
        for number in range(self.count, count):
            self._add(number)
        self.count = count
        self.usage_file.write_text(json.dumps([self._describe(n) for n in range(count)]))
        self._check(count - 1)
        os.sync()

    def make_unused_base(self) -> Path:
        """One more base, which nothing needs and which is old enough to go."""
        path = self.path / "_base" / original_name("nobody's image")
        path.write_bytes(b"unused" * 1000)
        os.utime(path, (self.started - _AGE_SECONDS,) * 2)
        return path

    def _add(self, number: int) -> None:
        folder = self.path / _instance(number)
        disk = f"{folder}/disk"
        size, blocks = self._patterns[number % BASES]
        os.mkdir(folder)
        descriptor = os.open(disk, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.ftruncate(descriptor, size)
        for offset, block in blocks:
            os.pwrite(descriptor, block, offset)
        os.close(descriptor)
        for name, content in (
            ("disk.info", json.dumps({disk: "qcow2"}).encode()),
            ("console.log", _CONSOLE),
        ):
            with open(f"{folder}/{name}", "wb", buffering=0) as file:
                file.write(content)
        # Folders that changed within the last seconds are read again before a removal.
        os.utime(folder, (self.started - _AGE_SECONDS,) * 2)

    def _describe(self, number: int) -> dict[str, object]:
        return {
            "uuid": _instance(number),
            "name": f"instance-{number:08x}",
            "host": "bench",
            "task_state": None,
            "vm_state": "active",
            "image_ref": self.images[number % BASES],
            "kernel_id": "",
            "ramdisk_id": "",
            "os_type": "linux",
            "bdms": [],
        }

    def _check(self, number: int) -> None:
        """qemu-img must see in a generated disk what it would see in one of its own."""
        disk = self.path / _instance(number) / "disk"
        command = ["qemu-img", "info", "--output=json", "-f", "qcow2", str(disk)]
        said = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        base = self.path / "_base" / original_name(self.images[number % BASES])
        if said["backing-filename"] != str(base) or said["backing-filename-format"] != "raw":
            raise RuntimeError(f"{disk} is not an overlay of {base}: {said}")


def plant(root: Path) -> Tree:
    """A tree without instances, its bases in the cache."""
    offered, instances = root / "images", root / "instances"
    offered.mkdir()
    instances.mkdir()
    for number in range(BASES):
        image = offered / f"image-{number:03}.raw"
        image.write_bytes(os.urandom(_BLOCK))
        os.truncate(image, MiB)
    write_sums(offered)
    host = open_host(instances, {"driver": "directory", "path": str(offered)})
    tree = Tree(instances, root / "instances.json", [image.id for image in host.images()])
    for image_id in tree.images:
        disk = host.create_disk("pattern", image=image_id, size=20 * GiB, backend="qcow2")
        tree._patterns.append((disk.path.stat().st_size, list(_read_blocks(disk.path))))
        host.delete_disk("pattern", "disk")
    return tree


def _instance(number: int) -> str:
    return str(uuid.UUID(int=0x5EED_0000 << 96 | number))


def _read_blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Where there is anything but zeros, and what."""
    content = path.read_bytes()
    for offset in range(0, len(content), _BLOCK):
        block = content[offset : offset + _BLOCK]
        if block.strip(b"\0"):
            yield offset, block
