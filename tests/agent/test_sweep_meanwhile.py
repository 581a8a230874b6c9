"""sweep while others work: what they make, hold and leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from typing import Any

import pytest

from basecache import errors, events
from basecache.agent.sweep import SweepReport
from basecache.cache.layout import original_name
from basecache.model import Action, Reason
from tests.agent.sweeping import SHA1, decided, put
from tests.support.hostile import MiB, run_qemu_img
from tests.support.place import Place, make_old, process


class TestMeanwhile:
    """What changes between looking and removing."""

    def sweep_with(self, place: Place, act: Any) -> SweepReport:
        """A sweep during which ``act`` is called once, after the plan, before any removal."""
        place.write_old("notes.txt")
        host, done = place.host(), threading.Event()

        def emit(event: events.Event) -> None:
            if isinstance(event, events.Decided) and not done.is_set():
                done.set()
                act()

        object.__setattr__(host.parts, "emit", emit)
        report = host.sweep()
        assert done.is_set()
        return report

    def test_a_disk_is_made_on_an_entry_that_would_go(self, place: Place) -> None:
        image = put(place)
        entry = place.entry(image)

        report = self.sweep_with(place, lambda: place.make_overlay("new", entry))

        assert decided(report, entry).action is Action.REMOVE
        assert report.removed == ()
        assert entry.exists()
        assert ["stands on it by now" in each.why for each in report.spared] == [True]

    def test_a_disk_is_made_in_a_folder_that_was_there(self, place: Place) -> None:
        image = put(place)
        (place.instances / "old").mkdir()
        make_old(place.instances / "old")

        self.sweep_with(place, lambda: place.make_overlay("old", place.entry(image)))

        assert place.entry(image).exists()

    def test_the_entry_is_used(self, place: Place) -> None:
        image = put(place)

        report = self.sweep_with(place, lambda: os.utime(place.entry(image)))

        assert place.entry(image).exists()
        assert ["used since" in each.why for each in report.spared] == [True]

    def test_another_file_takes_its_place(self, place: Place) -> None:
        image = put(place)

        def replace() -> None:
            new = place.base / "new"
            new.write_bytes(b"new")
            times = place.entry(image).stat()
            os.utime(new, ns=(times.st_atime_ns, times.st_mtime_ns))
            new.rename(place.entry(image))

        self.sweep_with(place, replace)

        assert place.entry(image).read_bytes() == b"new"

    def test_it_goes_by_itself(self, place: Place) -> None:
        image = put(place)

        report = self.sweep_with(place, lambda: place.entry(image).unlink())

        assert place.entry(image) not in report.removed

    def test_a_disk_that_cannot_be_read_appears(self, place: Place) -> None:
        image = put(place)

        def damage() -> None:
            (place.instances / "new").mkdir()
            (place.instances / "new" / "disk").write_bytes(b"QFI\xfb" + b"\xff" * 100)

        report = self.sweep_with(place, damage)

        assert report.removed == ()
        assert place.entry(image).exists()

    def test_a_second_sweep(self, place: Place) -> None:
        image = put(place)
        told: list[errors.Busy] = []

        def again() -> None:
            with pytest.raises(errors.Busy) as caught:
                place.host().sweep()
            told.append(caught.value)

        report = self.sweep_with(place, again)

        assert "another sweep" in told[0].message
        assert place.entry(image) in report.removed

    def test_somebody_holds_the_entry(self, place: Place) -> None:
        image, other = put(place), put(place)
        with process(_HOLDING, place.instances / "locks", original_name(image)):
            report = place.host().sweep()
        assert place.entry(image).exists()
        assert place.entry(other) in report.removed


_HOLDING = """
    import sys
    from oslo_concurrency import lockutils
    with lockutils.lock(sys.argv[2], "nova-", external=True, lock_path=sys.argv[1]):
        print("held", flush=True)
        sys.stdin.read()
