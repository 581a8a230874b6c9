"""What the commands print: tables for people, one shape for programs."""

from __future__ import annotations

import csv
import io
import json
import time

import pytest
import yaml

from basecache.cache.layout import original_name
from basecache.model import GiB
from tests.cli.running import Command
from tests.support.hostile import MiB
from tests.support.place import Place, make_old

VM = "5e0b0000-0000-4000-8000-000000000001"


@pytest.fixture
def image(place: Place) -> str:
    """An image called debian-12, in the cache."""
    image = place.add_qcow2(8 * MiB, name="debian-12")
    place.host().ensure(image)
    return image


def test_image_list(place: Place, run: Command) -> None:
    image = place.add_raw(name="cirros", instance_uuid="u-1")
    assert run("image", "list", "-f", "json").json == [
        {
            "ID": image,
            "Name": "cirros",
            "Status": "active",
            "Server": "u-1",
            "Format": "raw",
            "Size": 4 * MiB,
            "Digest": "sha256",
        }
    ]
    assert "4.0 MiB" in run("image", "list").out


def test_image_list_filters(place: Place, run: Command) -> None:
    ids = sorted(place.add_raw(name=name, os_type=name) for name in ("a", "b", "c"))
    listed = [
        run("image", "list", "-f", "value", "-c", "ID", *more).out.split()
        for more in (
            (),
            ("--limit", 2),
            ("--marker", ids[0]),
            ("--name", "b"),
            ("--property", "os_type=c"),
            ("--status", "queued"),
        )
    ]
    assert [len(each) for each in listed] == [3, 2, 2, 1, 1, 0]
    assert listed[1] == ids[:2]
    assert listed[2] == ids[1:]


def test_image_show(place: Place, run: Command) -> None:
    image = place.add_raw(name="cirros", os_type="linux")
    shown = run("image", "show", "cirros", "-f", "json").json
    assert set(shown) == {
        *("id", "name", "status", "disk_format", "container_format", "size_bytes"),
        *("virtual_size_bytes", "digest", "min_disk_gib", "min_ram_mib", "visibility"),
        *("created_at", "updated_at", "properties"),
    }
    assert (shown["id"], shown["size_bytes"]) == (image, 4 * MiB)
    assert shown["properties"] == {"os_type": "linux"}


def test_cache_list(place: Place, run: Command, image: str) -> None:
    make_old(place.entry(image), 7200)
    place.host().pin(image, reason="rollout")
    (listed,) = run("cache", "list", "-f", "json").json
    assert listed.pop("Unused for") == pytest.approx(7200, abs=60)
    assert listed.pop("On disk") == place.entry(image).stat().st_blocks * 512
    assert listed == {
        "Name": original_name(image),
        "Kind": "original",
        "Image": "debian-12",
        "Format": "raw",
        "Virtual size": 8 * MiB,
        "Pinned": "rollout",
    }
    assert "2 h" in run("cache", "list").out


@pytest.mark.parametrize("by", ["name", "id"])
def test_cache_show(place: Place, run: Command, image: str, by: str) -> None:
    shown = run("cache", "show", image if by == "id" else original_name(image), "-f", "json").json
    assert set(shown) == {
        *("name", "path", "kind", "image_id", "image_name", "format", "size_bytes"),
        *("allocated_bytes", "virtual_size_bytes", "age_seconds", "source", "source_digest"),
        *("digest_at_rest", "verified_at", "corrupt_since", "checks", "pinned", "pinned_until"),
    }
    assert shown["path"] == str(place.entry(image))
    assert shown["checks"] == "digest inspected-1 length"
    assert shown["verified_at"] is None


def test_cache_ensure(place: Place, run: Command) -> None:
    image = place.add_raw()
    keys = {"Image", "Status", "Path", "Bytes", "Seconds", "Source", "Error"}
    for status, size in (("cached", 4 * MiB), ("existing", 0)):
        (result,) = run("cache", "ensure", image, "-f", "json").json
        assert set(result) == keys
        assert (result["Status"], result["Bytes"]) == (status, size)
        assert result["Path"] == str(place.entry(image))
    ran = run("cache", "ensure", image, "nope", "-f", "json")
    assert ran.code == 1
    assert [each["Status"] for each in ran.json] == ["existing", "failed"]
    assert "nope" in ran.json[1]["Error"]


