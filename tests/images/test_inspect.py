"""What may be used, and what is refused with which words."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from basecache import errors
from basecache.images import inspect
from basecache.images.inspect import Inspection
from basecache.model import GiB, Image, MiB
from tests.support import hostile

Build = Callable[[Path], Path]


def require(
    path: Path,
    declared: str | None,
    *,
    most: int | None = 10 * GiB,
    allowed: set[str] | None = None,
) -> Inspection:
    image = Image("an-image", disk_format=declared)
    return inspect.require_safe(path, image, max_virtual_size_bytes=most, allowed_formats=allowed)


HONEST = [
    ("raw", hostile.make_raw, "raw", 1 * MiB),
    ("raw", hostile.make_gpt, "raw", 1 * MiB),
    (None, hostile.make_raw, "raw", 1 * MiB),
    (None, hostile.make_gpt, "raw", 1 * MiB),
    ("", hostile.make_honest_qcow2, "qcow2", 1 * MiB),
    ("qcow2", hostile.make_honest_qcow2, "qcow2", 1 * MiB),
    ("QCOW2", hostile.make_honest_qcow2, "qcow2", 1 * MiB),
    ("iso", hostile.make_iso, "iso", 1 * MiB),
    ("iso", hostile.make_bootable_iso, "iso", 1 * MiB),
    (None, hostile.make_bootable_iso, "iso", 1 * MiB),
    ("ami", hostile.make_raw, "raw", 1 * MiB),
]


@pytest.mark.parametrize(("declared", "build", "found", "size"), HONEST)
def test_honest_images_are_accepted(
    tmp_path: Path, declared: str | None, build: Build, found: str, size: int
) -> None:
    assert require(build(tmp_path / "image"), declared) == Inspection(found, size)


@pytest.mark.parametrize(
    ("declared", "kind", "options", "found"),
    [
        ("qcow2", "qcow2", ("compat=0.10",), "qcow2"),
        ("qcow2", "qcow2", ("cluster_size=512",), "qcow2"),
        ("vmdk", "vmdk", (), "vmdk"),
        ("vmdk", "vmdk", ("subformat=streamOptimized",), "vmdk"),
        ("vdi", "vdi", (), "vdi"),
        ("vhdx", "vhdx", (), "vhdx"),
        ("ploop", "parallels", (), "parallels"),
    ],
)
def test_what_qemu_img_makes_is_accepted_as_declared(
    tmp_path: Path, declared: str, kind: str, options: tuple[str, ...], found: str
) -> None:
    path = hostile.make_filled(tmp_path / "image", kind, options=options)
    assert require(path, declared) == Inspection(found, 2 * MiB)


def test_vhd_is_what_qemu_calls_vpc(tmp_path: Path) -> None:
    path = hostile.make_filled(tmp_path / "image", "vpc", options=("force_size=on",))
    assert require(path, "vhd") == Inspection("vpc", 2 * MiB)


def test_luks_is_accepted_when_declared_and_refused_when_not(tmp_path: Path) -> None:
    path = hostile.make_luks(tmp_path / "image")
    assert require(path, "luks") == Inspection("luks", 1 * MiB)
    with pytest.raises(errors.UnsafeImage, match="its content is luks"):
        require(path, None)
    with pytest.raises(errors.UnsafeImage, match="declared format is raw, its content is luks"):
        require(path, "raw")


@pytest.mark.parametrize("declared", ["aki", "ari", "raw"])
def test_a_kernel_is_raw_whatever_its_boot_sector_looks_like(tmp_path: Path, declared: str) -> None:
    path = hostile.make_kernel(tmp_path / "kernel")
    rounded = (path.stat().st_size + 511) // 512 * 512
    assert require(path, declared) == Inspection("raw", rounded)


HOSTILE = [
    ("qcow2", hostile.make_backed_qcow2, "backing file, '/etc/passwd'"),
    ("qcow2", hostile.make_external_data_qcow2, "external data file, '/etc/passwd'"),
    ("qcow2", hostile.make_json_data_qcow2, "external data file, 'json:"),
    ("qcow2", hostile.make_nameless_data_qcow2, "external data file"),
    ("qcow2", hostile.make_huge_table_qcow2, "qemu-img refuses it as qcow2: .*L1 table"),
    ("qcow2", hostile.make_lying_size_qcow2, "at most .* are allowed"),
    ("qcow2", hostile.make_unknown_feature_qcow2, "unknown_features"),
    ("qcow2", hostile.make_bomb_qcow2, "virtual size is 1125899906842624 bytes, and at most"),
    ("qcow2", hostile.make_truncated_qcow2, "cut short"),
    ("qcow2", hostile.make_beheaded_qcow2, "qemu-img refuses it|cut short"),
    ("qcow2", hostile.make_stub_qcow2, "header is damaged"),
    ("qcow2", hostile.make_raw, "declared format is qcow2, its content is raw"),
    ("qcow2", hostile.make_gpt, "declared format is qcow2, its content is raw"),
    ("qcow2", hostile.make_empty, "it is empty"),
    ("raw", hostile.make_empty, "it is empty"),
    (None, hostile.make_empty, "it is empty"),
    ("raw", hostile.make_honest_qcow2, "declared format is raw, its content is qcow2"),
    ("raw", hostile.make_backed_qcow2, "backing file"),
    ("aki", hostile.make_honest_qcow2, "declared format is aki, its content is qcow2"),
    ("ari", hostile.make_iso, "declared format is ari, its content is iso"),
    ("raw", hostile.make_iso, "declared format is raw, its content is iso"),
    ("iso", hostile.make_gpt, "declared format is iso, its content is raw"),
    ("iso", hostile.make_qcow2_iso, "backing file"),
    ("iso", hostile.make_clean_qcow2_iso, "several formats: iso, qcow2"),
    ("qcow2", hostile.make_clean_qcow2_iso, "several formats: iso, qcow2"),
    ("vmdk", hostile.make_foreign_extent_vmdk, "Unsupported subformat"),
    ("vmdk", hostile.make_backed_vmdk, "backing file"),
    ("raw", hostile.make_foreign_extent_vmdk, "vmdk"),
    (None, hostile.make_foreign_extent_vmdk, "vmdk"),
]


@pytest.mark.parametrize(("declared", "build", "why"), HOSTILE)
def test_hostile_images_are_refused(
    tmp_path: Path, declared: str | None, build: Build, why: str
) -> None:
    path = build(tmp_path / "image")
    with pytest.raises(errors.UnsafeImage, match=why) as caught:
        require(path, declared)
    assert caught.value.image == "an-image"


def test_a_lying_size_is_refused_without_any_limit(tmp_path: Path) -> None:
    path = hostile.make_lying_size_qcow2(tmp_path / "image")
    with pytest.raises(errors.UnsafeImage, match="L1 table is too small"):
        require(path, "qcow2", most=None)


def test_a_bomb_is_accepted_only_where_the_limit_allows(tmp_path: Path) -> None:
    path = hostile.make_bomb_qcow2(tmp_path / "image")
    assert require(path, "qcow2", most=1 << 50).virtual_size_bytes == 1 << 50
    with pytest.raises(errors.UnsafeImage, match="at most 1125899906842623 are allowed"):
        require(path, "qcow2", most=(1 << 50) - 1)


def test_a_vmdk_that_shows_two_faces_is_refused(tmp_path: Path) -> None:
    hostile.make_raw(tmp_path / "somebody-elses", 4096)
    path = hostile.make_two_faced_vmdk(tmp_path / "image", "somebody-elses")
    opened = hostile.run_qemu_img("info", "-f", "vmdk", path)
    assert "somebody-elses" in opened, (
        "the trap does not work on this qemu; the test proves nothing"
    )
    with pytest.raises(errors.UnsafeImage):
        require(path, "vmdk")


@pytest.mark.parametrize("kind", ["qed", "qcow"])
def test_old_formats_of_qemu_are_refused(tmp_path: Path, kind: str) -> None:
    path = hostile.make_disk(tmp_path / "image", kind)
    for declared in (kind, "raw", "qcow2", None):
        with pytest.raises(errors.UnsafeImage):
            require(path, declared)


def test_undeclared_content_is_limited_to_what_is_allowed(tmp_path: Path) -> None:
    path = hostile.make_filled(tmp_path / "image", "vdi")
    with pytest.raises(errors.UnsafeImage, match="no format is declared, and its content is vdi"):
        require(path, None)
    assert require(path, None, allowed={"vdi"}).format == "vdi"


def test_allowed_formats_bind_declared_ones_too(tmp_path: Path) -> None:
    path = hostile.make_honest_qcow2(tmp_path / "image")
    with pytest.raises(errors.UnsafeImage, match="qcow2 is not among the allowed"):
        require(path, "qcow2", allowed={"raw"})
    with pytest.raises(errors.UnsafeImage, match="no format is declared"):
        require(path, None, allowed=set())


def test_missing_qemu_img_says_nothing_about_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = hostile.make_honest_qcow2(tmp_path / "image")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(errors.ToolFailed) as caught:
        require(path, "qcow2")
    assert caught.value.install


def test_a_missing_file_and_a_pipe(tmp_path: Path) -> None:
    with pytest.raises(errors.StorageFailed):
        require(tmp_path / "absent", "raw")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(errors.UnsafeImage, match="no regular file"):
        require(tmp_path / "pipe", "raw")


def test_detect_applies_the_same_checks(tmp_path: Path) -> None:
    assert inspect.detect(hostile.make_gpt(tmp_path / "a")) == Inspection("raw", 1 * MiB)
    assert inspect.detect(hostile.make_honest_qcow2(tmp_path / "b")).format == "qcow2"
    with pytest.raises(errors.UnsafeImage, match=r"image c is refused.*backing file"):
        inspect.detect(hostile.make_backed_qcow2(tmp_path / "c"))
