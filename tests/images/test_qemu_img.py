"""qemu-img as we call it: names that try to be something else, limits, progress, being stopped."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from basecache import errors
from basecache.images import qemu_img
from basecache.model import MiB
from tests.support import hostile

NAMES = [
    "plain",
    "a:b",
    "nbd:localhost",
    "json:{}",
    "file:x",
    "-f",
    "--help",
    "two words",
    "comma,comma",
    "new\nline",
    "ünï – code",
    "quote'\"",
]


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths are tried too, so the test works in its own folder."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_a_file_and_nothing_else(name: str) -> None:
    path, overlay, raw = Path(name), Path(f"{name}.overlay"), Path(f"{name}.raw")
    qemu_img.create(path, "qcow2", 1 * MiB)
    assert path.is_file()
    assert qemu_img.info(path, "qcow2").virtual_size_bytes == 1 * MiB
    qemu_img.create_overlay(overlay, 2 * MiB, path, "qcow2")
    made = qemu_img.info(overlay, "qcow2")
    assert (made.backing, made.virtual_size_bytes) == (str(path.absolute()), 2 * MiB)
    assert qemu_img.chain(overlay, "qcow2") == (str(overlay.absolute()), str(path.absolute()))
    qemu_img.resize(overlay, "qcow2", 3 * MiB)
    qemu_img.convert(overlay, "qcow2", raw, "raw")
    assert raw.stat().st_size == 3 * MiB


def test_info_reads_the_format_it_is_told(tmp_path: Path) -> None:
    path = hostile.make_backed_qcow2(tmp_path / "a")
    as_raw = qemu_img.info(path, "raw")
    assert (as_raw.format, as_raw.backing) == ("raw", None)
    as_qcow2 = qemu_img.info(path, "qcow2")
    assert (as_qcow2.format, as_qcow2.backing) == ("qcow2", "/etc/passwd")
    assert as_qcow2.raw["full-backing-filename"] == "/etc/passwd"


def test_info_names_an_external_data_file(tmp_path: Path) -> None:
    data = tmp_path / "data"
    path = hostile.make_disk(tmp_path / "a", "qcow2", 1 * MiB, (f"data_file={data}",))
    assert qemu_img.info(path, "qcow2").data_file == str(data)


def test_a_refusal_gives_qemu_imgs_own_words(tmp_path: Path) -> None:
    with pytest.raises(errors.ToolFailed, match="Image is not in qcow2 format") as caught:
        qemu_img.info(hostile.make_raw(tmp_path / "a"), "qcow2")
    assert caught.value.install is None
    with pytest.raises(errors.ToolFailed, match="No such file"):
        qemu_img.info(tmp_path / "absent", "raw")
    with pytest.raises(errors.ToolFailed, match=r"[Ss]hrink"):
        qemu_img.resize(hostile.make_disk(tmp_path / "b", "qcow2"), "qcow2", 1 * MiB)


def test_missing_qemu_img_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prlimit").write_text("#!/bin/sh\n")
    (tmp_path / "prlimit").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(errors.ToolFailed, match="qemu-img: it is not installed") as caught:
        qemu_img.info(tmp_path / "a", "raw")
    assert caught.value.hint == "install it: apt-get install qemu-utils"


def test_conversion_is_exact_sparse_and_tells_its_progress(tmp_path: Path) -> None:
    raw, image, back = tmp_path / "raw", tmp_path / "image", tmp_path / "back"
    with raw.open("wb") as file:
        for at in (0, 20 * MiB, 39 * MiB):
            file.seek(at)
            file.write(os.urandom(1 * MiB))
    hostile.run_qemu_img("convert", "-f", "raw", "-O", "qcow2", "-c", raw, image)
    seen: list[float] = []
    qemu_img.convert(image, "qcow2", back, "raw", progress=seen.append)
    assert back.read_bytes() == raw.read_bytes()
    assert back.stat().st_blocks * 512 < 5 * MiB
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


@pytest.mark.parametrize("cut", range(1, 40))
def test_progress_is_read_however_the_pipe_cuts_it(cut: int) -> None:
    said = b"    (0.00/100%)\r    (12.50/100%)\r    (100.00/100%)\r    (100.00/100%)\n"
    seen: list[float] = []
    watch = qemu_img._watch_progress(seen.append)
    for at in range(0, len(said), cut):
        watch(said[at : at + cut])
    assert seen[-1] == 1.0
    assert set(seen) <= {0.0, 0.125, 1.0}


def test_an_exception_while_converting_ends_qemu_img(tmp_path: Path) -> None:
    image = hostile.make_filled(tmp_path / "image", "qcow2", 32 * MiB)

    class Cancelled(Exception):
        pass

    def cancel(fraction: float) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        qemu_img.convert(image, "qcow2", tmp_path / "out", "raw", progress=cancel)
    assert not find_children(b"qemu-img")


def test_a_killed_qemu_img_is_an_error(tmp_path: Path) -> None:
    image = hostile.make_filled(tmp_path / "image", "qcow2", 32 * MiB)

    def kill(fraction: float) -> None:
        for child in find_children(b"qemu-img"):
            os.kill(child, signal.SIGKILL)

    with pytest.raises(errors.ToolFailed, match="SIGKILL"):
        qemu_img.convert(image, "qcow2", tmp_path / "out", "raw", progress=kill)


def test_a_full_disk_is_no_space(small_disk: Path, tmp_path: Path) -> None:
    image = hostile.make_filled(tmp_path / "image", "qcow2", 32 * MiB)
    with pytest.raises(errors.NoSpace) as caught:
        qemu_img.convert(image, "qcow2", small_disk / "out", "raw")
    assert caught.value.needed_bytes == image.stat().st_size
    assert caught.value.free_bytes < 32 * MiB


def test_limits_stop_what_takes_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hostile.make_honest_qcow2(tmp_path / "a")
    monkeypatch.setattr(qemu_img, "_LOOK_LIMITS", (f"--as={16 * MiB}",))
    with pytest.raises(errors.ToolFailed):
        qemu_img.info(path, "qcow2")
    endless = hostile.make_looping_tables_qcow2(tmp_path / "b")
    monkeypatch.setattr(qemu_img, "_LOOK_LIMITS", ("--cpu=1:2",))
    with pytest.raises(errors.ToolFailed, match="CPU limit"):
        qemu_img.check(endless, "qcow2")


def test_a_check_that_says_much_is_not_kept_in_memory(tmp_path: Path) -> None:
    path = hostile.make_filled(tmp_path / "a", "qcow2", 16 * MiB, ("cluster_size=512",))
    os.truncate(path, path.stat().st_size // 2)
    found = qemu_img.check(path, "qcow2")
    assert found is not None
    assert found.damages > 1000
    assert len(found.first) < 1000


def test_check_knows_what_it_cannot_check(tmp_path: Path) -> None:
    assert qemu_img.check(hostile.make_disk(tmp_path / "a", "vpc"), "vpc") is None
    found = qemu_img.check(hostile.make_filled(tmp_path / "b", "qcow2"), "qcow2")
    assert found is not None
    assert found.damages == 0


def test_a_disk_in_use_can_be_looked_at_when_shared(tmp_path: Path) -> None:
    path = hostile.make_filled(tmp_path / "a", "qcow2")
    with hostile.held_open(path):
        with pytest.raises(errors.ToolFailed, match="lock"):
            qemu_img.info(path, "qcow2")
        assert qemu_img.info(path, "qcow2", shared=True).format == "qcow2"
        assert qemu_img.chain(path, "qcow2") == (str(path),)


def test_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    paths = [hostile.make_disk(tmp_path / str(n), "qcow2", (n + 1) * MiB) for n in range(4)]
    found: dict[int, int] = {}

    def look(n: int) -> None:
        found[n] = qemu_img.info(paths[n], "qcow2").virtual_size_bytes

    threads = [threading.Thread(target=look, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: (n + 1) * MiB for n in range(4)}


def find_children(name: bytes) -> list[int]:
    """Processes of that name that this thread started and that are not reaped."""
    children = []
    for task in Path("/proc/self/task").iterdir():
        children += [int(one) for one in (task / "children").read_text().split()]
    return [one for one in children if name in Path(f"/proc/{one}/cmdline").read_bytes()]


def test_the_environment_is_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tmp_path / "seen"
    fake = tmp_path / "qemu-img"
    fake.write_text(f"#!/bin/sh\nenv > {seen}\necho '{json.dumps({'format': 'raw'})}'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("SECRET", "of ours")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(errors.ToolFailed, match="info says no"):
        qemu_img.info(tmp_path / "a", "raw")
    assert "LC_ALL=C" in seen.read_text()
    assert "SECRET" not in seen.read_text()
