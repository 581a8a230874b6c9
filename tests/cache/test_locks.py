"""Locks held against oslo.concurrency as Nova uses it: other processes, other users, threads."""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from basecache import errors
from basecache.cache import locks
from tests.support.lockers import (
    OTHER_USER,
    SAFETY_SECONDS,
    RunScript,
    StartLocker,
    somebody_waits_for,
    until,
)
from tests.support.needs import need_root

NAME = "0123456789abcdef0123456789abcdef01234567"

as_any_user = pytest.mark.parametrize("user", [None, OTHER_USER], ids=["same user", "other user"])
of_any_kind = pytest.mark.parametrize("kind", ["nova", "ours"])


@pytest.fixture
def lock(open_folder: Path) -> Path:
    """The lock of one cache file, in a folder that another user owns."""
    folder = open_folder / "locks"
    locks.make_folder(folder)
    return folder / f"nova-{NAME}"


@contextlib.contextmanager
def held_by_a_thread(lock: Path, *, shared: bool = False) -> Iterator[None]:
    """Another thread of this process holds the lock while the block runs."""
    taken, over = threading.Event(), threading.Event()

    def hold() -> None:
        with locks.hold(lock, shared=shared):
            taken.set()
            over.wait(SAFETY_SECONDS)

    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(hold)
        try:
            assert taken.wait(SAFETY_SECONDS)
            yield
        finally:
            over.set()
            future.result(SAFETY_SECONDS)


def is_busy(lock: Path, *, shared: bool = False) -> bool:
    try:
        with locks.hold(lock, shared=shared, wait=False):
            return False
    except errors.Busy:
        return True


@as_any_user
@of_any_kind
def test_what_another_process_holds_is_busy(
    lock: Path, start_locker: StartLocker, kind: str, user: str | None
) -> None:
    locker = start_locker(kind, lock.parent, NAME, user=user)
    assert locker.ask("take") == "taken"
    assert is_busy(lock)
    assert is_busy(lock, shared=True)
    assert locks.is_held(lock)
    assert locker.ask("release") == "released"
    assert not is_busy(lock)
    assert not locks.is_held(lock)


@as_any_user
@of_any_kind
@pytest.mark.parametrize("shared", [False, True], ids=["exclusive", "shared"])
def test_what_we_hold_is_busy_for_another_process(
    lock: Path, start_locker: StartLocker, kind: str, user: str | None, shared: bool
) -> None:
    locker = start_locker(kind, lock.parent, NAME, user=user)
    with locks.hold(lock, shared=shared):
        assert locker.ask("try") in ("busy", "Busy")
    with held_by_a_thread(lock, shared=shared):
        assert locker.ask("try") in ("busy", "Busy")
    assert locker.ask("try") == "taken"


@as_any_user
def test_a_lock_nova_made_can_be_taken_and_one_we_made_by_nova(
    lock: Path, start_locker: StartLocker, user: str | None
) -> None:
    nova = start_locker("nova", lock.parent, NAME, user=user)
    assert nova.ask("take") == "taken"
    assert nova.ask("release") == "released"
    made_by_nova = lock.stat()
    with locks.hold(lock):
        assert os.path.samestat(lock.stat(), made_by_nova)
    lock.unlink()
    with locks.hold(lock):
        pass
    made_by_us = lock.stat()
    assert nova.ask("take") == "taken"
    assert nova.has_open(lock)
    assert os.path.samestat(lock.stat(), made_by_us)


def test_readers_do_not_exclude_each_other(lock: Path, start_locker: StartLocker) -> None:
    locker = start_locker("ours", lock.parent, NAME)
    with locks.hold(lock, shared=True), held_by_a_thread(lock, shared=True):
        assert not is_busy(lock, shared=True)
        assert locker.ask("try shared") == "taken"
        assert is_busy(lock)
    assert is_busy(lock)
    assert locker.ask("release") == "released"
    assert not is_busy(lock)


def test_threads_of_one_process_exclude_each_other(lock: Path) -> None:
    with held_by_a_thread(lock):
        assert is_busy(lock)
        assert is_busy(lock, shared=True)
    assert not is_busy(lock)


