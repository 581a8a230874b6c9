"""Real file systems on loop devices, mounted by the test run and unmounted when it ends.

    ext4_folder, xfs_folder, btrfs_folder   a fresh folder on each; XFS and btrfs share blocks
    file_system_folder                      the three in turn
    mount_file_system                       one of one's own: small, read-only, ...

Each test worker mounts its own, on the first use; they are sparse files and take what is written.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.needs import lacking, need_root, need_tool

KINDS = ("ext4", "xfs", "btrfs")
MountFileSystem = Callable[..., Path]

_SIZE_BYTES = 4 << 30
_MKFS = {
    "ext4": (("mkfs.ext4", "-q", "-F"), "apt-get install e2fsprogs"),
    "xfs": (("mkfs.xfs", "-q", "-f", "-m", "reflink=1"), "apt-get install xfsprogs"),
    "btrfs": (("mkfs.btrfs", "-q", "-f"), "apt-get install btrfs-progs"),
}


@pytest.fixture(scope="session")
def mount_file_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountFileSystem]:
    """Mount a new file system: ``mount_file_system(kind, size_bytes=..., options="")``."""
    folder = tmp_path_factory.mktemp("filesystems")
    numbers = itertools.count()
    mounted: list[Path] = []

    def mount(kind: str, *, size_bytes: int = _SIZE_BYTES, options: str = "") -> Path:
        need_root(f"to mount {kind}")
        (tool, *arguments), install = _MKFS[kind]
        program = need_tool(tool, install)
        image = folder / f"{next(numbers)}.{kind}"
        with image.open("wb") as file:
            file.truncate(size_bytes)
        subprocess.run([program, *arguments, image], check=True, capture_output=True)
        point = image.with_suffix(".mounted")
        point.mkdir()
        wanted = ",".join(filter(None, ("loop", options)))
        done = subprocess.run(
            ["mount", "-t", kind, "-o", wanted, image, point], capture_output=True, check=False
        )
        if done.returncode != 0:
            lacking(f"mounting {kind}", f"{done.stderr.decode().strip()}; run where mounts work")
        mounted.append(point)
        return point

    try:
        yield mount
    finally:
        for point in reversed(mounted):
            subprocess.run(["umount", point], check=True)
            point.with_suffix("").unlink(missing_ok=True)


@pytest.fixture(scope="session")
def ext4_mount(mount_file_system: MountFileSystem) -> Path:
    return mount_file_system("ext4")


@pytest.fixture(scope="session")
def xfs_mount(mount_file_system: MountFileSystem) -> Path:
    return mount_file_system("xfs")


@pytest.fixture(scope="session")
def btrfs_mount(mount_file_system: MountFileSystem) -> Path:
    return mount_file_system("btrfs")


@pytest.fixture
def ext4_folder(ext4_mount: Path) -> Iterator[Path]:
    """A fresh folder on ext4."""
    yield from _fresh(ext4_mount)


@pytest.fixture
def xfs_folder(xfs_mount: Path) -> Iterator[Path]:
    """A fresh folder on XFS with reflink."""
    yield from _fresh(xfs_mount)


@pytest.fixture
def btrfs_folder(btrfs_mount: Path) -> Iterator[Path]:
    """A fresh folder on btrfs."""
    yield from _fresh(btrfs_mount)


@pytest.fixture(params=KINDS)
def file_system_folder(request: pytest.FixtureRequest) -> Path:
    """A fresh folder on each file system in turn."""
    folder: Path = request.getfixturevalue(f"{request.param}_folder")
    return folder


def _fresh(mount: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=mount))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
