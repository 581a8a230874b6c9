"""What no lock of ours can exclude, and what protects there.

Nova unlinks the lock of a file it removed. A Nova that already waited on that lock then holds a
file nobody finds any more, beside whoever takes the new one. Its use of the cache file shows in
the file's mtime, which a sweep reads again under the lock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from basecache.agent.parts import Parts
from basecache.agent.sweep import sweep
from basecache.cache import locks
from basecache.cache.layout import Layout, original_name
from basecache.cache.store import Store
from basecache.model import Action, Reason
from basecache.usage import Report
from tests.support.lockers import StartLocker, until

DAY = 24 * 3600.0
NAME = original_name("some image")


@dataclass(frozen=True)
class UsageAt:
    """A provider that is asked while a sweep gathers, after the files were looked at."""

    meanwhile: Callable[[], object]
    name: str = "nothing is used"

    def collect(self) -> Report:
        self.meanwhile()
        return Report(self.name, (), hosts=None)


def make_old_entry(folder: Path) -> tuple[Layout, Path]:
    layout = Layout(folder)
    Store(layout).prepare()
    entry = layout.entry(NAME)
    entry.write_bytes(b"x" * 4096)
    then = time.time() - 2 * DAY
    os.utime(entry, (then, then))
    return layout, entry


def sweep_while(layout: Layout, meanwhile: Callable[[], object]) -> tuple[list[Path], list[str]]:
    """What one sweep removes, and why it spared what it was going to remove."""
    report = sweep(Parts(Store(layout), "h1", providers=(UsageAt(meanwhile),)))
    decided = {d.path.name: (d.action, d.code) for d in report.decisions}
    assert decided[NAME] == (Action.REMOVE, Reason.UNUSED)
    assert report.errors == ()
    return list(report.removed), [spared.why for spared in report.spared]


def test_a_nova_that_waited_on_an_unlinked_lock_is_caught_by_the_mtime(
    open_folder: Path, start_locker: StartLocker
) -> None:
    layout, entry = make_old_entry(open_folder)
    lock = layout.lock(NAME)
    remover = start_locker("nova", layout.locks, NAME)
    waiter = start_locker("nova", layout.locks, NAME, touches=entry)
    assert remover.ask("take") == "taken"
    waiter.tell("take")
    until(lambda: waiter.has_open(lock), "the second Nova waits on the lock file")
    assert remover.ask("remove") == "removed"
    assert remover.ask("release") == "released"
    assert waiter.answer() == "taken"

    with locks.hold(lock, wait=False):
        """Both are in: this is the double entry, and the reason for the second look."""

    removed, spared = sweep_while(layout, lambda: waiter.ask("touch"))
    assert removed == []
    assert spared == ["it was used since it was looked at"]
    assert entry.exists()


def test_a_nova_that_holds_the_lock_keeps_the_file(
    open_folder: Path, start_locker: StartLocker
) -> None:
    layout, entry = make_old_entry(open_folder)
    nova = start_locker("nova", layout.locks, NAME)
    removed, spared = sweep_while(layout, lambda: nova.ask("take"))
    assert removed == []
    assert len(spared) == 1
    assert "busy" in spared[0]
    assert entry.exists()


def test_the_same_file_goes_when_nothing_happens(open_folder: Path) -> None:
    layout, entry = make_old_entry(open_folder)
    removed, spared = sweep_while(layout, lambda: None)
    assert removed == [entry]
    assert spared == []
    assert not entry.exists()
