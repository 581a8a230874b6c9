"""The one loop: what goes in comes out, sparse, hashed, and never longer than promised."""

from __future__ import annotations

import hashlib
import io
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import blake3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from basecache import errors
from basecache.images import digest
from basecache.images.digest import BUFFER_BYTES, Copied, copy_checked, hash_file, new_hash
from basecache.model import Digest, KiB, MiB
from tests.support import hostile


class Chunks:
    """A reader that gives bytes in uneven pieces, as networks do."""

    def __init__(self, content: bytes, most: int = 100_000) -> None:
        self._stream = io.BytesIO(content)
        self._random = random.Random(len(content))
        self._most = most
        self.given = 0

    def readinto(self, buffer: memoryview, /) -> int:
        length = self._random.randint(1, self._most)
        count = self._stream.readinto(buffer[:length])
        self.given += count
        return count


class Breaking(Chunks):
    """A reader that fails after some bytes."""

    def __init__(self, content: bytes, error: Exception) -> None:
        super().__init__(content)
        self._error = error

    def readinto(self, buffer: memoryview, /) -> int:
        return super().readinto(buffer) or self._fail()

    def _fail(self) -> int:
        raise self._error


def copy(
    content: bytes,
    target: Path,
    *,
    size: int | None = None,
    wanted: Digest | None = None,
    most: int | None = None,
    algorithm: str | None = None,
    durable: bool = True,
) -> Copied:
    return copy_checked(
        Chunks(content),
        target,
        what="image x",
        size_bytes=size,
        digest=wanted,
        max_bytes=most,
        algorithm=algorithm,
        durable=durable,
    )


def sha512(content: bytes) -> Digest:
    return Digest("sha512", hashlib.sha512(content).hexdigest())


SIZES = [0, 1, 65_535, 65_536, 65_537, BUFFER_BYTES - 1, BUFFER_BYTES, 5 * BUFFER_BYTES + 3]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fill", [os.urandom, bytes])
def test_bytes_arrive_as_they_were(tmp_path: Path, size: int, fill: Callable[[int], bytes]) -> None:
    content, target = fill(size), tmp_path / "target"
    copied = copy(content, target, size=size, wanted=sha512(content), most=size)
    assert copied == Copied(size, sha512(content))
    assert target.read_bytes() == content


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(1, 300_000)), max_size=12
    ).map(lambda runs: b"".join((b"\x01" if data else b"\0") * length for data, length in runs))
)  # fmt: skip
def test_holes_and_data_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    target = tmp_path_factory.mktemp("copy") / "target"
    assert copy(content, target, wanted=sha512(content)).bytes == len(content)
    assert target.read_bytes() == content


def test_a_copy_that_need_not_last_is_the_same(tmp_path: Path) -> None:
    content, target = os.urandom(3 * BUFFER_BYTES) + bytes(BUFFER_BYTES), tmp_path / "target"
    copied = copy(content, target, wanted=sha512(content), durable=False)
    assert copied == Copied(len(content), sha512(content))
    assert target.read_bytes() == content


def test_zeros_take_no_space(tmp_path: Path) -> None:
    content = b"x" * 4096 + bytes(40 * MiB) + b"y" * 4096 + bytes(10 * MiB)
    copy(content, tmp_path / "target")
    found = (tmp_path / "target").stat()
    assert found.st_size == len(content)
    assert found.st_blocks * 512 <= 256 * KiB


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    seen: list[int] = []
    content = os.urandom(3 * MiB + 5)
    copy_checked(
        Chunks(content),
        tmp_path / "target",
        what="x",
        size_bytes=None,
        digest=None,
        max_bytes=None,
        progress=seen.append,
    )
    assert seen == sorted(seen)
    assert seen[-1] == len(content)


def test_a_digest_is_taken_where_only_an_algorithm_is_given(tmp_path: Path) -> None:
    assert copy(b"abc", tmp_path / "a").digest is None
    taken = copy(b"abc", tmp_path / "b", algorithm="sha256").digest
    assert taken == Digest("sha256", hashlib.sha256(b"abc").hexdigest())


def test_an_upper_case_digest_is_the_same_digest(tmp_path: Path) -> None:
    wanted = sha512(b"abc")
    copied = copy(b"abc", tmp_path / "a", wanted=Digest("sha512", wanted.value.upper()))
    assert copied.digest == wanted


def test_another_digest_is_corrupt_and_both_are_named(tmp_path: Path) -> None:
    content = os.urandom(2 * MiB)
    with pytest.raises(errors.Corrupt, match="image x is corrupt") as caught:
        copy(content, tmp_path / "a", wanted=sha512(b"other"))
    assert caught.value.expected == str(sha512(b"other"))
    assert caught.value.found == str(sha512(content))


def test_too_short_is_corrupt(tmp_path: Path) -> None:
    with pytest.raises(errors.Corrupt, match="expected 1001 bytes, found 1000 bytes"):
        copy(bytes(1000), tmp_path / "a", size=1001)


def test_too_long_is_corrupt_and_stops_at_once(tmp_path: Path) -> None:
    reader = Chunks(os.urandom(20 * MiB))
    with pytest.raises(errors.Corrupt, match="expected 1048576 bytes, found more than that"):
        copy_checked(reader, tmp_path / "a", what="x", size_bytes=MiB, digest=None, max_bytes=None)
    assert reader.given <= 2 * BUFFER_BYTES
    assert (tmp_path / "a").stat().st_size <= MiB


