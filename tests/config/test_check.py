"""config check: everything that is wrong at once, and silence where nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest

from basecache import config

OFF = "[image_cache]\nmanager_interval = -1\n"
ON = "[basecache]\nsweep_interval = 300\nremove_unused = true\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "instances").mkdir()
    return tmp_path


def found(folder: Path, **texts: str) -> list[tuple[str, str, str]]:
    """Findings as (severity, place without the folder, text) for files named ``<key>.conf``."""
    files = []
    for name, text in texts.items():
        file = folder / f"{name}.conf"
        file.write_text(text.replace("@", str(folder)))
        files.append(file)
    return [
        (f.severity, f.where.replace(f"{folder}/", ""), f.what.replace(f"{folder}/", ""))
        for f in config.check(files)
    ]


PATH = "[DEFAULT]\ninstances_path = @/instances\n"


def test_good_files_bring_no_findings(folder: Path) -> None:
    assert found(folder, nova=PATH + OFF + "[cache]\nenabled = true\n", basecache=ON) == []


def test_unknown_names_in_our_groups_are_errors(folder: Path) -> None:
    assert found(
        folder,
        nova=PATH + OFF + "[DEFAULT]\nanything_at_all = 1\n[libvirt]\nvirt_type = kvm\n",
        basecache="[basecache]\nsweep_intervall = 5\nqqq = 1\n[sources]\npath = x\n",
    ) == [
        ("error", "basecache.conf: [sources]", "unknown group; did you mean [source]?"),
        (
            "error",
            "basecache.conf: [basecache] sweep_intervall",
            "unknown option; did you mean sweep_interval?",
        ),
        (
            "error",
            "basecache.conf: [basecache] qqq",
            "unknown option; [basecache] has: beside_nova, eviction_minimum_age_seconds, max_size, "
            "max_virtual_size, min_free, remove_unused, set_aside_disks, sweep_interval, usage, "
            "usage_file",
        ),
    ]


def test_in_our_own_file_every_unknown_name_is_at_least_doubtful(folder: Path) -> None:
    assert found(
        folder,
        basecache=PATH
        + "instance_path = x\nroot = y\nhost = $root\n[image_cache]\nfoo = 1\n[other]\nx = 1\n",
    ) == [
        ("warning", "basecache.conf: [other]", "basecache reads no such group"),
        (
            "warning",
            "basecache.conf: [DEFAULT] instance_path",
            "basecache reads no such option; did you mean instances_path?",
        ),
        ("warning", "basecache.conf: [image_cache] foo", "basecache reads no such option"),
    ]


def test_groups_that_a_value_names_are_known(folder: Path) -> None:
    assert (
        found(
            folder,
            basecache=PATH + "host = ${site.name}\n[site]\nname = a\n[service_user]\nusername = u\n"
            "[glance]\nauth_section = service_user\n",
        )
        == []
    )


def test_every_unusable_value_is_reported(folder: Path) -> None:
    findings = found(
        folder,
        basecache=PATH + "[source]\nattempts = 0\ndriver = x\n[basecache]\nmin_free = much\n"
        "[libvirt]\nrbd_user = $nobody\n",
    )
    assert [(severity, where) for severity, where, _ in findings] == [
        ("error", "basecache.conf: [basecache] min_free"),
        ("error", "basecache.conf: [source] driver"),
        ("error", "basecache.conf: [source] attempts"),
        ("error", "basecache.conf: [libvirt] rbd_user"),
    ]
    assert findings[-1][2] == (
        "it refers to $nobody, which no file sets; set nobody, or write the value out"
    )


def test_options_that_do_not_go_together(folder: Path) -> None:
    assert found(folder, basecache=PATH + "[source]\ndriver = directory\n") == [
        ("error", "[source] path", "the directory driver needs it, and it is not set")
    ]
    assert found(folder, basecache=PATH + "[source]\npath = images\n") == [
        (
            "warning",
            "basecache.conf: [source] path",
            "it is set, but no [source] driver that would use it",
        )
    ]


def test_young_ages_beside_nova(folder: Path) -> None:
    [(severity, where, _)] = found(
        folder,
        nova=PATH + OFF + "[DEFAULT]\nremove_unused_original_minimum_age_seconds = 5\n",
    )[:1]
    assert (severity, where) == (
        "error",
        "nova.conf: [DEFAULT] remove_unused_original_minimum_age_seconds",
    )


def test_older_names_are_told_their_new_ones(folder: Path) -> None:
    assert found(
        folder,
        nova=PATH + "image_cache_manager_interval = -1\nbase_dir_name = _base\n"
        "[libvirt]\nremove_unused_base_images = false\n",
    ) == [
        (
            "warning",
            "nova.conf: [DEFAULT] image_cache_manager_interval",
            "an older name; today it is [image_cache] manager_interval",
        ),
        (
            "warning",
            "nova.conf: [DEFAULT] base_dir_name",
            "an older name; today it is [image_cache] subdirectory_name",
        ),
        (
            "warning",
            "nova.conf: [libvirt] remove_unused_base_images",
            "an older name; today it is [image_cache] remove_unused_base_images",
        ),
    ]


@pytest.mark.parametrize(
    ("nova", "ours", "both"),
    [
        ("", "", True),
        ("", ON, True),
        (OFF, ON, False),
        ("[image_cache]\nremove_unused_base_images = false\n", ON, False),
        ("", "[basecache]\nremove_unused = false\n", False),
        ("", "[basecache]\nsweep_interval = -1\n", False),
        # Nova does not read our file: turning its manager off there does nothing.
        ("", OFF + ON, True),
    ],
)
def test_two_who_would_remove(folder: Path, nova: str, ours: str, both: bool) -> None:
    findings = found(folder, nova=PATH + nova, basecache=ours)
    assert [what.startswith("both Nova's cache manager") for _, _, what in findings] == [
        True
    ] * both


def test_what_nova_does_cannot_be_told_without_its_file(folder: Path) -> None:
    [(severity, where, what)] = found(folder, basecache=PATH + "[basecache]\nbeside_nova = yes\n")
    assert (severity, where) == ("warning", "basecache.conf: [basecache] beside_nova")
    assert "cannot be told" in what


def test_a_missing_instances_folder(folder: Path) -> None:
    assert found(folder, basecache="[DEFAULT]\ninstances_path = @/nowhere\n") == [
        (
            "warning",
            "basecache.conf: [DEFAULT] instances_path",
            "nowhere is no folder yet; it is made when first needed",
        )
    ]


def test_a_nova_that_names_no_folder(folder: Path) -> None:
    findings = found(folder, nova=OFF)
    assert any("name the folder" in what for _, _, what in findings)


def test_secrets_are_not_shown(folder: Path) -> None:
    text = (
        "[glance]\npassword = hunter2\napplication_credential_secret = hunter2\npasswrd = hunter2\n"
    )
    assert "hunter2" not in str(found(folder, basecache=text))
