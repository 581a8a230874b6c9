"""VM disks: made from images and from nothing, grown, never re-guessed, given their base back."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from basecache import errors, events
from basecache.agent.disk import Blank, Ephemeral, FromImage, Swap
from basecache.cache.layout import original_name
from basecache.cli.main import main
from basecache.model import GiB, ImageRole
from tests.support.hostile import KiB, MiB, make_backed_qcow2, run_qemu_img
from tests.support.needs import need_tool
from tests.support.place import Place, age_of, make_old, nothing_left, sha256

VM = "5e0b0000-0000-4000-8000-000000000001"


def info(path: Path, disk_format: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(
        run_qemu_img("info", "--output=json", "-f", disk_format, path)
    )
    return said


def disk_info(place: Place, instance: str = VM) -> dict[str, str]:
    content: dict[str, str] = json.loads((place.instances / instance / "disk.info").read_text())
    return content


@pytest.mark.parametrize("backend", ["qcow2", "raw"])
class TestFromImage:
    def test_it_is_the_image(self, place: Place, backend: str) -> None:
        image = place.add_qcow2(8 * MiB)
        disk = place.host().create_disk(VM, image=image, backend=backend)

        assert disk.path == place.instances / VM / "disk"
        assert (disk.format, disk.size_bytes) == (backend, 8 * MiB)
        assert info(disk.path, backend)["virtual-size"] == 8 * MiB
        run_qemu_img("compare", "-f", backend, "-F", "qcow2", disk.path, place.source_file(image))
        backing = info(disk.path, backend).get("backing-filename")
        assert backing == (str(place.entry(image)) if backend == "qcow2" else None)

    def test_larger(self, place: Place, backend: str) -> None:
        image = place.add_raw()
        disk = place.host().create_disk(VM, image=image, backend=backend, size=64 * MiB)
        assert disk.size_bytes == info(disk.path, backend)["virtual-size"] == 64 * MiB
        assert disk.allocated_bytes < 2 * MiB

    @pytest.mark.parametrize("hit", [False, True])
    def test_smaller_is_refused(
        self, place: Place, backend: str, hit: bool, capsys: pytest.CaptureFixture[str]
    ) -> None:
        image = place.add_qcow2(8 * MiB)
        host = place.host()
        if hit:
            host.ensure(image)

        with pytest.raises(errors.DiskTooSmall) as caught:
            host.create_disk(VM, image=image, backend=backend, size=8 * MiB - 1)

        assert caught.value.wanted_bytes == 8 * MiB - 1
        assert caught.value.virtual_size_bytes == 8 * MiB
        assert list(place.instances.glob(f"{VM}/*")) == []
        arguments = ["disk", "create", "--instance", VM, "--image", image, "--size", "7M"]
        assert main([*place.arguments(), *arguments, "--backend", backend]) == 2
        said = capsys.readouterr().err
        assert str(7 * MiB) in said
        assert str(8 * MiB) in said

    def test_again_is_the_same_disk(self, place: Place, backend: str) -> None:
        image = place.add_raw()
        host = place.host()
        first = host.create_disk(VM, image=image, backend=backend)
        with first.path.open("r+b") as file:
            file.seek(0, os.SEEK_END)
        inode, before = first.path.stat().st_ino, sha256(first.path)

        again = host.create_disk(VM, image=image, backend=backend)

        assert again.path.stat().st_ino == inode
        assert sha256(again.path) == before
        assert len(place.saw(events.DiskCreated)) == 1

    def test_again_larger_grows_it(self, place: Place, backend: str) -> None:
        image = place.add_raw()
        host = place.host()
        host.create_disk(VM, image=image, backend=backend)

        assert host.create_disk(VM, image=image, backend=backend, size=32 * MiB).size_bytes == (
            32 * MiB
        )
        assert host.create_disk(VM, image=image, backend=backend, size=16 * MiB).size_bytes == (
            32 * MiB
        ), "never smaller"
        assert info(place.instances / VM / "disk", backend)["virtual-size"] == 32 * MiB

    def test_preallocated(self, place: Place, backend: str) -> None:
        host = place.host(preallocate_images="space")
        disk = host.create_disk(VM, image=place.add_raw(), backend=backend, size=16 * MiB)
        assert disk.path.stat().st_blocks * 512 >= 16 * MiB

    def test_making_one_is_a_use_of_its_base(self, place: Place, backend: str) -> None:
        image = place.add_raw()
        host = place.host()
        host.ensure(image)
        make_old(place.entry(image))
        host.create_disk(VM, image=image, backend=backend)
        assert age_of(place.entry(image)) < 60
        make_old(place.entry(image))
        host.create_disk(VM, image=image, backend=backend)
        assert (age_of(place.entry(image)) < 60) is (backend == "qcow2")

    def test_its_format_is_recorded_as_nova_does(self, place: Place, backend: str) -> None:
        host = place.host()
        image = place.add_raw()
        for name in ("disk", "disk.local", "disk.rescue"):
            host.create_disk(VM, name, image=image, backend=backend)
        folder = place.instances / VM
        names = ("disk", "disk.local", "disk.rescue")
        assert disk_info(place) == {str(folder / name): backend for name in names}

    def test_another_format_is_refused(self, place: Place, backend: str) -> None:
        host = place.host()
        image = place.add_raw()
        disk = host.create_disk(VM, image=image, backend=backend)
        other = {"raw": "qcow2", "qcow2": "raw"}[backend]
        before = sha256(disk.path)

        with pytest.raises(errors.FormatChange) as caught:
            host.create_disk(VM, image=image, backend=other)

        assert (caught.value.recorded, caught.value.wanted) == (backend, other)
        assert sha256(disk.path) == before
        assert set(disk_info(place).values()) == {backend}

    def test_a_failure_leaves_nothing(self, place: Place, backend: str) -> None:
        image = place.add(make_backed_qcow2)
        with nothing_left(place.instances), pytest.raises(errors.UnsafeImage):
            place.host().create_disk(VM, image=image, backend=backend)


def test_a_guest_that_writes_a_header_is_not_believed(place: Place) -> None:
    host = place.host()
    image = place.add_raw()
    disk = host.create_disk(VM, image=image, backend="raw")
    with disk.path.open("r+b") as file:
        file.write(make_backed_qcow2(place.root / "hostile").read_bytes()[:512])

    assert host.disk(VM).format == "raw"
    with pytest.raises(errors.FormatChange):
        host.create_disk(VM, image=image, backend="qcow2")
    host.extract_disk(VM, "disk", place.root / "out.raw")
    assert sha256(place.root / "out.raw") == sha256(disk.path)


@pytest.mark.parametrize(("cow", "expected"), [(True, "qcow2"), (False, "raw")])
def test_the_default_backend_is_the_options(place: Place, cow: bool, expected: str) -> None:
    host = place.host(use_cow_images=cow)
    assert host.create_disk(VM, image=place.add_raw()).format == expected


def test_an_unknown_backend_lists_the_known(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(errors.UnknownChoice) as caught:
        place.host().create_disk(VM, image=place.add_raw(), backend="floppy")
    assert "qcow2" in str(caught.value.hint)
    arguments = ["disk", "create", "--instance", VM, "--blank", "--size", "1M"]
    assert main([*place.arguments(), *arguments, "--backend", "floppy"]) == 2
    assert "qcow2" in capsys.readouterr().err


@pytest.mark.parametrize("bad", ["../x", "a/b", "", ".", "..", "-x", "a\nb", "x" * 300])
def test_bad_names(place: Place, bad: str) -> None:
    host = place.host()
    image = place.add_raw()
    with nothing_left(place.root):
        for instance, name in ((bad, "disk"), (VM, bad)):
            with pytest.raises(errors.BadName):
                host.create_disk(instance, name, image=image)
            with pytest.raises(errors.BadName):
                host.delete_disk(instance, name)
            with pytest.raises(errors.BadName):
                host.disk(instance, name)


def test_the_cache_is_no_instance(place: Place) -> None:
    """Its folders lie beside those of the instances."""
    host = place.host()
    image = place.add_raw()
    for name in ("_base", "locks"):
        with nothing_left(place.instances), pytest.raises(errors.BadName):
            host.create_disk(name, "swap_512", image=image)


class TestGenerated:
    def test_swap(self, place: Place) -> None:
        host = place.host()
        disk = host.create_disk(VM, "disk.swap", content=Swap(8))

        assert disk.size_bytes == 8 * MiB
        assert (place.base / "swap_8").stat().st_size == 8 * MiB
        raw = host.extract_disk(VM, "disk.swap", place.root / "out.raw")
        assert raw.read_bytes()[4086:4096] == b"SWAPSPACE2"

    def test_ephemeral(self, place: Place) -> None:
        need_tool("mkfs.ext4", "apt-get install e2fsprogs")
        host = place.host()
        disk = host.create_disk(VM, "disk.eph0", content=Ephemeral(1, "linux"))

        assert disk.size_bytes == GiB
        names = {path.name for path in place.base.glob("ephemeral_1_*")}
        key = hashlib.md5(b"ext4").hexdigest()[:7]
        assert names == {f"ephemeral_1_{key}", f"ephemeral_1_{key}.info"}
        raw = host.extract_disk(VM, "disk.eph0", place.root / "out.raw")
        with raw.open("rb") as file:
            file.seek(1080)
            assert file.read(2) == b"\x53\xef"

    def test_the_template_is_made_once(self, place: Place) -> None:
        host = place.host()
        host.create_disk("one", "disk.swap", content=Swap(8))
        inode = (place.base / "swap_8").stat().st_ino
        host.create_disk("two", "disk.swap", content=Swap(8))
        assert (place.base / "swap_8").stat().st_ino == inode

    def test_the_operators_command(self, place: Place) -> None:
        command = "linux=mkfs.ext4 -q -F -L mine %(target)s"
        host = place.host(virt_mkfs=[command])
        host.create_disk(VM, "disk.eph0", content=Ephemeral(1, "linux"), backend="raw")
        with (place.instances / VM / "disk.eph0").open("rb") as file:
            file.seek(1024 + 120)
            assert file.read(4) == b"mine"

    def test_a_swept_one_is_made_again(self, place: Place) -> None:
        host = place.host()
        host.create_disk("one", "disk.swap", content=Swap(8), backend="raw")
        make_old(place.base / "swap_8")
        assert place.base / "swap_8" in host.sweep().removed
        assert host.create_disk("two", "disk.swap", content=Swap(8)).size_bytes == 8 * MiB

    @pytest.mark.parametrize("backend", ["raw", "qcow2"])
    def test_blank(self, place: Place, backend: str) -> None:
        host = place.host()
        disk = host.create_disk(VM, "disk.data", content=Blank(), size=4 * MiB, backend=backend)
        assert disk.size_bytes == 4 * MiB
        raw = host.extract_disk(VM, "disk.data", place.root / "out.raw")
        assert raw.read_bytes() == bytes(4 * MiB)
        with nothing_left(place.instances), pytest.raises(errors.UsageError, match="size"):
            host.create_disk(VM, "disk.other", content=Blank(), backend=backend)


@pytest.mark.parametrize("name", ["kernel", "ramdisk"])
def test_kernels_are_copied_as_they_are(place: Place, name: str) -> None:
    content = b"MZ" + os.urandom(100 * KiB + 1)
    image = place.add(lambda path: _write(path, content), disk_format="aki")
    host = place.host(libvirt={"images_type": "qcow2"})

    disk = host.create_disk(VM, name, image=image)

    assert disk.path.read_bytes() == content
    assert disk.format == "raw"
    other = host.create_disk("vm2", "boot", content=FromImage(image, ImageRole.KERNEL))
    assert other.path.read_bytes() == content


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


class TestLostBase:
    """A disk came to a host that no longer has, or never had, what it stands on."""

    def test_it_is_fetched_again(self, place: Place) -> None:
        image = place.add_raw()
        host = place.host()
        disk = host.create_disk(VM, image=image, backend="qcow2")
        before = sha256(disk.path)
        place.entry(image).unlink()

        host.create_disk(VM, image=image, backend="qcow2")

        assert sha256(place.entry(image)) == sha256(place.source_file(image))
        assert sha256(disk.path) == before
        run_qemu_img("compare", "-f", "qcow2", "-F", "raw", disk.path, place.entry(image))

    @pytest.mark.parametrize("name", ["1", "1073741824"])
    def test_a_resized_copy_of_older_days_is_made_again(self, place: Place, name: str) -> None:
        image = place.add_raw()
        host = place.host()
        host.ensure(image)
        legacy = place.base / f"{original_name(image)}_{name}"
        shutil.copy(place.entry(image), legacy)
        os.truncate(legacy, GiB)
        disk = place.make_overlay(VM, legacy)
        legacy.unlink()
        place.entry(image).unlink()

        host.create_disk(VM, image=image, backend="qcow2")

        assert legacy.stat().st_size == GiB
        assert legacy.stat().st_blocks * 512 < 2 * MiB
        chain = run_qemu_img("info", "--backing-chain", "-f", "qcow2", disk)
        assert str(legacy) in chain
        with legacy.open("rb") as file:
            assert file.read(4 * MiB) == place.source_file(image).read_bytes()


class TestShelf:
    def test_list_and_show(self, place: Place) -> None:
        host = place.host()
        image = place.add_raw()
        for instance in ("b", "a"):
            host.create_disk(instance, image=image, backend="qcow2")
        host.create_disk("a", "disk.swap", content=Swap(8), backend="raw")
        (place.instances / "a" / "console.log").write_text("hello")

        assert [(each.instance, each.name) for each in host.disks()] == [
            ("a", "disk"),
            ("a", "disk.swap"),
            ("b", "disk"),
        ]
        assert [each.name for each in host.disks("b")] == ["disk"]
        assert host.disks("nobody") == []
        shown = host.disk("a")
        assert (shown.format, shown.backing, shown.size_bytes) == (
            "qcow2",
            place.entry(image),
            4 * MiB,
        )

    @pytest.mark.parametrize("target_format", ["raw", "qcow2", "vmdk"])
    def test_extract(self, place: Place, target_format: str) -> None:
        host = place.host()
        image = place.add_raw()
        disk = host.create_disk(VM, image=image, backend="qcow2")
        target = place.root / "out"

        host.extract_disk(VM, "disk", target, format=target_format)

        run_qemu_img("compare", "-f", target_format, "-F", "qcow2", target, disk.path)
        assert "backing-filename" not in info(target, target_format)
        with pytest.raises(errors.UsageError, match="there already"):
            host.extract_disk(VM, "disk", target)

    def test_extract_that_fails_leaves_nothing(self, place: Place) -> None:
        host = place.host()
        image = place.add_raw()
        host.create_disk(VM, image=image, backend="qcow2")
        place.entry(image).unlink()
        with nothing_left(place.root), pytest.raises(errors.ToolFailed):
            host.extract_disk(VM, "disk", place.root / "out")
        with pytest.raises(errors.BasecacheError):
            host.extract_disk(VM, "disk", place.root / "no" / "such" / "folder")

    def test_delete(self, place: Place) -> None:
        host = place.host()
        image = place.add_raw()
        for name in ("disk", "disk.local"):
            host.create_disk(VM, name, image=image, backend="qcow2")

        host.delete_disk(VM, "disk")

        assert not (place.instances / VM / "disk").exists()
        assert set(disk_info(place)) == {str(place.instances / VM / "disk.local")}
        with pytest.raises(errors.NotFound):
            host.delete_disk(VM, "disk")
        host.create_disk(VM, image=image, backend="raw")
        assert host.disk(VM).format == "raw", "a new disk may be of another format"


def test_a_disk_of_a_running_machine_may_be_looked_at(place: Place) -> None:
    """qemu locks the images it has open."""
    need_tool("qemu-io", "apt-get install qemu-utils")
    host = place.host()
    disk = host.create_disk(VM, image=place.add_raw(), backend="qcow2")
    with subprocess.Popen(
        ["qemu-io", "-f", "qcow2", disk.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(b"length\n")
        running.stdin.flush()
        running.stdout.readline()
        assert host.disk(VM).size_bytes == 4 * MiB
        assert host.sweep().missing_evidence == ()
        running.stdin.close()
