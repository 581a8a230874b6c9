"""Images made to hurt, and honest ones to set beside them.

Each builder writes one file at the path it is given and returns that path. The hostile ones are
written byte by byte, since qemu-img would not make them.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.needs import need_tool

KiB = 1024
MiB = 1024 * KiB
CLUSTER = 64 * KiB
QCOW2_MAGIC = 0x514649FB
EXTERNAL_DATA_BIT = 1 << 2
BACKING_FORMAT = 0xE2792ACA
DATA_FILE_NAME = 0x44415441


def run_qemu_img(*arguments: str | Path) -> str:
    """What qemu-img prints; the test is skipped where there is none."""
    tool = need_tool("qemu-img", "apt-get install qemu-utils")
    return subprocess.run(
        [tool, *map(str, arguments)], check=True, capture_output=True, text=True
    ).stdout


def make_raw(path: Path, size: int = 1 * MiB, *, data: bytes = b"raw data") -> Path:
    """A sparse raw disk that begins with ``data``."""
    path.write_bytes(data)
    os.truncate(path, size)
    return path


def make_disk(path: Path, kind: str, size: int = 8 * MiB, options: Sequence[str] = ()) -> Path:
    """An empty image by qemu-img itself."""
    extra = ["-o", ",".join(options)] if options else []
    run_qemu_img("create", "-q", "-f", kind, *extra, path.absolute(), str(size))
    return path


def make_filled(path: Path, kind: str, size: int = 2 * MiB, options: Sequence[str] = ()) -> Path:
    """An image by qemu-img with random data in every cluster."""
    raw = path.with_name(path.name + ".content")
    raw.write_bytes(os.urandom(size))
    extra = ["-o", ",".join(options)] if options else []
    run_qemu_img("convert", "-f", "raw", "-O", kind, *extra, raw.absolute(), path.absolute())
    raw.unlink()
    return path


def make_qcow2_header(
    *,
    version: int = 3,
    size: int = 1 * MiB,
    l1_size: int = 1,
    l1_offset: int = 3 * CLUSTER,
    backing: bytes | None = None,
    backing_offset: int = 1024,
    backing_length: int | None = None,
    cluster_bits: int = 16,
    incompatible: int = 0,
    header_length: int = 104,
    extensions: Sequence[tuple[int, bytes]] = (),
) -> bytes:
    """The first cluster of a qcow2 file, true or not."""
    length = len(backing or b"") if backing_length is None else backing_length
    fields = (QCOW2_MAGIC, version, backing_offset if backing is not None else 0, length)
    tables = (cluster_bits, size, 0, l1_size, l1_offset, CLUSTER, 1, 0, 0)
    head = struct.pack(">IIQI", *fields) + struct.pack(">IQIIQQIIQ", *tables)
    if version >= 3:
        head += struct.pack(">QQQII", incompatible, 0, 0, 4, header_length)
    for kind, content in extensions:
        head += struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)
    head += bytes(8)
    if backing is not None:
        head = head.ljust(backing_offset, b"\0") + backing
    return head


def make_qcow2(path: Path, header: bytes) -> Path:
    """A whole, empty qcow2 round ``header``: refcount table and block, and an empty L1 table."""
    table = struct.pack(">Q", 2 * CLUSTER).ljust(CLUSTER, b"\0")
    counts = struct.pack(">4H", 1, 1, 1, 1).ljust(CLUSTER, b"\0")
    path.write_bytes(header.ljust(CLUSTER, b"\0") + table + counts + bytes(CLUSTER))
    return path


def make_honest_qcow2(path: Path) -> Path:
    """The honest one: what every hostile qcow2 here would be without its one lie."""
    return make_qcow2(path, make_qcow2_header())


def make_backed_qcow2(path: Path, backing: str = "/etc/passwd") -> Path:
    """Its backing file is a file of the host."""
    extensions = ((BACKING_FORMAT, b"raw"),)
    return make_qcow2(path, make_qcow2_header(backing=os.fsencode(backing), extensions=extensions))


def make_external_data_qcow2(path: Path, data_file: str = "/etc/passwd") -> Path:
    """Its guest data would be read from, and written to, a file of the host (CVE-2024-32498)."""
    extensions = ((DATA_FILE_NAME, os.fsencode(data_file)),)
    header = make_qcow2_header(incompatible=EXTERNAL_DATA_BIT, extensions=extensions)
    return make_qcow2(path, header)


def make_json_data_qcow2(path: Path) -> Path:
    """Its external data file is a json: name, with which qemu opens whatever it says."""
    name = json.dumps({"driver": "raw", "file": {"driver": "file", "filename": "/etc/passwd"}})
    return make_external_data_qcow2(path, f"json:{name}")


def make_nameless_data_qcow2(path: Path) -> Path:
    """It wants an external data file and does not name it."""
    return make_qcow2(path, make_qcow2_header(incompatible=EXTERNAL_DATA_BIT))


def make_huge_table_qcow2(path: Path) -> Path:
    """Its L1 table is said to be 32 GiB."""
    return make_qcow2(path, make_qcow2_header(l1_size=0xFFFFFFFF))


def make_lying_size_qcow2(path: Path) -> Path:
    """Its virtual size needs a far larger L1 table than it has."""
    return make_qcow2(path, make_qcow2_header(size=1 << 40))


def make_looping_tables_qcow2(path: Path) -> Path:
    """Four million L1 entries that all lead to one L2 table: to go through it takes minutes."""
    entries = 1 << 22
    header = make_qcow2_header(size=entries << 29, l1_size=entries, l1_offset=4 * CLUSTER)
    make_qcow2(path, header)
    with path.open("ab") as file:
        file.write(struct.pack(">Q", 1 << 63 | 3 * CLUSTER) * entries)
    return path


def make_unknown_feature_qcow2(path: Path) -> Path:
    """It uses a feature that does not exist."""
    return make_qcow2(path, make_qcow2_header(incompatible=1 << 40))


def make_bomb_qcow2(path: Path) -> Path:
    """A file of some hundred KiB that holds a disk of 1 PiB, consistently."""
    return make_disk(path, "qcow2", 1 << 50, ("cluster_size=2M",))


def make_truncated_qcow2(path: Path) -> Path:
    """The second half of its data is gone; all tables are there."""
    make_filled(path, "qcow2")
    os.truncate(path, path.stat().st_size // 2)
    return path


def make_beheaded_qcow2(path: Path) -> Path:
    """Only the first cluster is there; every table is gone."""
    make_filled(path, "qcow2")
    os.truncate(path, CLUSTER)
    return path


def make_stub_qcow2(path: Path) -> Path:
    """Cut within the header itself."""
    path.write_bytes(make_qcow2_header()[:80])
    return path


def make_foreign_extent_vmdk(path: Path, extent: str = "/etc/passwd") -> Path:
    """A descriptor alone, whose data is a file of the host."""
    path.write_text(describe_vmdk("monolithicFlat", f'RW 8 FLAT "{extent}" 0').ljust(1024))
    return path


def make_backed_vmdk(path: Path) -> Path:
    """A sparse VMDK whose parent is a file of the host."""
    text = describe_vmdk("monolithicSparse", 'RW 2048 SPARSE "own.vmdk"')
    text = text.replace("\n", '\nparentFileNameHint="/etc/passwd"\n', 1)
    return make_sparse_vmdk(path, 2048, text)


def make_two_faced_vmdk(path: Path, extent: str) -> Path:
    """Sparse to one reader; qemu, for which capacity 0 means "see the descriptor", reads another.

    The first create type is what a reader ignoring case sees, the second what qemu sees.
    """
    text = describe_vmdk("twoGbMaxExtentFlat", f'RW 8 FLAT "{extent}" 0')
    text = text.replace("\n", '\nCREATETYPE="monolithicSparse"\n', 1)
    return make_sparse_vmdk(path, 0, text)


def describe_vmdk(create_type: str, extent: str) -> str:
    """A VMDK descriptor."""
    lines = ("# Disk DescriptorFile", "version=1", "CID=12345678", "parentCID=ffffffff")
    return "\n".join((*lines, f'createType="{create_type}"', extent, 'ddb.adapterType = "ide"', ""))


def make_sparse_vmdk(path: Path, sectors: int, descriptor: str) -> Path:
    """A hosted sparse extent of ``sectors`` with ``descriptor`` in it."""
    head = struct.pack("<4sIIQQQQIQQQ", b"KDMV", 1, 3, sectors, 128, 1, 20, 512, 21, 26, 128)
    head += b"\0\n \r\n"
    text = descriptor.encode().ljust(20 * 512, b"\0")
    path.write_bytes((head.ljust(512, b"\0") + text).ljust(512 * KiB, b"\0"))
    return path


def make_iso(path: Path, *, front: bytes = b"") -> Path:
    """An ISO 9660 file system's volume descriptor, with ``front`` in its system area."""
    volume = bytearray(2048)
    volume[:7] = b"\x01CD001\x01"
    volume[80:88] = struct.pack("<I", 512) + struct.pack(">I", 512)
    volume[128:132] = struct.pack("<H", 2048) + struct.pack(">H", 2048)
    path.write_bytes(front.ljust(32 * KiB, b"\0") + bytes(volume) + bytes(MiB - 34 * KiB))
    return path


