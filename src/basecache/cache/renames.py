"""A rename that never replaces anything, which Python's own cannot promise."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_RENAME_NOREPLACE = 1
_AT_FDCWD = -100

_libc = ctypes.CDLL(None, use_errno=True)
_libc.renameat2.argtypes = (
    *(ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p),
    ctypes.c_uint,
)


def rename_new(source: Path, target: Path) -> None:
    """Rename, but never over something: FileExistsError when ``target`` is there.

    File systems without RENAME_NOREPLACE (NFS, some FUSE) answer EINVAL: there the look before
    the rename has to do, under the lock that the caller holds anyway.
    """
    names = (os.fsencode(source), os.fsencode(target))
    if _libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE) == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(code, os.strerror(code), str(target))
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(source, target)
