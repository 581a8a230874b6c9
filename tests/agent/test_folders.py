"""Folders as operators have them: read-only, on another disk behind a link, not ours to read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from basecache import errors
from basecache.cli.main import main
from basecache.model import Action, Reason, Status
from tests.support.filesystems import MountFileSystem
from tests.support.hostile import run_qemu_img
from tests.support.needs import need_root
from tests.support.place import MakePlace, Place, content_of, look, make_old

NOBODY = 65534


class TestReadOnly:
    """The whole instances path is on a file system that became read-only."""

    @pytest.fixture
    def frozen(
        self, mount_file_system: MountFileSystem, tmp_path: Path, make_place: MakePlace
    ) -> tuple[Place, str]:
        """A host with one unused old entry on a read-only file system."""
        mount = mount_file_system("ext4", size_bytes=64 << 20)
        place = make_place(mount / "host", tmp_path / "images")
        image = place.add_raw()
        host = place.host()
        host.ensure(image)
        host.create_disk("vm", image=place.add_raw())
        host.sweep()
        make_old(place.entry(image))
        subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
        return place, image

    def test_what_only_looks_works(
        self, frozen: tuple[Place, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        place, image = frozen
        before = look(place.instances)
        for command in (
            ["cache", "list"],
            ["cache", "show", image],
            ["cache", "stat"],
            ["cache", "sweep", "--dry-run"],
            ["disk", "list"],
            ["disk", "show", "--instance", "vm"],
            ["sharer", "list"],
        ):
            assert main([*place.arguments(), *command]) == 0, capsys.readouterr().err
        assert look(place.instances) == before

    def test_what_writes_says_that_it_cannot(
        self, frozen: tuple[Place, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        place, image = frozen
        other = place.add_qcow2()
        before = look(place.instances)
        for command in (
            ["cache", "ensure", other],
            ["cache", "ensure", image],
            ["cache", "remove", image],
            ["cache", "pin", image],
            ["cache", "sweep"],
            ["cache", "verify", "--force"],
            ["disk", "create", "--instance", "new", "--image", image],
            ["disk", "delete", "--instance", "vm"],
            ["sharer", "retire", "h1"],
        ):
            assert main([*place.arguments(), *command]) == 1, command
            said = capsys.readouterr()
            assert "Read-only file system" in said.err + said.out, command
            assert "Traceback" not in said.err
        assert look(place.instances) == before


class TestLinks:
    """``_base`` is a link: many operators keep it on a disk of its own."""

    @pytest.fixture
    def linked(self, place: Place) -> Place:
        elsewhere = place.root / "other-disk" / "cache"
        elsewhere.mkdir(parents=True)
        place.base.symlink_to(elsewhere)
        return place

    def test_everything_works_through_it(self, linked: Place) -> None:
        image, unused = linked.add_raw(), linked.add_raw()
        host = linked.host()

        assert host.ensure(image).status is Status.CACHED
        host.ensure(unused)
        disk = host.create_disk("vm", image=image, backend="qcow2")
        for each in (image, unused):
            make_old(linked.entry(each))
        report = host.sweep()

        assert linked.base.is_symlink()
        assert linked.entry(unused) in report.removed
        assert linked.entry(image).exists()
        used = next(d for d in report.decisions if d.path == linked.entry(image))
        assert used.code is Reason.USED_UNKNOWN_IMAGE
        assert used.used_by == (str(disk.path),)
        run_qemu_img("check", "-f", "qcow2", disk.path)

    def test_a_disk_that_names_the_target_of_the_link_counts(self, linked: Place) -> None:
        image = linked.add_raw()
        host = linked.host()
        host.ensure(image)
        linked.make_overlay("vm", linked.entry(image).resolve())
        make_old(linked.entry(image))

        assert host.sweep().removed == ()

    def test_a_link_that_leads_nowhere(
        self, place: Place, capsys: pytest.CaptureFixture[str]
    ) -> None:
        image = place.add_raw()
        place.base.symlink_to(place.root / "gone")

        with pytest.raises(errors.StorageFailed, match="leads nowhere"):
            place.host().ensure(image)
        for command in (["cache", "list"], ["cache", "ensure", image], ["cache", "sweep"]):
            assert main([*place.arguments(), *command]) == 1
        assert not place.base.exists()
        said = capsys.readouterr().err
        assert str(place.base) in said
        assert "leads nowhere" in said

    def test_a_file_where_the_folder_would_be(
        self, place: Place, capsys: pytest.CaptureFixture[str]
    ) -> None:
        place.base.write_text("")

        assert main([*place.arguments(), "cache", "list"]) == 1
        assert str(place.base) in capsys.readouterr().err


def run_as_nobody(place: Place, capsys: pytest.CaptureFixture[str], *command: str) -> int:
    """The exit code of the command, run as an ordinary user.

    It runs in this process, since Python itself may lie where an ordinary user cannot go; what it
    imports on the way is imported before.
    """
    main([*place.arguments(), "cache", "sweep", "--dry-run", "-f", "json"])
    main([*place.arguments(), "cache", "sweep", "--dry-run"])
    capsys.readouterr()
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        return main([*place.arguments(), *command])
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


class TestUnreadable:
    """What this user may not read is missing evidence, never no evidence."""

    @pytest.fixture
    def theirs(self) -> Iterator[Place]:
        """A host whose folders belong to an ordinary user, in reach of one."""
        need_root("to be another user for a while")
        root = Path(tempfile.mkdtemp())
        root.chmod(0o755)
        place = Place(root)
        for path in (root, place.instances, place.images):
            os.chown(path, NOBODY, NOBODY)
        yield place
        shutil.rmtree(root)

    @pytest.fixture
    def full(self, theirs: Place) -> str:
        """It holds an old unused entry; its id."""
        image = theirs.add_raw()
        host = theirs.host()
        host.ensure(image)
        host.create_disk("vm", image=theirs.add_raw())
        make_old(theirs.entry(image))
        return image

    def test_it_goes_where_everything_can_be_read(
        self, theirs: Place, full: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run_as_nobody(theirs, capsys, "cache", "sweep") == 0
        assert not theirs.entry(full).exists()

    @pytest.mark.parametrize("what", ["vm/disk", "vm", ""])
    def test_a_disk_or_folder_that_may_not_be_read(
        self, theirs: Place, full: str, what: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        hidden = theirs.instances / what
        os.chown(hidden, 0, 0)
        hidden.chmod(0o311 if hidden.is_dir() else 0o600)

        code = run_as_nobody(theirs, capsys, "cache", "sweep", "--dry-run", "-f", "json")

        assert code == 6
        report = json.loads(capsys.readouterr().out)
        assert any(str(hidden) in why for why in report["missing_evidence"])
        assert report["totals"]["remove"] == 0
        code = run_as_nobody(theirs, capsys, "cache", "sweep")
        assert code in (1, 6)
        assert theirs.entry(full).exists()

    def test_one_set_aside_by_the_operator(
        self, theirs: Place, full: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        hidden = theirs.instances / "vm" / "disk"
        os.chown(hidden, 0, 0)
        hidden.chmod(0o600)
        aside = f"basecache.set_aside_disks={hidden}"

        code = run_as_nobody(theirs, capsys, "--set", aside, "cache", "sweep")

        assert code == 0
        assert str(hidden) in capsys.readouterr().err, "setting aside is told"
        assert not theirs.entry(full).exists()

    def test_an_entry_whose_time_may_not_be_refreshed_is_kept_and_told(
        self, theirs: Place, full: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        theirs.host().pin(full)
        os.chown(theirs.entry(full), 0, 0)

        code = run_as_nobody(theirs, capsys, "cache", "sweep")

        assert code == 1
        assert str(theirs.entry(full)) in capsys.readouterr().err
        assert theirs.entry(full).exists()


def test_no_cache_folder_is_an_empty_report(place: Place) -> None:
    host = place.host()
    shutil.rmtree(place.base)

    report = host.sweep()

    assert (report.decisions, report.removed, report.missing_evidence) == ((), (), ())
    assert not place.base.exists()


def test_missing_folders_are_made(place: Place) -> None:
    shutil.rmtree(place.instances)
    image = place.add_raw()
    place.host().ensure(image)
    assert place.entry(image).exists()


def test_a_folder_in_the_cache_is_reported_and_left(place: Place) -> None:
    host = place.host()
    (place.base / ("ab" * 20)).mkdir()
    make_old(place.base / ("ab" * 20))

    report = host.sweep()

    assert [(d.action, d.code) for d in report.decisions] == [(Action.REPORT, Reason.NOT_A_FILE)]
    assert content_of(place.base) == set()
    assert (place.base / ("ab" * 20)).is_dir()
