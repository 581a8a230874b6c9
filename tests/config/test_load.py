"""Arguments, files and their faults; what loading brings into the process."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from basecache import config, errors
from basecache.config import Amount


def write(folder: Path, text: str) -> Path:
    path = folder / "basecache.conf"
    path.write_text(text)
    return path


def test_without_anything_the_defaults_stand() -> None:
    settings = config.load()
    assert settings.cache.instances_path == Path("/var/lib/basecache/instances")
    assert settings.cache.host == socket.gethostname()
    assert settings.cache.remove_unused_kernels
    assert settings.cache.info_pattern is None
    assert not settings.cache.beside_nova
    assert settings.source.driver == "none"
    assert settings.usage.providers == ("folder",)
    assert settings.space.max_size is None
    assert settings.space.max_virtual_size_bytes == 2 * 1024**4


def test_settings_are_frozen_all_the_way_down() -> None:
    settings = config.load(virt_mkfs={"linux": "mkfs.ext4 %(target)s"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.cache.host = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        settings.disks.virt_mkfs["linux"] = "rm"  # type: ignore[index]


def test_arguments_are_python_values_or_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = config.load(
        instances_path="vms",
        host="h1",
        force_raw_images="false",
        virt_mkfs={"linux": "mkfs.ext4 -F %(target)s"},
        source={"driver": "directory", "path": Path("price$in"), "attempts": "2", "cafile": None},
        basecache={
            "max_size": "80%",
            "min_free": 2**30,
            "max_virtual_size": 0,
            "set_aside_disks": [tmp_path / "a", "b"],
            "usage_file": "instances.json",
            "sweep_interval": None,
        },
    )
    assert settings.cache.instances_path == tmp_path / "vms"
    assert settings.cache.host == "h1"
    assert settings.cache.force_raw_images is False
    assert settings.cache.sweep_interval_seconds == 2400
    assert settings.disks.virt_mkfs == {"linux": "mkfs.ext4 -F %(target)s"}
    assert settings.source.path == tmp_path / "price$in"
    assert settings.source.attempts == 2
    assert settings.space.max_size is not None
    assert settings.space.max_size.of(1000) == 800
    assert settings.space.min_free == Amount(2**30)
    assert settings.space.max_virtual_size_bytes is None
    assert settings.usage.set_aside == (tmp_path / "a", tmp_path / "b")
    assert settings.usage.providers == ("folder", "file")
    assert settings.usage.file == tmp_path / "instances.json"


def test_arguments_beat_files(tmp_path: Path) -> None:
    file = write(tmp_path, "[DEFAULT]\nhost = a\n[image_cache]\nsubdirectory_name = x\n")
    settings = config.load([file], host="b", image_cache={"subdirectory_name": "y"})
    assert (settings.cache.host, settings.cache.base_name) == ("b", "y")


def test_the_environment_beats_files_as_for_every_openstack_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OS_DEFAULT__HOST", "c")
    file = write(tmp_path, "[DEFAULT]\nhost = a\n")
    assert config.load([file]).cache.host == "c"


@pytest.mark.parametrize(
    ("overrides", "message", "hint"),
    [
        ({"instances_pth": "x"}, "unknown option instances_pth", "did you mean instances_path?"),
        ({"sorce": {}}, "unknown option sorce", "did you mean source?"),
        ({"source": {"drvier": 1}}, "unknown option [source] drvier", "did you mean driver?"),
        ({"source": "x"}, "source is a group of options and takes a dict", None),
        ({"sweep_interval": 5}, "unknown option sweep_interval", "it belongs into [basecache]"),
        (
            {"base_dir_name": "x"},
            "unknown option base_dir_name",
            "it is now [image_cache] subdirectory_name",
        ),
    ],
)
def test_an_unknown_argument_names_the_nearest_known(
    overrides: dict[str, object], message: str, hint: str | None
) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        config.load(**overrides)
    assert (caught.value.message, caught.value.hint) == (message, hint)


@pytest.mark.parametrize(
    ("group", "name", "value", "why"),
    [
        ("image_cache", "manager_interval", "soon", "invalid literal"),
        ("image_cache", "manager_interval", "-2", "greater than or equal to -1"),
        ("image_cache", "subdirectory_name", "../x", "a path will not do"),
        ("image_cache", "subdirectory_name", "", "not the name of a folder"),
        ("image_cache", "remove_unused_base_images", "perhaps", "boolean"),
        ("libvirt", "images_type", "qcow3", "Valid values are"),
        ("libvirt", "image_info_filename_pattern", "/x/info", "share one record"),
        ("libvirt", "image_info_filename_pattern", "/x/%(name)s", "is no pattern"),
        ("libvirt", "image_info_filename_pattern", "/x/100%", "is no pattern"),
        ("DEFAULT", "virt_mkfs", "mkfs.ext4", "is not <os_type>=<command>"),
        ("DEFAULT", "instances_path", "", "is not a folder"),
        ("source", "driver", "directry", "Valid values are"),
        ("source", "attempts", "0", "greater than or equal to 1"),
        ("source", "ssh_command", "ssh 'x", "No closing quotation"),
        ("source", "ssh_command", "", "no command"),
        ("basecache", "max_size", "10X", "is not a size"),
        ("basecache", "max_size", "101%", "more than the whole"),
        ("basecache", "max_virtual_size", "-1", "is not a size"),
        ("basecache", "usage", "folder,libvirt", "libvirt"),
        ("basecache", "usage", "file", "usage_file is not set"),
    ],
)
def test_a_value_out_of_range_is_refused_where_it_stands(
    group: str, name: str, value: str, why: str, tmp_path: Path
) -> None:
    file = write(tmp_path, f"[{group}]\n{name} = {value}\n")
    with pytest.raises(errors.ConfigError) as caught:
        config.load([file])
    assert str(caught.value).startswith(f"{file}: [{group}] {name}: ")
    assert why in str(caught.value)
    assert "LocationInfo" not in str(caught.value)
    with pytest.raises(errors.ConfigError) as caught:
        config.load([], **({name: value} if group == "DEFAULT" else {group: {name: value}}))
    assert str(file) not in str(caught.value)


def test_a_directory_source_needs_its_path() -> None:
    with pytest.raises(errors.ConfigError, match=r"\[source\] path"):
        config.load(source={"driver": "directory"})


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("[glance]\npassword hunter2\n", 2, "separates a name from its value"),
        ("host = x\n", 1, "before any"),
        ("[glance\n", 1, "closing bracket"),
        ("[]\n", 1, "no name"),
        ("[glance]\n= hunter2\n", 2, "no name"),
        ("[glance]\n  hunter2\n", 2, "continues nothing"),
    ],
)
def test_a_file_that_does_not_parse_is_named_with_its_line(
    text: str, line: int, why: str, tmp_path: Path
) -> None:
    file = write(tmp_path, text)
    for read in (lambda: config.load([file]), lambda: config.check([file])):
        with pytest.raises(errors.ConfigError) as caught:
            read()
        assert str(caught.value).startswith(f"{file}, line {line}: ")
        assert why in str(caught.value)
        assert "hunter2" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "binary.conf"
    binary.write_bytes(b"[DEFAULT]\nhost = \xff\n")
    for path, why in (
        (tmp_path / "absent.conf", "No such file"),
        (tmp_path, "Is a directory"),
        (binary, "not UTF-8"),
    ):
        with pytest.raises(errors.ConfigError, match=why) as caught:
            config.load([path])
        assert str(path) in str(caught.value)


def modules_after(code: str) -> set[str]:
    """The modules a fresh Python has loaded after ``code``."""
    code += "\nimport sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(run.stdout.split())


def test_importing_is_light_and_loading_brings_no_sdk() -> None:
    assert "oslo_config" not in modules_after("import basecache.config")
    loaded = modules_after("import basecache.config as c; c.load(); c.sample(); c.check([])")
    assert "oslo_config" in loaded
    assert not {"openstack", "keystoneauth1", "oslo_utils", "requests"} & loaded


def test_the_global_conf_is_left_alone() -> None:
    code = "import basecache.config as c; c.load(host='x')\nfrom oslo_config import cfg"
    assert modules_after(f"{code}\nassert 'host' not in cfg.CONF")


def test_the_default_file_is_read_only_where_it_is() -> None:
    file = Path("/etc/basecache/basecache.conf")
    assert config.default_config_files() == ([file] if file.is_file() else [])
