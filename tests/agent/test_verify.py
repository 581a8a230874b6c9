"""verify: what lies in the cache is still what came in, and what happens where it is not."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from basecache import errors, events
from basecache.cache.layout import original_name
from basecache.cli.main import main
from basecache.model import Verdict, Verification
from tests.support.place import Place, content_of, look, process, sha256


def put(place: Place, **overrides: Any) -> str:
    image = place.add_raw()
    place.host(**overrides).ensure(image)
    return image


def damage(path: Path) -> None:
    """As a failing disk does: the bytes change, size and inode do not."""
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(b"rot")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def rewrite(place: Place, image: str, **fields: Any) -> None:
    """Change the image's record; None takes a field out."""
    record = {**place.record(image), **fields}
    kept = {name: value for name, value in record.items() if value is not None}
    place.record_path(image).write_text(json.dumps(kept))


def verify(place: Place, image: str | None = None, **how: Any) -> Verification:
    (outcome,) = place.host(**how.pop("options", {})).verify(image, **how)
    return outcome


ON = {"libvirt": {"checksum_base_images": True}}


class TestWhen:
    def test_off_checks_and_writes_nothing(self, place: Place) -> None:
        damage(place.entry(put(place)))
        before = look(place.base)
        assert verify(place).verdict is Verdict.OFF
        assert look(place.base) == before

    def test_what_is_named_or_forced_is_checked_all_the_same(self, place: Place) -> None:
        image = put(place)
        assert verify(place, image).verdict is Verdict.OK
        assert verify(place, original_name(image)).verdict is Verdict.OK
        assert verify(place, force=True).verdict is Verdict.OK

    def test_no_oftener_than_the_interval(self, place: Place) -> None:
        image = put(place)
        assert verify(place, options=ON).verdict is Verdict.RECENT, "it was checked as it came"
        long_ago = time.time() - 3700
        taken = [name for name in place.record(image) if name.endswith("-timestamp")]
        rewrite(place, image, **dict.fromkeys(taken, long_ago))
        assert verify(place, options=ON).verdict is Verdict.OK
        assert verify(place, options=ON).verdict is Verdict.RECENT
        assert place.record(image)["verified_at"] == pytest.approx(time.time(), abs=60)

    def test_the_interval_is_an_option(self, place: Place) -> None:
        put(place)
        always = {"libvirt": {"checksum_base_images": True, "checksum_interval_seconds": 0}}
        assert verify(place, options=always).verdict is Verdict.OK
        assert verify(place, options=always).verdict is Verdict.OK

    def test_an_unknown_name(self, place: Place) -> None:
        with pytest.raises(errors.NotFound):
            place.host().verify("no-such-image")

    def test_each_entry_once(self, place: Place) -> None:
        images = [put(place) for _ in range(3)]
        outcomes = place.host().verify(force=True)
        assert {outcome.name for outcome in outcomes} == set(map(original_name, images))


class TestDigests:
    def test_the_services_digest_serves_and_blake3_is_noted(self, place: Place) -> None:
        image = put(place)
        verify(place, image)
        content = place.entry(image).read_bytes()
        assert place.record(image)["blake3"] == blake3(content).hexdigest()

    def test_a_missing_digest_is_written_down(self, place: Place) -> None:
        image = place.add_qcow2()
        place.host().ensure(image)
        outcome = verify(place, image)
        assert outcome.verdict is Verdict.BASELINE
        content = place.entry(image).read_bytes()
        assert place.record(image)["blake3"] == blake3(content).hexdigest()
        damage(place.entry(image))
        assert verify(place, image).verdict is Verdict.CORRUPT

    def test_sha1_of_old_records_is_honoured(self, place: Place) -> None:
        image = place.add_raw()
        place.base.mkdir()
        place.entry(image).write_bytes(place.source_file(image).read_bytes())
        sha1 = hashlib.sha1(place.entry(image).read_bytes()).hexdigest()
        place.record_path(image).write_text(json.dumps({"sha1": sha1}))

        outcome = verify(place, options=ON)

        assert outcome.verdict is Verdict.OK
        record = place.record(image)
        assert record["sha1"] == sha1
        assert record["sha1-timestamp"] == pytest.approx(time.time(), abs=60), "it was missing"
        assert verify(place, options=ON).verdict is Verdict.RECENT

    def test_a_wrong_sha1_of_an_old_record_is_corruption(self, place: Place) -> None:
        image = place.add_raw()
        place.base.mkdir()
        place.entry(image).write_bytes(place.source_file(image).read_bytes())
        place.record_path(image).write_text(json.dumps({"sha1": "ab" * 20}))
        outcome = verify(place, options=ON)
        assert outcome.verdict is Verdict.CORRUPT
        assert outcome.expected == f"sha1:{'ab' * 20}"

    def test_the_file_of_essex(self, place: Place) -> None:
        image = place.add_raw()
        place.base.mkdir()
        place.entry(image).write_bytes(place.source_file(image).read_bytes())
        sha1 = hashlib.sha1(place.entry(image).read_bytes()).hexdigest()
        old = place.base / f"{original_name(image)}.sha1"
        old.write_text(sha1)

        assert verify(place, image).verdict is Verdict.OK

        assert place.record(image)["sha1"] == sha1
        assert not old.exists()

    def test_a_record_of_another_file_proves_nothing(self, place: Place) -> None:
        """Nova removed the file and fetched another; it leaves records behind."""
        image, other = put(place), place.add_raw()
        new = place.base / "new"
        new.write_bytes(place.source_file(other).read_bytes())
        new.rename(place.entry(image))

        assert verify(place, image).verdict is Verdict.BASELINE
        assert place.saw(events.Trouble) == []
        assert verify(place, image).verdict is Verdict.OK


