"""Ways in which a file that is needed, or the wrong content, could slip through."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import basecache
from basecache import errors
from basecache.agent.disk import FromImage
from basecache.cache.layout import original_name
from basecache.images import qemu_img
from basecache.model import Verdict
from tests.support.hostile import MiB, run_qemu_img
from tests.support.place import Place

VM = "6f1c2a58-3f0b-4a53-9d0c-6f2f5a1f7c11"


def write_image(folder: Path, content: bytes) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "img.raw").write_bytes(content)


def open_folder(tmp_path: Path, **options: object) -> basecache.Host:
    return basecache.open_host(
        [],
        instances_path=tmp_path / "vms",
        source={"driver": "directory", "path": str(tmp_path / "images"), "require_digest": False},
        **options,
    )


def test_a_file_that_appears_while_ours_is_fetched_is_not_replaced(place: Place) -> None:
    """Nova's pre-cache takes no lock, and may have made disks on its copy already."""
    image = place.add_raw()
    theirs = place.entry(image)

    def appear(event: object) -> None:
        if not theirs.exists():
            theirs.write_bytes(b"theirs")

    host = basecache.open_host([], emit=appear, **place.options())
    inode = None
    result = host.ensure(image)
    inode = theirs.stat().st_ino
    assert str(result.status) == "existing"
    assert theirs.read_bytes() == b"theirs"
    assert result.path is not None
    assert result.path.stat().st_ino == inode


def test_a_source_with_other_content_by_now_heals_nothing(tmp_path: Path) -> None:
    write_image(tmp_path / "images", b"1" * MiB)
    host = open_folder(tmp_path)
    entry = host.ensure("img").path
    assert entry is not None
    host.create_disk(VM, image="img")
    host.verify(force=True)
    write_image(tmp_path / "images", b"2" * MiB)
    with entry.open("r+b") as file:
        file.write(b"bad")
    [outcome] = host.verify(heal=True, force=True)
    assert outcome.verdict is Verdict.CORRUPT
    assert "healing failed" in outcome.reason
    assert not host.parts.store.layout.healed.exists()


def test_a_lost_base_is_given_back_only_with_the_bytes_it_had(tmp_path: Path) -> None:
    content = b"1" * MiB
    write_image(tmp_path / "images", content)
    sums = tmp_path / "images" / "SHA256SUMS"
    sums.write_text(f"{_sha256(content)}  img.raw\n")
    host = open_folder(tmp_path)
    disk = host.create_disk(VM, image="img")
    assert disk.backing is not None
    disk.backing.unlink()
    other = b"2" * MiB
    write_image(tmp_path / "images", other)
    sums.write_text(f"{_sha256(other)}  img.raw\n")
    with pytest.raises(errors.Corrupt):
        host.create_disk(VM, image="img")
    assert not disk.backing.exists()
    write_image(tmp_path / "images", content)
    sums.write_text(f"{_sha256(content)}  img.raw\n")
    host.create_disk(VM, image="img")
    assert disk.backing.read_bytes() == content


def _sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def test_a_qcow2_disk_of_unknown_birth_is_not_taken_for_raw(place: Place) -> None:
    host = place.host()
    disk = host.create_disk(VM, image=place.add_raw(), backend="qcow2")
    (disk.path.parent / "disk.info").unlink()
    with pytest.raises(errors.FormatChange):
        host.create_disk(VM, image=place.add_raw(), backend="raw", size=64 * MiB)
    assert qemu_img.info(disk.path, "qcow2").format == "qcow2"


def test_a_disk_of_another_image_is_not_what_was_asked_for(place: Place) -> None:
    host = place.host()
    host.create_disk(VM, image=place.add_raw(), backend="qcow2")
    other = place.add_raw()
    with pytest.raises(errors.UsageError, match="stands on"):
        host.create_disk(VM, image=other, backend="qcow2")


def test_a_kernels_id_may_not_be_another_entrys_name(place: Place) -> None:
    host = place.host(libvirt={"remove_unused_kernels": False})
    for name in (original_name("some-image"), "swap_64", "x.info"):
        with pytest.raises(errors.BadName):
            host.ensure(name, role="kernel")


def test_what_is_no_disk_is_not_deleted_as_one(place: Place) -> None:
    host = place.host()
    host.create_disk(VM, image=place.add_raw())
    with pytest.raises(errors.BadName):
        host.delete_disk(VM, "disk.info")


def test_an_iso_image_is_made_into_disks(tmp_path: Path) -> None:
    content = bytearray(2 * MiB)
    content[0x8001:0x8006] = b"CD001"
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "img.iso").write_bytes(content)
    host = open_folder(tmp_path)
    for number, backend in enumerate(("raw", "qcow2")):
        disk = host.create_disk(f"vm{number}", image="img", backend=backend)
        assert qemu_img.info(disk.path, disk.format).virtual_size_bytes == 2 * MiB
        run_qemu_img(
            "compare",
            "-f",
            disk.format,
            "-F",
            "raw",
            disk.path,
            str(tmp_path / "images" / "img.iso"),
        )


def test_a_cache_folder_of_two_instances_folders_loses_nothing(tmp_path: Path) -> None:
    """Neither sees the other's disks, locks or registry, so neither may remove anything."""
    write_image(tmp_path / "images", b"1" * MiB)
    shared = tmp_path / "shared"
    shared.mkdir()
    hosts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "_base").symlink_to(shared)
        hosts.append(
            basecache.open_host(
                [],
                instances_path=tmp_path / name,
                image_cache={"remove_unused_original_minimum_age_seconds": 0},
                source={
                    "driver": "directory",
                    "path": str(tmp_path / "images"),
                    "require_digest": False,
                },
            )
        )
    disk = hosts[0].create_disk(VM, image="img")
    report = hosts[1].sweep()
    assert report.removed == ()
    assert any(str(tmp_path / "a") in why for why in report.missing_evidence)
    assert disk.backing is not None
    for note in (shared / ".instances").iterdir():
        if str(tmp_path / "a") in note.read_text():
            note.unlink()
    os.utime(disk.backing, (1, 1))
    assert disk.backing.resolve() in {path.resolve() for path in hosts[1].sweep().removed} or not (
        disk.backing.exists()
    )


def test_a_pin_by_name_before_the_image_is_there_holds(place: Place) -> None:
    image = place.add_raw()
    name = place.host().image(image).name
    assert name is not None
    place.host().pin(name)
    place.host().ensure(name)
    with pytest.raises(errors.InUse):
        place.host().remove(name)


def test_a_pin_of_what_nobody_knows_is_refused(place: Place) -> None:
    with pytest.raises(errors.NotFound):
        place.host().pin("noneofthat")


def test_content_that_must_have_a_digest(place: Place) -> None:
    """On a hit as on a miss."""
    image = place.add_raw()
    host = place.host()
    host.ensure(image)
    wrong = host.image(image).digest
    record = json.loads(place.record_path(image).read_text())
    assert record["source_digest"] == str(wrong)
    assert wrong is not None
    other = type(wrong)(wrong.algorithm, "0" * len(wrong.value))
    with pytest.raises(errors.Corrupt):
        host.create_disk(VM, content=FromImage(image, digest=other))
