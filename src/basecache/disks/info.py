"""``disk.info``: which format each disk of an instance was born with.

A guest can write any header into its raw disk, so a format is never guessed from content
(OpenStack bug 1221190). The file is Nova's: one line of JSON in the instance's folder,
``{"<absolute path of the disk>": "<format>"}``. Lines of disks that are gone stay, for a disk
of the same name would be born into them.
"""

from __future__ import annotations

import json
from pathlib import Path

from basecache import errors
from basecache.cache import locks
from basecache.cache.layout import DISK_INFO, RESIZE_SUFFIX
from basecache.disks import files


def recorded_format(folder: Path, disk_path: Path) -> str | None:
    """The format ``disk_path`` was born with, None when nothing says so.

    In a folder that a resize moved aside, the disk is still recorded by its old path.
    StorageFailed when ``disk.info`` cannot be read or is damaged.
    """
    return _find_format(_read(folder), disk_path)


def record_format(
    folder: Path, disk_path: Path, disk_format: str, lock: Path, *, unborn: bool = False
) -> None:
    """Record the format of a disk at its birth, holding ``lock`` meanwhile.

    A disk that is ``unborn`` replaces what an earlier one of its name left written.
    The line is durable once the folder is synced, as making the disk does at its end. File
    systems keep the order of two renames in a folder, so no crash leaves the disk without it.
    FormatChange when another format is recorded; StorageFailed, NoSpace.
    """
    with locks.hold(lock, disposable=True):
        lines = _read(folder)
        recorded = _find_format(lines, disk_path)
        if recorded == disk_format:
            return
        if recorded is not None and not unborn:
            raise errors.FormatChange(disk_path, recorded, disk_format)
        _write(folder, {**lines, str(_key(disk_path)): disk_format})


def forget_format(folder: Path, disk_path: Path, lock: Path) -> None:
    """Drop the line of a disk that was deleted on purpose, and with the last line the file.

    StorageFailed, NoSpace.
    """
    with locks.hold(lock, disposable=True):
        recorded = dict(_read(folder))
        if recorded.pop(str(_key(disk_path)), None) is None:
            return
        if recorded:
            _write(folder, recorded)
            return
        with files.reporting("removing", folder / DISK_INFO):
            (folder / DISK_INFO).unlink()


def _find_format(lines: dict[str, str], disk_path: Path) -> str | None:
    path = _key(disk_path)
    moved = path.parent.with_name(path.parent.name.removesuffix(RESIZE_SUFFIX)) / path.name
    return lines.get(str(path), lines.get(str(moved)))


def _key(disk_path: Path) -> Path:
    return disk_path.absolute()


def _read(folder: Path) -> dict[str, str]:
    path = folder / DISK_INFO
    with files.reporting("reading", path):
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return {}
    # Nova opens the file with O_CREAT before it writes: an empty one is one without lines.
    try:
        content = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise errors.StorageFailed(path, "reading", f"it is damaged: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(v, str) for v in content.values()):
        raise errors.StorageFailed(path, "reading", "it is damaged: not a table of disk formats")
    return content


def _write(folder: Path, recorded: dict[str, str]) -> None:
    path = folder / DISK_INFO
    content = json.dumps(recorded).encode()
    with (
        files.reporting("writing", path, len(content)),
        files.discarded(files.temporary(path)) as fresh,
    ):
        fresh.write_bytes(content)
        files.publish(fresh, path, replacing=True, sync_folder=False)