class TestCorrupt:
    def test_it_is_told_with_the_disks_that_stand_on_it(
        self, place: Place, capsys: pytest.CaptureFixture[str]
    ) -> None:
        image = put(place)
        disk = place.host().create_disk("vm", image=image, backend="qcow2").path
        damage(place.entry(image))

        outcome = verify(place, image)

        assert outcome.verdict is Verdict.CORRUPT
        assert outcome.used_by == (str(disk),)
        assert outcome.expected == f"sha256:{sha256(place.source_file(image))}"
        assert outcome.found == f"sha256:{sha256(place.entry(image))}"
        assert any(str(disk) in event.why for event in place.saw(events.Trouble))
        assert main([*place.arguments(), "cache", "verify", "--force"]) == 7
        said = capsys.readouterr().err
        assert str(disk) in said
        assert str(place.entry(image)) in said

    def test_without_healing_everything_stays(self, place: Place) -> None:
        image = put(place)
        damage(place.entry(image))
        before = content_of(place.instances)
        verify(place, image)
        assert content_of(place.instances) == before

    def test_one_corrupt_entry_does_not_hide_the_others(self, place: Place) -> None:
        bad, good = put(place), put(place)
        damage(place.entry(bad))
        outcomes = {each.name: each.verdict for each in place.host().verify(force=True)}
        assert outcomes == {
            original_name(bad): Verdict.CORRUPT,
            original_name(good): Verdict.OK,
        }


