"""ensure: an image is in the cache, verified and fetched once, whoever asks how often."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from basecache import errors, events
from basecache.cache.layout import original_name
from basecache.cache.records import XATTR
from basecache.model import Status
from tests.support.hostile import MiB, make_backed_qcow2, run_qemu_img
from tests.support.needs import need_root
from tests.support.place import Place, age_of, make_old, sha256


def test_the_first_asking_fetches_and_the_second_finds(place: Place) -> None:
    image = place.add_raw()
    host = place.host()

    first, second = host.ensure(image), host.ensure(image)

    assert (first.status, second.status) == (Status.CACHED, Status.EXISTING)
    assert first.path == second.path == place.entry(image)
    assert (first.bytes, second.bytes) == (4 * MiB, 0)
    assert first.source == "directory"
    assert sha256(place.entry(image)) == sha256(place.source_file(image))


def test_a_hit_asks_no_source(place: Place) -> None:
    image = place.add_raw()
    place.host().ensure(image)
    make_old(place.entry(image))
    shutil.rmtree(place.images)

    assert place.host().ensure(image).status is Status.EXISTING
    assert age_of(place.entry(image)) < 60, "a hit is a use"


def test_an_image_may_be_asked_for_by_its_name(place: Place) -> None:
    image = place.add_raw(name="debian-12")
    host = place.host()

    assert host.ensure("debian-12").image == image
    assert host.ensure("debian-12").status is Status.EXISTING
    assert host.ensure(image).status is Status.EXISTING


def test_one_failure_does_not_stop_the_others(place: Place) -> None:
    good, bad, last = place.add_raw(), place.add(make_backed_qcow2), place.add_qcow2()

    results = list(place.host().ensure_all([good, bad, "no-such-image", last]))

    statuses = [result.status for result in results]
    assert statuses == [Status.CACHED, Status.FAILED, Status.FAILED, Status.CACHED]
    assert isinstance(results[1].error, errors.UnsafeImage)
    assert isinstance(results[2].error, errors.NotFound)
    assert place.entry(last).exists()


@pytest.mark.parametrize("role", ["kernel", "ramdisk"])
@pytest.mark.parametrize("by_fingerprint", [True, False])
def test_kernels_are_named_as_the_option_says(
    place: Place, role: str, by_fingerprint: bool
) -> None:
    image = place.add_raw()
    host = place.host(libvirt={"remove_unused_kernels": by_fingerprint})

    result = host.ensure(image, role=role)

    assert result.path is not None
    assert result.path.name == (original_name(image) if by_fingerprint else image)
    assert sha256(result.path) == sha256(place.source_file(image))
    assert host.ensure(image, role=role).status is Status.EXISTING


def test_a_qcow2_image_becomes_raw_where_that_is_wanted(place: Place) -> None:
    image = place.add_qcow2(8 * MiB)

    place.host().ensure(image)

    said = json.loads(
        run_qemu_img("info", "--output=json", "-f", "raw", place.entry(image).absolute())
    )
    assert said["virtual-size"] == 8 * MiB == place.entry(image).stat().st_size
    run_qemu_img(
        "compare", "-f", "qcow2", "-F", "raw", place.source_file(image), place.entry(image)
    )
    assert place.record(image)["format"] == "raw"
    assert place.record(image)["source_format"] == "qcow2"
    assert "digest" not in place.record(image), "the service's digest is not of these bytes"


def test_a_qcow2_image_stays_what_it_is_otherwise(place: Place) -> None:
    image = place.add_qcow2()

    place.host(force_raw_images=False).ensure(image)

    assert sha256(place.entry(image)) == sha256(place.source_file(image))
    assert place.record(image)["format"] == "qcow2"
    assert place.record(image)["digest"] == f"sha256:{sha256(place.source_file(image))}"


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_the_entry_is_sparse(place: Place, kind: str) -> None:
    image = place.add_raw(64 * MiB) if kind == "raw" else place.add_qcow2(64 * MiB)

    place.host().ensure(image)

    status = place.entry(image).stat()
    assert status.st_size == 64 * MiB
    assert status.st_blocks * 512 < 2 * MiB


def test_the_record_says_what_came_in_and_binds_to_the_file(place: Place) -> None:
    image = place.add_raw(name="debian-12")

    place.host().ensure(image)

    record, status = place.record(image), place.entry(image).stat()
    digest = f"sha256:{sha256(place.source_file(image))}"
    expected = {
        "image_id": image,
        "image_name": "debian-12",
        "source": "directory",
        "source_format": "raw",
        "source_digest": digest,
        "digest": digest,
        "format": "raw",
        "virtual_size_bytes": 4 * MiB,
        "checks": ["digest", "inspected-1", "length"],
        "file_inode": status.st_ino,
        "file_size": status.st_size,
        "file_token": os.getxattr(place.entry(image), XATTR).decode(),
    }
    assert {name: record[name] for name in expected} == expected
    assert all(f"{name}-timestamp" in record for name in expected)


def test_every_file_takes_its_folders_owner(place: Place) -> None:
    need_root("to give files away")
    os.chown(place.instances, 12345, 23456)
    image = place.add_qcow2()

    host = place.host()
    host.ensure(image)
    host.create_disk("vm", image=image)
    host.sweep()

    owners = {
        (str(path.relative_to(place.instances)), path.stat().st_uid, path.stat().st_gid)
        for path in place.instances.rglob("*")
    }
    assert {found for found in owners if found[1:] != (12345, 23456)} == set()
    assert place.entry(image).stat().st_mode & 0o777 == 0o644
    assert {path.stat().st_mode & 0o777 for path in (place.instances / "locks").iterdir()} == {
        0o664
    }


class TestAdoption:
    """A file that somebody else put there is used as it is, and gets a record."""

    def put_as_nova_would(self, place: Place, image: str) -> Path:
        place.base.mkdir(exist_ok=True)
        shutil.copy(place.source_file(image), place.entry(image))
        return place.entry(image)

    def test_without_a_record(self, place: Place) -> None:
        image = place.add_raw()
        entry = self.put_as_nova_would(place, image)
        inode = entry.stat().st_ino
        shutil.rmtree(place.images)

        assert place.host().ensure(image).status is Status.EXISTING

        assert entry.stat().st_ino == inode
        assert place.record(image)["image_id"] == image
        assert place.record(image)["virtual_size_bytes"] == 4 * MiB
        assert place.record(image)["checks"] == ["inspected-1"], "nobody compared its digest"
        assert [event.path for event in place.saw(events.Adopted)] == [entry]

    def test_with_the_record_of_the_file_that_was_there_before(self, place: Place) -> None:
        image, other = place.add_raw(), place.add_raw(8 * MiB)
        host = place.host()
        host.ensure(image)
        replacement = place.entry(image).with_name("replacement")
        shutil.copy(place.source_file(other), replacement)
        replacement.rename(place.entry(image))

        assert host.ensure(image).status is Status.EXISTING

        record = place.record(image)
        assert record["virtual_size_bytes"] == 8 * MiB
        assert record["file_inode"] == place.entry(image).stat().st_ino
        assert "digest" not in record
        assert "source_digest" not in record

    def test_with_the_record_of_a_file_that_was_copied_with_its_mark(self, place: Place) -> None:
        """cp --preserve=xattr takes the mark along; the inode is another."""
        image = place.add_raw()
        host = place.host()
        host.ensure(image)
        copy = place.entry(image).with_name("copy")
        shutil.copy2(place.entry(image), copy)
        assert os.getxattr(copy, XATTR) == os.getxattr(place.entry(image), XATTR)
        copy.rename(place.entry(image))

        host.ensure(image)

        assert place.record(image)["file_inode"] == place.entry(image).stat().st_ino
        assert "digest" not in place.record(image), "what the record said was of another file"

    def test_with_a_record_of_nova(self, place: Place) -> None:
        image = place.add_raw()
        entry = self.put_as_nova_would(place, image)
        old = {"sha1": "ab" * 20, "sha1-timestamp": 1.0}
        place.record_path(image).write_text(json.dumps(old))

        place.host().ensure(image)

        record = place.record(image)
        assert record["sha1"] == "ab" * 20, "its word on the content is kept"
        assert record["virtual_size_bytes"] == entry.stat().st_size

    def test_a_hostile_one_is_not_used(self, place: Place) -> None:
        image = place.add_raw()
        make_backed_qcow2(self.put_as_nova_would(place, image))

        with pytest.raises(errors.UnsafeImage, match="backing file"):
            place.host().ensure(image)

    def test_one_that_passed_fewer_checks_is_inspected_again(self, place: Place) -> None:
        image = place.add_raw()
        host = place.host()
        host.ensure(image)
        record = place.record(image)
        place.record_path(image).write_text(
            json.dumps({**record, "checks": ["digest", "length"], "virtual_size_bytes": 1})
        )

        assert host.ensure(image).status is Status.EXISTING

        assert place.record(image)["checks"] == ["digest", "inspected-1", "length"]
        assert place.record(image)["virtual_size_bytes"] == 4 * MiB
        assert place.record(image)["source_digest"] == record["source_digest"]

    def test_a_broken_record_is_told_and_replaced(self, place: Place) -> None:
        image = place.add_raw()
        host = place.host()
        host.ensure(image)
        place.record_path(image).write_text("{ not json")

        assert host.ensure(image).status is Status.EXISTING

        assert place.record(image)["format"] == "raw"
        assert any("cannot be read as JSON" in event.why for event in place.saw(events.Trouble))


def test_an_image_nobody_knows_a_digest_of_is_refused_unless_allowed(place: Place) -> None:
    image = place.add_raw(digest=None)

    with pytest.raises(errors.Unverifiable):
        place.host().ensure(image)
    assert not place.entry(image).exists()

    result = place.host(source={"require_digest": False}).ensure(image)
    assert result.status is Status.CACHED
    assert place.record(image)["checks"] == ["inspected-1", "length"]


class TestFallback:
    """The source no longer has the image; another host's cache does."""

    @pytest.fixture
    def other(self, place: Place) -> Place:
        return Place(place.root / "other", place.images)

    def test_from_a_mounted_folder(self, place: Place, other: Place) -> None:
        image = place.add_raw()
        other.host().ensure(image)
        place.source_file(image).unlink()
        host = place.host()

        with pytest.raises(errors.NotFound):
            host.ensure(image)
        result = host.ensure(image, fallback_from_host=str(other.base))

        assert result.status is Status.CACHED
        assert str(other.base) in str(result.source)
        assert sha256(place.entry(image)) == sha256(other.entry(image))
        assert "digest" in place.record(image)["checks"]

    def test_the_source_is_asked_first(self, place: Place, other: Place) -> None:
        image = place.add_raw()
        other.host().ensure(image)

        result = place.host().ensure(image, fallback_from_host=str(other.base))

        assert result.source == "directory"

    def test_what_the_other_host_has_is_checked(self, place: Place, other: Place) -> None:
        image = place.add_raw()
        other.host().ensure(image)
        place.source_file(image).unlink()
        with other.entry(image).open("r+b") as file:
            file.write(b"rotten")

        with pytest.raises(errors.Corrupt):
            place.host().ensure(image, fallback_from_host=str(other.base))
        assert not place.entry(image).exists()

    def test_the_option_names_the_host(self, place: Place, other: Place) -> None:
        image = place.add_raw()
        other.host().ensure(image)
        place.source_file(image).unlink()

        result = place.host(source={"fallback_from_host": str(other.base)}).ensure(image)

        assert result.status is Status.CACHED


def test_progress_is_told_while_it_runs(place: Place) -> None:
    image = place.add_qcow2(8 * MiB)

    place.host().ensure(image)

    size = place.source_file(image).stat().st_size
    fetching, converting = place.saw(events.Fetching), place.saw(events.Converting)
    assert (fetching[-1].done_bytes, fetching[-1].total_bytes) == (size, size)
    assert converting[-1].fraction == pytest.approx(1.0)
    assert [event.image for event in place.saw(events.Fetched)] == [image]
    assert [event.path for event in place.saw(events.Published)] == [place.entry(image)]


def test_nothing_but_the_entry_and_its_record_is_there_afterwards(place: Place) -> None:
    image = place.add_qcow2()

    place.host().ensure(image)

    files = {path.name for path in place.base.rglob("*") if path.is_file()}
    assert files == {original_name(image), f"{original_name(image)}.info"}
