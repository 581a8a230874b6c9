"""What every disk backend promises, on every file system."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import shutil
import subprocess
import sys
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from basecache import errors
from basecache.cache.store import staged_name
from basecache.disks import DiskBackend, files
from basecache.model import MiB
from tests.disks.making import BACKENDS, BASE_BYTES, INSTANCE, Cache, make_cache
from tests.support.filesystems import MountFileSystem
from tests.support.needs import need_root, need_tool

SIZE = 32 * MiB


@pytest.fixture(params=BACKENDS)
def backend_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def cache(file_system_folder: Path) -> Cache:
    return make_cache(file_system_folder / "instances")


@pytest.fixture
def backend(cache: Cache, backend_name: str) -> DiskBackend:
    return cache.backend(backend_name)


def test_a_disk_shows_the_base_and_has_the_size_asked_for(
    cache: Cache, backend: DiskBackend
) -> None:
    disk = backend.create(cache.request())
    assert (disk.instance, disk.name, disk.size_bytes) == (INSTANCE, "disk", SIZE)
    assert (disk.backend, disk.format) == (backend.name, backend.format)
    assert disk.allocated_bytes < SIZE
    assert cache.folder() == ["disk"]
    assert cache.holds_content(disk.path, disk.format)


def test_a_disk_that_is_there_is_found(cache: Cache, backend: DiskBackend) -> None:
    request = cache.request()
    assert backend.find(INSTANCE, "disk", request.path) is None
    made = backend.create(request)
    found = backend.find(INSTANCE, "disk", request.path)
    assert found is not None
    assert (found.path, found.size_bytes, found.backing) == (made.path, SIZE, made.backing)


def test_what_is_no_file_is_not_taken_for_a_disk(cache: Cache, backend: DiskBackend) -> None:
    path = cache.request().path
    path.mkdir(parents=True)
    with pytest.raises(errors.StorageFailed, match="not a regular file"):
        backend.find(INSTANCE, "disk", path)


def test_a_disk_of_the_bases_own_size(cache: Cache, backend: DiskBackend) -> None:
    disk = backend.create(cache.request(size_bytes=cache.base.virtual_size_bytes))
    assert disk.size_bytes == cache.base.virtual_size_bytes
    assert cache.holds_content(disk.path, disk.format)


def test_a_disk_grows_and_keeps_its_content(cache: Cache, backend: DiskBackend) -> None:
    disk = backend.create(cache.request())
    grown = backend.grow(disk, 2 * SIZE)
    assert grown.size_bytes == 2 * SIZE
    assert grown.allocated_bytes < SIZE
    assert cache.holds_content(disk.path, disk.format)


@pytest.mark.parametrize("size_bytes", [0, SIZE - MiB, SIZE])
def test_a_disk_never_shrinks(cache: Cache, backend: DiskBackend, size_bytes: int) -> None:
    disk = backend.create(cache.request())
    before = disk.path.read_bytes()
    assert backend.grow(disk, size_bytes).size_bytes == SIZE
    assert disk.path.read_bytes() == before


def test_preallocated_disks_take_all_their_space(cache: Cache, backend: DiskBackend) -> None:
    disk = backend.create(cache.request(preallocate=True))
    assert disk.allocated_bytes >= SIZE
    assert disk.size_bytes == SIZE
    assert cache.holds_content(disk.path, disk.format)
    grown = backend.grow(disk, 2 * SIZE, preallocate=True)
    assert grown.allocated_bytes >= 2 * SIZE
    assert cache.holds_content(disk.path, disk.format)


def test_a_disk_without_a_base_is_empty(cache: Cache, backend: DiskBackend, tmp_path: Path) -> None:
    disk = backend.create(cache.request(with_base=False))
    assert (disk.size_bytes, disk.backing) == (SIZE, None)
    empty = Cache(cache.layout, cache.base, tmp_path / "empty")
    with empty.content.open("wb") as file:
        file.truncate(SIZE)
    assert empty.holds_content(disk.path, disk.format)


def test_a_generated_disk_holds_what_was_generated(cache: Cache, backend: DiskBackend) -> None:
    sizes = []

    def fill(path: Path) -> None:
        sizes.append(path.stat().st_size)
        with path.open("r+b") as file, cache.content.open("rb") as content:
            shutil.copyfileobj(content, file)

    disk = backend.create(cache.request("disk.local", with_base=False, generate=fill))
    assert sizes == [SIZE]
    assert disk.size_bytes == SIZE
    assert cache.folder() == ["disk.local"]
    assert cache.holds_content(disk.path, disk.format)


def test_a_generator_that_fails_leaves_nothing(cache: Cache, backend: DiskBackend) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise errors.ToolFailed("mkfs", "no luck")

    with pytest.raises(errors.ToolFailed, match="no luck"):
        backend.create(cache.request(with_base=False, generate=fail))
    assert cache.folder() == []


def test_what_a_crash_left_goes(cache: Cache, backend: DiskBackend) -> None:
    request = cache.request()
    request.path.parent.mkdir()
    for stage in ("new", "raw"):
        leftover = files.temporary(request.path, stage)
        leftover.write_bytes(b"x" * (2 * SIZE))
        assert files.is_leftover(leftover.name)
    disk = backend.create(request)
    assert disk.size_bytes == SIZE
    assert cache.holds_content(disk.path, disk.format)
    assert cache.folder() == ["disk"]


def test_a_disk_is_never_replaced(cache: Cache, backend: DiskBackend) -> None:
    request = cache.request()
    request.path.parent.mkdir()
    request.path.write_bytes(b"somebody's data")
    with pytest.raises(errors.StorageFailed, match="exists"):
        backend.create(request)
    assert request.path.read_bytes() == b"somebody's data"
    assert cache.folder() == ["disk"]


def test_a_deleted_disk_is_gone_and_may_be_deleted_again(
    cache: Cache, backend: DiskBackend
) -> None:
    disk = backend.create(cache.request())
    other = backend.create(cache.request("disk.rescue"))
    files.temporary(disk.path).write_bytes(b"left")
    backend.delete(disk)
    assert cache.folder() == ["disk.rescue"]
    backend.delete(disk)
    shutil.rmtree(disk.path.parent)
    backend.delete(other)


def _create(backend_name: str, cache: Cache, name: str) -> int:
    return cache.backend(backend_name).create(cache.request(name)).size_bytes


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_many_disks_of_one_base_are_made_at_once(
    cache: Cache, backend_name: str, executor: str
) -> None:
    names = [f"disk.{number}" for number in range(8)]
    with _pool(executor) as pool:
        jobs = [pool.submit(_create, backend_name, cache, name) for name in names]
        assert [job.result() for job in jobs] == [SIZE] * len(names)
    assert cache.folder() == names
    disk_format = cache.backend(backend_name).format
    assert all(cache.holds_content(cache.request(name).path, disk_format) for name in names)
    assert _staged(cache) == []


def _pool(executor: str) -> Executor:
    if executor == "threads":
        return ThreadPoolExecutor(8)
    return ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn"))


def test_a_disk_belongs_to_its_folders_owner(cache: Cache, backend: DiskBackend) -> None:
    need_root("to give files away")
    os.chown(cache.layout.instances_path, 64055, 64056)
    os.chown(cache.layout.base, 64055, 64056)
    disk = backend.create(cache.request())
    made = [disk.path, disk.path.parent]
    if cache.layout.templates.exists():
        made += [cache.layout.templates, *cache.layout.templates.iterdir()]
    for path in made:
        assert (path.stat().st_uid, path.stat().st_gid) == (64055, 64056), path


_SCRIPT = """
import pickle, sys
from basecache.disks import by_name
name, layout, request = pickle.load(open(sys.argv[1], "rb"))
by_name(name, layout).create(request)
"""


def _strace(
    cache: Cache, backend_name: str, folder: Path, *options: str | Path
) -> subprocess.CompletedProcess[str]:
    """Create one disk in a process of its own, under strace."""
    strace = need_tool("strace", "apt-get install strace")
    parameters = folder / "parameters"
    parameters.write_bytes(pickle.dumps((backend_name, cache.layout, cache.request())))
    command = [strace, "-f", "--seccomp-bpf", *options, sys.executable, "-c", _SCRIPT, parameters]
    return subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )


def test_a_disk_is_durable_before_it_is_visible_and_its_folder_after(
    cache: Cache, backend: DiskBackend, backend_name: str, tmp_path: Path
) -> None:
    backend.create(cache.request("disk.warm"))
    log = tmp_path / "log"
    done = _strace(cache, backend_name, tmp_path, "-y", "-e", "fsync,renameat2", "-o", log)
    assert done.returncode == 0, done.stderr
    disk = cache.request().path
    calls = re.findall(
        r'(fsync|renameat2)\((?:\d+|AT_FDCWD)<([^>]+)>(?:, "([^"]+)")?', log.read_text()
    )
    seen = [(call, Path(named or at)) for call, at, named in calls]
    fresh = seen[0][1]
    assert seen == [("fsync", fresh), ("renameat2", fresh), ("fsync", disk.parent)]
    assert files.leftovers(disk) == []
    assert files.is_leftover(fresh.name)


_STOPS = ("mkdir", "copy_file_range", "fchown", "fsync", "renameat2", "rename", "unlink")


@pytest.mark.slow
def test_a_kill_at_any_step_leaves_no_disk_or_a_whole_one(
    ext4_folder: Path, backend_name: str, tmp_path: Path
) -> None:
    cache = make_cache(ext4_folder / "instances")
    backend, request = cache.backend(backend_name), cache.request()
    stops, done_with = 0, set()
    for call, nth in ((call, nth) for call in _STOPS for nth in range(1, 9)):
        if call in done_with:
            continue
        for folder in (cache.layout.templates, cache.layout.staging, request.path.parent):
            shutil.rmtree(folder, ignore_errors=True)
        kill = f"inject={call}:signal=KILL:when={nth}"
        done = _strace(cache, backend_name, tmp_path, "-o", os.devnull, "-e", kill)
        stops += done.returncode != 0
        done_with |= {call} if done.returncode == 0 else set()
        assert "Traceback" not in done.stderr
        assert all(name == "disk" or files.is_leftover(name) for name in cache.folder())
        assert all(staged_name(name) for name in _staged(cache))
        disk = backend.find(INSTANCE, "disk", request.path) or backend.create(request)
        assert disk.size_bytes == SIZE
        assert cache.holds_content(disk.path, disk.format)
        backend.delete(disk)
        assert cache.folder() == []
    assert stops >= 9


def _staged(cache: Cache) -> list[str]:
    staging = cache.layout.staging
    return os.listdir(staging) if staging.exists() else []


def test_a_full_file_system_leaves_nothing_and_says_so(
    mount_file_system: MountFileSystem, tmp_path: Path, backend_name: str
) -> None:
    full = mount_file_system("ext4", size_bytes=4 * MiB)
    cache = make_cache(tmp_path / "instances")
    folder = cache.layout.instance(INSTANCE)
    folder.symlink_to(full)
    with pytest.raises(errors.NoSpace) as caught:
        cache.backend(backend_name).create(cache.request(preallocate=True))
    assert caught.value.needed_bytes == SIZE
    assert 0 <= caught.value.free_bytes < SIZE
    assert cache.folder() == ["lost+found"]


def test_growing_past_a_full_file_system_changes_nothing(
    mount_file_system: MountFileSystem, tmp_path: Path, backend_name: str
) -> None:
    small = mount_file_system("ext4", size_bytes=24 * MiB)
    cache = make_cache(tmp_path / "instances")
    cache.layout.instance(INSTANCE).symlink_to(small)
    backend = cache.backend(backend_name)
    disk = backend.create(cache.request(size_bytes=BASE_BYTES, preallocate=True))
    with pytest.raises(errors.NoSpace):
        backend.grow(disk, SIZE, preallocate=True)
    after = backend.find(INSTANCE, "disk", disk.path)
    assert after == disk
    assert cache.holds_content(disk.path, disk.format)


def test_a_read_only_file_system_is_named(
    mount_file_system: MountFileSystem, tmp_path: Path, backend_name: str
) -> None:
    frozen = mount_file_system("ext4", size_bytes=4 * MiB, options="ro")
    cache = make_cache(tmp_path / "instances")
    cache.layout.instance(INSTANCE).symlink_to(frozen)
    with pytest.raises(errors.StorageFailed, match="Read-only"):
        cache.backend(backend_name).create(cache.request())