def test_cache_ensure_tells_people_an_error_once(run: Command) -> None:
    ran = run("cache", "ensure", "nope")
    assert "is not in" in ran.err
    assert "is not in" not in ran.out
    assert "failed" in ran.out


class TestSweep:
    def test_json(self, place: Place, run: Command, image: str) -> None:
        place.host().create_disk(VM, image=image, backend="qcow2")
        unused = place.add_raw()
        place.host().ensure(unused)
        make_old(place.entry(unused))

        report = run("cache", "sweep", "--dry-run", "-f", "json").json

        assert set(report) == {
            *("dry_run", "decisions", "missing_evidence", "removed", "spared", "errors"),
            *("totals", "images"),
        }
        assert report["dry_run"] is True
        decisions = {each["path"]: each for each in report["decisions"]}
        assert all(
            set(each)
            == {
                *("path", "kind", "action", "code", "reason"),
                *("age_seconds", "allocated_bytes", "used_by"),
            }
            for each in decisions.values()
        )
        assert decisions[str(place.record_path(image))]["code"] == "record", "nothing is left out"
        assert decisions[str(place.entry(image))]["used_by"] == [str(place.instances / VM / "disk")]
        gone = decisions[str(place.entry(unused))]
        assert (gone["action"], gone["code"]) == ("remove", "unused")
        assert report["totals"]["files"] == len(decisions)
        assert report["totals"]["removable_bytes"] == gone["allocated_bytes"]
        assert run("cache", "sweep", "-f", "yaml").out.startswith("dry_run: false\n")
        assert not place.entry(unused).exists()

    def test_yaml_is_the_same_object(self, run: Command, image: str) -> None:
        said = [run("cache", "sweep", "--dry-run", "-f", how).out for how in ("json", "yaml")]
        one, other = json.loads(said[0]), yaml.safe_load(said[1])
        assert one["decisions"][0]["path"] == other["decisions"][0]["path"]
        assert one.keys() == other.keys()

    def test_a_person_sees_what_matters(self, place: Place, run: Command, image: str) -> None:
        place.host().create_disk(VM, image=image, backend="qcow2")
        ran = run("cache", "sweep", "--dry-run")
        assert f"| {VM}/disk " in ran.out, "without the folder that all have in common"
        assert "1 disk stands on it" in ran.out
        assert ".info" not in ran.out
        assert "not listed: 1 records" in ran.err
        assert "nothing was changed" in ran.err

    def test_many_users_are_counted(self, place: Place, run: Command, image: str) -> None:
        for number in range(5):
            place.host().create_disk(f"vm{number}", image=image, backend="qcow2")
        out = run("cache", "sweep", "--dry-run").out
        assert "5 disks stand on it" in out
        assert "and 2 more" in out
        asked = ["-f", "value", "-c", "Code", "-c", "Used by"]
        lines = run("cache", "sweep", "--dry-run", *asked).out.splitlines()
        assert "used-unknown-image vm0/disk vm1/disk vm2/disk and 2 more" in lines

    def test_with_a_usage_file(self, place: Place, run: Command, image: str) -> None:
        make_old(place.entry(image))
        path = place.usage_file({"uuid": "u1", "name": "web", "host": "h1", "image_ref": image})
        report = run("cache", "sweep", "--usage-file", path, "-f", "json").json
        assert report["images"] == {
            image: {"local": 1, "remote": 0, "instances": ["web"], "popularity": 1}
        }
        assert place.entry(image).exists()


def test_cache_verify(place: Place, run: Command, image: str) -> None:
    (outcome,) = run("cache", "verify", image, "-f", "json").json
    assert set(outcome) == {"Name", "Verdict", "Reason", "Used by", "Good copy"}
    assert (outcome["Verdict"], outcome["Used by"]) == ("baseline", [])
    assert "[]" not in run("cache", "verify").out


def test_pin_and_unpin(place: Place, run: Command, image: str) -> None:
    assert run("cache", "pin", image, "--until", "2h", "--reason", "why not").code == 0
    shown = run("cache", "show", image, "-f", "json").json
    assert shown["pinned"] == "why not"
    assert shown["pinned_until"] == pytest.approx(time.time() + 7200, abs=60)
    assert run("cache", "unpin", image).out == f"{image} is no longer pinned\n"
    assert run("cache", "unpin", image).code == 3


