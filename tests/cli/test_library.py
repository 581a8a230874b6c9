"""``basecache.open_host``: the same stories for a program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import basecache
from basecache import errors
from basecache.model import Action, Status
from tests.support.hostile import MiB
from tests.support.place import Place, make_old


def test_the_whole_story(tmp_path: Path, place: Place) -> None:
    image_id = place.add_raw(name="debian-12")
    host = basecache.open_host(
        instances_path=str(tmp_path / "vms"),
        host="h1",
        source={"driver": "directory", "path": str(place.images)},
    )

    (image,) = host.images()
    assert (image.id, image.name) == (image_id, "debian-12")
    result = host.ensure(image_id)
    assert (result.image, result.status, result.bytes) == (image_id, Status.CACHED, 4 * MiB)
    assert result.path == tmp_path / "vms" / "_base" / result.path.name
    disk = host.create_disk(
        instance="5e0b", image=image_id, name="disk", size=20 * MiB, backend="qcow2"
    )
    assert disk.path == tmp_path / "vms" / "5e0b" / "disk"
    report = host.sweep(instances=[{"uuid": "5e0b", "image_ref": image_id}], dry_run=True)
    (decision,) = [each for each in report.decisions if each.path == result.path]
    assert decision.action is Action.TOUCH
    assert set(decision.used_by) == {"5e0b", str(disk.path)}


def test_paths_may_be_paths_and_relative(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image = place.add_raw()
    host = basecache.open_host(
        instances_path=Path("vms"), source={"driver": "directory", "path": Path("images")}
    )
    disk = host.create_disk("vm", image=image, backend="qcow2")
    monkeypatch.chdir("/")
    assert disk.backing == tmp_path / "vms" / "_base" / disk.backing.name
    assert host.sweep().missing_evidence == ()


def test_a_source_is_optional(tmp_path: Path) -> None:
    host = basecache.open_host(instances_path=str(tmp_path / "vms"))
    assert (tmp_path / "vms" / "_base").is_dir()
    assert host.entries() == []
    with pytest.raises(errors.ConfigError):
        host.images()
    with pytest.raises(errors.NotFound):
        host.ensure("3f1c")


def test_a_configuration_file_and_keywords_over_it(tmp_path: Path, place: Place) -> None:
    path = tmp_path / "nova.conf"
    path.write_text(
        f"[DEFAULT]\nstate_path = {tmp_path}/state\ninstances_path = $state_path/instances\n"
        "force_raw_images = false\n"
    )
    image = place.add_qcow2()
    source = {"driver": "directory", "path": str(place.images)}
    host = basecache.open_host([path], source=source)
    result = host.ensure(image)
    assert result.path is not None
    assert result.path.is_relative_to(tmp_path / "state" / "instances")
    assert host.entry(image).record.format == "qcow2"
    other = basecache.open_host(
        config_files=[path], instances_path=str(tmp_path / "other"), source=source
    )
    assert str(other.ensure(image).path).startswith(str(tmp_path / "other"))


@pytest.mark.parametrize(
    "options",
    [
        {"instance_path": "typo"},
        {"source": {"driver": "ftp"}},
        {"source": {"drivr": "directory"}},
        {"source": {"driver": "directory"}},
        {"basecache": {"min_free": "some"}},
    ],
)
def test_options_that_cannot_be_used(tmp_path: Path, options: dict[str, object]) -> None:
    given = {"instances_path": str(tmp_path / "vms"), **options}
    with pytest.raises(errors.ConfigError) as caught:
        basecache.open_host(**given)
    assert caught.value.message


def test_filters_are_keywords(place: Place) -> None:
    ids = {name: place.add_raw(name=name) for name in ("a", "b")}
    assert [image.id for image in place.host().images(name="b")] == [ids["b"]]
    with pytest.raises(TypeError):
        place.host().images(colour="red")


def test_instances_that_make_no_sense(place: Place) -> None:
    image = place.add_raw()
    host = place.host()
    host.ensure(image)
    make_old(place.entry(image))
    for instances in ([{"host": "h1"}], "abc", {"uuid": "u"}, [1], [{"uuid": "u", "bdms": "x"}]):
        with pytest.raises(errors.UsageError):
            host.sweep(instances=instances)  # type: ignore[arg-type]
    assert place.entry(image).exists()


def test_what_a_disk_is_made_from_is_said_once(place: Place) -> None:
    for both in ({}, {"image": "x", "content": object()}):
        with pytest.raises(errors.UsageError):
            place.host().create_disk("vm", **both)  # type: ignore[arg-type]


def test_an_unknown_role(place: Place) -> None:
    with pytest.raises(errors.UnknownChoice, match="role"):
        place.host().ensure(place.add_raw(), role="floppy")


def test_importing_the_package_costs_nothing() -> None:
    code = "import basecache, sys; print(sorted(m for m in sys.modules if 'basecache' in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['basecache']"
