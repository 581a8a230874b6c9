"""The one loop through which bytes come in, and the one that reads them again.

:func:`copy_checked` reads, hashes and writes at once: the caller's thread reads into a small ring
of reused buffers, one worker thread hashes them and another writes them sparse (hashing and
writing let go of the interpreter while they work). Nothing is published here: the file is the
caller's to keep or to discard.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import mmap
import os
import platform
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from basecache import errors
from basecache.images.sparse import SparseWriter
from basecache.model import Digest, MiB

BUFFER_BYTES = 1 * MiB
_BUFFERS = 8
_BLAKE3 = "blake3"

Progress = Callable[[int], None]


def _silent(_done_bytes: int) -> None:
    """Nobody watches."""


class Reader(Protocol):
    """A stream of bytes: fills a buffer from its start as far as it can, 0 at the end."""

    def readinto(self, buffer: memoryview, /) -> int: ...


class Hash(Protocol):
    """A digest in the making, as hashlib has them."""

    def update(self, data: memoryview, /) -> object: ...

    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Copied:
    """How much was copied, and its digest in the algorithm asked for (None when none was)."""

    bytes: int
    digest: Digest | None


def new_hash(algorithm: str) -> Hash:
    """A fresh hash: hashlib's by its name, or ``blake3``. UnknownChoice for any other."""
    if algorithm == _BLAKE3:
        from blake3 import blake3  # noqa: PLC0415

        return blake3()
    try:
        made = hashlib.new(algorithm, usedforsecurity=False)
    except (ValueError, TypeError) as error:
        raise _unknown(algorithm) from error
    if made.digest_size == 0:
        raise _unknown(algorithm)
    return made


def copy_checked(
    reader: Reader,
    target: Path,
    *,
    what: str,
    size_bytes: int | None,
    digest: Digest | None,
    max_bytes: int | None,
    algorithm: str | None = None,
    durable: bool = True,
    progress: Progress = _silent,
) -> Copied:
    """Make ``target``, which does not exist, from all that ``reader`` gives.

    It is ``durable`` on return, unless the caller only reads it once more and then discards it.

    ``what`` names the bytes in messages. ``size_bytes`` and ``digest`` are what they must be,
    where known; without a digest one is still taken when ``algorithm`` asks for it. ``max_bytes``
    is the most this file may take. ``progress`` gets the bytes read so far.

    Errors: Corrupt (too long, at once; too short; another digest), NoSpace, UnknownChoice (the
    algorithm), StorageFailed, and whatever the reader raises. The file then stays as it is.
    """
    wanted = digest.algorithm if digest else algorithm
    made = new_hash(wanted) if wanted else None
    promise = _Promise(what, target, size_bytes, max_bytes)
    with SparseWriter(target, size_bytes, durable=durable) as writer:
        uses = [writer.write, made.update] if made else [writer.write]
        with _Ring(uses, _plain_buffer) as ring:
            done = _pump(reader, ring, promise, progress)
            promise.keep(done)
            ring.finish()
        found = Digest(wanted, made.hexdigest()) if wanted and made else None
        if found and digest and found.value != digest.value.lower():
            raise errors.Corrupt(what, str(digest), str(found))
        writer.finish()
    return Copied(done, found)


def hash_file(
    path: Path,
    algorithms: Sequence[str],
    *,
    progress: Progress = _silent,
    background: bool = False,
    ignore_touch: bool = False,
) -> tuple[dict[str, Digest], os.stat_result]:
    """The file's digests in one pass, and its stat from before reading.

    ``background`` is for reading what VMs stand on: at idle I/O priority (for disk schedulers that
    know priorities) and past the page cache with O_DIRECT. That neither fills the cache nor evicts
    anybody's pages from it, as dropping them afterwards would, and it reads what the medium
    holds now rather than what memory remembers. A file system without O_DIRECT is read plainly.

    Busy when size or mtime changed meanwhile: the digests are then of no one content. Touching
    the file moves its mtime as writing does; with ``ignore_touch`` only the size counts, which
    is enough where a match is what one looks for. UnknownChoice, StorageFailed.
    """
    hashes = {name: new_hash(name) for name in algorithms}
    quiet: AbstractContextManager[None] = _idle_io() if background else nullcontext()
    try:
        with quiet, _opened(path, direct=background) as descriptor:
            before = os.fstat(descriptor)
            with _Ring([made.update for made in hashes.values()], _aligned_buffer) as ring:
                _read_through(descriptor, before.st_size, ring, progress)
                ring.finish()
            after = os.fstat(descriptor)
    except OSError as error:
        raise errors.from_os(error, path, "reading") from error
    touched = before.st_mtime_ns != after.st_mtime_ns and not ignore_touch
    if before.st_size != after.st_size or touched:
        raise errors.Busy(str(path), "it changed while it was read")
    return {name: Digest(name, made.hexdigest()) for name, made in hashes.items()}, before


