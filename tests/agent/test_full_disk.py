"""A full disk at any point: NoSpace in words, its exit code, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from basecache import errors
from basecache.cli.main import main
from tests.support.filesystems import MountFileSystem
from tests.support.hostile import KiB, MiB
from tests.support.place import MakePlace, Place, content_of, make_old, nothing_left
from tests.support.web import Answer, Web

SIZE = 48 * MiB
BLOCK = 1 * KiB


@pytest.fixture(scope="module")
def small_disk(mount_file_system: MountFileSystem) -> Path:
    """A whole small ext4; nothing of it is reserved for root."""
    mount = mount_file_system("ext4", size_bytes=SIZE)
    device = subprocess.run(
        ["findmnt", "-no", "SOURCE", mount], check=True, capture_output=True, text=True
    ).stdout.strip()
    subprocess.run(["tune2fs", "-r", "0", device], check=True, capture_output=True)
    return mount


@pytest.fixture
def small(small_disk: Path, tmp_path: Path, make_place: MakePlace) -> Iterator[Place]:
    """A host whose instances lie on the small disk; its images do not."""
    yield make_place(small_disk / "host", tmp_path / "images")
    for path in small_disk.iterdir():
        if path.name != "lost+found":
            path.unlink() if path.is_file() else shutil.rmtree(path)


def leave_free(folder: Path, free: int) -> None:
    """Take all but ``free`` bytes of the file system."""
    filler = folder / "filler"
    filler.unlink(missing_ok=True)
    with filler.open("wb") as file:
        while (room := _free(folder) - free) >= BLOCK:
            size = os.fstat(file.fileno()).st_size
            os.posix_fallocate(file.fileno(), size, max(room - 64 * KiB, BLOCK))


def _free(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def test_too_large_is_said_before_a_byte_is_fetched(
    small: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    image = small.add_raw(8 * MiB)
    host = small.host()
    leave_free(small.root, 6 * MiB)

    with nothing_left(small.instances):
        with pytest.raises(errors.NoSpace) as caught:
            host.ensure(image)
        assert main([*small.arguments(), "cache", "ensure", image]) == 4

    assert caught.value.needed_bytes == 8 * MiB
    assert caught.value.free_bytes == pytest.approx(6 * MiB, abs=64 * KiB)
    said = capsys.readouterr().err
    assert str(8 * MiB) in said
    assert small.seen == []


def test_while_bytes_come_in(small: Place, web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    """Of an image whose length nobody tells, only writing shows that it does not fit."""
    url = web.put("/image.raw", Answer(os.urandom(8 * MiB), chunked=True, ranges=False))
    source = {"driver": "url", "urls": url, "require_digest": False}
    host = small.host(source=source)
    leave_free(small.root, 3 * MiB)

    with nothing_left(small.instances):
        with pytest.raises(errors.NoSpace) as caught:
            host.ensure(url)
        assert main([*small.arguments(source=source), "cache", "ensure", url]) == 4

    assert caught.value.needed_bytes > 0
    assert "writing" in caught.value.message
    assert _free(small.root) > 2 * MiB, "what was fetched is gone again"
    assert "Traceback" not in capsys.readouterr().err


def test_while_it_is_converted(
    small: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others filled the disk after the conversion was admitted."""
    image = small.add_qcow2(8 * MiB)
    host = small.host()
    real = shutil.which("qemu-img")
    program = tmp_path / "bin" / "qemu-img"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = convert ] && dd if=/dev/zero of={small.root}/filler bs=64k 2>/dev/null\n'
        f'exec {real} "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    with nothing_left(small.instances), pytest.raises(errors.NoSpace) as caught:
        host.ensure(image)

    assert "qemu-img convert" in caught.value.message
    assert caught.value.needed_bytes > 0


def test_at_every_point(small: Place, web: Web) -> None:
    """From nothing to enough, a block at a time where it gets tight: NoSpace and nothing, or all.

    Nobody tells the image's length, so it is no admission that says no, but each write in turn.
    """
    body = os.urandom(256 * KiB)
    url = web.put("/image.raw", Answer(body, chunked=True, ranges=False))
    host = small.host(source={"driver": "url", "urls": url, "require_digest": False})
    path = host.ensure(url).path
    assert path is not None
    host.remove(path.name)
    met, worked = set(), 0
    for kib in [*range(0, 16), *range(16, 256, 40), *range(254, 290)]:
        leave_free(small.root, kib * KiB)
        before = content_of(small.instances)
        try:
            host.ensure(url)
        except errors.NoSpace as error:
            met.add(error.path.suffix)
            assert "No space left on device" in error.message
            assert content_of(small.instances) == before
        else:
            worked += 1
            assert path.read_bytes() == body
            assert path.with_name(f"{path.name}.info").exists()
            (small.root / "filler").unlink()
            host.remove(path.name)
    assert met >= {".part", ".info"}, "data and record met the full disk"
    assert worked


@pytest.mark.parametrize("free", [0, 100 * KiB], ids=["no room at all", "room for disk.info"])
def test_a_disk_on_a_full_file_system(
    small: Place, free: int, capsys: pytest.CaptureFixture[str]
) -> None:
    image = small.add_raw(8 * MiB)
    host = small.host()
    host.ensure(image)
    leave_free(small.root, free)

    for backend in ("raw", "qcow2"):
        with nothing_left(small.instances):
            with pytest.raises(errors.NoSpace):
                host.create_disk("vm", image=image, backend=backend)
            arguments = ["disk", "create", "--instance", "vm", "--image", image]
            assert main([*small.arguments(), *arguments, "--backend", backend]) == 4
    assert "Traceback" not in capsys.readouterr().err


def test_a_sweep_makes_room_on_a_full_disk(small: Place) -> None:
    image = small.add_raw(8 * MiB)
    host = small.host()
    host.ensure(image)
    host.sweep()
    make_old(small.entry(image))
    leave_free(small.root, 0)

    report = host.sweep()

    assert small.entry(image) in report.removed
    assert not small.entry(image).exists()
