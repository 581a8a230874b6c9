"""A cache with one base, and what a test wants to know of a disk made from it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from basecache.cache.layout import Layout, original_name
from basecache.cache.store import entry_of
from basecache.disks import Base, DiskBackend, DiskRequest, by_name
from basecache.model import EntryKind, KiB, MiB
from tests.support.needs import need_tool

BACKENDS = ("raw", "qcow2")
INSTANCE = "5e0b0000-0000-4000-8000-000000000001"
BASE_BYTES = 8 * MiB


def qemu_img(*arguments: str | Path) -> str:
    """Run the real qemu-img; its output."""
    program = need_tool("qemu-img", "apt-get install qemu-utils")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_sparse(path: Path, size_bytes: int = BASE_BYTES) -> None:
    """Random data at the start, in the middle and at the very end, holes between."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
        for offset in (0, size_bytes // 2, size_bytes - 64 * KiB):
            file.seek(offset)
            file.write(os.urandom(64 * KiB))


def fill(folder: Path) -> None:
    """Write until the file system of ``folder`` takes no more."""
    with (folder / "filler").open("wb", buffering=0) as file:
        for size_bytes in (MiB, KiB):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size_bytes)


@dataclass(frozen=True)
class Cache:
    """A cache at ``layout`` with one base, whose content as the guest sees it is ``content``."""

    layout: Layout
    base: Base
    content: Path

    def backend(self, name: str) -> DiskBackend:
        return by_name(name, self.layout)

    def request(
        self,
        name: str = "disk",
        size_bytes: int = 32 * MiB,
        *,
        with_base: bool = True,
        generate: Callable[[Path], None] | None = None,
        preallocate: bool = False,
    ) -> DiskRequest:
        return DiskRequest(
            instance=INSTANCE,
            name=name,
            path=self.layout.disk(INSTANCE, name),
            size_bytes=size_bytes,
            base=self.base if with_base else None,
            generate=generate,
            preallocate=preallocate,
        )

    def folder(self) -> list[str]:
        """What is in the instance's folder."""
        folder = self.layout.instance(INSTANCE)
        return sorted(os.listdir(folder)) if folder.exists() else []

    def holds_content(self, path: Path, disk_format: str) -> bool:
        """Whether the disk is sound and shows the base's content, and zeros after it."""
        if disk_format == "qcow2":
            qemu_img("check", "-q", "-f", disk_format, path)
        qemu_img("compare", "-q", "-f", disk_format, "-F", "raw", path, self.content)
        return True


def make_cache(instances: Path, base_format: str = "raw") -> Cache:
    layout = Layout(instances)
    layout.base.mkdir(parents=True)
    content = layout.entry(original_name("image-1"))
    write_sparse(content)
    path = content
    if base_format != "raw":
        content = instances / "content.raw"
        path.rename(content)
        qemu_img("convert", "-f", "raw", "-O", base_format, content, path)
    entry = entry_of(path, EntryKind.ORIGINAL, path.stat())
    return Cache(layout, Base(entry, base_format, BASE_BYTES), content)