"""


class TestLeftovers:
    """What the dead leave behind goes, what the living work on stays."""

    @pytest.mark.parametrize(
        ("path", "lock"),
        [
            (f"_base/.staging/{SHA1}.0123456789abcdef.part", f"nova-{SHA1}"),
            (f"_base/.staging/{SHA1}.0123456789abcdef.plan", f"nova-{SHA1}"),
            ("_base/.staging/swap_512.0123456789abcdef.raw", "nova-swap_512"),
            (f"_base/{SHA1}.part", f"nova-{SHA1}"),
            (f"_base/{SHA1}.converted", f"nova-{SHA1}"),
            ("vm/.disk.01234567.basecache-new", "basecache-disk-vm-disk"),
            ("vm/.disk.01234567.basecache-raw", "basecache-disk-vm-disk"),
        ],
    )
    def test_they_stay_while_their_lock_is_held(self, place: Place, path: str, lock: str) -> None:
        place.host()
        leftover = place.instances / path
        leftover.parent.mkdir(exist_ok=True)
        leftover.write_bytes(b"x" * 4096)
        make_old(leftover)
        prefix, _, name = lock.partition("-")
        with process(_HOLDING.replace('"nova-"', f'"{prefix}-"'), place.instances / "locks", name):
            report = place.host().sweep()
            assert decided(report, leftover).code is Reason.IN_PROGRESS
            assert leftover.exists()

        report = place.host().sweep()

        assert decided(report, leftover).code is Reason.LEFTOVER
        assert not leftover.exists()

    def test_staging_needs_no_age(self, place: Place) -> None:
        place.host()
        staging = place.base / ".staging"
        staging.mkdir(exist_ok=True)
        (staging / f"{SHA1}.0123456789abcdef.part").write_bytes(b"x")
        assert len(place.host().sweep().removed) == 1

    def test_what_is_not_ours_in_staging_stays(self, place: Place) -> None:
        place.host()
        folder = place.base / ".staging" / "folder"
        folder.mkdir(parents=True)
        place.host().sweep()
        assert folder.exists()


@pytest.mark.slow
def test_many_make_and_sweep_at_once_and_no_disk_loses_its_base(place: Place) -> None:
    """Two sweepers for which everything unused is old enough, three makers of disks."""
    images = [place.add_qcow2(MiB) for _ in range(3)]
    ages = {
        "remove_unused_original_minimum_age_seconds": 0,
        "remove_unused_resized_minimum_age_seconds": 0,
    }
    options = json.dumps(place.options(image_cache=ages))
    place.host()
    sweepers = [_start(_SWEEPING, options) for _ in range(2)]
    makers = [_start(_MAKING, options, f"m{n}", *images) for n in range(3)]

    said = [maker.communicate(timeout=100)[0] for maker in makers]
    swept = [sweeper.communicate("stop\n", timeout=100)[0] for sweeper in sweepers]

    assert [maker.returncode for maker in makers] == [0, 0, 0], said
    assert [sweeper.returncode for sweeper in sweepers] == [0, 0], swept
    assert sum(int(line) for line in swept) > 0, "nothing was ever removed"
    disks = sorted(place.instances.glob("m*/disk"))
    assert len(disks) == 3 * 10
    for disk in disks:
        run_qemu_img("check", "-q", "-f", "qcow2", disk)
        run_qemu_img("info", "--backing-chain", "-f", "qcow2", disk)


def _start(code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


_SWEEPING = """
    import json, select, sys, basecache
    from basecache import errors
    host = basecache.open_host([], **json.loads(sys.argv[1]))
    removed = 0
    while not select.select([sys.stdin], [], [], 0.01)[0]:
        try:
            report = host.sweep()
        except errors.Busy:
            continue
        assert not report.missing_evidence, report.missing_evidence
        removed += len(report.removed)
    print(removed)
"""

_MAKING = """
    import json, sys, basecache
    host = basecache.open_host([], **json.loads(sys.argv[1]))
    name, images = sys.argv[2], sys.argv[3:]
    for number in range(20):
        instance = f"{name}-{number}"
        disk = host.create_disk(instance, image=images[number % 3], backend="qcow2")
        assert disk.backing.exists(), disk
        if number % 2:
            host.delete_disk(instance, "disk")
"""