def test_an_endless_stream_is_stopped_at_the_most_it_may_take(tmp_path: Path) -> None:
    class Endless:
        def readinto(self, buffer: memoryview, /) -> int:
            return len(buffer)

    with pytest.raises(errors.NoSpace) as caught:
        copy_checked(
            Endless(),
            tmp_path / "a",
            what="x",
            size_bytes=None,
            digest=None,
            max_bytes=10 * MiB,
        )
    assert caught.value.free_bytes == 10 * MiB
    assert caught.value.needed_bytes > 10 * MiB


def test_a_full_disk_is_no_space(small_disk: Path) -> None:
    with pytest.raises(errors.NoSpace) as caught:
        copy(os.urandom(32 * MiB), small_disk / "a", size=32 * MiB)
    (small_disk / "a").unlink()
    assert caught.value.needed_bytes == 32 * MiB
    assert caught.value.free_bytes < MiB


def test_a_target_that_exists_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("before")
    with pytest.raises(errors.StorageFailed, match="exists"):
        copy(b"after", tmp_path / "a")
    assert (tmp_path / "a").read_text() == "before"
    with pytest.raises(errors.StorageFailed, match="No such"):
        copy(b"after", tmp_path / "absent" / "a")


@pytest.mark.parametrize(
    "error", [errors.SourceInterrupted("s", "reset"), OSError(5, "of the reader's own")]
)
def test_what_the_reader_raises_comes_through_and_the_worker_ends(
    tmp_path: Path, error: Exception
) -> None:
    before = threading.active_count()
    with pytest.raises(type(error)) as caught:
        copy_checked(
            Breaking(os.urandom(5 * MiB), error),
            tmp_path / "a",
            what="x",
            size_bytes=None,
            digest=sha512(b""),
            max_bytes=None,
        )
    assert caught.value is error
    assert threading.active_count() == before


@pytest.mark.parametrize("name", ["", "shake_128", "crc32", "../md5", "SHA 1"])
def test_unknown_algorithms_are_named_with_the_known_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(errors.UnknownChoice) as caught:
        new_hash(name)
    assert {"sha512", "md5", "blake3"} <= set(caught.value.known)
    if name:
        with pytest.raises(errors.UnknownChoice):
            copy(b"", tmp_path / "a", wanted=Digest(name, "00"))
        assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_hash_file_is_what_hashlib_says(tmp_path: Path, size: int, background: bool) -> None:
    path = tmp_path / "file"
    content = os.urandom(size)
    path.write_bytes(content)
    seen: list[int] = []
    digests, found = hash_file(
        path, ["sha1", "blake3", "sha512"], background=background, progress=seen.append
    )
    assert digests == {
        "sha1": Digest("sha1", hashlib.sha1(content).hexdigest()),
        "sha512": sha512(content),
        "blake3": Digest("blake3", blake3.blake3(content).hexdigest()),
    }
    assert (found.st_ino, found.st_size) == (path.stat().st_ino, size)
    assert seen == sorted(seen)
    assert max(seen, default=0) == size


def test_background_reading_leaves_the_page_cache_as_it_was(file_system_folder: Path) -> None:
    path = file_system_folder / "file"
    path.write_bytes(os.urandom(8 * MiB))
    os.sync()
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(file.fileno(), MiB, 2 * MiB)
    warm = hostile.count_cached_pages(path)
    assert 0 < warm < 8 * MiB // 4096
    hash_file(path, ["sha1"], background=True)
    assert hostile.count_cached_pages(path) == warm
    hash_file(path, ["sha1"])
    assert hostile.count_cached_pages(path) == 8 * MiB // 4096


def test_background_reading_works_without_direct_io(tmp_path: Path) -> None:
    memory = Path("/dev/shm") / f"basecache-test-{os.getpid()}"
    try:
        memory.write_bytes(b"abc" * MiB)
        digests, _ = hash_file(memory, ["sha512"], background=True)
        assert digests["sha512"] == sha512(b"abc" * MiB)
    finally:
        memory.unlink()


def test_idle_priority_holds_while_reading_and_ends_after(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(2 * MiB))

    def priority() -> int:
        calls = digest._IOPRIO_CALLS[os.uname().machine]
        return digest._system_call(calls[1], 1, threading.get_native_id()) >> 13

    before, seen = priority(), []
    hash_file(path, ["sha1"], background=True, progress=lambda _: seen.append(priority()))
    assert seen == [3, 3]
    assert priority() == before
    with pytest.raises(errors.StorageFailed):
        hash_file(tmp_path / "absent", ["sha1"], background=True)
    assert priority() == before


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("change", ["append", "truncate", "touch"])
def test_a_file_that_changes_while_it_is_read_is_busy(
    tmp_path: Path, change: str, background: bool
) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(5 * MiB))

    def disturb(_: int) -> None:
        if change == "append":
            with path.open("ab") as file:
                file.write(b"x")
        elif change == "truncate":
            os.truncate(path, 2 * MiB)
        else:
            os.utime(path, (1, 1))

    with pytest.raises(errors.Busy, match="changed while it was read"):
        hash_file(path, ["sha1"], progress=disturb, background=background)


def test_a_touch_can_be_ignored(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    digests, found = hash_file(
        path, ["sha512"], progress=lambda _: os.utime(path, (1, 1)), ignore_touch=True
    )
    assert digests["sha512"] == sha512(b"abc")
    assert found.st_mtime > 1


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """64 MiB go through while at most the ring and little else is held."""
    import tracemalloc

    tracemalloc.start()
    try:
        copy(os.urandom(MiB) * 2, tmp_path / "small")
        content = bytes(64 * MiB)
        tracemalloc.reset_peak()
        held, _ = tracemalloc.get_traced_memory()
        copy_checked(
            io.BytesIO(content),
            tmp_path / "large",
            what="x",
            size_bytes=len(content),
            digest=sha512(content),
            max_bytes=None,
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - held < 12 * MiB
