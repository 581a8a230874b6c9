"""sweep on real trees: what goes, what stays, and what is said of it."""

from __future__ import annotations

import json
import subprocess

import pytest

from basecache import events
from basecache.cache.layout import ephemeral_name, original_name
from basecache.model import Action, Reason
from tests.agent.sweeping import SHA1, decided, put
from tests.support.hostile import MiB
from tests.support.needs import need_root, need_tool
from tests.support.place import DAY, Place, age_of, look, make_old

HOUR = 3600.0


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


def test_each_pass_registers_this_host(place: Place) -> None:
    place.host(host="compute-1").sweep()
    place.host(host="compute-1").sweep(dry_run=True)
    assert [sharer.host for sharer in place.host().sharers()] == ["compute-1"]
