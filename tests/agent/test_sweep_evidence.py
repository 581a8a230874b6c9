"""sweep and its evidence: what disks stand on, and what could not be asked."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from basecache.model import Action, Reason
from tests.agent.sweeping import decided, put
from tests.support.hostile import run_qemu_img
from tests.support.place import Place, age_of, make_old


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