class TestHeal:
    def test_an_unused_one_is_fetched_again(
        self, place: Place, capsys: pytest.CaptureFixture[str]
    ) -> None:
        image = put(place)
        damage(place.entry(image))
        bad = sha256(place.entry(image))

        outcome = verify(place, image, heal=True)

        assert outcome.verdict is Verdict.HEALED
        assert sha256(place.entry(image)) == sha256(place.source_file(image))
        (moved,) = (place.base / ".quarantine").glob("*.bad")
        assert sha256(moved) == bad
        assert str(moved) in outcome.reason
        assert main([*place.arguments(), "cache", "verify", "--force", "--heal"]) == 0

    def test_one_that_disks_stand_on_is_left_and_a_good_copy_put_beside(
        self, place: Place, capsys: pytest.CaptureFixture[str]
    ) -> None:
        image = put(place)
        disk = place.host().create_disk("vm", image=image, backend="qcow2").path
        damage(place.entry(image))
        bad = sha256(place.entry(image))

        outcome = verify(place, image, heal=True)

        assert outcome.verdict is Verdict.CORRUPT
        assert sha256(place.entry(image)) == bad
        assert outcome.copy is not None
        assert sha256(outcome.copy) == sha256(place.source_file(image))
        assert outcome.used_by == (str(disk),)
        assert main([*place.arguments(), "cache", "verify", "--force", "--heal"]) == 7
        assert str(outcome.copy) in capsys.readouterr().out

    def test_one_that_a_disk_names_from_elsewhere_counts_as_used(self, place: Place) -> None:
        image = put(place)
        seen_from_a_container = f"/mnt/cache/{original_name(image)}"
        disk = place.make_overlay("vm", place.entry(image))
        _rename_backing(disk, place.entry(image), seen_from_a_container)
        damage(place.entry(image))
        inode = place.entry(image).stat().st_ino

        outcome = verify(place, image, heal=True)

        assert outcome.verdict is Verdict.CORRUPT
        assert outcome.used_by == (str(disk),)
        assert outcome.copy is not None
        assert place.entry(image).stat().st_ino == inode

    def test_not_while_evidence_is_missing(self, place: Place) -> None:
        image = put(place)
        damage(place.entry(image))
        (place.instances / "vm").mkdir()
        (place.instances / "vm" / "disk").write_bytes(b"QFI\xfb" + b"\xff" * 100)
        inode = place.entry(image).stat().st_ino

        outcome = verify(place, image, heal=True)

        assert outcome.verdict is Verdict.CORRUPT
        assert "healing failed" in outcome.reason
        assert place.entry(image).stat().st_ino == inode

    def test_where_the_source_no_longer_has_it(self, place: Place) -> None:
        image = put(place)
        damage(place.entry(image))
        place.source_file(image).unlink()
        outcome = verify(place, image, heal=True)
        assert outcome.verdict is Verdict.CORRUPT
        assert "healing failed" in outcome.reason

    def test_a_kernel_under_its_id_keeps_its_name(self, place: Place) -> None:
        image = place.add_raw()
        host = place.host(libvirt={"remove_unused_kernels": False})
        kernel = host.ensure(image, role="kernel").path
        assert kernel is not None
        damage(kernel)

        (outcome,) = host.verify(force=True, heal=True)

        assert outcome.verdict is Verdict.HEALED
        assert sha256(kernel) == sha256(place.source_file(image))
        assert not place.entry(image).exists()


def _rename_backing(disk: Path, old: Path, new: str) -> None:
    content = disk.read_bytes()
    at = content.index(os.fsencode(old))
    padded = os.fsencode(new) + bytes(len(os.fsencode(old)) - len(new))
    content = content[:at] + padded + content[at + len(padded) :]
    length = len(new).to_bytes(4, "big")
    disk.write_bytes(content[:16] + length + content[20:])


class TestMeanwhile:
    def test_one_verifier_at_a_time(self, place: Place) -> None:
        """Nova takes this very lock when it hashes."""
        image = put(place)
        with process(_HASHING, place.instances / "locks", original_name(image)):
            assert verify(place, image).verdict is Verdict.BUSY
        assert verify(place, image).verdict is Verdict.OK

    def act_while_hashing(self, place: Place, act: Any) -> list[Verification]:
        host = place.host()

        def emit(event: events.Event) -> None:
            if isinstance(event, events.Verifying) and event.done_bytes == event.total_bytes:
                act()

        object.__setattr__(host.parts, "emit", emit)
        return host.verify(force=True)

    def test_a_file_removed_meanwhile_is_gone_not_corrupt(self, place: Place) -> None:
        first, second = sorted([put(place), put(place)], key=original_name)
        acts = [lambda: place.host().remove(second)]

        outcomes = self.act_while_hashing(place, lambda: acts and acts.pop()())

        assert [each.verdict for each in outcomes] == [Verdict.OK, Verdict.GONE]
        assert place.entry(first).exists()

    def test_a_file_replaced_meanwhile_is_not_corrupt(self, place: Place) -> None:
        image, other = put(place), place.add_raw()
        damage(place.entry(image))

        def replace() -> None:
            new = place.base / "new"
            new.write_bytes(place.source_file(other).read_bytes())
            new.rename(place.entry(image))

        (outcome,) = self.act_while_hashing(place, replace)

        assert outcome.verdict is Verdict.BUSY

    def test_a_file_used_meanwhile_is_verified_all_the_same(self, place: Place) -> None:
        image = put(place)
        (outcome,) = self.act_while_hashing(place, lambda: os.utime(place.entry(image)))
        assert outcome.verdict is Verdict.OK

    def test_a_vm_may_start_while_it_is_hashed(self, place: Place) -> None:
        image = put(place)
        made = []
        self.act_while_hashing(
            place, lambda: made.append(place.host().create_disk("vm", image=image))
        )
        assert len(made) == 1


_HASHING = """
    import sys
    from oslo_concurrency import lockutils
    name = f"hash-{sys.argv[2]}"
    with lockutils.lock(name, "nova-", external=True, lock_path=sys.argv[1]):
        print("held", flush=True)
        sys.stdin.read()
"""
