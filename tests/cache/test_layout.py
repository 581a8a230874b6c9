"""Every name of the cache on disk: which are ours, what they say, which may never be made."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basecache import errors
from basecache.cache import layout as layout_
from basecache.cache.layout import Layout, original_name, recognise
from basecache.model import EntryKind, ImageRole

SHA1 = "0123456789abcdef0123456789abcdef01234567"
UUID = "3f1c0000-0000-4000-8000-0123456789ab"
ANY_TEXT = st.text(st.characters())

OURS = {
    SHA1: EntryKind.ORIGINAL,
    f"{SHA1}_sm": EntryKind.RESIZED,
    f"{SHA1}_1": EntryKind.RESIZED,
    f"{SHA1}_10": EntryKind.RESIZED,
    f"{SHA1}_10737418240": EntryKind.RESIZED,
    f"{SHA1}.part": EntryKind.PARTIAL,
    f"{SHA1}.converted": EntryKind.PARTIAL,
    "swap_0": EntryKind.SWAP,
    "swap_512": EntryKind.SWAP,
    "ephemeral_20_default": EntryKind.EPHEMERAL,
    "ephemeral_20_linux": EntryKind.EPHEMERAL,
    "ephemeral_1_40d1d2c": EntryKind.EPHEMERAL,
    UUID: EntryKind.KERNEL,
    f".{SHA1}.info.0badcafe": EntryKind.PARTIAL,
}
NOT_OURS = (
    "",
    ".",
    "..",
    SHA1.upper(),
    SHA1.replace("a", "A", 1),
    SHA1[:39],
    SHA1 + "0",
    SHA1.replace("0", "g", 1),
    SHA1.replace("0", "٠", 1),
    f"{SHA1}\n",
    f"\n{SHA1}",
    f" {SHA1}",
    f"{SHA1}_",
    f"{SHA1}_sm_",
    f"{SHA1}_SM",
    f"{SHA1}_md",
    f"{SHA1}_sm\n",
    f"{SHA1}_10\n",
    f"{SHA1}_10G",
    f"{SHA1}_-1",
    f"{SHA1}_1٠",
    f"{SHA1}_10_20",
    f"{SHA1}-10",
    f"{SHA1}.part2",
    f"{SHA1}.part\n",
    f"{SHA1}.converted.part",
    f"{SHA1}_10.part",
    f"{SHA1}.raw",
    f"{SHA1}~",
    f"{SHA1[:39]}.part",
    f"{SHA1}.info",
    f"{SHA1}.sha1",
    "swap_",
    "swap_512M",
    "swap_-1",
    "Swap_512",
    "swap_512\n",
    "ephemeral_20",
    "ephemeral_20_",
    "ephemeral_20_12345678",
    "ephemeral_20_ext/3",
    "ephemeral_x_default",
    "ephemeral_20_default\n",
    UUID.upper(),
    UUID.replace("-", ""),
    f"{UUID}\n",
    f"{UUID}_1",
    "debian-12.qcow2",
    "compute_nodes",
    ".notes.20240101",
    ".bashrc.0badcafe",
    f".{SHA1}.info.0BADCAFE",
    f".{SHA1}.info.0badcaf",
    f"{SHA1}.info.0badcafe",
)


@pytest.mark.parametrize(("name", "kind"), OURS.items())
def test_names_of_ours_say_what_they_are(name: str, kind: EntryKind) -> None:
    assert recognise(name) is kind


@pytest.mark.parametrize("name", NOT_OURS)
def test_nothing_else_is_ours(name: str) -> None:
    assert recognise(name) is EntryKind.UNKNOWN


@given(st.text(max_size=60))
def test_what_is_recognised_is_plain_text_without_ends(name: str) -> None:
    if recognise(name) is not EntryKind.UNKNOWN and not name.startswith("."):
        assert name.isascii()
        assert set(name) <= set("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-.")


@pytest.mark.parametrize(
    ("image_id", "name"),
    [
        ("1", "356a192b7913b04c54574d18c28d46e6395428ab"),
        ("2", "da4b9237bacccdf19c0760cab7aec4a8359010b0"),
        ("3", "77de68daecd823babbb58edb1c8e14d7106e83bb"),
    ],
)
def test_originals_have_the_names_in_novas_own_tests(image_id: str, name: str) -> None:
    assert original_name(image_id) == name


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_sha1_names_equal_hashlib_and_are_originals(image_id: str) -> None:
    name = original_name(image_id)
    assert name == hashlib.sha1(image_id.encode()).hexdigest()
    assert recognise(name) is EntryKind.ORIGINAL


@given(ANY_TEXT)
def test_any_text_at_all_has_a_name(image_id: str) -> None:
    """An instance may refer to what no image is; looking for it is not to end in an error."""
    assert recognise(original_name(image_id)) is EntryKind.ORIGINAL


@given(ANY_TEXT, ANY_TEXT)
def test_two_ids_have_two_names(one: str, other: str) -> None:
    assert (original_name(one) == original_name(other)) == (one == other)


@given(st.integers(min_value=0, max_value=1 << 40))
def test_generated_names_round_trip(size: int) -> None:
    swap = layout_.swap_name(size)
    assert recognise(swap) is EntryKind.SWAP
    assert layout_.generated_stem(swap) == swap == f"swap_{size}"
    ephemeral = layout_.ephemeral_name(size, "mkfs.ext4 -F %(target)s")
    assert recognise(ephemeral) is EntryKind.EPHEMERAL
    assert layout_.generated_stem(ephemeral) == f"ephemeral_{size}"


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_an_ephemeral_is_named_after_the_md5_of_its_mkfs(key: str) -> None:
    digest = hashlib.md5(key.encode()).hexdigest()
    assert layout_.ephemeral_name(20, key) == f"ephemeral_20_{digest[:7]}"


@pytest.mark.parametrize("role", [ImageRole.KERNEL, ImageRole.RAMDISK])
def test_kernels_and_ramdisks_keep_their_id_while_they_are_not_to_be_removed(
    role: ImageRole,
) -> None:
    name = layout_.image_entry_name
    assert name(UUID, role, remove_unused_kernels=False) == UUID
    assert name(UUID, role, remove_unused_kernels=True) == original_name(UUID)
    assert name(UUID, ImageRole.DISK, remove_unused_kernels=False) == original_name(UUID)


BAD_IDS = {
    "empty": "",
    "dot": ".",
    "dots": "..",
    "slash": "a/b",
    "absolute": "/etc/passwd",
    "up": "../../etc/passwd",
    "newline": "a\nb",
    "return": "a\r",
    "NUL": "a\0b",
    "DEL": "a\x7f",
    "long": "x" * 10_000,
    "surrogate": "a\udcff",
    "lone surrogate": "\ud800",
}


@pytest.mark.parametrize("image_id", BAD_IDS.values(), ids=BAD_IDS.keys())
def test_bad_image_ids_are_refused_in_few_words(image_id: str) -> None:
    with pytest.raises(errors.BadName) as caught:
        layout_.require_image_id(image_id)
    assert len(caught.value.message) < 300
    assert "\n" not in caught.value.message
    caught.value.message.encode()


@pytest.mark.parametrize("image_id", [*BAD_IDS.values(), ".hidden", "-rf", "ü" * 101])
def test_bad_ids_never_become_the_name_of_a_kernel(image_id: str) -> None:
    with pytest.raises(errors.BadName):
        layout_.image_entry_name(image_id, ImageRole.KERNEL, remove_unused_kernels=False)


@given(ANY_TEXT)
def test_a_name_let_through_is_one_component_that_every_suffix_fits(name: str) -> None:
    try:
        layout_.require_file_name(name, "name")
    except errors.BadName:
        return
    assert os.path.basename(name) == name
    assert len(os.fsencode(name)) <= 200
    assert "\0" not in name
    assert Path("/base", name).parent == Path("/base")


@given(ANY_TEXT)
def test_an_image_id_let_through_is_one_line_of_text(image_id: str) -> None:
    try:
        layout_.require_image_id(image_id)
    except errors.BadName:
        return
    assert image_id.encode()
    assert not set(image_id) & set("/\0\n\r")


@pytest.mark.parametrize("name", ["a", "debian-12.qcow2", "ü" * 100, "x" * 200, "a b", "~", "a:b"])
def test_sensible_names_are_let_through(name: str) -> None:
    assert layout_.require_file_name(name, "name") == name
    assert layout_.require_image_id(name) == name


@pytest.mark.parametrize("name", ["../up", "a/b", "", "..", "-n", "\n", "\ud800"])
def test_instances_and_disks_stay_where_they_belong(name: str) -> None:
    layout = Layout(Path("/instances"))
    with pytest.raises(errors.BadName):
        layout.instance(name)
    with pytest.raises(errors.BadName):
        layout.disk("vm", name)


def test_the_tree() -> None:
    layout = Layout(Path("/instances"), "_base_10.0.0.1")
    assert layout.base == Path("/instances/_base_10.0.0.1")
    assert layout.entry(SHA1) == layout.base / SHA1
    assert layout.lock(SHA1) == Path(f"/instances/locks/nova-{SHA1}")
    assert layout.own_lock("sweep") == Path("/instances/locks/basecache-sweep")
    assert layout.registry == Path("/instances/compute_nodes")
    assert layout.record(SHA1) == layout.base / f"{SHA1}.info"
    assert layout.old_checksum(SHA1) == layout.base / f"{SHA1}.sha1"
    assert layout.disk("vm", "disk.rescue") == Path("/instances/vm/disk.rescue")
    assert layout.not_instances() == {"_base_10.0.0.1", "locks"}
    assert {p.name for p in (layout.pins, layout.templates, layout.staging)} <= layout_.OWN_FOLDERS


def test_records_go_where_the_pattern_says() -> None:
    layout = Layout(Path("/instances"), info_pattern="/var/info/%(image)s/record")
    assert layout.record("swap_1") == Path("/var/info/swap_1/record")


@pytest.mark.parametrize(
    ("name", "parent"),
    [
        (SHA1, SHA1),
        (f"{SHA1}_sm", SHA1),
        (f"{SHA1}_10", SHA1),
        (f"{SHA1}.part", SHA1),
        (f"{SHA1}.converted", SHA1),
        ("swap_512", "swap_512"),
        (f".{SHA1}.info.0badcafe", f".{SHA1}.info.0badcafe"),
        ("other", "other"),
    ],
)
def test_what_belongs_to_which_original(name: str, parent: str) -> None:
    assert layout_.parent_name(name) == parent


@pytest.mark.parametrize(
    ("backing", "entry"),
    [
        (f"/elsewhere/_base/{SHA1}", SHA1),
        (f"/elsewhere/_base/{SHA1}/", SHA1),
        (SHA1, SHA1),
        (f"/x/{SHA1}_10", f"{SHA1}_10"),
        ("/x/swap_512", "swap_512"),
        (f"/x/{UUID}", UUID),
        (f"/x/{SHA1}.part", None),
        (f"/{SHA1}/disk", None),
        ("/x/debian.qcow2", None),
        ("", None),
        ("/", None),
    ],
)
def test_entries_are_told_from_the_tails_of_backing_names(backing: str, entry: str | None) -> None:
    assert layout_.entry_name_of(backing) == entry


@pytest.mark.parametrize(
    ("name", "disk"),
    [
        (".disk.0123abcd.basecache-new", "disk"),
        (".disk.rescue.0123abcd.basecache-raw", "disk.rescue"),
        ("..basecache-new.0123abcd.basecache-new", ".basecache-new"),
    ],
)
def test_unfinished_disks_say_which_disk_they_were_to_be(name: str, disk: str) -> None:
    assert layout_.is_disk_leftover(name)
    assert layout_.leftover_disk(name) == disk


@pytest.mark.parametrize(
    "name", ["disk", "disk.0123abcd.basecache-new", ".disk.basecache-new", "disk.info"]
)
def test_a_disk_is_no_unfinished_one(name: str) -> None:
    assert not layout_.is_disk_leftover(name)


@pytest.mark.parametrize(
    ("name", "litter"),
    [
        (".disk.info.0badcafe", True),
        ("disk.info.0badcafe", False),
        (".disk.info", False),
        (".disk.local.0badcafe", False),
        (".disk.info.backup", False),
    ],
)
def test_litter_of_disk_info(name: str, litter: bool) -> None:
    assert layout_.is_info_litter(name) is litter
