"""A new file, written sparse from its front to its end, and durable at the end if wanted."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from basecache import errors
from basecache.model import KiB, MiB

_HOLE_BYTES = 64 * KiB
_ZEROS = bytes(_HOLE_BYTES)
_WRITEBACK_BYTES = 64 * MiB
_SYNC_FILE_RANGE_WRITE = 2


class SparseWriter:
    """A new file written from the front on, with holes for zeros, and writeback begun early.

    A final fsync of data that nobody began to write takes as long as all the rest together.
    sync_file_range(2) starts writeback and waits for nothing. (Advising DONTNEED starts it, too,
    but then drains the page lists of every CPU: a third more CPU time.) Errors of the file are
    NoSpace and StorageFailed.

    Without ``durable`` the kernel writes when it wants to, and nothing waits for it: for a file
    that is only read once more and then goes, the disk may never see it.
    """

    def __init__(self, target: Path, size_bytes: int | None, *, durable: bool = True) -> None:
        self._target = target
        self._size_bytes = size_bytes
        self._durable = durable
        self._offset = 0
        self._started = 0
        with self._explaining("making"):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(target, flags, 0o644)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def write(self, filled: memoryview) -> None:
        """Append ``filled``, the front of a bytearray."""
        with self._explaining("writing"):
            for start, end in _find_data(filled):
                self._write_all(filled[start:end], self._offset + start)
            self._offset += len(filled)
            if self._durable and self._offset - self._started >= _WRITEBACK_BYTES:
                _start_writeback(self._descriptor, self._started, self._offset - self._started)
                self._started = self._offset

    def finish(self) -> None:
        """Give the file its length, a hole at its end included, and make it durable."""
        with self._explaining("writing to disk"):
            os.ftruncate(self._descriptor, self._offset)
            if self._durable:
                os.fsync(self._descriptor)

    def _write_all(self, data: memoryview, offset: int) -> None:
        while data:
            written = os.pwrite(self._descriptor, data, offset)
            data, offset = data[written:], offset + written

    @contextmanager
    def _explaining(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise errors.from_os(error, self._target, doing) from error
            file_system = os.statvfs(self._target.parent)
            raise errors.NoSpace(
                self._target,
                needed_bytes=self._size_bytes or self._offset,
                free_bytes=file_system.f_bavail * file_system.f_frsize,
                why=f"{doing}: {error.strerror}",
            ) from error


def _find_data(filled: memoryview) -> Iterator[tuple[int, int]]:
    """Where ``filled`` holds data, as (start, end): runs of 64 KiB blocks not wholly zero.

    ``filled`` is the front of a bytearray, whose startswith is a memcmp.
    """
    content = cast(bytearray, filled.obj)
    start = None
    for at in range(0, len(filled), _HOLE_BYTES):
        length = min(_HOLE_BYTES, len(filled) - at)
        zero = content.startswith(_ZEROS if length == _HOLE_BYTES else _ZEROS[:length], at)
        if not zero and start is None:
            start = at
        elif zero and start is not None:
            yield start, at
            start = None
    if start is not None:
        yield start, len(filled)


def _start_writeback(descriptor: int, offset: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    span = (ctypes.c_int64(offset), ctypes.c_int64(length))
    if libc.sync_file_range(descriptor, *span, _SYNC_FILE_RANGE_WRITE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
