"""What only flat disks promise: no backing file, shared blocks or holes, any base format."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from basecache import errors
from basecache.cache.store import entry_of
from basecache.disks import Base, DiskRequest, files
from basecache.disks.flat import Flat
from basecache.images import headers
from basecache.model import EntryKind, KiB, MiB
from tests.disks.making import BASE_BYTES, Cache, make_cache, write_sparse
from tests.support.filesystems import MountFileSystem

DENSE_BYTES = 64 * MiB


def _dense(cache: Cache, size_bytes: int = DENSE_BYTES) -> Cache:
    """The cache with a base that is all data."""
    path = cache.content
    path.write_bytes(os.urandom(MiB) * (size_bytes // MiB))
    files.sync(path)
    entry = entry_of(path, EntryKind.ORIGINAL, path.stat())
    return Cache(cache.layout, Base(entry, "raw", size_bytes), path)


def _free(folder: Path) -> int:
    os.sync()
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_blocks_are_shared_with_the_base(kind: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(f"{kind}_folder")
    cache = _dense(make_cache(folder / "instances"))
    before = _free(folder)
    disk = Flat().create(cache.request(size_bytes=2 * DENSE_BYTES))
    assert before - _free(folder) < DENSE_BYTES // 4
    assert disk.allocated_bytes >= DENSE_BYTES
    assert cache.holds_content(disk.path, "raw")


def test_writing_to_a_disk_that_shares_blocks_leaves_the_base_alone(xfs_folder: Path) -> None:
    cache = make_cache(xfs_folder / "instances")
    before = cache.content.read_bytes()
    disk = Flat().create(cache.request())
    with disk.path.open("r+b") as file:
        file.write(b"guest" * 1000)
    assert cache.content.read_bytes() == before


def test_holes_stay_holes_where_blocks_cannot_be_shared(ext4_folder: Path) -> None:
    cache = make_cache(ext4_folder / "instances")
    disk = Flat().create(cache.request())
    assert disk.allocated_bytes <= cache.base.entry.path.stat().st_blocks * 512
    assert disk.allocated_bytes < BASE_BYTES // 8


@pytest.mark.parametrize("base_format", ["raw", "qcow2"])
def test_a_flat_disk_stands_on_nothing(ext4_folder: Path, base_format: str) -> None:
    cache = make_cache(ext4_folder / "instances", base_format)
    disk = Flat().create(cache.request())
    assert disk.backing is None
    assert headers.read_header_of(disk.path) == headers.Header("raw")
    cache.base.entry.path.unlink()
    content = disk.path.read_bytes()
    assert len(content) == 32 * MiB
    if base_format == "qcow2":
        assert content[:BASE_BYTES] == cache.content.read_bytes()


def test_a_copy_across_file_systems(xfs_folder: Path, tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "instances")
    path = xfs_folder / "disk"
    Flat().create(DiskRequest("i", "disk", path, 32 * MiB, cache.base))
    assert cache.holds_content(path, "raw")
    assert path.stat().st_blocks * 512 < BASE_BYTES // 8


def test_a_copy_that_finds_the_disk_full_leaves_nothing(
    mount_file_system: MountFileSystem, tmp_path: Path
) -> None:
    full = mount_file_system("ext4", size_bytes=4 * MiB)
    cache = _dense(make_cache(tmp_path / "instances"), 16 * MiB)
    request = DiskRequest("i", "disk", full / "i" / "disk", 32 * MiB, cache.base)
    with pytest.raises(errors.NoSpace):
        Flat().create(request)
    assert os.listdir(request.path.parent) == []
    assert Flat().create(
        DiskRequest("i", "disk", request.path, 32 * MiB, make_cache(full / "c").base)
    )


def test_a_base_that_vanished_is_a_clear_error(ext4_folder: Path) -> None:
    cache = make_cache(ext4_folder / "instances")
    cache.base.entry.path.unlink()
    with pytest.raises(errors.StorageFailed, match="No such file") as caught:
        Flat().create(cache.request())
    assert caught.value.path == cache.base.entry.path
    assert cache.folder() == []


def test_kernels_are_copied_as_they_are(ext4_folder: Path) -> None:
    cache = make_cache(ext4_folder / "instances")
    kernel = cache.layout.entry("vmlinuz-id")
    kernel.write_bytes(b"MZ" + os.urandom(12345))
    entry = entry_of(kernel, EntryKind.KERNEL, kernel.stat())
    path = cache.layout.disk("i", "kernel")
    Flat().create(
        DiskRequest("i", "kernel", path, entry.size_bytes, Base(entry, "raw", entry.size_bytes))
    )
    assert path.read_bytes() == kernel.read_bytes()


def test_data_extents_are_found_in_order(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    write_sparse(path)
    with path.open("rb") as file:
        extents = list(files.data_extents(file.fileno(), BASE_BYTES))
        assert list(files.data_extents(file.fileno(), 4 * KiB)) == [(0, 4 * KiB)]
    assert extents == [
        (0, 64 * KiB),
        (BASE_BYTES // 2, BASE_BYTES // 2 + 64 * KiB),
        (BASE_BYTES - 64 * KiB, BASE_BYTES),
    ]


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        (".disk.0123abcd.basecache-new", True),
        (".disk.eph0.0123abcd.basecache-raw", True),
        ("disk", False),
        ("disk.0123abcd.basecache-new", False),
        (".disk.basecache-new", False),
        (".0123abcd.basecache-new", False),
        (".disk.0123abcd.basecache-new.bak", False),
    ],
)
def test_only_our_leftovers_are_leftovers(name: str, ours: bool) -> None:
    assert files.is_leftover(name) is ours
