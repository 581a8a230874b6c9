"""What cannot be read is missing evidence; what a guest writes into its own disk is not."""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from basecache.cache.layout import Layout
from basecache.cache.store import Store
from basecache.usage.chains import read_parents
from tests.support.hostile import MiB, make_disk
from tests.support.lockers import OTHER_USER, RunScript
from tests.support.needs import need_root
from tests.usage.disks import JUNK_HEADER, NAME, Stand, id_of, users

VHDX_JUNK = b"vhdxfile" + b"\xff" * 504
DESCRIPTOR_JUNK = b"# Disk DescriptorFile\n" + b"junk\n" * 120

# The other user reads the chains of a folder; what it found comes back as JSON.
READ_AS = """
import json, pwd
from pathlib import Path
from basecache.cache.layout import Layout
from basecache.usage.chains import read_chains
import basecache.images.qemu_img
user = pwd.getpwnam(sys.argv[2])
os.setgroups([])
os.setgid(user.pw_gid)
os.setuid(user.pw_uid)
found = read_chains(Layout(Path(sys.argv[1])))
users = list(found.files.values())
print(json.dumps({"missing": found.missing, "disks": found.disks, "users": users}))
"""


ReadAsOther = Callable[[], dict[str, Any]]


@pytest.fixture
def read_as_other(open_stand: Stand, run_script: RunScript) -> ReadAsOther:
    need_root("to read as another user")

    def read() -> dict[str, Any]:
        process = run_script(READ_AS, open_stand.layout.instances_path, OTHER_USER)
        found: dict[str, Any] = json.loads(process.communicate()[0])
        return found

    return read


@pytest.fixture
def open_stand(open_folder: Path) -> Stand:
    """A stand that another user may look into."""
    layout = Layout(open_folder)
    Store(layout).prepare()
    return Stand(layout)


def test_a_disk_that_may_not_be_read_is_missing_evidence(
    open_stand: Stand, read_as_other: ReadAsOther
) -> None:
    disk = open_stand.overlay(open_stand.base())
    assert read_as_other()["missing"] == []
    disk.chmod(0)
    (missing,) = read_as_other()["missing"]
    assert str(disk) in missing
    assert "Permission denied" in missing


def test_a_folder_that_may_not_be_read_is_missing_evidence(
    open_stand: Stand, read_as_other: ReadAsOther
) -> None:
    open_stand.overlay(open_stand.base())
    for mode in (0o000, 0o311):
        open_stand.folder().chmod(mode)
        (missing,) = read_as_other()["missing"]
        assert str(open_stand.folder()) in missing
    open_stand.folder().chmod(0o444)
    assert read_as_other()["missing"] != []


def test_what_root_alone_may_read_and_is_no_disk_is_not_missed(
    open_stand: Stand, read_as_other: ReadAsOther
) -> None:
    for name in ("console.log", "console.log.0", "libvirt.xml"):
        path = open_stand.folder() / name
        path.write_bytes(b"text")
        path.chmod(0o600)
    assert read_as_other()["missing"] == []
    (open_stand.folder() / "console.log.disk").touch(mode=0o600)
    assert len(read_as_other()["missing"]) == 1


def test_a_backing_file_that_may_not_be_looked_at_is_missed_for_every_disk(
    open_stand: Stand, read_as_other: ReadAsOther
) -> None:
    hidden = open_stand.layout.instances_path / "locks" / "hidden"
    hidden.mkdir(mode=0o700)
    base = hidden / "base"
    make_disk(base, "qcow2", MiB)
    disk = open_stand.overlay(base, backing_format="qcow2")
    (missing,) = read_as_other()["missing"]
    assert str(disk) in missing
    hidden.chmod(0o711)
    base.chmod(0)
    (missing,) = read_as_other()["missing"]
    assert str(base) in missing
    base.chmod(0o644)
    assert read_as_other() == {"missing": [], "disks": 1, "users": [[str(disk)]]}


def test_a_raw_backing_file_need_not_be_read(open_stand: Stand, read_as_other: ReadAsOther) -> None:
    """The overlay says that it is raw, so nobody looks for a header in it."""
    disk = open_stand.overlay(open_stand.base())
    open_stand.base().chmod(0o600)
    assert read_as_other() == {"missing": [], "disks": 1, "users": [[str(disk)]]}


