"""Swap and ephemeral disks: named as Nova names them, made by the real tools."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from basecache import errors
from basecache.cache.layout import ephemeral_name, swap_name
from basecache.disks import generated
from basecache.disks.generated import MkfsPlan, plan_ephemeral
from basecache.model import MiB
from tests.disks.making import fill
from tests.support.filesystems import MountFileSystem
from tests.support.needs import need_tool

COMMAND = "mkfs.ext3 -F -L %(fs_label)s %(target)s"


@pytest.mark.parametrize(
    ("os_type", "guest_format", "virt_mkfs", "default_format", "plan"),
    [
        ("linux", None, {}, None, MkfsPlan("ext4", file_system="ext4")),
        ("windows", None, {}, None, MkfsPlan("ntfs", file_system="ntfs")),
        (None, None, {}, None, MkfsPlan("vfat", file_system="vfat")),
        ("solaris", None, {}, "", MkfsPlan("vfat", file_system="vfat")),
        ("windows", None, {}, "xfs", MkfsPlan("xfs", file_system="xfs")),
        ("linux", "ext3", {}, "xfs", MkfsPlan("ext3", file_system="ext3")),
        ("linux", "ext3", {"linux": COMMAND}, "xfs", MkfsPlan(COMMAND, command=COMMAND)),
        ("linux", None, {"default": COMMAND}, None, MkfsPlan(COMMAND, command=COMMAND)),
        (None, None, {"default": COMMAND}, None, MkfsPlan(COMMAND, command=COMMAND)),
        ("linux", None, {"windows": COMMAND}, None, MkfsPlan("ext4", file_system="ext4")),
        ("linux", None, {"linux": "", "default": COMMAND}, None, MkfsPlan("ext4", None, "ext4")),
    ],
)
def test_the_strongest_wish_decides(
    os_type: str | None,
    guest_format: str | None,
    virt_mkfs: dict[str, str],
    default_format: str | None,
    plan: MkfsPlan,
) -> None:
    assert plan_ephemeral(os_type, guest_format, virt_mkfs, default_format) == plan


@pytest.mark.parametrize(
    ("os_type", "virt_mkfs", "name"),
    [
        ("linux", {}, "ephemeral_20_40d1d2c"),
        ("windows", {}, "ephemeral_20_68e98b8"),
        (None, {}, "ephemeral_20_0706d66"),
        # The command and the seven characters of Nova's own test.
        ("linux", {"default": "custom mkfs command"}, "ephemeral_20_a74d253"),
    ],
)
def test_names_are_novas(os_type: str | None, virt_mkfs: dict[str, str], name: str) -> None:
    assert ephemeral_name(20, plan_ephemeral(os_type, None, virt_mkfs, None).name_key) == name
    assert swap_name(512) == "swap_512"


def test_a_file_system_that_nobody_can_make_is_refused() -> None:
    with pytest.raises(errors.UnknownChoice) as caught:
        plan_ephemeral("linux", "zfs", {}, None)
    assert "ext4" in caught.value.known


def test_a_command_is_words_and_no_shell(tmp_path: Path) -> None:
    target = tmp_path / "a $(touch pwned) 'b'; c"
    plan = plan_ephemeral("linux", None, {"linux": "tool -L %(fs_label)s 'a b' %(target)s"}, None)
    assert plan.arguments(target, "my label") == ["tool", "-L", "my label", "a b", str(target)]


@pytest.mark.parametrize("command", ["tool %(nothing)s", "tool %d %(target)s", "tool 'a", "tool %"])
def test_a_command_that_cannot_be_filled_in_is_a_clear_error(command: str, tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match="virt_mkfs"):
        plan_ephemeral("linux", None, {"linux": command}, None).arguments(tmp_path, "l")


def test_a_label_is_cut_between_characters(tmp_path: Path) -> None:
    arguments = plan_ephemeral("linux", "xfs", {}, None).arguments(tmp_path, "ephemeral-ü-x")
    assert arguments[-2] == "ephemeral-ü"
    arguments = plan_ephemeral("linux", "vfat", {}, None).arguments(tmp_path, "ephemeral-ü-x")
    assert arguments[-2] == "ephemeral-"


def _blkid(path: Path) -> dict[str, str]:
    blkid = need_tool("blkid", "apt-get install util-linux")
    command = [blkid, "-p", "-o", "export", path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


_INSTALL = {"xfs": "xfsprogs", "btrfs": "btrfs-progs", "vfat": "dosfstools", "ntfs": "ntfs-3g"}


@pytest.mark.parametrize(
    ("file_system", "label"),
    [
        ("ext2", "ephemeral0"),
        ("ext3", "ephemeral0"),
        ("ext4", "ephemeral0"),
        ("xfs", "ephemeral0"),
        ("btrfs", "ephemeral0"),
        ("vfat", "ephemeral0"),
        ("ntfs", "ephemeral0"),
        ("ext4", "sixteen-bytes-16-and-more"),
        ("xfs", "twelve-bytes-and-more"),
        ("vfat", "eleven-byte-and-more"),
    ],
)
def test_file_systems_are_made_by_the_real_tools(
    file_system: str, label: str, tmp_path: Path
) -> None:
    package = _INSTALL.get(file_system, "e2fsprogs")
    need_tool(f"mkfs.{file_system}", f"apt-get install {package}")
    path = tmp_path / "ephemeral"
    plan = plan_ephemeral("linux", file_system, {}, None)
    generated.make_file_system(path, plan, size_bytes=320 * MiB, label=label)
    found = _blkid(path)
    limit = {"ext4": 16, "xfs": 12, "vfat": 11}.get(file_system, 255)
    assert found["TYPE"] == file_system
    assert found["LABEL"] == label.encode()[:limit].decode(errors="ignore")
    assert path.stat().st_size == 320 * MiB
    assert path.stat().st_blocks * 512 < 100 * MiB


def test_a_swap_area_is_made_by_mkswap(tmp_path: Path) -> None:
    path = tmp_path / "swap"
    generated.make_swap(path, 64)
    assert _blkid(path)["TYPE"] == "swap"
    assert path.stat().st_size == 64 * MiB
    assert path.stat().st_blocks * 512 < MiB


def test_an_operators_command_is_run(tmp_path: Path) -> None:
    path = tmp_path / "with a space"
    plan = plan_ephemeral("linux", None, {"linux": COMMAND}, None)
    generated.make_file_system(path, plan, size_bytes=16 * MiB)
    assert (_blkid(path)["TYPE"], _blkid(path)["LABEL"]) == ("ext3", "ephemeral0")


def test_a_tool_that_is_missing_is_named(tmp_path: Path) -> None:
    plan = plan_ephemeral("linux", None, {"linux": "mkfs.nowhere %(target)s"}, None)
    with pytest.raises(errors.ToolFailed, match=r"mkfs\.nowhere: it is not installed"):
        generated.make_file_system(tmp_path / "disk", plan, size_bytes=MiB)


def test_what_a_tool_says_is_passed_on(tmp_path: Path) -> None:
    plan = plan_ephemeral("linux", "xfs", {}, None)
    with pytest.raises(errors.ToolFailed, match=r"mkfs\.xfs: exit code .*\S"):
        generated.make_file_system(tmp_path / "disk", plan, size_bytes=MiB)


def test_a_full_file_system_is_no_space(mount_file_system: MountFileSystem, tmp_path: Path) -> None:
    full = mount_file_system("ext4", size_bytes=4 * MiB)
    fill(full)
    with pytest.raises(errors.NoSpace):
        generated.make_swap(full / "swap", 512)