class _Ring:
    """Reused buffers that one thread fills, and each of ``uses`` works on in a thread of its own.

    A use sees every buffer, in order. Its error is raised where its buffer is taken again.
    Leaving waits for the threads and ends them, also after an error.
    """

    def __init__(
        self, uses: Sequence[Callable[[memoryview], object]], new_buffer: Callable[[], memoryview]
    ) -> None:
        self._workers = [(use, ThreadPoolExecutor(1)) for use in uses]
        self._buffers = [new_buffer() for _ in range(_BUFFERS)]
        self._working: list[list[Future[object]]] = [[] for _ in range(_BUFFERS)]
        self._turn = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for _, worker in self._workers:
            worker.shutdown(wait=True, cancel_futures=True)

    def take(self) -> memoryview:
        """The next buffer, once everybody is done with what it held."""
        self._settle(self._turn)
        return self._buffers[self._turn]

    def give(self, filled: memoryview) -> None:
        """Hand over what is filled of the buffer last taken."""
        self._working[self._turn] = [worker.submit(use, filled) for use, worker in self._workers]
        self._turn = (self._turn + 1) % _BUFFERS

    def finish(self) -> None:
        """Wait until everybody is done with everything."""
        for turn in range(_BUFFERS):
            self._settle(turn)

    def _settle(self, turn: int) -> None:
        working, self._working[turn] = self._working[turn], []
        for one in working:
            one.result()


@dataclass(frozen=True, slots=True)
class _Promise:
    """What is known of the length of the bytes before they come."""

    what: str
    target: Path
    size_bytes: int | None
    max_bytes: int | None

    def allow(self, done: int) -> None:
        """Corrupt or NoSpace as soon as ``done`` bytes are too many."""
        if self.size_bytes is not None and done > self.size_bytes:
            raise errors.Corrupt(self.what, f"{self.size_bytes} bytes", "more than that")
        if self.max_bytes is not None and done > self.max_bytes:
            raise errors.NoSpace(
                self.target, done, self.max_bytes, f"the most {self.what} may take"
            )

    def keep(self, done: int) -> None:
        """Corrupt when the stream ended at ``done`` bytes, too early."""
        if self.size_bytes is not None and done != self.size_bytes:
            raise errors.Corrupt(self.what, f"{self.size_bytes} bytes", f"{done} bytes")


def _pump(reader: Reader, ring: _Ring, promise: _Promise, progress: Progress) -> int:
    """Everything from ``reader`` into ``ring``; how many bytes that were."""
    done, filled = 0, -1
    while filled:
        buffer, filled = ring.take(), 0
        while filled < len(buffer) and (count := reader.readinto(buffer[filled:])):
            filled += count
        promise.allow(done + filled)
        ring.give(buffer[:filled])
        done += filled
        progress(done)
    return done


def _read_through(descriptor: int, size_bytes: int, ring: _Ring, progress: Progress) -> None:
    """``size_bytes`` from the front on, or less where the file has become shorter.

    O_DIRECT wants offsets at block boundaries: nothing may be read once the end has been met.
    """
    done = 0
    while done < size_bytes:
        buffer = ring.take()
        filled = os.preadv(descriptor, [buffer], done)
        if not filled:
            return
        ring.give(buffer[:filled])
        done += filled
        progress(done)


def _plain_buffer() -> memoryview:
    """Memory in which :class:`SparseWriter` can compare."""
    return memoryview(bytearray(BUFFER_BYTES))


def _aligned_buffer() -> memoryview:
    """Memory that begins at a page, as O_DIRECT demands, and is there before it is read into.

    btrfs does not fault pages in during a direct read: it reads the rest through the page cache.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    return memoryview(mmap.mmap(-1, BUFFER_BYTES, flags=flags))


def _unknown(algorithm: str) -> errors.UnknownChoice:
    fixed = {name for name in hashlib.algorithms_available if not name.startswith("shake")}
    return errors.UnknownChoice("digest algorithm", algorithm, tuple(sorted({*fixed, _BLAKE3})))


@contextmanager
def _opened(path: Path, *, direct: bool) -> Iterator[int]:
    """A descriptor to read from, past the page cache where ``direct`` and possible.

    tmpfs (before Linux 6.6) and some FUSE file systems refuse O_DIRECT with EINVAL.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_DIRECT if direct else flags)
    except OSError as error:
        if not direct or error.errno != errno.EINVAL:
            raise
        descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


_IOPRIO_WHO_PROCESS = 1
_IOPRIO_IDLE = 3 << 13
# ioprio_set, ioprio_get: glibc wraps neither, and their numbers differ by machine.
_IOPRIO_CALLS = {
    "x86_64": (251, 252),
    "aarch64": (30, 31),
    "riscv64": (30, 31),
    "loongarch64": (30, 31),
    "ppc64le": (273, 274),
    "s390x": (282, 283),
}


@contextmanager
def _idle_io() -> Iterator[None]:
    """This thread at idle I/O priority, and as before afterwards; nothing on other machines."""
    calls = _IOPRIO_CALLS.get(platform.machine())
    if calls is None:
        yield
        return
    setting, getting = calls
    thread = threading.get_native_id()
    before = _system_call(getting, _IOPRIO_WHO_PROCESS, thread)
    _system_call(setting, _IOPRIO_WHO_PROCESS, thread, _IOPRIO_IDLE)
    try:
        yield
    finally:
        _system_call(setting, _IOPRIO_WHO_PROCESS, thread, before)


def _system_call(number: int, *arguments: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    answer = int(libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)))
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer
