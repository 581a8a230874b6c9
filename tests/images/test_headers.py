"""Headers read in process, against what qemu-img says of the same files, and against junk."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basecache.images.headers import (
    DamagedHeader,
    Header,
    local_backing,
    read_header,
    read_header_of,
)
from basecache.model import MiB
from tests.support import hostile

MAGICS = (
    b"QFI\xfb\0\0\0\1",
    b"QFI\xfb\0\0\0\2",
    b"QFI\xfb\0\0\0\3",
    b"QFI\xfb",
    b"QED\0",
    b"KDMV",
    b"COWD",
    b"# Disk DescriptorFile\n",
    b"vhdxfile",
    b"conectix",
    b"LUKS\xba\xbe",
    b"WithoutFreeSpace",
    b"WithouFreSpacExt",
    bytes(0x40) + b"\x7f\x10\xda\xbe",
)


def read_bytes(content: bytes) -> Header:
    """The header of a file with this content, which has no name."""
    descriptor = os.memfd_create("image")
    try:
        os.write(descriptor, content)
        return read_header(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("raw", ()),
        ("qcow2", ()),
        ("qcow2", ("compat=0.10",)),
        ("qcow2", ("cluster_size=512",)),
        ("qcow2", ("cluster_size=2M", "lazy_refcounts=on")),
        ("qcow2", ("extended_l2=on",)),
        ("qcow", ()),
        ("qed", ()),
        ("vmdk", ()),
        ("vmdk", ("subformat=streamOptimized",)),
        ("vdi", ()),
        ("vpc", ("force_size=on",)),
    ],
)
def test_formats_and_sizes_are_those_of_qemu_img(
    tmp_path: Path, kind: str, options: tuple[str, ...]
) -> None:
    path = hostile.make_disk(tmp_path / "disk", kind, 3 * MiB, options)
    said = json.loads(hostile.run_qemu_img("info", "--output=json", path))
    header = read_header_of(path)
    assert header.format == said["format"] == kind
    assert header.virtual_size_bytes == (None if kind == "raw" else said["virtual-size"])
    assert (header.backing, header.data_file, header.asks_qemu) == (None, None, False)


@pytest.mark.parametrize("kind", ["vhdx", "parallels"])
def test_formats_that_only_qemu_can_follow_say_so(tmp_path: Path, kind: str) -> None:
    header = read_header_of(hostile.make_disk(tmp_path / "disk", kind))
    assert (header.format, header.asks_qemu) == (kind, True)


@pytest.mark.parametrize("kind", ["qcow2", "qcow2-v2", "qcow", "qed", "vmdk"])
@pytest.mark.parametrize("name", ["base", "a name: with – ünïcode", "n" * 200, "../up/base"])
def test_backing_names_are_those_of_qemu_img(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / "up").mkdir()
    (tmp_path / "in").mkdir()
    kind, _, old = kind.partition("-")
    base = (tmp_path / "in" / name).resolve()
    hostile.make_disk(base, "vmdk" if kind == "vmdk" else "raw", 1 * MiB)
    written = str(base) if ":" in name else name
    overlay = tmp_path / "in" / "overlay"
    backing = ["-b", written, "-F", "vmdk" if kind == "vmdk" else "raw"]
    compat = ["-o", "compat=0.10"] if old else []
    hostile.run_qemu_img("create", "-q", "-f", kind, *compat, *backing, overlay, str(MiB))
    said = json.loads(hostile.run_qemu_img("info", "--output=json", "-f", kind, overlay))
    header = read_header_of(overlay)
    assert header.format == kind
    assert header.backing == said["backing-filename"] == written
    if kind in ("qcow2", "qed"):
        assert header.backing_format == said["backing-filename-format"] == "raw"
    found = local_backing(header.backing, str(overlay.parent))
    assert found is not None
    assert Path(found).samefile(base)


def test_an_external_data_file_is_named(tmp_path: Path) -> None:
    overlay, data = tmp_path / "overlay", tmp_path / "data"
    hostile.make_disk(overlay, "qcow2", 1 * MiB, (f"data_file={data}",))
    assert read_header_of(overlay).data_file == str(data)
    assert read_header_of(hostile.make_nameless_data_qcow2(tmp_path / "b")).data_file == ""


def test_the_longest_backing_name_past_the_first_read(tmp_path: Path) -> None:
    name = b"/" + b"x" * 1022
    header = hostile.make_qcow2_header(backing=name, backing_offset=60_000)
    found = read_header_of(hostile.make_qcow2(tmp_path / "a", header))
    assert found.backing == name.decode()


def test_names_that_are_no_utf8_survive(tmp_path: Path) -> None:
    name = b"/images/\xff\xfe"
    found = read_header_of(
        hostile.make_qcow2(tmp_path / "a", hostile.make_qcow2_header(backing=name))
    )
    assert found.backing is not None
    assert os.fsencode(found.backing) == name


def test_an_empty_backing_name_is_none(tmp_path: Path) -> None:
    header = hostile.make_qcow2_header(backing=b"", extensions=((hostile.BACKING_FORMAT, b"raw"),))
    found = read_header_of(hostile.make_qcow2(tmp_path / "a", header))
    assert (found.backing, found.backing_format) == (None, None)


@pytest.mark.parametrize(
    "header",
    [
        hostile.make_qcow2_header(version=4),
        hostile.make_qcow2_header(cluster_bits=8),
        hostile.make_qcow2_header(cluster_bits=63),
        hostile.make_qcow2_header(header_length=8),
        hostile.make_qcow2_header(header_length=1 << 31),
        hostile.make_qcow2_header(backing=b"x", backing_length=1024),
        hostile.make_qcow2_header(backing=b"x", backing_offset=hostile.CLUSTER),
        hostile.make_qcow2_header(backing=b"x" * 100)[:1100],
        hostile.make_qcow2_header(extensions=((hostile.BACKING_FORMAT, b"q" * 16),)),
        hostile.make_qcow2_header(extensions=((hostile.DATA_FILE_NAME, b"q" * 1024),)),
        hostile.make_qcow2_header()[:80],
        hostile.make_qcow2_header(extensions=((hostile.DATA_FILE_NAME, b""),))[:-12],
        hostile.make_qcow2_header()[:104] + struct.pack(">II", 7, 1 << 30),
    ],
)
def test_headers_that_make_no_sense_are_damaged(header: bytes) -> None:
    with pytest.raises(DamagedHeader):
        read_bytes(header)


@pytest.mark.parametrize("content", [b"", b"QFI\xfb", b"QFI\xfb\0\0\0\3", b"KDMV", b"x" * 9000])
def test_no_magic_or_less_than_a_header_is_raw(content: bytes) -> None:
    assert read_bytes(content) == Header("raw")


@given(st.sampled_from(MAGICS), st.binary(max_size=600), st.integers(0, 5000))
def test_junk_after_a_magic_is_a_header_or_damaged(magic: bytes, junk: bytes, padding: int) -> None:
    try:
        header = read_bytes(magic + junk + bytes(padding))
    except DamagedHeader:
        return
    if header.backing is not None:
        assert header.backing
        assert "\0" not in header.backing


@given(st.data())
def test_a_changed_byte_never_hides_behind_another_error(data: st.DataObject) -> None:
    honest = hostile.make_qcow2_header(
        backing=b"/var/lib/base", extensions=((hostile.BACKING_FORMAT, b"qcow2"),)
    )
    changed = bytearray(honest.ljust(4096, b"\0"))
    for at in data.draw(st.lists(st.integers(0, 200), min_size=1, max_size=4)):
        changed[at] = data.draw(st.integers(0, 255))
    try:
        read_bytes(bytes(changed))
    except DamagedHeader as error:
        assert str(error)


PLAIN = [
    ("base", "/disks/base"),
    ("../base", "/disks/../base"),
    ("/images/base", "/images/base"),
    ("/images/a:b", "/images/a:b"),
    ("-base", "/disks/-base"),
    ("a:b", "/disks/a:b"),
    ("file:/images/base", "/images/base"),
    ("file:base", "/disks/base"),
    ("file:///images/base", "///images/base"),
    ("host_device:/dev/sdb", "/dev/sdb"),
    ('json:{"filename": "/images/base"}', "/images/base"),
    ('json:{"filename": "base"}', "/disks/base"),
    ('json:{"driver": "file", "filename": "nbd:plain"}', "/disks/nbd:plain"),
    ('json:{"file": {"filename": "rbd:pool/image"}}', "/disks/rbd:pool/image"),
]
JSON = [
    '{"file.filename": "BASE"}',
    '{"driver": "file", "filename": "BASE"}',
    '{"driver": "raw", "file.driver": "file", "file.filename": "BASE"}',
    '{"driver": "raw", "file": {"driver": "file", "filename": "BASE"}}',
    '{"driver": "raw", "file": {"driver": "raw", "file": {"driver": "file", "filename": "BASE"}}}',
    '{"driver": "raw", "file": {"driver": "raw", "file.filename": "BASE"}}',
    '{"file": {"filename": "BASE"}}',
]


@pytest.mark.parametrize(("name", "expected"), PLAIN)
def test_names_of_local_files(name: str, expected: str) -> None:
    assert local_backing(name, "/disks") == expected


@pytest.mark.parametrize(
    "name",
    [
        "nbd:localhost:10809",
        "nbd+unix:///disk?socket=/run/nbd",
        "rbd:pool/image",
        "https://example.com/image",
        "iscsi://host/target/0",
        'json:{"driver":"nbd","server.type":"inet","server.host":"h"}',
        'json:{"driver":"raw","file":{"driver":"rbd","pool":"p","image":"i"}}',
        'json:{"driver":"raw","file.driver":"https","file.url":"https://example.com/"}',
    ],
)
def test_names_that_are_no_local_files(name: str) -> None:
    assert local_backing(name, "/disks") is None


@pytest.mark.parametrize(
    "name",
    [
        "json:",
        "json:{",
        "json:[]",
        "json:{}",
        "json:" + "[" * 1018,
        'json:{"driver":"qcow2"}',
        'json:{"driver":"qcow2","file":"a-node"}',
        'json:{"filename":7}',
        'json:{"filename":"a\\u0000b"}',
        'json:{"filename":"/a","backing":{"filename":"/b"}}',
        'json:{"file":{"filename":"/a"},"backing.filename":"/b"}',
        'json:{"driver":"quorum","children.0.filename":"/a"}',
        "a\0b",
    ],
)
def test_names_that_cannot_be_understood(name: str) -> None:
    with pytest.raises(DamagedHeader):
        local_backing(name, "/disks")


@pytest.mark.parametrize("spelling", JSON)
def test_json_names_mean_here_what_they_mean_to_qemu(tmp_path: Path, spelling: str) -> None:
    base = hostile.make_raw(tmp_path / "base", 3 * MiB)
    name = "json:" + spelling.replace("BASE", str(base))
    assert (
        json.loads(hostile.run_qemu_img("info", "--output=json", name))["virtual-size"] == 3 * MiB
    )
    assert local_backing(name, "/disks") == str(base)


@given(st.text(max_size=200))
def test_any_json_is_understood_or_damaged(text: str) -> None:
    try:
        found = local_backing("json:" + text, "/disks")
    except DamagedHeader:
        return
    assert found is None or "\0" not in found


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=10),
        lambda inner: st.dictionaries(
            st.sampled_from(["file", "driver", "filename", "file.filename", "backing", "x"]), inner
        ),
        max_leaves=8,
    )
)
def test_any_options_are_understood_or_damaged(options: object) -> None:
    try:
        found = local_backing("json:" + json.dumps(options), "/disks")
    except DamagedHeader:
        return
    assert found is None or found.startswith("/")