def make_partition_table() -> bytes:
    """The protective MBR of a GPT disk."""
    entry = struct.pack("<B3BB3BII", 0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF, 1, 2047)
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"


def make_gpt(path: Path) -> Path:
    """A raw disk with a partition table."""
    return make_raw(path, data=make_partition_table())


def make_bootable_iso(path: Path) -> Path:
    """An ISO image that boots from a stick, too: it carries a partition table."""
    return make_iso(path, front=make_partition_table())


def make_qcow2_iso(path: Path) -> Path:
    """ISO to one reader, qcow2 with a backing file to another."""
    return make_iso(path, front=make_qcow2_header(backing=b"/etc/passwd"))


def make_clean_qcow2_iso(path: Path) -> Path:
    """ISO to one reader, qcow2 to another, with nothing else wrong."""
    return make_iso(path, front=make_qcow2_header())


def make_kernel(path: Path) -> Path:
    """What a kernel begins with: boot code that ends as a partition table does."""
    front = b"MZ\xea\x07\x00\xc0\x07\x8c" + os.urandom(502) + b"\x55\xaa"
    path.write_bytes(front + b"HdrS" + os.urandom(64 * KiB))
    return path


def make_luks(path: Path, size: int = 1 * MiB) -> Path:
    """An encrypted disk; only its header, since qemu-img takes seconds to derive a real key."""
    sectors, first = 504, 8
    payload = first + 8 * sectors
    names = (b"LUKS\xba\xbe", 1, b"aes", b"xts-plain64", b"sha256")
    head = struct.pack(">6sH32s32s32sII", *names, payload, 64)
    head += struct.pack(">20s32sI40s", os.urandom(20), os.urandom(32), 1000, b"a-uuid")
    for slot in range(8):
        active = 0x00AC71F3 if slot == 0 else 0x0000DEAD
        at = first + slot * sectors
        head += struct.pack(">II32sII", active, 1000, os.urandom(32), at, 4000)
    return make_raw(path, payload * 512 + size, data=head)


