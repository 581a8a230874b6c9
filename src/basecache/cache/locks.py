"""Every lock of the cache, and the only file that takes one.

A lock is an **open-file-description lock** (``F_OFD_SETLK``) on the whole of a small file:

* it excludes Nova's POSIX locks (``lockf`` through oslo.concurrency) on the same file;
* it excludes other threads of this process, since each holder opens the file itself;
* it may be shared (readers of an entry) or exclusive (fetch, publish, remove);
* the kernel drops it when its holder dies.

Rules that hold everywhere:

* Nova unlinks lock files. After locking, the descriptor's file must still be the path's file;
  when it is not, the lock guards nothing and is taken anew. We never unlink a lock file that
  Nova may hold; locks of our own for things that come and go are unlinked by their holder.
* Unlock comes before close. A shared lock is never upgraded: release, then take the other.
* No fork without exec while holding one: the child would share the open file description.
* What cannot be excluded: a Nova that already waited on a file which was then unlinked, and
  Nova's own pre-cache, which takes no file lock. Whoever removes reads the mtime again under
  the lock for that reason.
* Lock files belong to their folder's owner and group and are writable by both, for Nova opens
  them too and usually is not root.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from basecache import errors

# struct flock { short l_type, l_whence; off_t l_start, l_len; pid_t l_pid; }, l_pid 0 for OFD.
_FLOCK = "hhqqi"
_LOCK_MODE = 0o664
_POLL_SECONDS = 0.02
# mountinfo writes space, tab, newline and backslash in octal, and every other byte as it is.
_ESCAPED = re.compile(r"\\([0-7]{3})")


@contextlib.contextmanager
def hold(
    path: Path,
    *,
    shared: bool = False,
    wait: bool = True,
    timeout_seconds: float | None = None,
    disposable: bool = False,
) -> Iterator[None]:
    """Hold the lock ``path``, made if it is not there.

    A ``disposable`` one is unlinked by its exclusive holder at the end; only for locks of our own
    whose every user comes through here, and so notices.

    With ``wait`` false, or once ``timeout_seconds`` have passed, a lock that somebody else holds
    raises Busy. StorageFailed when the file cannot be opened.
    """
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    while True:
        descriptor = _open(path, shared=shared)
        try:
            _take(descriptor, path, shared=shared, wait=wait, deadline=deadline)
            if _is_still(descriptor, path):
                try:
                    yield
                finally:
                    if disposable:
                        with contextlib.suppress(FileNotFoundError):
                            os.unlink(path)
                    _apply(descriptor, fcntl.F_UNLCK, fcntl.F_OFD_SETLK)
                return
        finally:
            os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether anybody holds ``path``, shared or exclusive. Takes nothing, disturbs nobody."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise errors.from_os(error, path, "opening the lock") from error
    try:
        query = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, query)
        return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)
    finally:
        os.close(descriptor)


def make_file(path: Path, content: bytes = b"", mode: int = _LOCK_MODE) -> bool:
    """Make ``path`` with its folder's owner and group in one step; False when it was there.

    The file gets its owner under a name of its own and is then linked in, so that Nova never
    meets one it may not open.
    """
    folder = path.parent
    folder_stat = folder.stat()
    temporary = folder / f".{path.name[:200]}.{secrets.token_hex(4)}"
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        os.fchmod(descriptor, mode)
        give_owner(descriptor, folder_stat)
        if content:
            os.write(descriptor, content)
        os.link(temporary, path)
        return True
    except FileExistsError:
        return False
    finally:
        os.close(descriptor)
        os.unlink(temporary)


def give_owner(target: int | Path, folder: os.stat_result) -> None:
    """Give a file its folder's owner and group, as far as this user may.

    Only root can give files away; anybody may set a group they belong to. What may not be
    changed stays: the file then belongs to us, which its mode makes good for the group.
    """
    uid = folder.st_uid if os.geteuid() == 0 else -1
    try:
        os.chown(target, uid, folder.st_gid)
    except PermissionError:
        return


def nfs_lock_trouble(mountinfo: str, path: Path) -> str | None:
    """Why locks on ``path`` would not reach other hosts, or None; ``mountinfo`` as in proc(5).

    NFS mounted with ``nolock`` or ``local_lock`` keeps locks to this host only.
    """
    best: tuple[int, str, str] = (-1, "", "")
    for line in mountinfo.split("\n"):
        left, dash, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if not dash or len(fields) < 6 or len(tail) < 3:
            continue
        point = Path(_ESCAPED.sub(lambda found: chr(int(found[1], 8)), fields[4]))
        if path.is_relative_to(point) and len(point.parts) >= best[0]:
            best = (len(point.parts), tail[0], f"{fields[5]},{tail[2]}")
    _, kind, options = best
    if not kind.startswith("nfs"):
        return None
    for option in options.split(","):
        if option == "nolock" or option in ("local_lock=all", "local_lock=posix"):
            return f"{path} is on NFS mounted with {option}: its locks do not reach other hosts"
    return None


def _open(path: Path, *, shared: bool) -> int:
    # A link would lead the lock to a file elsewhere, or, where it leads nowhere, to no end.
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            _make(path)
        except OSError as error:
            if shared and error.errno in (errno.EACCES, errno.EROFS) and flags & os.O_RDWR:
                flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
                continue
            raise errors.from_os(error, path, "opening the lock") from error


def _make(path: Path) -> None:
    try:
        if not path.parent.is_dir():
            make_folder(path.parent)
        make_file(path)
    except OSError as error:
        raise errors.from_os(error, path, "making the lock") from error


def make_folder(folder: Path) -> None:
    """Make ``folder`` and its missing parents, each owned as the folder it is in.

    One that is there, ours and empty may be of a maker that died before giving it its owner.
    """
    if not folder.is_dir():
        _make_folder(folder)
    status, parent = folder.stat(), folder.parent.stat()
    owned = (status.st_uid, status.st_gid) == (parent.st_uid, parent.st_gid)
    if not owned and status.st_uid == os.geteuid() and not os.listdir(folder):
        give_owner(folder, parent)


def _make_folder(folder: Path) -> None:
    if not folder.parent.exists():
        make_folder(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            link = folder.is_symlink()
            why = "it is a link that leads nowhere" if link else "something else is there"
            raise NotADirectoryError(errno.ENOTDIR, why, str(folder)) from None


def _take(descriptor: int, path: Path, *, shared: bool, wait: bool, deadline: float | None) -> None:
    kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
    blocks = wait and deadline is None
    while True:
        try:
            _apply(descriptor, kind, fcntl.F_OFD_SETLKW if blocks else fcntl.F_OFD_SETLK)
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise errors.from_os(error, path, "locking") from error
        if not wait or (deadline is not None and time.monotonic() >= deadline):
            raise errors.Busy(path.name, "its lock is held by another thread, process or host")
        time.sleep(_POLL_SECONDS)


def _apply(descriptor: int, kind: int, command: int) -> None:
    fcntl.fcntl(descriptor, command, struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0))


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
