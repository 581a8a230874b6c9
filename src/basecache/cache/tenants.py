"""Which instances folders use a cache folder that is not simply a part of one of them.

``_base`` may be a link, or a mount of its own, and then several instances folders may use it.
Locks, the registry and the disks are kept in each instances folder, so none sees what the others
stand on. Each therefore leaves a note in the cache folder, ``.instances/<id>``, where the id is
kept with its locks; a note of somebody else's is missing evidence, until an operator takes it
away. A cache folder in its own place needs none of this.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from basecache import errors
from basecache.cache import locks
from basecache.cache.layout import TENANTS, Layout

_ID = "basecache-id"


def is_apart(layout: Layout) -> bool:
    """Whether the cache folder is a link or on another device than the instances folder."""
    try:
        if layout.base.is_symlink():
            return True
        return os.stat(layout.base).st_dev != os.stat(layout.instances_path).st_dev
    except FileNotFoundError:
        return False
    except OSError as error:
        raise errors.from_os(error, layout.base, "looking at") from error


def note(layout: Layout) -> None:
    """Leave this instances folder's note in a cache folder that is apart."""
    if not is_apart(layout):
        return
    try:
        path = layout.base / TENANTS / _own_id(layout)
        if not path.exists():
            locks.make_folder(path.parent)
            locks.make_file(path, f"{layout.instances_path.absolute()}\n".encode())
    except OSError as error:
        raise errors.from_os(error, layout.base / TENANTS, "noting this host in") from error


def find_others(layout: Layout) -> list[str]:
    """What is missing because other instances folders use this cache folder, too."""
    folder = layout.base / TENANTS
    try:
        found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        own = _read_id(layout)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [f"{folder} cannot be read: {error.strerror}"]
    return [
        f"another instances folder uses this cache folder: {_name(path)} (its note is {path})"
        for path in found
        if path.name != own
    ]


def _name(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return "one that cannot be told"


def _own_id(layout: Layout) -> str:
    own = _read_id(layout)
    if own is None:
        locks.make_folder(layout.locks)
        locks.make_file(layout.locks / _ID, secrets.token_hex(16).encode())
        own = _read_id(layout)
    if own is None:
        raise FileNotFoundError(str(layout.locks / _ID))
    return own


def _read_id(layout: Layout) -> str | None:
    try:
        return (layout.locks / _ID).read_text("ascii", "replace").strip() or None
    except FileNotFoundError:
        return None