def test_one_thread_excludes_itself(lock: Path) -> None:
    with locks.hold(lock):
        assert is_busy(lock)


def test_letting_one_of_two_locks_go_keeps_the_other(lock: Path, start_locker: StartLocker) -> None:
    """A POSIX lock would go as soon as the process closes any descriptor of the file."""
    nova = start_locker("nova", lock.parent, NAME)
    with locks.hold(lock, shared=True):
        with locks.hold(lock, shared=True):
            pass
        lock.read_bytes()
        assert not locks.is_held(lock.with_name("other"))
        assert nova.ask("try") == "busy"
    assert nova.ask("try") == "taken"


@of_any_kind
def test_a_waiting_thread_gets_the_lock_when_it_is_free(
    lock: Path, start_locker: StartLocker, kind: str
) -> None:
    locker = start_locker(kind, lock.parent, NAME)
    assert locker.ask("take") == "taken"
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(_take_once, lock)
        until(lambda: somebody_waits_for(lock), "our thread waits")
        assert not waiting.done()
        assert locker.ask("release") == "released"
        assert waiting.result(SAFETY_SECONDS)


def _take_once(lock: Path) -> bool:
    with locks.hold(lock):
        return True


def test_a_timeout_ends_the_waiting(lock: Path) -> None:
    with locks.hold(lock):
        with pytest.raises(errors.Busy) as caught, locks.hold(lock, timeout_seconds=0.05):
            pytest.fail("it was held")
        assert caught.value.what == lock.name
        assert caught.value.retryable
    with locks.hold(lock, timeout_seconds=0.05):
        assert locks.is_held(lock)


def test_an_error_inside_frees_the_lock_and_comes_through(lock: Path) -> None:
    with pytest.raises(errors.Busy, match="something else"), locks.hold(lock):
        raise errors.Busy("something else", "somebody")
    assert not locks.is_held(lock)


@of_any_kind
def test_the_death_of_a_holder_frees_the_lock(
    lock: Path, start_locker: StartLocker, kind: str
) -> None:
    locker = start_locker(kind, lock.parent, NAME)
    assert locker.ask("take") == "taken"
    assert is_busy(lock)
    locker.process.kill()
    locker.process.wait(SAFETY_SECONDS)
    assert not is_busy(lock)


def test_asking_whether_a_lock_is_held_makes_and_disturbs_nothing(
    lock: Path, start_locker: StartLocker
) -> None:
    assert not locks.is_held(lock)
    assert not lock.exists()
    nova = start_locker("nova", lock.parent, NAME)
    assert nova.ask("take") == "taken"
    assert locks.is_held(lock)
    assert is_busy(lock)
    assert nova.ask("release") == "released"
    with locks.hold(lock, shared=True):
        assert locks.is_held(lock)
        assert not is_busy(lock, shared=True)


def test_nothing_but_the_lock_file_is_left(lock: Path) -> None:
    with locks.hold(lock), pytest.raises(errors.Busy), locks.hold(lock, wait=False):
        pass
    assert os.listdir(lock.parent) == [lock.name]
    assert locks.make_file(lock) is False
    assert os.listdir(lock.parent) == [lock.name]


def test_a_disposable_lock_goes_with_its_holder_and_still_excludes(lock: Path) -> None:
    with locks.hold(lock, disposable=True):
        assert is_busy(lock)
    assert not lock.exists()


def test_lock_files_belong_to_whom_their_folder_belongs(lock: Path) -> None:
    need_root("to give files away")
    with locks.hold(lock):
        pass
    other = pwd.getpwnam(OTHER_USER)
    for path in (lock, lock.parent):
        assert (path.stat().st_uid, path.stat().st_gid) == (other.pw_uid, other.pw_gid)
    assert stat.S_IMODE(lock.stat().st_mode) == 0o664


def test_missing_folders_are_made_for_their_owner(open_folder: Path) -> None:
    need_root("to give files away")
    lock = open_folder / "deep" / "locks" / "nova-x"
    with locks.hold(lock):
        pass
    assert {p.stat().st_uid for p in (lock, lock.parent, lock.parent.parent)} == {
        pwd.getpwnam(OTHER_USER).pw_uid
    }


