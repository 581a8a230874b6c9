"""System calls that Python has no name for: clone, preallocate, dig a hole, flush.

Each raises OSError as the ``os`` functions do. All take file descriptors or paths of the local
machine and release the interpreter lock while the kernel works.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os

# ioctl FICLONE, _IOW(0x94, 9, int) with the direction bits of x86, Arm, s390 and RISC-V.
_FICLONE = getattr(fcntl, "FICLONE", 0x40049409)
_FALLOC_FL_KEEP_SIZE = 1
_PUNCH_HOLE = 2 | _FALLOC_FL_KEEP_SIZE
_SYNC_FILE_RANGE_WRITE = 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def clone(source: int, target: int) -> bool:
    """Make ``target`` share all blocks of ``source``; False where the file system cannot."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        # EINVAL: btrfs with NOCOW on one side, or other block sizes; ETXTBSY: an active swap file.
        cannot = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ETXTBSY)
        if error.errno in cannot:
            return False
        raise
    return True


def allocate(descriptor: int, length: int) -> None:
    """Reserve blocks for the first ``length`` bytes; the file's size stays what it is."""
    while _libc.fallocate(descriptor, _FALLOC_FL_KEEP_SIZE, 0, length) != 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


def punch_hole(descriptor: int, offset: int, length: int) -> None:
    """Make a range a hole that reads as zeros; nothing where the file system has no holes."""
    if _libc.fallocate(descriptor, _PUNCH_HOLE, offset, length) != 0:
        code = ctypes.get_errno()
        if code != errno.EOPNOTSUPP:
            raise OSError(code, os.strerror(code))


def start_writeback(descriptor: int, offset: int, length: int) -> None:
    """Have the kernel begin to write the dirty pages of a range; a hint, which promises nothing."""
    _libc.sync_file_range(descriptor, offset, length, _SYNC_FILE_RANGE_WRITE)