def test_setting_one_disk_aside_excuses_no_other(stand: Stand) -> None:
    bad = stand.layout.instances_path.parent / "bad"
    bad.write_bytes(JUNK_HEADER)
    one = stand.overlay(bad, "one", backing_format="qcow2")
    two = stand.overlay(bad, "two", backing_format="qcow2")
    assert stand.read().missing != ()
    (missing,) = stand.read(set_aside=[one]).missing
    assert str(two) in missing
    assert stand.read(set_aside=[one, two]).missing == ()
    assert stand.read(set_aside=[bad]).missing == ()


@pytest.mark.parametrize("junk", [JUNK_HEADER, VHDX_JUNK, DESCRIPTOR_JUNK, b"KDMV" + b"\xff" * 508])
def test_a_damaged_header_is_missing_evidence_unless_the_disk_was_born_raw(
    stand: Stand, junk: bytes
) -> None:
    disk = stand.raw(junk)
    (missing,) = stand.read().missing
    assert str(disk) in missing
    stand.raw(junk, born="qcow2")
    assert len(stand.read().missing) == 1
    stand.raw(junk, born="raw")
    stand.seen.clear()
    assert stand.read().missing == ()


def test_a_damaged_header_in_a_raw_disk_is_still_told(stand: Stand) -> None:
    disk = stand.raw(JUNK_HEADER, born="raw")
    assert stand.read().missing == ()
    (trouble,) = stand.troubles
    assert str(disk) in trouble


@pytest.mark.parametrize(
    "info", ["", "{", "[]", "null", '{"/x/disk": "qcow2"}', '{"/x/other": "raw"}', '{"disk": 1}']
)
def test_a_disk_info_that_does_not_say_raw_excuses_nothing(stand: Stand, info: str) -> None:
    stand.raw(JUNK_HEADER)
    (stand.folder() / "disk.info").write_text(info)
    assert len(stand.read().missing) == 1


def test_a_header_that_reads_protects_whoever_wrote_it(stand: Stand) -> None:
    guests = stand.overlay(stand.base()).read_bytes()
    disk = stand.raw(guests, born="raw")
    chains = stand.read()
    assert users(chains, stand.base()) == [disk]
    assert chains.missing == ()


def write_header(backing: bytes, *, version: int = 2) -> bytes:
    """A qcow2 header with a backing name, as a guest may write it."""
    fields = (0x514649FB, version, 512, len(backing), 16, MiB, 0, 1, 0x30000, 0x10000, 1, 0, 0)
    return struct.pack(">IIQIIQIIQQIIQ", *fields).ljust(512, b"\0") + backing


@pytest.mark.parametrize(
    "backing",
    [
        b"loop",
        b"x" * 400,
        b"json:{",
        b'json:{"driver":"file"}',
        b"../../bad",
        b"../../bad/deeper",
        b"/proc/self/mem",
        b"/dev/zero",
        b"disk",
        b"",
    ],
)
def test_no_header_a_guest_can_write_into_its_raw_disk_blocks_a_sweep(
    stand: Stand, backing: bytes
) -> None:
    (stand.folder() / "loop").symlink_to("loop")
    (stand.layout.instances_path.parent / "bad").write_bytes(JUNK_HEADER)
    stand.raw(write_header(backing), born="raw")
    assert stand.read().missing == ()


@pytest.mark.parametrize("name", ["console.log", "console.log.0", "console.log.12"])
@pytest.mark.parametrize("junk", [JUNK_HEADER, VHDX_JUNK, write_header(b"json:{")])
def test_no_text_a_guest_can_print_blocks_a_sweep(stand: Stand, name: str, junk: bytes) -> None:
    (stand.folder() / name).write_bytes(junk)
    assert stand.read().missing == ()