@pytest.mark.parametrize("until", ["soon", "2001-01-01", "-1h", ""])
def test_a_pin_wants_a_time_to_come(run: Command, image: str, until: str) -> None:
    assert run("cache", "pin", image, f"--until={until}").code == 2


def test_cache_remove(place: Place, run: Command, image: str) -> None:
    assert "is removed" in run("cache", "remove", image).out
    assert not place.entry(image).exists()
    assert run("cache", "remove", image).code == 3


@pytest.mark.parametrize("why", ["used", "pinned"])
def test_cache_remove_of_what_is_needed(place: Place, run: Command, image: str, why: str) -> None:
    if why == "used":
        place.host().create_disk(VM, image=image, backend="qcow2")
    else:
        place.host().pin(image)
    ran = run("cache", "remove", image)
    assert ran.code == 1
    assert (str(place.instances / VM / "disk") if why == "used" else "pinned") in ran.err
    assert place.entry(image).exists()


def test_cache_stat(place: Place, run: Command, image: str) -> None:
    stat = run("cache", "stat", "-f", "json").json
    assert set(stat) == {
        *("folder", "entries", "entries_by_kind", "pinned", "allocated_bytes"),
        *("promised_bytes", "free_bytes", "device_bytes", "max_size_bytes", "min_free_bytes"),
    }
    assert stat["entries_by_kind"] == {"original": 1, "record": 1}
    assert "1 original, 1 record" in run("cache", "stat").out


def test_disks(place: Place, run: Command, image: str) -> None:
    where = ["--instance", VM]
    made = run("disk", "create", *where, "--image", image, "--size", "1G", "-f", "json").json
    assert set(made) == {
        *("instance", "name", "path", "backend", "format"),
        *("size_bytes", "allocated_bytes", "backing"),
    }
    assert made["size_bytes"] == GiB
    assert run("disk", "show", *where, "-f", "json").json == made
    (listed,) = run("disk", "list", "-f", "json").json
    assert set(listed) == {
        *("Instance", "Name", "Backend", "Format", "Size", "On disk", "Backing"),
    }
    assert run("disk", "create", *where, "--name", "disk.swap", "--swap", 8).code == 0
    names = ["disk.data", "disk.config"]
    for name in names:
        made = ["disk", "create", *where, "--name", name, "--blank", "--size", "8M"]
        assert run(*made, "--backend", "raw").code == 0
    target = place.root / "out.qcow2"
    extracted = run("disk", "extract", *where, "--format", "qcow2", target)
    assert (extracted.code, extracted.out) == (0, f"{target} is written as qcow2\n")
    assert target.exists()
    assert run("disk", "delete", *where, "--name", "disk.swap").code == 0
    assert run("disk", "delete", *where, "--name", "disk.swap").code == 3


def test_sharers(place: Place, run: Command) -> None:
    place.host()
    run("cache", "sweep")
    (listed,) = run("sharer", "list", "-f", "json").json
    assert set(listed) == {"Host", "Last seen", "Silent for"}
    assert listed["Host"] == "h1"
    assert run("sharer", "retire", "h1").out == "h1 is retired\n"
    assert run("sharer", "list", "-f", "json").json == []
    assert run("sharer", "retire", "h1").code == 3


def test_config(place: Place, run: Command) -> None:
    sample = run("config", "sample")
    path = place.root / "basecache.conf"
    path.write_text(sample.out)
    assert run("--config-file", path, "config", "check").code == 0
    path.write_text("[basecache]\nno_such_option = 1\n")
    ran = run("--config-file", path, "config", "check", "-f", "json")
    assert set(ran.json[0]) == {"Severity", "Where", "What"}
    assert "no_such_option" in ran.out


def test_a_config_file_serves_every_command(place: Place, run: Command, image: str) -> None:
    path = place.root / "basecache.conf"
    path.write_text("[libvirt]\nchecksum_base_images = true\n")
    assert "off" in run("cache", "verify", "-f", "value").out
    assert "off" not in run("--config-file", path, "cache", "verify", "-f", "value").out


def test_value_and_csv(place: Place, run: Command, image: str) -> None:
    assert run("cache", "list", "-f", "value", "-c", "Name").out == f"{original_name(image)}\n"
    assert run("cache", "list", "-f", "value", "-c", "Virtual size").out == f"{8 * MiB}\n"
    (row,) = csv.DictReader(io.StringIO(run("cache", "list", "-f", "csv").out))
    assert row["Name"] == original_name(image)
