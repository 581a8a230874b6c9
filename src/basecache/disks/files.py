"""How a disk that is a file comes to be: made beside its place, made durable, renamed in.

    with making(path) as temporary:      .<disk>.<token>.basecache-new in the same folder
        ... fill it ...
                                         fsync, rename to <disk>, fsync of the folder

Leaving the block with an error removes the temporary file, and so nothing was made. A process
that dies leaves it behind under a name that :func:`is_leftover` knows; the next maker of the
same disk, who holds the disk's exclusive lock, removes it. No two attempts share a name: a
qemu-img that outlives its killed caller goes on in a file of its own, not in a new disk.

``making`` and ``reporting`` let no OSError out: StorageFailed, or NoSpace with both numbers.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from basecache import errors
from basecache.cache import layout, locks, renames
from basecache.disks import kernel
from basecache.images import headers
from basecache.model import KiB, MiB

_DISK_MODE = 0o644
_COPY_BYTES = 8 * MiB
_BLOCK_BYTES = 4 * KiB
_BUFFER_BYTES = MiB
_NO_KERNEL_COPY = (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)


def temporary(path: Path, stage: str = "new") -> Path:
    """A new place to make a disk at before it gets its name; ``raw`` may come before ``new``."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.basecache-{stage}")


def is_leftover(name: str) -> bool:
    """Whether a file of this name in an instance folder is an unfinished disk of ours."""
    return layout.is_disk_leftover(name)


def leftovers(path: Path) -> list[Path]:
    """What unfinished attempts to make the disk ``path`` left behind; OSError."""
    return [each for each in path.parent.iterdir() if layout.leftover_disk(each.name) == path.name]


@contextlib.contextmanager
def making(path: Path, needed_bytes: int = 0) -> Iterator[Path]:
    """A temporary path that becomes ``path``, durable, when the block ends well.

    Nothing is at the temporary path when the block starts. ``needed_bytes`` is what NoSpace says
    was needed. StorageFailed when ``path`` is taken by then: a disk is never replaced.
    """
    with reporting("making", path, needed_bytes):
        make_folder(path.parent)
        for left in leftovers(path):
            left.unlink(missing_ok=True)
        with discarded(temporary(path)) as fresh:
            yield fresh
            publish(fresh, path)


@contextlib.contextmanager
def discarded(path: Path) -> Iterator[Path]:
    """A path to work at: nothing is there at the start, and nothing is left there at the end."""
    path.unlink(missing_ok=True)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def reporting(doing: str, path: Path, needed_bytes: int = 0) -> Iterator[None]:
    """Turn OSErrors into the domain's errors about ``path``, or the other file they name."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = free_bytes(path)
            raise errors.NoSpace(path, needed_bytes, free, f"{doing}: {error.strerror}") from error
        raise errors.from_os(error, _named_in(error) or path, doing) from error


def publish(
    temporary: Path, path: Path, *, replacing: bool = False, sync_folder: bool = True
) -> None:
    """Make ``temporary`` durable, owned as the folder, and rename it to ``path``.

    FileExistsError when something is at ``path``, unless ``replacing`` allows it. The new name is
    durable too, unless ``sync_folder`` leaves that to the next fsync of the folder.
    """
    descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
    try:
        locks.give_owner(descriptor, path.parent.stat())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if replacing:
        os.rename(temporary, path)
    else:
        renames.rename_new(temporary, path)
    if sync_folder:
        sync(path.parent)


def remove(path: Path) -> None:
    """Remove a disk, and what an unfinished one left, durably; StorageFailed."""
    with reporting("removing", path):
        if path.parent.is_dir():
            for each in (path, *leftovers(path)):
                each.unlink(missing_ok=True)
            sync(path.parent)


def sync(path: Path) -> None:
    """fsync a file or a folder; OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def regular(path: Path) -> os.stat_result | None:
    """The status of a disk file, None when there is none; StorageFailed for what is no file."""
    with reporting("looking at", path):
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
    if not stat.S_ISREG(status.st_mode):
        raise errors.StorageFailed(path, "looking at", "it is not a regular file")
    return status


