"""A Nova compute service, as far as the cache folder sees one: its fetcher and its cache manager.

It takes its locks with oslo.concurrency as Nova does, on ``locks/nova-<name>``, writes ``.part``
and ``.converted`` and renames, touches base files in use, removes those that are not and then
their lock files, on which others may be waiting. It knows every instance folder, and no age
stops it; so it looks for instances under the lock, where Nova trusts the age.

One at a time: two Novas on one folder, each on a lock file of its own since the other unlinked
one, write into the same ``.part`` and spoil each other's files.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from oslo_concurrency import lockutils

from tests.crash.tree import Tree
from tests.support.hostile import MiB, run_qemu_img


@dataclass(frozen=True)
class Nova:
    """Spawns, deletes, and manages the cache until it is killed. Its instances are its own."""

    tree: Tree
    number: int
    seed: int
    notes: Path

    def __call__(self) -> None:
        dice = random.Random(self.seed)
        deeds = (self.spawn, self.delete, self.manage, self.manage)
        try:
            while True:
                deed = dice.choice(deeds)
                deed(dice)
                self.note(f"nova {deed.__name__}")
        except Exception:
            self.note(traceback.format_exc())
            raise

    def note(self, text: str) -> None:
        with self.notes.open("a") as file:
            file.write(f"{text}\n")

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        folder = str(self.tree.folder / "locks")
        with lockutils.lock(name, "nova-", external=True, lock_path=folder):
            yield

    def instance(self, dice: random.Random) -> Path:
        image = dice.choice(list(self.tree.images.ids))
        return self.tree.folder / f"{image}-{self.number}{dice.randrange(2)}"

    def spawn(self, dice: random.Random) -> None:
        disk = self.instance(dice) / "disk"
        image = disk.parent.name.partition("-")[0]
        if disk.exists():
            return
        self.fetch(image)
        disk.parent.mkdir(exist_ok=True)
        (disk.parent / "disk.info").write_text(json.dumps({str(disk): "qcow2"}))
        base = self.tree.entry(image)
        with self.locked(base.name):
            try:
                os.utime(base)
                self.make_overlay(base, disk)
            except (FileNotFoundError, subprocess.CalledProcessError):
                # Between fetching and this Nova holds no lock: such a spawn fails.
                self.note("nova failure")

    def make_overlay(self, base: Path, disk: Path) -> None:
        """In one step, other than Nova: disks that were cut off half-made are not the matter."""
        fresh = self.tree.place.root / f"nova-{self.number}"
        fresh.unlink(missing_ok=True)
        run_qemu_img(*("create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, fresh, str(2 * MiB)))
        fresh.rename(disk)

    def fetch(self, image: str) -> None:
        base = self.tree.entry(image)
        with self.locked(base.name):
            if base.exists():
                return
            part = base.with_name(f"{base.name}.part")
            shutil.copyfile(self.tree.place.source_file(self.tree.id(image)), part)
            if image == "cow":
                converted = base.with_name(f"{base.name}.converted")
                run_qemu_img("convert", "-f", "qcow2", "-O", "raw", part, converted)
                part.unlink()
                part = converted
            part.rename(base)
            self.note("nova fetch")

    def delete(self, dice: random.Random) -> None:
        for folder in self.tree.folder.glob(f"*-{self.number}*"):
            shutil.rmtree(folder, ignore_errors=True)

    def manage(self, dice: random.Random) -> None:
        for image in self.tree.images.ids:
            with contextlib.suppress(FileNotFoundError):
                self.age_out(image, self.tree.entry(image))

    def age_out(self, image: str, base: Path) -> None:
        with self.locked(base.name):
            if any(self.tree.folder.glob(f"{image}-*")):
                os.utime(base)
                return
            base.unlink()
            self.note("nova removal")
        folder = str(self.tree.folder / "locks")
        lockutils.remove_external_lock_file(base.name, "nova-", lock_path=folder)
