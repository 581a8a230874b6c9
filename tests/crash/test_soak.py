"""Many at once on one cache, each of them killed again and again, while somebody looks on.

The workers fetch, make disks, delete instances, verify, and sweep with no minimum age at all, so
that whatever may be removed is removed at once. They are killed at random moments and come back.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from basecache import errors
from basecache.agent.disk import Swap
from basecache.agent.host import Host
from basecache.model import Verdict
from tests.crash.nova import Nova
from tests.crash.tree import (
    Images,
    Tree,
    check,
    check_clean,
    check_disk,
    check_entry,
    visible_disks,
)
from tests.support import crash
from tests.support.hostile import MiB

MakeStory = Callable[[int], crash.Story]


@dataclass(frozen=True)
class Worker:
    """Does whatever comes to mind until it is killed. Its instances are its own."""

    tree: Tree
    number: int
    seed: int
    notes: Path

    def __call__(self) -> None:
        dice = random.Random(self.seed)
        host = self.tree.host()
        deeds = (self.ensure, self.make, self.make, self.drop, self.sweep, self.sweep, self.verify)
        try:
            while True:
                deed = dice.choice(deeds)
                with contextlib.suppress(errors.Busy):
                    deed(host, dice)
                    self.note(deed.__name__)
        except Exception:
            self.note(traceback.format_exc())
            raise

    def note(self, text: str) -> None:
        with self.notes.open("a") as file:
            file.write(f"{text}\n")

    def instance(self, dice: random.Random) -> str:
        content = dice.choice((*self.tree.images.ids, "swap"))
        return f"{content}-{self.number}{dice.randrange(3)}"

    def ensure(self, host: Host, dice: random.Random) -> None:
        host.ensure(dice.choice(list(self.tree.images.ids.values())))

    def make(self, host: Host, dice: random.Random) -> None:
        instance = self.instance(dice)
        image = self.tree.images.ids.get(instance.partition("-")[0])
        content = None if image else Swap(1)
        backend = "raw" if instance.endswith("0") else "qcow2"
        host.create_disk(instance, image=image, content=content, size=2 * MiB, backend=backend)

    def drop(self, host: Host, dice: random.Random) -> None:
        for folder in self.tree.folder.glob(f"*-{self.number}*"):
            with contextlib.suppress(errors.NotFound):
                host.delete_disk(folder.name, "disk")
            shutil.rmtree(folder, ignore_errors=True)

    def sweep(self, host: Host, dice: random.Random) -> None:
        report = host.sweep()
        if report.removed:
            self.note("removal")

    def verify(self, host: Host, dice: random.Random) -> None:
        bad = [v for v in host.verify(force=True) if v.verdict is Verdict.CORRUPT]
        assert not bad, bad


@pytest.mark.slow
def test_no_crowd_and_no_death_harms_what_is_visible(images: Images, tmp_path: Path) -> None:
    tree = Tree.make(tmp_path / "tree", images, image_cache=min_age(0))
    notes = tmp_path / "notes"
    torment(tree, [lambda seed, n=n: Worker(tree, n, seed, notes) for n in range(4)], kills=40)
    deeds = {"ensure", "make", "drop", "sweep", "verify", "removal"}
    assert set(notes.read_text().splitlines()) == deeds
    recover(tree)


@pytest.mark.slow
def test_nor_does_nova_beside_it(images: Images, tmp_path: Path) -> None:
    """Both remove at once what nothing uses; what unlinked locks let through, the mtime stops."""
    tree = Tree.make(tmp_path / "tree", images, owned=False, image_cache=min_age(0))
    tree.recorded = False
    notes = tmp_path / "notes"
    crowd: list[MakeStory] = [lambda seed, n=n: Worker(tree, n, seed, notes) for n in range(3)]
    crowd.append(lambda seed: Nova(tree, 3, seed, notes))
    torment(tree, crowd, kills=25)
    deeds = {"ensure", "make", "drop", "sweep", "verify", "removal"}
    theirs = {"nova spawn", "nova delete", "nova manage", "nova fetch", "nova removal"}
    assert set(notes.read_text().splitlines()) - {"nova failure"} == deeds | theirs
    recover(tree)


def min_age(seconds: int) -> dict[str, int]:
    return {
        "remove_unused_original_minimum_age_seconds": seconds,
        "remove_unused_resized_minimum_age_seconds": seconds,
    }


def torment(tree: Tree, crowd: Sequence[MakeStory], *, kills: int) -> None:
    """Let them all work at once, and kill one after the other; who is killed starts again."""
    dice, seeds = random.Random(4711), itertools.count()
    with contextlib.ExitStack() as everybody:

        def start(make: MakeStory) -> contextlib.ExitStack:
            one = everybody.enter_context(contextlib.ExitStack())
            one.enter_context(crash.started(make(next(seeds))))
            return one

        working = [start(make) for make in crowd]
        for _ in range(kills):
            look_on(tree, until=time.monotonic() + dice.uniform(0.05, 0.5))
            victim = dice.randrange(len(crowd))
            working[victim].close()
            working[victim] = start(crowd[victim])
    crash.wait_for_helpers(tree.folder)


def recover(tree: Tree) -> None:
    """After it all, the cache is whole, works, and cleans up."""
    check(tree)
    tree.ensure(*tree.images.ids)
    check(tree)
    check_clean(tree)


def look_on(tree: Tree, until: float) -> None:
    """Check over and over what is visible at the moment."""
    while time.monotonic() < until:
        for path in tree.place.base.glob("[!.]*"):
            if path.suffix != ".info":
                with contextlib.suppress(FileNotFoundError):
                    check_entry(tree, path)
        for path in visible_disks(tree):
            with unless_it_goes(path):
                check_disk(tree, path)


@contextlib.contextmanager
def unless_it_goes(path: Path) -> Iterator[None]:
    """What is wrong with a file is wrong only if it is there before and after."""
    try:
        inode = path.stat().st_ino
    except FileNotFoundError:
        inode = -1
    try:
        yield
    except (AssertionError, FileNotFoundError, subprocess.CalledProcessError):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == inode:
                raise