def test_a_lock_of_anothers_may_be_shared_though_not_taken(
    lock: Path, start_locker: StartLocker
) -> None:
    need_root("to run a process as another user")
    with locks.hold(lock):
        pass
    os.chown(lock, 0, 0)
    locker = start_locker("ours", lock.parent, NAME, user=OTHER_USER)
    assert locker.ask("try shared") == "taken"
    assert is_busy(lock)
    assert locker.ask("release") == "released"
    assert locker.ask("try") == "StorageFailed"
    lock.chmod(0o600)
    assert locker.ask("try shared") == "StorageFailed"


def test_a_folder_that_may_not_be_written_is_a_clear_error(
    open_folder: Path, start_locker: StartLocker
) -> None:
    need_root("to run a process as another user")
    os.chown(open_folder, 0, 0)
    locker = start_locker("ours", open_folder, NAME, user=OTHER_USER)
    assert locker.ask("try") == "StorageFailed"


@pytest.mark.parametrize("target", ["victim", "nowhere"])
def test_a_link_in_the_place_of_a_lock_is_not_followed(lock: Path, target: str) -> None:
    lock.with_name("victim").write_text("mine")
    lock.symlink_to(lock.with_name(target))
    with pytest.raises(errors.StorageFailed), locks.hold(lock):
        pass
    assert not lock.with_name("nowhere").exists()


def test_after_an_unlink_a_waiting_thread_starts_again(
    lock: Path, start_locker: StartLocker
) -> None:
    first, second = (start_locker("nova", lock.parent, NAME) for _ in range(2))
    assert first.ask("take") == "taken"
    entered, over = threading.Event(), threading.Event()

    def hold() -> None:
        with locks.hold(lock):
            entered.set()
            over.wait(SAFETY_SECONDS)

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(hold)
        until(lambda: somebody_waits_for(lock), "our thread waits")
        assert first.ask("remove") == "removed"
        assert not entered.is_set()
        assert first.ask("release") == "released"
        assert entered.wait(SAFETY_SECONDS)
        assert second.ask("try") == "busy"
        assert first.ask("try") == "busy"
        over.set()
        waiting.result(SAFETY_SECONDS)
    assert second.ask("try") == "taken"


COUNT_WITH_UNLINKS = """
import random, threading
from pathlib import Path
from basecache.cache import locks
lock, counter = Path(sys.argv[1]), Path(sys.argv[2])
def count():
    for _ in range(int(sys.argv[3])):
        with locks.hold(lock):
            number = int(counter.read_text())
            os.sched_yield()
            counter.write_text(str(number + 1))
            if random.random() < 0.3:
                lock.unlink(missing_ok=True)
threads = [threading.Thread(target=count) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""

COUNT_BESIDE_NOVA = """
from pathlib import Path
from oslo_concurrency import lockutils
counter = Path(sys.argv[2])
folder, _, name = sys.argv[1].rpartition("/nova-")
for _ in range(int(sys.argv[3])):
    with lockutils.lock(name, "nova-", external=True, lock_path=folder, delay=0.0005):
        number = int(counter.read_text())
        os.sched_yield()
        counter.write_text(str(number + 1))
"""


def test_no_increment_is_lost_while_holders_unlink_the_lock(
    lock: Path, run_script: RunScript, tmp_path: Path
) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    running = [run_script(COUNT_WITH_UNLINKS, lock, counter, 60) for _ in range(3)]
    assert [process.wait(SAFETY_SECONDS) for process in running] == [0, 0, 0]
    assert counter.read_text() == str(3 * 3 * 60)


def test_no_increment_is_lost_between_novas_and_our_threads(
    lock: Path, run_script: RunScript, tmp_path: Path
) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    running = [run_script(COUNT_BESIDE_NOVA, lock, counter, 60) for _ in range(2)]

    def count() -> None:
        for _ in range(60):
            with locks.hold(lock):
                number = int(counter.read_text())
                os.sched_yield()
                counter.write_text(str(number + 1))

    with ThreadPoolExecutor(3) as threads:
        for future in [threads.submit(count) for _ in range(3)]:
            future.result(SAFETY_SECONDS)
    assert [process.wait(SAFETY_SECONDS) for process in running] == [0, 0]
    assert counter.read_text() == str(5 * 60)
