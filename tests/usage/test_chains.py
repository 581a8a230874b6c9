"""What disks stand on, whatever name their backing files have; disks by the real qemu-img."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from basecache.cache.layout import Layout
from basecache.cache.store import Store
from basecache.images import qemu_img
from basecache.usage.chains import read_chains, read_parents
from tests.support.hostile import MiB, make_disk, run_qemu_img
from tests.support.needs import need_root, need_tool
from tests.usage.disks import NAME, OTHER, Stand, id_of, users


def test_a_disk_stands_on_its_base(stand: Stand) -> None:
    disk = stand.overlay(stand.base())
    chains = stand.read()
    assert users(chains, stand.base()) == [disk]
    assert set(chains.files) == {id_of(stand.base())}
    assert (chains.names, chains.missing, chains.disks) == ({}, (), 1)


def test_every_level_counts_and_each_disk_is_named(stand: Stand) -> None:
    middle = stand.overlay(stand.base(), "disk.base")
    upper = stand.overlay(middle, "disk.snap", backing_format="qcow2")
    top = stand.overlay(upper, "disk", instance="other", backing_format="qcow2")
    chains = stand.read()
    assert set(users(chains, stand.base())) == {middle, upper, top}
    assert set(users(chains, middle)) == {upper, top}
    assert users(chains, upper) == [top]
    assert chains.disks == 3


def test_a_base_that_stands_on_another_counts_with_it(stand: Stand) -> None:
    lower, base = stand.base(OTHER), stand.layout.entry(NAME)
    run_qemu_img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", lower, base)
    disk = stand.overlay(base, backing_format="qcow2")
    assert users(stand.read(), lower) == [disk]
    parents, missing = read_parents([base, lower])
    assert parents == {id_of(base): (id_of(lower),)}
    assert missing == ()


def test_many_disks_on_one_base(stand: Stand) -> None:
    disks = [stand.overlay(stand.base(), f"disk.{n}", instance=f"vm{n % 3}") for n in range(9)]
    assert sorted(users(stand.read(), stand.base())) == sorted(disks)


@pytest.mark.parametrize(
    "name",
    [
        "disk.rescue",
        "disk.local",
        "disk.eph0",
        "disk.swap",
        "disk.config",
        "root.img",
        "no-name-at-all",
        "a name\nwith a newline",
        ".hidden",
        "console.log.disk",
    ],
)
def test_every_file_of_a_folder_is_a_disk_by_its_magic(stand: Stand, name: str) -> None:
    disk = stand.overlay(stand.base(), name)
    assert users(stand.read(), stand.base()) == [disk]


@pytest.mark.parametrize(
    "instance", ["5e0b_resize", "instance-0000001f", "nobody knows it", ".hidden", "snapshots"]
)
def test_folders_that_no_provider_knows_count(stand: Stand, instance: str) -> None:
    disk = stand.overlay(stand.base(), instance=instance)
    assert users(stand.read(), stand.base()) == [disk]


@pytest.mark.parametrize(
    "written",
    [
        "../_base/{name}",
        ".././/_base//{name}",
        "../vm/../_base/{name}",
        "{base}/../_base/./{name}",
        "file:{base}/{name}",
        "file:../_base/{name}",
        'json:{{"driver":"raw","file":{{"driver":"file","filename":"{base}/{name}"}}}}',
        'json:{{"file.driver":"file","file.filename":"{base}/{name}"}}',
        'json:{{"driver":"file","filename":"{base}/{name}"}}',
        'json:{{ "driver": "raw", "offset": 0, "file": {{ "filename": "{base}/{name}" }} }}',
    ],
)
def test_a_name_counts_by_what_it_leads_to(stand: Stand, written: str) -> None:
    base = stand.base()
    disk = stand.overlay(written.format(base=base.parent, name=NAME))
    chains = stand.read()
    assert users(chains, base) == [disk]
    assert (chains.names, chains.missing) == ({}, ())


def test_another_name_of_the_same_file_counts(stand: Stand) -> None:
    elsewhere = stand.layout.instances_path.parent / "elsewhere"
    os.link(stand.base(), elsewhere)
    disk = stand.overlay(elsewhere)
    assert users(stand.read(), stand.base()) == [disk]


def test_a_link_to_the_base_or_the_cache_counts(stand: Stand) -> None:
    linked = stand.layout.instances_path.parent / "cache"
    linked.symlink_to(stand.layout.base)
    one = stand.overlay(linked / stand.base().name, "disk")
    link = linked.with_name("base")
    link.symlink_to(stand.base())
    two = stand.overlay(link, "disk.two")
    assert set(users(stand.read(), stand.base())) == {one, two}


def test_the_cache_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "instances").mkdir()
    (tmp_path / "instances" / "_base").symlink_to(tmp_path / "big")
    layout = Layout(tmp_path / "instances")
    Store(layout).prepare()
    stand = Stand(layout)
    disk = stand.overlay(tmp_path / "big" / stand.base().name)
    assert users(stand.read(), stand.base()) == [disk]


def test_an_instance_folder_may_be_a_link(stand: Stand) -> None:
    real = stand.layout.instances_path.parent / "real"
    real.mkdir()
    (stand.layout.instances_path / "vm").symlink_to(real)
    disk = stand.overlay(stand.base())
    assert users(stand.read(), stand.base()) == [disk]


def test_the_same_cache_mounted_elsewhere_counts(stand: Stand) -> None:
    need_root("to bind-mount")
    elsewhere = stand.layout.instances_path.parent / "mounted"
    elsewhere.mkdir()
    base = stand.base()
    subprocess.run(["mount", "--bind", base.parent, elsewhere], check=True)
    try:
        disk = stand.overlay(elsewhere / NAME)
        chains = stand.read()
    finally:
        subprocess.run(["umount", elsewhere], check=True)
    assert users(chains, base) == [disk]


def test_a_renamed_base_counts_under_its_new_name(stand: Stand) -> None:
    link = stand.layout.instances_path.parent / "link"
    link.symlink_to(stand.base())
    stand.overlay(link)
    renamed = stand.base().rename(stand.layout.base / "kept by hand")
    link.unlink()
    link.symlink_to(renamed)
    assert users(stand.read(), renamed) == [stand.folder() / "disk"]


def test_a_copy_elsewhere_is_another_file(stand: Stand) -> None:
    other = stand.layout.instances_path.parent / "other" / NAME
    other.parent.mkdir()
    other.write_bytes(stand.base().read_bytes())
    stand.overlay(other)
    chains = stand.read()
    assert users(chains, stand.base()) == []
    assert len(users(chains, other)) == 1
    assert chains.names == {}


@pytest.mark.parametrize(
    "written",
    [
        "/var/lib/nova/instances/_base/{name}",
        "/nowhere/{name}",
        "gone/{name}",
        "file:/nowhere/{name}",
        "/dev/null/{name}",
        'json:{{"driver":"file","filename":"/nowhere/{name}"}}',
    ],
)
@pytest.mark.parametrize("name", [NAME, f"{NAME}_10", "swap_512"])
def test_a_file_that_is_not_here_counts_by_its_entrys_name(
    stand: Stand, written: str, name: str
) -> None:
    """A container sees the same cache under another folder."""
    disk = stand.overlay(written.format(name=name))
    chains = stand.read()
    assert chains.names == {name: (str(disk),)}
    assert (chains.files, chains.missing) == ({}, ())


def test_a_file_that_is_not_here_and_is_no_entry_is_nothing(stand: Stand) -> None:
    for number, backing in enumerate(("/nowhere/debian.qcow2", "/nowhere/" + "x" * 300)):
        stand.overlay(backing, f"disk.{number}")
    chains = stand.read()
    assert (chains.files, chains.names, chains.missing, chains.disks) == ({}, {}, (), 2)


@pytest.mark.parametrize(
    "written",
    [
        "nbd://10.0.0.1/disk",
        "rbd:pool/disk",
        "https://example.org/{name}",
        "ssh://host/{name}",
        'json:{{"driver":"nbd","host":"10.0.0.1"}}',
    ],
)
def test_what_is_on_no_local_file_stands_on_none(stand: Stand, written: str) -> None:
    stand.overlay(written.format(name=NAME))
    chains = stand.read()
    assert (chains.files, chains.names, chains.missing) == ({}, {}, ())


def test_an_external_data_file_counts(stand: Stand) -> None:
    base = stand.base()
    disk = stand.folder() / "disk"
    make_disk(disk, "qcow2", MiB, (f"data_file={base}", "data_file_raw=on"))
    assert users(stand.read(), base) == [disk]


@pytest.mark.parametrize("kind", ["qcow", "qed", "vmdk"])
def test_other_overlay_formats_read_in_process(stand: Stand, kind: str) -> None:
    backing_format = "vmdk" if kind == "vmdk" else "raw"
    base = stand.layout.entry(NAME)
    make_disk(base, backing_format, MiB)
    disk = stand.folder() / "disk"
    run_qemu_img("create", "-q", "-f", kind, "-F", backing_format, "-b", base, disk, str(MiB))
    chains = stand.read()
    assert users(chains, base) == [disk]
    assert chains.missing == ()


@pytest.mark.parametrize("kind", ["vhdx", "vdi", "parallels", "vpc"])
def test_other_formats_without_a_parent_stand_on_nothing(stand: Stand, kind: str) -> None:
    make_disk(stand.folder() / "disk", kind, MiB)
    chains = stand.read()
    assert (chains.files, chains.names, chains.missing, chains.disks) == ({}, {}, (), 1)


def test_a_format_that_is_not_read_here_is_asked_of_qemu(stand: Stand) -> None:
    """A VMDK descriptor alone: its extents are other files, its parent is told by qemu-img."""
    base = stand.layout.entry(NAME)
    make_disk(base, "vmdk", MiB, ("subformat=monolithicFlat",))
    disk = stand.folder() / "disk"
    options = ("-o", "subformat=twoGbMaxExtentSparse", "-b", base, "-F", "vmdk")
    run_qemu_img("create", "-q", "-f", "vmdk", *options, disk, str(MiB))
    assert disk.read_bytes().startswith(b"# Disk Descriptor")
    chains = stand.read()
    assert disk in users(chains, base)
    assert chains.missing == ()


def test_a_disk_that_is_a_link_stands_on_what_it_leads_to(stand: Stand) -> None:
    link = stand.folder() / "disk"
    link.symlink_to(f"../_base/{stand.base().name}")
    far = stand.overlay(stand.base(OTHER), "far", instance="other")
    second = stand.folder() / "disk.two"
    second.symlink_to(far)
    chains = stand.read()
    assert users(chains, stand.base()) == [link]
    assert set(users(chains, stand.base(OTHER))) == {far, second}
    assert users(chains, far) == [second]


def test_a_disk_that_is_a_link_to_where_the_cache_is_not_counts_by_name(stand: Stand) -> None:
    link = stand.folder() / "disk"
    link.symlink_to(f"/nowhere/_base/{NAME}")
    assert stand.read().names == {NAME: (str(link),)}


def test_what_lies_in_the_caches_own_folders_is_no_disk(stand: Stand) -> None:
    base = stand.base()
    for folder in (stand.layout.templates, stand.layout.locks):
        folder.mkdir(exist_ok=True)
        backing = ("-b", base, "-F", "raw")
        run_qemu_img("create", "-q", "-f", "qcow2", *backing, folder / "disk", str(MiB))
    chains = stand.read()
    assert (chains.files, chains.disks) == ({}, 0)
    assert chains.folders == {}


def test_where_there_is_no_instances_folder_there_is_no_disk(tmp_path: Path) -> None:
    chains = read_chains(Layout(tmp_path / "nowhere"))
    assert (chains.files, chains.missing, chains.disks, chains.folders) == ({}, (), 0, {})


def test_unfinished_disks_are_told_and_read(stand: Stand) -> None:
    unfinished = stand.overlay(stand.base(), ".disk.0badcafe.basecache-new")
    litter = stand.folder() / ".disk.info.0badcafe"
    litter.write_bytes(b"{")
    chains = stand.read()
    assert set(chains.leftovers) == {unfinished, litter}
    assert users(chains, stand.base()) == [unfinished]


def test_loops_end_and_everything_in_them_counts(stand: Stand) -> None:
    one, two = stand.overlay(stand.base(), "one"), stand.overlay(stand.base(), "two")
    for disk, backing in ((one, two), (two, one)):
        options = ("-u", "-f", "qcow2", "-F", "qcow2", "-b", backing)
        run_qemu_img("rebase", *options, disk)
    own = stand.overlay("disk", "disk")
    chains = stand.read()
    assert set(users(chains, one)) | set(users(chains, two)) == {one, two}
    assert users(chains, own) == [own]


def test_a_long_chain_is_followed_to_its_end(stand: Stand) -> None:
    lowest = stand.overlay(stand.base(), "000", instance="vm")
    above = stand.overlay(lowest, "001", backing_format="qcow2").read_bytes()
    for number in range(2, 190):
        below = str(stand.folder() / f"{number - 1:03}").encode()
        (stand.folder() / f"{number:03}").write_bytes(_with_backing(above, below))
    chains = stand.read()
    assert chains.missing == ()
    assert len(users(chains, stand.base())) == 190
    assert users(chains, stand.folder() / "188") == [stand.folder() / "189"]


def test_a_chain_without_end_is_missing_evidence(stand: Stand) -> None:
    hidden = stand.layout.instances_path.parent / "hidden"
    hidden.mkdir()
    content = stand.overlay(stand.base()).read_bytes()
    for number in range(250):
        path = hidden / f"{number:03}"
        next_name = str(hidden / f"{number + 1:03}").encode()
        path.write_bytes(_with_backing(content, next_name))
    stand.overlay(hidden / "000", "disk", backing_format="qcow2")
    (missing,) = stand.read().missing
    assert "no end" in missing


def _with_backing(overlay: bytes, backing: bytes) -> bytes:
    """The qcow2 with another backing name in the place of its own."""
    offset = int.from_bytes(overlay[8:16], "big")
    content = bytearray(overlay)
    content[16:20] = len(backing).to_bytes(4, "big")
    content[offset : offset + len(backing)] = backing
    return bytes(content)


def test_only_changed_folders_are_read_again(stand: Stand) -> None:
    for number in range(3):
        stand.overlay(stand.base(), instance=f"vm{number}")
        os.utime(stand.folder(f"vm{number}"), (1, 1))
    known = replace(before := stand.read(), begun_ns=before.begun_ns + 10**10)
    assert stand.read(since=known).disks == 0
    changed = stand.overlay(stand.base(), "disk.two", instance="vm1")
    fresh = stand.overlay(stand.base(), instance="vm9")
    again = stand.read(since=known)
    assert again.disks == 3
    assert {changed, fresh} < set(users(again, stand.base()))


def test_a_disk_rewritten_in_place_is_read_again(stand: Stand) -> None:
    """A rebase moves no folder's time; the file's own tells."""
    rebased = stand.overlay(stand.base(), instance="vm1")
    stand.overlay(stand.base(), instance="vm2")
    for name in ("vm1", "vm2"):
        os.utime(stand.folder(name), (1, 1))
    before = stand.read()
    time.sleep(0.05)
    begun_ns = time.time_ns() + 2 * 10**9
    other = stand.base(OTHER)
    run_qemu_img("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", str(other), str(rebased))
    again = stand.read(since=replace(before, begun_ns=begun_ns))
    assert again.disks == 1
    assert users(again, other) == [rebased]


def test_disks_beside_and_below_instance_folders(stand: Stand) -> None:
    """Plain libvirt keeps disks directly in the folder; snapshots may lie in folders below."""
    beside = stand.layout.instances_path / "vm1.qcow2"
    below = stand.folder("vm2") / "snapshots" / "older"
    below.mkdir(parents=True)
    for path in (beside, below / "s.qcow2"):
        qemu_img.create_overlay(path, 4 * MiB, stand.base(), "raw")
    assert set(users(stand.read(), stand.base())) == {beside, below / "s.qcow2"}


def test_a_device_named_by_a_guest_is_not_opened(stand: Stand, tmp_path: Path) -> None:
    """Opening a watchdog or a tape acts. A fifo stands in for one: a reader would be noticed."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    disk = stand.overlay(stand.base())
    disk.write_bytes(_with_backing(disk.read_bytes(), str(fifo).encode()))
    trace = subprocess.run(
        [
            *(need_tool("strace", "apt-get install strace"), "-f", "-e", "trace=open,openat"),
            *(sys.executable, "-c", READ, str(stand.layout.instances_path)),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert str(disk) in trace
    assert str(fifo) not in trace


READ = """
import sys
from pathlib import Path
from basecache.cache.layout import Layout
from basecache.usage.chains import read_chains
read_chains(Layout(Path(sys.argv[1])))
"""


def test_the_cache_through_another_mount_counts_by_name(stand: Stand) -> None:
    need_root("to mount an overlay")
    elsewhere, work = (stand.layout.instances_path.parent / n for n in ("other", "work"))
    upper = stand.layout.instances_path.parent / "upper"
    for folder in (elsewhere, work, upper):
        folder.mkdir()
    base = stand.base()
    options = f"lowerdir={stand.layout.base},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "o", "-o", options, elsewhere], check=True)
    try:
        disk = stand.overlay(elsewhere / base.name)
        assert stand.read().names == {base.name: (str(disk),)}
    finally:
        subprocess.run(["umount", elsewhere], check=True)


def test_a_folder_that_changed_just_now_is_read_again_whatever_its_time(stand: Stand) -> None:
    """Times of folders move in ticks: two changes within one look like one."""
    stand.overlay(stand.base())
    assert stand.read(since=stand.read()).disks == 1


def test_names_that_are_no_utf8_are_followed(stand: Stand) -> None:
    strange = stand.layout.instances_path.parent / os.fsdecode(b"\xff\xfe")
    os.link(stand.base(), strange)
    disk = stand.overlay(strange)
    assert users(stand.read(), stand.base()) == [disk]
    json.dumps([str(d) for d in users(stand.read(), stand.base())])
