"""Where the measuring happens: a scratch folder, file systems on loop files, hosts with a cache."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import basecache
from basecache.agent.host import Host
from figure import Skipped
from timing import run

T = TypeVar("T")

MiB = 2**20
GiB = 2**30


@dataclass(frozen=True, slots=True)
class Place:
    """A scratch folder; ``quick`` asks for small inputs and few runs."""

    root: Path
    quick: bool = False

    def choose(self, full: T, quick: T) -> T:
        return quick if self.quick else full

    @contextlib.contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """A new folder, gone afterwards, its blocks given back before anybody else measures."""
        made = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.root))
        try:
            yield made
        finally:
            shutil.rmtree(made)
            os.sync()

    def settle(self, size_bytes: int) -> None:
        """Nothing waits to be written, and the page cache finds ``size_bytes`` of memory at hand.

        The host of a virtual machine may take free pages back (free page reporting); whoever
        uses them next waits for them, for a second or two per GiB. Here that is a file that
        goes before it is written to disk. (Anonymous memory would come and go as huge pages,
        which the page cache is not given again.)
        """
        with tempfile.TemporaryFile(dir=self.root, buffering=0) as file:
            for _ in range(size_bytes // MiB):
                file.write(bytes(MiB))
        os.sync()

    @contextlib.contextmanager
    def loop(self, kind: str, size_bytes: int) -> Iterator[Path]:
        """A new file system of ``kind`` on a loop file; Skipped where that takes root."""
        if os.geteuid() != 0:
            raise Skipped(f"mounting a loop file with {kind} needs root")
        if shutil.which(f"mkfs.{kind}") is None:
            raise Skipped(f"mkfs.{kind} is not installed")
        with self.folder(kind) as here:
            device, point = here / "device", here / "point"
            point.mkdir()
            with device.open("wb") as file:
                file.truncate(size_bytes)
            run([f"mkfs.{kind}", "-q", device])
            run(["mount", "-o", "loop", device, point])
            try:
                yield point
            finally:
                run(["umount", point])


def open_host(folder: Path, source: dict[str, str] | None = None, **options: Any) -> Host:
    """A host with a cache of its own in ``folder``, without anybody's configuration files."""
    if source is not None:
        options["source"] = source
    return basecache.open_host([], instances_path=str(folder), host="bench", **options)


def file_system(path: Path) -> str:
    """The kind of file system ``path`` is on."""
    command = ["stat", "--file-system", "--format=%T", str(path)]
    found = subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
    return "ext4" if found == "ext2/ext3" else found


def write_data(path: Path, data_bytes: int, size_bytes: int | None = None) -> None:
    """A raw image: ``data_bytes`` that do not compress, in runs of 32 MiB spread over its size."""
    size_bytes = size_bytes or data_bytes
    piece = min(32 * MiB, data_bytes)
    step = size_bytes * piece // data_bytes
    with path.open("wb") as file:
        file.truncate(size_bytes)
        for number in range(data_bytes // piece):
            file.seek(number * step)
            for _ in range(piece // MiB):
                file.write(os.urandom(MiB))
    os.sync()


def write_sums(folder: Path) -> None:
    """The SHA256SUMS of all files in ``folder``."""
    lines = []
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    (folder / "SHA256SUMS").write_text("".join(lines))


def peak_memory_bytes() -> int:
    """The most memory this process has had resident.

    Not getrusage's ru_maxrss: across fork and exec that remembers what the parent had.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status says no VmHWM")