def test_nobody_runs_qemu_on_what_a_guest_wrote(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """qemu-img would follow the names in it, over the network too."""
    ran = tmp_path / "ran"
    put_in_front(monkeypatch, tmp_path, f"touch {ran}")
    stand.raw(VHDX_JUNK, born="raw")
    (stand.folder() / "console.log").write_bytes(VHDX_JUNK)
    assert stand.read().missing == ()
    assert not ran.exists()
    stand.raw(VHDX_JUNK, born="qcow2")
    assert len(stand.read().missing) == 1
    assert ran.exists()


def put_in_front(monkeypatch: pytest.MonkeyPatch, folder: Path, command: str) -> None:
    """A qemu-img that does this and fails."""
    tool = folder / "bin" / "qemu-img"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\n{command}\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")


def test_a_disk_that_vanishes_before_it_is_understood_is_no_trouble(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    vanishing = stand.raw(VHDX_JUNK)
    put_in_front(monkeypatch, tmp_path, f"rm {vanishing}")
    assert stand.read().missing == ()
    assert not vanishing.exists()


def test_junk_in_a_raw_file_that_an_overlay_says_is_raw_is_no_trouble(stand: Stand) -> None:
    base = stand.base()
    base.write_bytes(JUNK_HEADER)
    disk = stand.overlay(base, backing_format="raw")
    chains = stand.read()
    assert (users(chains, base), chains.missing) == ([disk], ())
    stand.overlay(base, backing_format="qcow2")
    assert len(stand.read().missing) == 1


def test_a_snapshot_of_a_raw_disk_with_junk_in_it_blocks_nothing(stand: Stand) -> None:
    below = stand.raw(JUNK_HEADER, born="raw")
    stand.overlay(below, "disk.snap", backing_format="raw")
    stand.overlay(below, "disk.snap2", backing_format="qcow2")
    assert stand.read().missing == ()


def test_a_damaged_base_is_missing_evidence_until_it_is_set_aside(stand: Stand) -> None:
    base = stand.base()
    base.write_bytes(JUNK_HEADER)
    parents, (missing,) = read_parents([base])
    assert parents == {}
    assert str(base) in missing
    assert read_parents([base], set_aside=[base], emit=stand.seen.append) == ({}, ())
    assert len(stand.troubles) == 1


def test_a_disk_set_aside_is_told_and_still_read_where_it_can_be(stand: Stand) -> None:
    bad = stand.raw(JUNK_HEADER)
    good = stand.overlay(stand.base(), "good")
    chains = stand.read(set_aside=[bad, good])
    assert (chains.missing, users(chains, stand.base())) == ((), [good])
    (trouble,) = stand.troubles
    assert "set aside" in trouble
    assert str(bad) in trouble


def test_what_is_no_file_is_no_disk(stand: Stand) -> None:
    folder = stand.folder()
    os.mkfifo(folder / "fifo")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "device").symlink_to("/dev/null")
    (stand.layout.instances_path / "loop").symlink_to("loop")
    (stand.layout.instances_path / "dangling").symlink_to("nowhere")
    stand.overlay(stand.base())
    chains = stand.read()
    assert chains.missing == ()
    assert len(users(chains, stand.base())) == 1


def test_disks_that_vanish_while_looking_are_no_trouble(stand: Stand) -> None:
    """Somebody makes and deletes disks all the time."""
    stand.overlay(stand.base(), "stays")
    over = threading.Event()

    def churn() -> None:
        content = (stand.folder() / "stays").read_bytes()
        while not over.is_set():
            for number in range(20):
                fresh = stand.folder(f"vm{number}") / "disk"
                fresh.write_bytes(content)
                fresh.unlink()
                fresh.parent.rmdir()

    churning = threading.Thread(target=churn)
    churning.start()
    try:
        for _ in range(100):
            chains = stand.read()
            assert chains.missing == ()
            assert stand.folder() / "stays" in users(chains, stand.base())
    finally:
        over.set()
        churning.join()


def test_a_base_that_is_gone_is_no_trouble(stand: Stand) -> None:
    disk = stand.overlay(stand.base())
    stand.base().unlink()
    chains = stand.read()
    assert chains.names == {NAME: (str(disk),)}
    assert chains.missing == ()


def test_one_trouble_of_many_disks_is_told_once(stand: Stand) -> None:
    bad = stand.layout.instances_path.parent / "bad"
    bad.write_bytes(JUNK_HEADER)
    for number in range(5):
        stand.overlay(bad, f"disk.{number}", backing_format="qcow2")
    (missing,) = stand.read().missing
    assert str(bad) in missing
    assert id_of(bad) in stand.read().files