def make_empty(path: Path) -> Path:
    """Nothing at all."""
    path.write_bytes(b"")
    return path


def count_cached_pages(path: Path) -> int:
    """How many pages of the file are in the page cache, as mincore(2) tells."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    size = path.stat().st_size
    descriptor = os.open(path, os.O_RDONLY)
    try:
        address = libc.mmap(None, ctypes.c_size_t(size), 1, 1, descriptor, ctypes.c_long(0))
        resident = (ctypes.c_ubyte * -(-size // 4096))()
        asked = libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), resident)
        assert asked == 0, os.strerror(ctypes.get_errno())
        libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))
        return sum(page & 1 for page in resident)
    finally:
        os.close(descriptor)


@contextmanager
def held_open(path: Path) -> Iterator[None]:
    """While this lasts a qemu process has the image open for writing, as a VM would."""
    tool = need_tool("qemu-io", "apt-get install qemu-utils")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([tool, "-f", "qcow2", path], **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"length\n")
        process.stdin.flush()
        process.stdout.readline()
        yield
        process.stdin.close()


@pytest.fixture
def make_hostile(tmp_path: Path) -> Callable[[Callable[[Path], Path]], Path]:
    """Build one hostile image in the test's own folder."""
    return lambda build: build(tmp_path / build.__name__)
