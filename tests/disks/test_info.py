"""``disk.info`` is Nova's file: one line of JSON, a format per disk, never changed."""

from __future__ import annotations

import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from basecache import errors
from basecache.disks import info
from tests.support.needs import need_root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "5e0b0000-0000-4000-8000-000000000001"
    folder.mkdir()
    return folder


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "basecache-disk-info"


def test_a_recorded_format_is_found_again(folder: Path, lock: Path) -> None:
    assert info.recorded_format(folder, folder / "disk") is None
    info.record_format(folder, folder / "disk", "qcow2", lock)
    info.record_format(folder, folder / "disk.local", "raw", lock)
    assert info.recorded_format(folder, folder / "disk") == "qcow2"
    assert info.recorded_format(folder, folder / "disk.local") == "raw"
    assert info.recorded_format(folder, folder / "disk.swap") is None
    text = (folder / "disk.info").read_text()
    assert len(text.splitlines()) == 1
    assert json.loads(text) == {f"{folder}/disk": "qcow2", f"{folder}/disk.local": "raw"}
    assert os.listdir(folder) == ["disk.info"]


def test_what_nova_wrote_is_understood_and_kept(folder: Path, lock: Path) -> None:
    gone = f"{folder}/disk.config"
    (folder / "disk.info").write_text(json.dumps({gone: "raw", f"{folder}/disk": "qcow2"}))
    assert info.recorded_format(folder, folder / "disk") == "qcow2"
    info.record_format(folder, folder / "disk.eph0", "raw", lock)
    assert json.loads((folder / "disk.info").read_text())[gone] == "raw"


def test_a_format_is_never_changed(folder: Path, lock: Path) -> None:
    info.record_format(folder, folder / "disk", "raw", lock)
    before = (folder / "disk.info").stat().st_ino
    info.record_format(folder, folder / "disk", "raw", lock)
    with pytest.raises(errors.FormatChange) as caught:
        info.record_format(folder, folder / "disk", "qcow2", lock)
    assert (caught.value.recorded, caught.value.wanted) == ("raw", "qcow2")
    assert info.recorded_format(folder, folder / "disk") == "raw"
    assert (folder / "disk.info").stat().st_ino == before


def test_a_deleted_disk_may_be_forgotten(folder: Path, lock: Path) -> None:
    info.forget_format(folder, folder / "disk", lock)
    assert not (folder / "disk.info").exists()
    info.record_format(folder, folder / "disk", "raw", lock)
    info.record_format(folder, folder / "disk.local", "raw", lock)
    info.forget_format(folder, folder / "disk", lock)
    info.record_format(folder, folder / "disk", "qcow2", lock)
    assert info.recorded_format(folder, folder / "disk") == "qcow2"
    assert info.recorded_format(folder, folder / "disk.local") == "raw"


def test_an_unborn_disk_is_not_bound_by_an_earlier_one(folder: Path, lock: Path) -> None:
    info.record_format(folder, folder / "disk", "qcow2", lock)
    info.record_format(folder, folder / "disk", "raw", lock, unborn=True)
    assert info.recorded_format(folder, folder / "disk") == "raw"


def test_a_disk_that_a_resize_moved_aside_is_still_known(folder: Path, lock: Path) -> None:
    info.record_format(folder, folder / "disk", "qcow2", lock)
    moved = folder.with_name(f"{folder.name}_resize")
    folder.rename(moved)
    assert info.recorded_format(moved, moved / "disk") == "qcow2"


@pytest.mark.parametrize("text", ["", "  \n"])
def test_a_file_that_nova_made_and_has_not_filled(folder: Path, lock: Path, text: str) -> None:
    (folder / "disk.info").write_text(text)
    assert info.recorded_format(folder, folder / "disk") is None
    info.record_format(folder, folder / "disk", "raw", lock)
    assert info.recorded_format(folder, folder / "disk") == "raw"


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"/i/disk": 7}', b"\xff\xfe", b"null"])
def test_a_damaged_file_is_an_error_and_stays(folder: Path, lock: Path, content: bytes) -> None:
    (folder / "disk.info").write_bytes(content)
    with pytest.raises(errors.StorageFailed, match="damaged"):
        info.recorded_format(folder, folder / "disk")
    with pytest.raises(errors.StorageFailed, match="damaged"):
        info.record_format(folder, folder / "disk", "raw", lock)
    assert (folder / "disk.info").read_bytes() == content


def _record(folder: Path, name: str, lock: Path) -> None:
    info.record_format(folder, folder / name, "raw", lock)


def test_no_record_is_lost_when_many_write(folder: Path, lock: Path) -> None:
    names = [f"disk.{number}" for number in range(24)]
    context = multiprocessing.get_context("spawn")
    with ThreadPoolExecutor(4) as threads, ProcessPoolExecutor(2, mp_context=context) as processes:
        jobs = [
            (threads if number % 2 else processes).submit(_record, folder, name, lock)
            for number, name in enumerate(names)
        ]
        for job in jobs:
            job.result()
    recorded = json.loads((folder / "disk.info").read_text())
    assert recorded == {f"{folder}/{name}": "raw" for name in names}


def test_the_file_belongs_to_its_folders_owner(folder: Path, lock: Path) -> None:
    need_root("to give files away")
    os.chown(folder, 64055, 64056)
    info.record_format(folder, folder / "disk", "raw", lock)
    status = (folder / "disk.info").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o022) == (64055, 64056, 0)
