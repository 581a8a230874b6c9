"""Swap and ephemeral disks: content that no image holds but a tool makes.

Each is made once, as a cache entry (``swap_<MiB>``, ``ephemeral_<GiB>_<7 chars>``), and disks are
made from that as from any base. What an ephemeral disk is formatted with, strongest first:

1. the operator's command for the instance's OS type, or for ``default`` (``virt_mkfs``);
2. the format the request names (``guest_format``);
3. ``default_ephemeral_format``;
4. what suits the OS type: ext4 for linux, ntfs for windows, vfat for those we know nothing of.

The entry's name is taken from the first of these that applies (``MkfsPlan.name_key``, for
:func:`basecache.cache.layout.ephemeral_name`).
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from basecache import errors
from basecache.disks import files
from basecache.model import MiB

FIRST_LABEL = "ephemeral0"
_BY_OS_TYPE = {"linux": "ext4", "windows": "ntfs"}
_BY_UNKNOWN_OS_TYPE = "vfat"
# mkfs and mkswap live where an ordinary user's PATH does not lead.
_SYSTEM_FOLDERS = ("/usr/sbin", "/sbin")


@dataclass(frozen=True, slots=True)
class FileSystem:
    """How a file system is made: its tool's arguments up to the label, and the label's limit."""

    command: tuple[str, ...]
    label_option: str
    label_bytes: int
    package: str


_EXT = ("-q", "-F")
_FILE_SYSTEMS = {
    "ext2": FileSystem(("mkfs.ext2", *_EXT), "-L", 16, "e2fsprogs"),
    "ext3": FileSystem(("mkfs.ext3", *_EXT), "-L", 16, "e2fsprogs"),
    "ext4": FileSystem(("mkfs.ext4", *_EXT), "-L", 16, "e2fsprogs"),
    "xfs": FileSystem(("mkfs.xfs", "-q", "-f"), "-L", 12, "xfsprogs"),
    "btrfs": FileSystem(("mkfs.btrfs", "-q", "-f"), "-L", 255, "btrfs-progs"),
    "vfat": FileSystem(("mkfs.vfat",), "-n", 11, "dosfstools"),
    "ntfs": FileSystem(("mkfs.ntfs", "--quiet", "--fast", "--force"), "-L", 32, "ntfs-3g"),
    "swap": FileSystem(("mkswap",), "-L", 15, "util-linux"),
}
_PACKAGES = {each.command[0]: each.package for each in _FILE_SYSTEMS.values()}


@dataclass(frozen=True, slots=True)
class MkfsPlan:
    """What an ephemeral disk is formatted with: an operator's command or else a file system.

    ``name_key`` is what the name of its cache entry is taken from.
    """

    name_key: str
    command: str | None = None
    file_system: str | None = None

    def arguments(self, target: Path, label: str) -> list[str]:
        """The program and its arguments; ConfigError when the operator's command is no such."""
        if self.command is not None:
            return _fill_in(self.command, target, label)
        assert self.file_system is not None  # noqa: S101
        how = _FILE_SYSTEMS[self.file_system]
        short = label.encode()[: how.label_bytes].decode(errors="ignore")
        return [*how.command, how.label_option, short, str(target)]


def plan_ephemeral(
    os_type: str | None,
    guest_format: str | None,
    virt_mkfs: Mapping[str, str],
    default_format: str | None,
) -> MkfsPlan:
    """What to format an ephemeral disk with; UnknownChoice for a file system nobody can make."""
    command = virt_mkfs.get(os_type or "", virt_mkfs.get("default"))
    if command:
        return MkfsPlan(name_key=command, command=command)
    wanted = guest_format or default_format or _BY_OS_TYPE.get(os_type or "", _BY_UNKNOWN_OS_TYPE)
    if wanted not in _FILE_SYSTEMS:
        raise errors.UnknownChoice("file system", wanted, tuple(sorted(_FILE_SYSTEMS)))
    return MkfsPlan(name_key=wanted, file_system=wanted)


def make_swap(path: Path, swap_mib: int) -> None:
    """Make ``path`` a sparse swap area of ``swap_mib`` MiB; ToolFailed, NoSpace, StorageFailed."""
    _size(path, swap_mib * MiB)
    _run(["mkswap", str(path)], path)


def make_file_system(
    path: Path, plan: MkfsPlan, *, size_bytes: int | None = None, label: str = FIRST_LABEL
) -> None:
    """Format ``path``, made sparse with ``size_bytes`` first when they are given.

    The label is cut to what the file system holds. ToolFailed, ConfigError, NoSpace, StorageFailed.
    """
    if size_bytes is not None:
        _size(path, size_bytes)
    _run(plan.arguments(path, label), path)


def _size(path: Path, size_bytes: int) -> None:
    with files.reporting("making", path, size_bytes), path.open("ab") as file:
        file.truncate(size_bytes)


def _fill_in(command: str, target: Path, label: str) -> list[str]:
    values = {"fs_label": label, "target": str(target)}
    try:
        arguments = [word % values for word in shlex.split(command)]
    except (ValueError, KeyError, TypeError) as error:
        raise errors.ConfigError(
            f"virt_mkfs: {command!r} is not a command: {error}",
            "%(fs_label)s and %(target)s may stand in it, and a lone % is written %%",
        ) from error
    return arguments


def _run(arguments: Sequence[str], target: Path) -> None:
    tool, *rest = arguments
    package = _PACKAGES.get(tool)
    install = f"apt-get install {package}" if package else None
    folders = os.pathsep.join((os.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS))
    program = shutil.which(tool, path=folders)
    if program is None:
        raise errors.ToolFailed(tool, "it is not installed", install)
    done = subprocess.run(
        [program, *rest],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, "LC_ALL": "C", "PATH": folders},
        check=False,
    )
    if done.returncode != 0:
        raise _explain(tool, done, target)


def _explain(
    tool: str, done: subprocess.CompletedProcess[bytes], target: Path
) -> errors.ToolFailed | errors.NoSpace:
    output = (done.stderr or done.stdout).decode(errors="replace").strip()
    free = files.free_bytes(target)
    # mkswap does not say why it could not write.
    if free == 0 or os.strerror(errno.ENOSPC) in output:
        return errors.NoSpace(target, target.stat().st_size, free, f"{tool}: {output}")
    return errors.ToolFailed(tool, f"exit code {done.returncode}: {output}")
