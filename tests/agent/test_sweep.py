"""sweep on real trees: what goes, what stays, and what happens while it looks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from basecache import errors, events
from basecache.agent.sweep import SweepReport
from basecache.cache.layout import ephemeral_name, original_name
from basecache.model import Action, Decision, Reason
from tests.support.hostile import MiB, run_qemu_img
from tests.support.needs import need_root, need_tool
from tests.support.place import DAY, Place, age_of, look, make_old, process

HOUR = 3600.0
SHA1 = "ab" * 20


def decided(report: SweepReport, path: Path) -> Decision:
    """The one decision about a file."""
    (decision,) = [each for each in report.decisions if each.path == path]
    return decision


def put(place: Place, *, age: float = 3 * DAY) -> str:
    """An image in the cache that nobody used for ``age`` seconds; its id."""
    image = place.add_raw()
    place.host().ensure(image)
    make_old(place.entry(image), age)
    return image


class TestOutcome:
    def test_a_dry_run_changes_nothing(self, place: Place) -> None:
        unused, used = put(place), put(place)
        host = place.host()
        host.create_disk("vm", image=used, backend="qcow2")
        make_old(place.entry(used))
        place.write_old(f"{SHA1}.part")
        host.pin(unused, until=None)
        host.unpin(unused)
        before = look(place.instances)

        report = host.sweep(dry_run=True)

        assert look(place.instances) == before
        assert report.removed == ()
        assert decided(report, place.entry(unused)).action is Action.REMOVE
        assert decided(report, place.entry(used)).action is Action.TOUCH

    def test_an_old_unused_entry_goes_with_all_that_belongs_to_it(self, place: Place) -> None:
        image = put(place)
        host = place.host()
        for size in (0, 16 * MiB):
            host.create_disk("vm", image=image, backend="qcow2", size=size)
            host.delete_disk("vm", "disk")
        make_old(place.entry(image))
        templates = list((place.base / ".templates").iterdir())
        allocated = place.entry(image).stat().st_blocks * 512
        assert len(templates) == 2

        report = host.sweep()

        assert decided(report, place.entry(image)).code is Reason.UNUSED
        assert [path for path in place.base.rglob("*") if path.is_file()] == []
        assert place.entry(image) in report.removed
        assert report.freed_bytes >= allocated
        assert host.sweep().decisions == ()

    def test_what_a_disk_stands_on_is_refreshed_instead(self, place: Place) -> None:
        image = put(place)
        disk = place.host().create_disk("vm", image=image, backend="qcow2")
        make_old(place.entry(image))

        report = place.host().sweep()

        decision = decided(report, place.entry(image))
        assert (decision.action, decision.code) == (Action.TOUCH, Reason.USED_UNKNOWN_IMAGE)
        assert decision.used_by == (str(disk.path),)
        assert age_of(place.entry(image)) < 60

    def test_what_an_instance_refers_to_is_refreshed(self, place: Place) -> None:
        image = put(place)

        instances = [{"uuid": "u1", "name": "web", "host": "h2", "image_ref": image}]
        report = place.host().sweep(instances=instances)

        decision = decided(report, place.entry(image))
        assert (decision.action, decision.code) == (Action.TOUCH, Reason.USED)
        assert decision.used_by == ("web",)
        assert "0 instances here, 1 elsewhere" in decision.reason
        assert age_of(place.entry(image)) < 60

    def test_the_pinned_are_refreshed_until_their_pin_ends(self, place: Place) -> None:
        image = put(place)
        host = place.host()
        host.pin(image, reason="rollout")

        assert decided(host.sweep(), place.entry(image)).code is Reason.PINNED
        assert age_of(place.entry(image)) < 60

        make_old(place.entry(image))
        pin = place.base / ".pins" / original_name(image)
        pin.write_text(json.dumps({**json.loads(pin.read_text()), "until": 1.0}))
        assert place.entry(image) in host.sweep().removed
        assert not pin.exists()

    @pytest.mark.parametrize(
        ("name", "age", "goes"),
        [
            (SHA1, 23 * HOUR, False),
            (SHA1, 25 * HOUR, True),
            (f"{SHA1}_sm", 0.9 * HOUR, False),
            (f"{SHA1}_sm", 1.1 * HOUR, True),
            (f"{SHA1}_10", 1.1 * HOUR, True),
            (f"{SHA1}_10737418240", 1.1 * HOUR, True),
            ("swap_512", 23 * HOUR, False),
            ("swap_512", 25 * HOUR, True),
            ("ephemeral_20_40d1d2c", 25 * HOUR, True),
            (f"{SHA1}.part", 23 * HOUR, False),
            (f"{SHA1}.part", 25 * HOUR, True),
            (f"{SHA1}.converted", 25 * HOUR, True),
            (f"{SHA1}.info", 25 * HOUR, True),
            (f"{SHA1}.info", 23 * HOUR, False),
            (SHA1, -HOUR, False),
        ],
    )
    def test_ages(self, place: Place, name: str, age: float, goes: bool) -> None:
        path = place.write_old(name, age=age)

        report = place.host().sweep()

        assert path.exists() is not goes
        assert (path in report.removed) is goes

    @pytest.mark.parametrize(
        "name",
        [
            SHA1.upper(),
            SHA1[:39],
            f"{SHA1}_x",
            f"{SHA1}_10.bak",
            f"{SHA1}~",
            "swap_",
            "swap_512 ",
            "ephemeral_20",
            "disk.qcow2",
            ".hidden",
            "notes.txt",
            f"{SHA1}.part.1",
        ],
    )
    def test_only_names_of_ours_are_removed(self, place: Place, name: str) -> None:
        path = place.write_old(name)

        report = place.host().sweep()

        assert (decided(report, path).action, decided(report, path).code) == (
            Action.REPORT,
            Reason.UNKNOWN_NAME,
        )
        assert path.exists()

    def test_links_and_folders_of_our_names_stay(self, place: Place) -> None:
        outside = place.write_old("outside").rename(place.root / "outside")
        link, folder = place.base / SHA1, place.base / f"{SHA1}_10"
        link.symlink_to(outside)
        folder.mkdir()
        for path in (link, folder):
            make_old(path)

        report = place.host().sweep()

        assert {decided(report, path).code for path in (link, folder)} == {Reason.NOT_A_FILE}
        assert link.is_symlink()
        assert folder.is_dir()
        assert outside.exists()

    def test_kernels_under_their_own_ids_are_never_aged(self, place: Place) -> None:
        image = place.add_raw()
        host = place.host(libvirt={"remove_unused_kernels": False})
        result = host.ensure(image, role="kernel")
        assert result.path is not None
        make_old(result.path, 1000 * DAY)

        assert decided(host.sweep(), result.path).code is Reason.KERNEL_BY_ID
        assert result.path.exists()

    def test_removing_can_be_off(self, place: Place) -> None:
        image = put(place)

        report = place.host(basecache={"remove_unused": False}).sweep()

        decision = decided(report, place.entry(image))
        assert (decision.action, decision.code) == (Action.KEEP, Reason.REMOVAL_OFF)
        assert place.entry(image).exists()

    def test_a_removal_that_fails_is_told_and_the_rest_goes_on(self, place: Place) -> None:
        need_root("to make a file immutable")
        chattr = need_tool("chattr", "apt-get install e2fsprogs")
        stuck, after, before = (place.write_old(c * 40) for c in "bca")
        host = place.host()
        subprocess.run([chattr, "+i", stuck], check=True)
        try:
            report = host.sweep()
        finally:
            subprocess.run([chattr, "-i", stuck], check=True)

        assert set(report.removed) == {before, after}
        assert [trouble.path for trouble in report.errors] == [stuck]
        assert "Operation not permitted" in report.errors[0].why
        assert host.sweep().removed == (stuck,)

    def test_absent_but_used(self, place: Place) -> None:
        report = place.host().sweep(instances=[{"uuid": "u1", "image_ref": "not-here"}])

        decision = decided(report, place.base / original_name("not-here"))
        assert (decision.action, decision.code) == (Action.REPORT, Reason.ABSENT_BUT_USED)
        assert decision.used_by == ("u1",)

    def test_the_decided_are_told(self, place: Place) -> None:
        image = put(place)
        place.host().sweep()
        told = {(event.path, event.action) for event in place.saw(events.Decided)}
        assert (place.entry(image), Action.REMOVE) in told


class TestChains:
    """In use is what disks really stand on, whoever made them and whatever they are called."""

    @pytest.fixture
    def image(self, place: Place) -> str:
        return put(place)

    def assert_kept(self, place: Place, image: str, *users: Path) -> None:
        report = place.host().sweep()
        assert report.missing_evidence == ()
        assert decided(report, place.entry(image)).used_by == tuple(map(str, users))
        assert place.entry(image).exists()

    def test_without_any_it_goes(self, place: Place, image: str) -> None:
        assert place.entry(image) in place.host().sweep().removed

    @pytest.mark.parametrize("name", ["disk", "disk.local", "disk.rescue", "vda", "anything.img"])
    def test_a_disk_of_any_name_in_a_folder_nobody_knows(
        self, place: Place, image: str, name: str
    ) -> None:
        disk = place.make_overlay("instance-0000002a", place.entry(image), name=name)
        self.assert_kept(place, image, disk)

    @pytest.mark.parametrize("folder", ["uuid_resize", "instance-00000001_resize", "_base_old"])
    def test_in_a_folder_that_was_moved_aside(self, place: Place, image: str, folder: str) -> None:
        self.assert_kept(place, image, place.make_overlay(folder, place.entry(image)))

    def test_a_disk_on_a_disk(self, place: Place, image: str) -> None:
        below = place.make_overlay("one", place.entry(image))
        above = place.make_overlay("two", below, backing_format="qcow2")
        self.assert_kept(place, image, *sorted([below, above]))

    @pytest.mark.parametrize(
        "name",
        [
            "{path}",
            "file:{path}",
            "../_base/{name}",
            'json:{{"driver":"raw","file":{{"driver":"file","filename":"{path}"}}}}',
            'json:{{"file.filename":"{path}"}}',
            "/somewhere/else/_base/{name}",
        ],
    )
    def test_however_it_is_named(self, place: Place, image: str, name: str) -> None:
        entry = place.entry(image)
        disk = place.instances / "vm" / "disk"
        disk.parent.mkdir()
        backing = name.format(path=entry, name=entry.name)
        run_qemu_img("create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, disk, "4M")
        self.assert_kept(place, image, disk)

    def test_under_another_name_of_the_same_file(self, place: Place, image: str) -> None:
        other = place.instances / "elsewhere"
        os.link(place.entry(image), other)
        self.assert_kept(place, image, place.make_overlay("vm", other))

    @pytest.mark.parametrize("kind", ["vmdk", "qed"])
    def test_an_overlay_of_another_format(self, place: Place, image: str, kind: str) -> None:
        middle = place.entry(image)
        if kind == "vmdk":
            host = place.host(force_raw_images=False)
            image = place.add(lambda path: _make(path, "vmdk"), disk_format="vmdk", name="a vmdk")
            host.ensure(image)
            middle = make_old(place.entry(image))
        disk = place.instances / "vm" / "disk"
        disk.parent.mkdir()
        below = "vmdk" if kind == "vmdk" else "raw"
        run_qemu_img("create", "-q", "-f", kind, "-F", below, "-b", middle, disk)
        report = place.host().sweep()
        assert report.missing_evidence == ()
        assert decided(report, middle).used_by == (str(disk),)

    def test_a_raw_disk_whose_guest_wrote_a_header_protects_and_never_blocks(
        self, place: Place, image: str
    ) -> None:
        other = put(place)
        host = place.host()
        host.create_disk("vm", image=image, backend="raw")
        disk = place.instances / "vm" / "disk"
        overlay = place.make_overlay("x", place.entry(other)).read_bytes()
        (place.instances / "x" / "disk").unlink()
        for entry in (image, other):
            make_old(place.entry(entry))
        with disk.open("r+b") as file:
            file.write(overlay)

        report = host.sweep()
        assert report.missing_evidence == ()
        assert place.entry(image) in report.removed
        assert place.entry(other).exists(), "what the header names is spared"

        with disk.open("r+b") as file:
            file.write(b"QFI\xfb" + b"\xff" * 100)
        make_old(place.entry(other))
        report = host.sweep()
        assert report.missing_evidence == ()
        assert place.entry(other) in report.removed

    def test_children_go_before_parents_and_keep_them(self, place: Place, image: str) -> None:
        entry = place.entry(image)
        child = place.base / f"{entry.name}_20"
        run_qemu_img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", entry, child)
        host = place.host()

        report = host.sweep()
        assert decided(report, child).code is Reason.YOUNG
        assert decided(report, entry).code is Reason.BACKING_OF_KEPT

        make_old(child)
        make_old(entry)
        removed = [path for path in host.sweep().removed if path in (child, entry)]
        assert removed == [child, entry]


def _make(path: Path, kind: str) -> Path:
    run_qemu_img("create", "-q", "-f", kind, path, "4M")
    return path


class TestReferences:
    """What instances refer to counts, every image and every disk of theirs."""

    @pytest.mark.parametrize("field", ["image_ref", "kernel_id", "ramdisk_id"])
    def test_images(self, place: Place, field: str) -> None:
        image, other = put(place), put(place)
        report = place.host().sweep(instances=[{"uuid": "u", field: image}])
        assert place.entry(image).exists()
        assert place.entry(other) in report.removed

    @pytest.mark.parametrize("nothing", [None, "", "absent"])
    def test_no_image_is_no_image(self, place: Place, nothing: str | None) -> None:
        instance = {"uuid": "u"} | ({} if nothing == "absent" else {"image_ref": nothing})
        assert place.host().sweep(instances=[instance]).decisions == ()

    def test_resized_copies_of_a_used_image_stay_every_one(self, place: Place) -> None:
        image = put(place)
        copies = [place.write_old(f"{original_name(image)}_{n}") for n in (5, 10, 20, 40, "sm")]
        place.host().sweep(instances=[{"uuid": "u", "image_ref": image}])
        assert all(age_of(copy) < 60 for copy in copies)

    def test_swap_and_every_ephemeral_disk(self, place: Place) -> None:
        names = ["swap_512", ephemeral_name(10, "ext4"), ephemeral_name(20, "vfat")]
        used = [place.write_old(name) for name in names]
        unused = [place.write_old(name) for name in ("swap_1024", ephemeral_name(30, "ext4"))]
        bdms = [
            {"kind": "swap", "size": 512},
            {"kind": "ephemeral", "size": 10},
            {"kind": "ephemeral", "size": 20, "guest_format": "vfat"},
        ]

        report = place.host().sweep(instances=[{"uuid": "u", "bdms": bdms}])

        assert all(path.exists() for path in used)
        assert set(report.removed) == set(unused)

    @pytest.mark.parametrize(("state", "kept"), [("soft-delete", True), ("deleted", False)])
    def test_deleted_instances(self, place: Place, state: str, kept: bool) -> None:
        image = put(place)
        instances = [{"uuid": "u", "vm_state": state, "image_ref": image}]
        place.host().sweep(instances=instances)
        assert place.entry(image).exists() is kept


class TestEvidence:
    """What could not be asked may not be taken for no."""

    def assert_nothing_goes(self, place: Place, why: str, **overrides: Any) -> None:
        image = put(place)
        report = place.host(**overrides).sweep()
        assert any(why in missing for missing in report.missing_evidence)
        assert report.removed == ()
        decision = decided(report, place.entry(image))
        assert (decision.action, decision.code) == (Action.KEEP, Reason.EVIDENCE_MISSING)
        assert why in decision.reason
        assert place.entry(image).exists()

    def test_a_damaged_disk(self, place: Place) -> None:
        disk = place.instances / "vm" / "disk"
        disk.parent.mkdir()
        disk.write_bytes(b"QFI\xfb" + b"\xff" * 100)
        self.assert_nothing_goes(place, str(disk))

    @pytest.mark.parametrize("content", [b"", b"[1, 2]", b'{"h1": "soon"}', b'{"h1": 1'])
    def test_a_damaged_registry(self, place: Place, content: bytes) -> None:
        (place.instances / "compute_nodes").write_bytes(content)
        self.assert_nothing_goes(place, "compute_nodes")
        assert (place.instances / "compute_nodes").read_bytes() == content

    @pytest.mark.parametrize("content", [None, b"not json", b'{"uuid": "u"}', b'[{"host": "h"}]'])
    def test_a_usage_file_that_cannot_be_used(self, place: Place, content: bytes | None) -> None:
        path = place.root / "usage.json"
        if content is not None:
            path.write_bytes(content)
        self.assert_nothing_goes(place, str(path), basecache={"usage_file": str(path)})

    def test_no_provider(self, place: Place) -> None:
        self.assert_nothing_goes(place, "no usage provider", basecache={"usage": []})

    def test_a_host_nobody_speaks_for(self, place: Place) -> None:
        registry = place.instances / "compute_nodes"
        registry.write_text(json.dumps({"h1": 1.0, "compute-17": 1.0}))

        self.assert_nothing_goes(place, "compute-17")

        host = place.host()
        host.retire_sharer("compute-17")
        assert len(host.sweep().removed) == 1
        assert set(json.loads(registry.read_text())) == {"h1"}

    def test_a_file_speaks_for_all_hosts(self, place: Place) -> None:
        (place.instances / "compute_nodes").write_text(json.dumps({"compute-17": 1.0}))
        image = put(place)
        usage = place.usage_file({"uuid": "u", "host": "compute-17"})

        report = place.host(basecache={"usage_file": str(usage)}).sweep()

        assert place.entry(image) in report.removed

    def test_used_entries_are_refreshed_all_the_same(self, place: Place) -> None:
        image = put(place)
        place.make_overlay("vm", place.entry(image))
        (place.instances / "compute_nodes").write_text("damaged")

        place.host().sweep()

        assert age_of(place.entry(image)) < 60


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
            make_old(new)
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


def test_each_pass_registers_this_host(place: Place) -> None:
    place.host(host="compute-1").sweep()
    place.host(host="compute-1").sweep(dry_run=True)
    assert [sharer.host for sharer in place.host().sharers()] == ["compute-1"]


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
