"""What only qcow2 disks promise: a template per base and size, and explicit backing formats."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from basecache import errors
from basecache.disks.qcow2 import Qcow2
from basecache.images import headers
from basecache.model import KiB, MiB
from tests.disks.making import Cache, fill, make_cache, qemu_img
from tests.support.filesystems import MountFileSystem
from tests.support.needs import need_tool

SIZE = 32 * MiB


@pytest.fixture
def cache(ext4_folder: Path) -> Cache:
    return make_cache(ext4_folder / "instances")


@pytest.fixture
def backend(cache: Cache) -> Qcow2:
    return Qcow2(cache.layout)


def _template(cache: Cache, size_bytes: int = SIZE) -> Path:
    return cache.layout.template(cache.base.entry.name, size_bytes, cache.base.format)


@pytest.mark.parametrize("base_format", ["raw", "qcow2"])
def test_the_backing_format_stands_in_the_header(ext4_folder: Path, base_format: str) -> None:
    cache = make_cache(ext4_folder / "instances", base_format)
    disk = Qcow2(cache.layout).create(cache.request())
    base = cache.base.entry.path
    assert headers.read_header_of(disk.path) == headers.Header(
        "qcow2", str(base), base_format, None, SIZE
    )
    assert disk.backing == base
    assert cache.holds_content(disk.path, "qcow2")


def test_a_disk_takes_no_room_for_zeros(cache: Cache, backend: Qcow2, tmp_path: Path) -> None:
    disk = backend.create(cache.request())
    plain = tmp_path / "plain"
    base = cache.base.entry.path
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", base, plain, str(SIZE))
    assert disk.path.read_bytes() == plain.read_bytes()
    assert disk.allocated_bytes <= 16 * KiB


def test_a_hit_runs_no_program_and_leaves_the_template_alone(
    cache: Cache, backend: Qcow2, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    backend.create(cache.request("disk.first"))
    before = _template(cache).stat()
    monkeypatch.setenv("PATH", str(tmp_path))
    disk = backend.create(cache.request())
    after = _template(cache).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert disk.size_bytes == SIZE
    with pytest.raises(errors.ToolFailed, match="not installed"):
        backend.create(cache.request("disk.other", 2 * SIZE))


def test_every_size_has_its_template(cache: Cache, backend: Qcow2) -> None:
    sizes = (SIZE, 2 * SIZE)
    disks = [backend.create(cache.request(f"disk.{size}", size)) for size in sizes]
    assert [disk.size_bytes for disk in disks] == list(sizes)
    assert sorted(os.listdir(cache.layout.templates)) == sorted(
        _template(cache, size).name for size in sizes
    )
    assert os.listdir(cache.layout.staging) == []


def test_an_odd_size_is_rounded_up_and_has_its_template_too(cache: Cache, backend: Qcow2) -> None:
    sizes = [backend.create(cache.request(name, SIZE + 1)).size_bytes for name in ("a", "b")]
    assert sizes == [SIZE + 512] * 2
    first = _template(cache, SIZE + 512).stat()
    backend.create(cache.request("c", SIZE + 1))
    assert _template(cache, SIZE + 512).stat().st_ino == first.st_ino


def _spoil_content(template: Path, _: Path) -> None:
    template.write_bytes(b"junk")


def _spoil_header(template: Path, _: Path) -> None:
    template.write_bytes(b"QFI\xfb" + b"\xff" * 200)


def _spoil_size(template: Path, base: Path) -> None:
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", base, template, str(SIZE + MiB))


def _spoil_format(template: Path, base: Path) -> None:
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", base, template)


def _spoil_backing(template: Path, base: Path) -> None:
    elsewhere = base.with_name("elsewhere")
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", elsewhere, template)


def _spoil_data_file(template: Path, base: Path) -> None:
    data_file = base.with_name("data")
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={data_file}", template, str(SIZE))


@pytest.mark.parametrize(
    "spoil",
    [
        *(_spoil_content, _spoil_header, _spoil_size, _spoil_format, _spoil_backing),
        _spoil_data_file,
    ],
)
def test_a_template_that_does_not_fit_is_made_again(
    cache: Cache, backend: Qcow2, spoil: Callable[[Path, Path], None]
) -> None:
    backend.create(cache.request("disk.first"))
    spoil(_template(cache), cache.base.entry.path)
    disk = backend.create(cache.request())
    assert (disk.size_bytes, disk.backing) == (SIZE, cache.base.entry.path)
    assert cache.holds_content(disk.path, "qcow2")
    assert _template(cache).read_bytes() == disk.path.read_bytes()


def test_a_base_that_moved_gets_a_new_template(cache: Cache, backend: Qcow2) -> None:
    backend.create(cache.request("disk.first"))
    cache.layout.healed.mkdir()
    moved = cache.layout.healed / cache.base.entry.name
    cache.base.entry.path.rename(moved)
    base = replace(cache.base, entry=replace(cache.base.entry, path=moved))
    disk = backend.create(Cache(cache.layout, base, moved).request())
    assert disk.backing == moved
    assert Cache(cache.layout, base, moved).holds_content(disk.path, "qcow2")


def test_a_relative_instances_path_makes_absolute_backing_names(
    ext4_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_cache(ext4_folder / "instances")
    monkeypatch.chdir(ext4_folder)
    cache = make_cache(Path("relative"))
    for name in ("disk", "disk.again"):
        disk = Qcow2(cache.layout).create(cache.request(name))
        assert disk.backing == ext4_folder / "relative" / "_base" / cache.base.entry.name
        assert cache.holds_content(disk.path, "qcow2")


def test_colons_and_dashes_in_paths_are_just_names(ext4_folder: Path) -> None:
    cache = make_cache(ext4_folder / "-nbd:host:10809" / "json:{}")
    disk = Qcow2(cache.layout).create(cache.request())
    assert disk.backing == cache.base.entry.path
    assert cache.holds_content(disk.path, "qcow2")


def test_a_file_that_is_no_qcow2_is_not_shown_as_one(cache: Cache, backend: Qcow2) -> None:
    request = cache.request()
    request.path.parent.mkdir()
    request.path.write_bytes(b"raw bytes" * 100)
    with pytest.raises(errors.Corrupt, match="qcow2"):
        backend.find("i", "disk", request.path)
    request.path.write_bytes(b"QFI\xfb" + b"\xff" * 200)
    with pytest.raises(errors.Corrupt, match="sound header"):
        backend.find("i", "disk", request.path)


def test_a_disk_that_a_vm_has_open_does_not_grow(cache: Cache, backend: Qcow2) -> None:
    disk = backend.create(cache.request())
    with _open_as_a_vm_does(disk.path), pytest.raises(errors.ToolFailed, match="lock"):
        backend.grow(disk, 2 * SIZE)
    assert backend.find("i", "disk", disk.path).size_bytes == SIZE  # type: ignore[union-attr]


@contextlib.contextmanager
def _open_as_a_vm_does(path: Path) -> Iterator[None]:
    program = need_tool("qemu-io", "apt-get install qemu-utils")
    with subprocess.Popen(
        [program, "-f", "qcow2", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"length\n")
        process.stdout.readline()
        yield
        process.stdin.close()


def test_a_full_cache_file_system_leaves_no_template(
    mount_file_system: MountFileSystem, tmp_path: Path
) -> None:
    full = mount_file_system("ext4", size_bytes=4 * MiB)
    cache = make_cache(tmp_path / "instances")
    for name in (".templates", ".staging"):
        (full / name).mkdir()
        (cache.layout.base / name).symlink_to(full / name)
    fill(full)
    with pytest.raises(errors.NoSpace):
        Qcow2(cache.layout).create(cache.request())
    assert cache.folder() == []
    assert os.listdir(cache.layout.templates) == os.listdir(cache.layout.staging) == []