def read_header(path: Path) -> headers.Header:
    """What the header of a disk says; Corrupt when it makes no sense, StorageFailed."""
    with reporting("reading", path):
        try:
            return headers.read_header_of(path)
        except headers.DamagedHeader as error:
            raise errors.Corrupt(str(path), "a sound header", str(error)) from error


def make_sparse(path: Path, size_bytes: int) -> None:
    """Make a file of ``size_bytes`` that takes no blocks; OSError, also when it is there."""
    with _created(path) as descriptor:
        os.ftruncate(descriptor, size_bytes)


def copy(source: Path, target: Path) -> None:
    """Make ``target`` with the bytes of ``source``: shared blocks where possible, else sparse.

    OSError, also when ``target`` is there. Nothing is durable yet, but the disk is at work.
    """
    descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with _created(target) as made:
            if not kernel.clone(descriptor, made):
                copy_sparse(descriptor, made)
    finally:
        os.close(descriptor)


def copy_sparse(source: int, target: int) -> None:
    """Copy the data of ``source`` into the empty file ``target``; its holes stay holes. OSError."""
    length = os.fstat(source).st_size
    os.ftruncate(target, length)
    begun = 0
    for start, end in _pieces(data_extents(source, length)):
        _copy_range(source, target, start, end)
        if end - begun >= _COPY_BYTES:
            kernel.start_writeback(target, begun, end - begun)
            begun = end


def data_extents(descriptor: int, length: int) -> Iterator[tuple[int, int]]:
    """The ranges (start, end) of the first ``length`` bytes that hold data, in order; OSError."""
    position = 0
    while position < length:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        position = min(os.lseek(descriptor, start, os.SEEK_HOLE), length)
        yield start, position


def dig_holes(path: Path) -> None:
    """Give back the blocks of a small file that hold zeros, where the file system can; OSError."""
    content = path.read_bytes()
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        for offset in range(0, len(content), _BLOCK_BYTES):
            if not content[offset : offset + _BLOCK_BYTES].strip(b"\0"):
                kernel.punch_hole(descriptor, offset, _BLOCK_BYTES)
    finally:
        os.close(descriptor)


def allocate(path: Path, size_bytes: int) -> None:
    """Reserve room for the first ``size_bytes`` of ``path`` (``preallocate_images = space``).

    OSError; looks for the room first, since a fallocate that fails keeps what it got.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if size_bytes - os.fstat(descriptor).st_blocks * 512 > free_bytes(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        kernel.allocate(descriptor, size_bytes)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make ``folder``, owned as the one it is in, durably; OSError."""
    is_there = folder.is_dir()
    locks.make_folder(folder)
    if not is_there:
        sync(folder.parent)


def free_bytes(path: Path) -> int:
    """What an ordinary user may still write in the folder of ``path``."""
    try:
        status = os.statvfs(path.parent)
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize


def _named_in(error: OSError) -> Path | None:
    if isinstance(error.filename, str) and not is_leftover(os.path.basename(error.filename)):
        return Path(error.filename)
    return None


@contextlib.contextmanager
def _created(path: Path) -> Iterator[int]:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags, _DISK_MODE)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _pieces(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The ranges, none longer than one system call should be busy with."""
    for start, end in ranges:
        for piece in range(start, end, _COPY_BYTES):
            yield piece, min(piece + _COPY_BYTES, end)


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        copied = _copy_in_kernel(source, target, start, end - start)
        copied = copied or _copy_through_memory(source, target, start, end - start)
        if copied == 0:
            raise OSError(errno.EIO, "it was cut short while it was copied")
        start += copied


def _copy_in_kernel(source: int, target: int, offset: int, count: int) -> int:
    try:
        return os.copy_file_range(source, target, count, offset, offset)
    except OSError as error:
        if error.errno in _NO_KERNEL_COPY:
            return 0
        raise


def _copy_through_memory(source: int, target: int, offset: int, count: int) -> int:
    return os.pwrite(target, os.pread(source, min(count, _BUFFER_BYTES), offset), offset)
