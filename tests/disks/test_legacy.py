"""Disks of the oldest Novas stand on ``<sha1>_<GiB>``; a lost one is made again."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basecache import errors
from basecache.cache import locks
from basecache.cache.layout import Layout
from basecache.disks.legacy import missing_legacy_base, resized_size, restore_legacy_base
from basecache.images.headers import Header
from basecache.model import GiB, MiB
from tests.disks.making import BASE_BYTES, INSTANCE, Cache, make_cache, qemu_img

SHA1 = "a" * 40


@pytest.mark.parametrize(
    ("name", "size_bytes"),
    [
        (f"{SHA1}_1", GiB),
        (f"{SHA1}_999999", 999999 * GiB),
        (f"{SHA1}_1073741824", GiB),
        (f"{SHA1}_1000000", 1000000),
        (f"{SHA1}_sm", None),
        (SHA1, None),
        (f"{SHA1}_", None),
        (f"{SHA1}_10G", None),
        ("disk_20", None),
        ("swap_512", None),
    ],
)
def test_the_size_in_a_name(name: str, size_bytes: int | None) -> None:
    assert resized_size(name) == size_bytes


@given(st.integers(min_value=1, max_value=10**14))
def test_any_number_in_a_name_is_gib_or_bytes(number: int) -> None:
    size_bytes = resized_size(f"{SHA1}_{number}")
    assert size_bytes == (number * GiB if number < 10**6 else number)


@pytest.mark.parametrize(
    "header",
    [
        Header("raw"),
        Header("qcow2"),
        Header("qcow2", f"/nowhere/_base/{SHA1}"),
        Header("qcow2", f"/nowhere/_base/{SHA1}_sm"),
        Header("qcow2", f"nbd:localhost:10809/{SHA1}_20"),
        Header("vmdk", f"/nowhere/_base/{SHA1}_20"),
    ],
)
def test_other_disks_miss_no_legacy_base(header: Header, tmp_path: Path) -> None:
    assert missing_legacy_base(Layout(tmp_path), tmp_path / "i" / "disk", header) is None


@pytest.mark.parametrize("folder", ["/elsewhere/_base", "../_base"])
def test_a_lost_base_is_missed_wherever_the_disk_saw_it(folder: str, tmp_path: Path) -> None:
    header = Header("qcow2", f"{folder}/{SHA1}_20")
    disk = tmp_path / "i" / "disk"
    assert missing_legacy_base(Layout(tmp_path), disk, header) == f"{SHA1}_20"


def _old_disk(cache: Cache, suffix: str, backing_format: str | None = "raw") -> Path:
    """A disk on ``<sha1>_<suffix>``, made by qemu-img, and its base removed again."""
    resized = cache.layout.entry(f"{cache.base.entry.name}_{suffix}")
    disk = cache.layout.disk(INSTANCE, "disk")
    disk.parent.mkdir()
    with resized.open("wb") as file:
        file.truncate(GiB)
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", resized, disk, str(GiB))
    if backing_format != "raw":
        rebase = ["-F", backing_format] if backing_format else []
        qemu_img("rebase", "-u", "-f", "qcow2", *rebase, "-b", resized, disk)
    resized.unlink()
    return disk


@pytest.mark.parametrize(("suffix", "size_bytes"), [("1", GiB), (str(GiB), GiB), ("1048576", 0)])
@pytest.mark.parametrize("base_format", ["raw", "qcow2"])
def test_a_lost_base_is_made_again(
    file_system_folder: Path, suffix: str, size_bytes: int, base_format: str
) -> None:
    cache = make_cache(file_system_folder / "instances", base_format)
    disk = _old_disk(cache, suffix)
    made = restore_legacy_base(cache.layout, disk, cache.base)
    assert made == cache.layout.entry(f"{cache.base.entry.name}_{suffix}")
    assert made.stat().st_size == max(size_bytes, BASE_BYTES)
    assert made.stat().st_blocks * 512 <= BASE_BYTES
    assert cache.holds_content(disk, "qcow2")
    assert os.listdir(cache.layout.staging) == []
    assert restore_legacy_base(cache.layout, disk, cache.base) is None


def test_a_lost_qcow2_base_is_made_again_as_qcow2(ext4_folder: Path) -> None:
    cache = make_cache(ext4_folder / "instances")
    disk = _old_disk(cache, "1", "qcow2")
    made = restore_legacy_base(cache.layout, disk, cache.base)
    assert made is not None
    assert f'"virtual-size": {GiB}' in qemu_img("info", "--output=json", "-f", "qcow2", made)
    assert cache.holds_content(disk, "qcow2")


def test_a_base_that_is_there_is_left_alone(ext4_folder: Path) -> None:
    cache = make_cache(ext4_folder / "instances")
    disk = _old_disk(cache, "1")
    resized = cache.layout.entry(f"{cache.base.entry.name}_1")
    resized.write_bytes(b"here")
    assert restore_legacy_base(cache.layout, disk, cache.base) is None
    assert resized.read_bytes() == b"here"


def test_another_images_base_is_not_made_from_this_one(ext4_folder: Path) -> None:
    cache = make_cache(ext4_folder / "instances")
    disk = cache.layout.disk(INSTANCE, "disk")
    disk.parent.mkdir()
    lost = cache.layout.entry(f"{SHA1}_1")
    qemu_img("create", "-u", "-f", "qcow2", "-F", "raw", "-b", lost, disk, str(GiB))
    assert restore_legacy_base(cache.layout, disk, cache.base) is None
    assert not lost.exists()


def test_two_disks_that_lost_one_base_get_one(ext4_folder: Path) -> None:
    cache = make_cache(ext4_folder / "instances")
    disk = _old_disk(cache, "1")
    with ThreadPoolExecutor(4) as pool:
        made = list(
            pool.map(lambda _: restore_legacy_base(cache.layout, disk, cache.base), range(4))
        )
    path = cache.layout.entry(f"{cache.base.entry.name}_1")
    assert [each for each in made if each is not None] == [path]
    assert cache.holds_content(disk, "qcow2")
    assert not locks.is_held(cache.layout.lock(path.name))


def test_a_base_that_cannot_be_read_leaves_nothing(ext4_folder: Path) -> None:
    cache = make_cache(ext4_folder / "instances")
    disk = _old_disk(cache, "1")
    cache.base.entry.path.unlink()
    with pytest.raises(errors.StorageFailed, match="No such file"):
        restore_legacy_base(cache.layout, disk, cache.base)
    assert os.listdir(cache.layout.staging) == []
    assert not cache.layout.entry(f"{cache.base.entry.name}_1").exists()


def test_a_disk_that_cannot_be_understood_is_an_error(ext4_folder: Path) -> None:
    cache = make_cache(ext4_folder / "instances")
    disk = ext4_folder / "disk"
    disk.write_bytes(b"QFI\xfb" + b"\xff" * MiB)
    with pytest.raises(errors.Corrupt):
        restore_legacy_base(cache.layout, disk, cache.base)
