"""What the first bytes of a disk say: its format, and which file it stands on.

A sweep reads the header of every disk on the host, so this happens in process, with one
``pread`` in the common case and no other program. What is read may have been written by a guest:
every offset and length is checked before it is followed, and what makes no sense is a
:class:`DamagedHeader`, never a guess.

Formats are qemu-img's names. A file without a known magic is ``raw`` (an ISO image, too: qemu
knows none).
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_COMMON_BYTES = 4096
_MAX_NAME_BYTES = 1023
_MAX_FORMAT_BYTES = 15
_QCOW2_EXTERNAL_DATA = 1 << 2
_QCOW2_BACKING_FORMAT = 0xE2792ACA
_QCOW2_DATA_FILE_NAME = 0x44415441
_QED_BACKING = 1 << 0
_QED_BACKING_IS_RAW = 1 << 2
_VDI_OFFSET = 0x40
_VDI_MAGIC = b"\x7f\x10\xda\xbe"
_VDI_SELF_CONTAINED = (1, 2)
_VPC_DIFFERENCING = 4
_VMDK_MAX_DESCRIPTOR_BYTES = (1 << 20) - 1
_VMDK_EXTENT = re.compile(rb'^[^\S\n]*\S+\s+\d+\s+\S+\s+"([^"\r\n]*)', re.MULTILINE)
_VMDK_PARENT = re.compile(rb'parentFileNameHint="([^"\n]*)"')

_QCOW2 = struct.Struct(">QIIQIIQQIIQ")
_QCOW2_VERSION_3 = struct.Struct(">QQQII")
_QCOW1 = struct.Struct(">QIIQBBHIQQ")
_QED = struct.Struct("<IIIQQQQQII")
_VMDK4 = struct.Struct("<IIQQQQ")
_PAIR = struct.Struct(">II")


class DamagedHeader(ValueError):
    """The magic of a format is there, and what follows makes no sense."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a disk's header says.

    ``backing`` and ``data_file`` stand as written in the file; ``data_file`` is "" where the
    header wants one and does not name it. ``asks_qemu``: the format can have a parent that is
    not read here, so only ``qemu-img`` can tell the chain.
    """

    format: str
    backing: str | None = None
    backing_format: str | None = None
    data_file: str | None = None
    virtual_size_bytes: int | None = None
    asks_qemu: bool = False


_RAW = Header("raw")


def read_header(descriptor: int) -> Header:
    """The header of an open file; its position is not moved. DamagedHeader; OSError passes."""
    start = os.pread(descriptor, _COMMON_BYTES, 0)
    if not start.startswith(_FIRST_BYTES) and not start.startswith(_VDI_MAGIC, _VDI_OFFSET):
        return _RAW
    for magic, offset, smallest, parse in _FORMATS:
        if start.startswith(magic, offset) and len(start) >= smallest:
            return parse(_Start(descriptor, start))
    return _RAW


def read_header_of(path: str | os.PathLike[str]) -> Header:
    """The header of the file at ``path``, which is opened without waiting (it may be a pipe)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return read_header(descriptor)
    finally:
        os.close(descriptor)


class _Start:
    """The first bytes of a file, of which more are read when they are needed."""

    __slots__ = ("_bytes", "_descriptor")

    def __init__(self, descriptor: int, known: bytes) -> None:
        self._descriptor = descriptor
        self._bytes = known

    @property
    def known(self) -> bytes:
        """What is read already: the file's first page, or all of it."""
        return self._bytes

    def take(self, offset: int, length: int, what: str) -> bytes:
        """``length`` bytes from ``offset``; DamagedHeader when the file ends before."""
        end = offset + length
        if end <= len(self._bytes):
            return self._bytes[offset:end]
        if end > 1 << 62:
            raise DamagedHeader(f"{what} is said to be at {offset}, which no file reaches")
        found = os.pread(self._descriptor, length, offset)
        if len(found) < length:
            raise DamagedHeader(f"{what} is said to be at {offset}, past the end of the file")
        return found

    def unpack(self, layout: struct.Struct, offset: int, what: str) -> tuple[Any, ...]:
        return layout.unpack(self.take(offset, layout.size, what))

    def name(self, offset: int, length: int, what: str) -> str | None:
        """A name as C reads it: it ends at the first NUL, and an empty one is none."""
        if length > _MAX_NAME_BYTES:
            raise DamagedHeader(f"{what} of {length} bytes is too long")
        return os.fsdecode(self.take(offset, length, what).split(b"\0", 1)[0]) or None


def _parse_qcow(start: _Start) -> Header:
    (version,) = struct.unpack(">I", start.take(4, 4, "the version"))
    if version == 1:
        return _parse_qcow1(start)
    if version in (2, 3):
        return _parse_qcow2(start, version)
    raise DamagedHeader(f"qcow2 version {version} does not exist")


def _parse_qcow2(start: _Start, version: int) -> Header:
    fields = start.unpack(_QCOW2, 8, "the qcow2 header")
    backing_offset, backing_length, cluster_bits, size = fields[:4]
    if not 9 <= cluster_bits <= 21:
        raise DamagedHeader(f"a qcow2 cluster of 2^{cluster_bits} bytes does not exist")
    cluster = 1 << cluster_bits
    incompatible, header_length = 0, 72
    if version == 3:
        extra = start.unpack(_QCOW2_VERSION_3, 72, "the qcow2 version 3 header")
        incompatible, header_length = extra[0], extra[4]
        if not 104 <= header_length <= cluster:
            raise DamagedHeader(f"a qcow2 header of {header_length} bytes does not exist")
    backing = None
    if backing_offset:
        if backing_offset + min(backing_length, _MAX_NAME_BYTES) > cluster:
            raise DamagedHeader("the backing file's name is said to be past the first cluster")
        backing = start.name(backing_offset, backing_length, "the backing file's name")
    found = _find_extensions(start, header_length, backing_offset or cluster)
    data_file = None
    if incompatible & _QCOW2_EXTERNAL_DATA:
        data_file = os.fsdecode(found.get(_QCOW2_DATA_FILE_NAME, b"").split(b"\0", 1)[0])
    backing_format = found.get(_QCOW2_BACKING_FORMAT, b"").decode("ascii", "replace") or None
    return Header("qcow2", backing, backing_format if backing else None, data_file, size)


def _find_extensions(start: _Start, offset: int, end: int) -> dict[int, bytes]:
    """The contents of the two header extensions that matter, between ``offset`` and ``end``."""
    found = {}
    while offset + 8 <= end:
        kind, length = start.unpack(_PAIR, offset, "a header extension")
        if kind == 0:
            break
        if length > end - offset - 8:
            raise DamagedHeader(f"a header extension of {length} bytes does not fit")
        if kind in (_QCOW2_BACKING_FORMAT, _QCOW2_DATA_FILE_NAME):
            limit = _MAX_FORMAT_BYTES if kind == _QCOW2_BACKING_FORMAT else _MAX_NAME_BYTES
            if length > limit:
                raise DamagedHeader(f"a name of {length} bytes in a header extension is too long")
            found[kind] = start.take(offset + 8, length, "a header extension")
        offset += 8 + (length + 7 & ~7)
    return found


def _parse_qcow1(start: _Start) -> Header:
    fields = start.unpack(_QCOW1, 8, "the qcow header")
    offset, length, _, size = fields[:4]
    backing = start.name(offset, length, "the backing file's name") if offset else None
    return Header("qcow", backing, virtual_size_bytes=size)


def _parse_qed(start: _Start) -> Header:
    fields = start.unpack(_QED, 4, "the QED header")
    features, size, offset, length = fields[3], fields[7], fields[8], fields[9]
    if not features & _QED_BACKING:
        return Header("qed", virtual_size_bytes=size)
    backing = start.name(offset, length, "the backing file's name")
    backing_format = "raw" if features & _QED_BACKING_IS_RAW else None
    return Header("qed", backing, backing_format, virtual_size_bytes=size)


def _parse_vmdk4(start: _Start) -> Header:
    _, _, sectors, _, offset, length = start.unpack(_VMDK4, 4, "the VMDK header")
    if not offset or not length:
        return Header("vmdk", virtual_size_bytes=sectors * 512, asks_qemu=True)
    length = min(length * 512, _VMDK_MAX_DESCRIPTOR_BYTES)
    descriptor = start.take(offset * 512, length, "the VMDK descriptor")
    return Header("vmdk", _find_parent(descriptor), virtual_size_bytes=sectors * 512)


def _parse_vmdk_descriptor(start: _Start) -> Header:
    """A descriptor alone: its extents are other files, so qemu has to say what it stands on.

    It must not be led to a server on the way: an extent's name is taken for a URL as any other.
    """
    for extent in _VMDK_EXTENT.findall(start.known):
        if b":" in extent.partition(b"/")[0]:
            raise DamagedHeader(f"an extent of its VMDK descriptor is no local file: {extent!r}")
    return Header("vmdk", _find_parent(start.known), asks_qemu=True)


def _find_parent(descriptor: bytes) -> str | None:
    """The parent as qemu finds it: the first hint in the text, whatever the parent's CID is."""
    hint = _VMDK_PARENT.search(descriptor.split(b"\0", 1)[0])
    return os.fsdecode(hint[1]) or None if hint else None


def _parse_vpc(start: _Start) -> Header:
    size, _, kind = struct.unpack(">Q4sI", start.take(48, 16, "the VHD footer"))
    return Header("vpc", virtual_size_bytes=size, asks_qemu=kind == _VPC_DIFFERENCING)


def _parse_vdi(start: _Start) -> Header:
    (kind,) = struct.unpack("<I", start.take(0x4C, 4, "the VDI header"))
    (size,) = struct.unpack("<Q", start.take(0x170, 8, "the VDI header"))
    return Header("vdi", virtual_size_bytes=size, asks_qemu=kind not in _VDI_SELF_CONTAINED)


def _known(format_: str, *, asks_qemu: bool) -> Callable[[_Start], Header]:
    header = Header(format_, asks_qemu=asks_qemu)
    return lambda _start: header


# magic, where it stands, the shortest file that can be this format, who reads the rest
_FORMATS: tuple[tuple[bytes, int, int, Callable[[_Start], Header]], ...] = (
    (b"QFI\xfb", 0, 48, _parse_qcow),
    (b"QED\0", 0, 64, _parse_qed),
    (b"KDMV", 0, 64, _parse_vmdk4),
    (b"COWD", 0, 64, _known("vmdk", asks_qemu=True)),
    (b"# Disk DescriptorFile", 0, 21, _parse_vmdk_descriptor),
    (b"vhdxfile", 0, 64, _known("vhdx", asks_qemu=True)),
    (b"conectix", 0, 512, _parse_vpc),
    (b"LUKS\xba\xbe", 0, 64, _known("luks", asks_qemu=False)),
    (b"WithoutFreeSpace", 0, 64, _known("parallels", asks_qemu=True)),
    (b"WithouFreSpacExt", 0, 64, _known("parallels", asks_qemu=True)),
    (_VDI_MAGIC, _VDI_OFFSET, 512, _parse_vdi),
)
_FIRST_BYTES = tuple(magic for magic, offset, _, _ in _FORMATS if offset == 0)


_PROTOCOL = re.compile(r"([a-z][a-z0-9+_-]*):", re.IGNORECASE)
_LOCAL_PROTOCOLS = ("file", "host_device", "host_cdrom")
_REMOTE_PROTOCOLS = re.compile(
    "https?|ftps?|tftp|ssh|rbd|iscsi|iser|nfs|nvme|vxhs|null-(co|aio)"
    r"|(nbd|gluster|sheepdog)(\+[a-z]+)?|nbds|virtio-blk-[a-z-]+|io_uring|nvme-io_uring",
    re.IGNORECASE,
)


def local_backing(backing: str, folder: str) -> str | None:
    """The local file that a ``backing`` name written in an overlay in ``folder`` means.

    Plain and relative names, ``file:`` names, and ``json:`` in any of qemu's spellings. None when
    it is no local file (``nbd:``, ``rbd:``, ``https:`` ...). A name with a prefix that is no
    protocol of qemu's is taken for a plain name; inside ``json:`` qemu takes every name for a
    plain one. Relative names after ``file:`` and in ``json:``, which qemu looks for in its own
    folder, are looked for in the overlay's, too. The path is not normalised: ``..`` after a link
    means what the kernel says. DamagedHeader when a ``json:`` name cannot be understood.
    """
    if "\0" in backing:
        raise DamagedHeader(f"the backing file's name {backing!r} holds a NUL")
    if backing.startswith("json:"):
        return _local_from_json(backing[5:], folder)
    protocol = _PROTOCOL.match(backing)
    if protocol and protocol[1].lower() in _LOCAL_PROTOCOLS:
        return os.path.join(folder, backing[protocol.end() :])
    if protocol and _REMOTE_PROTOCOLS.fullmatch(protocol[1]):
        return None
    return os.path.join(folder, backing)


def _local_from_json(text: str, folder: str) -> str | None:
    try:
        options = json.loads(text)
        flat = dict(_flatten(options, "")) if isinstance(options, dict) else {}
    except (ValueError, RecursionError) as error:
        raise DamagedHeader(f"the backing file's name json:{text!r} is no JSON") from error
    if any(key == "backing" or key.startswith(("backing.", "file.backing")) for key in flat):
        raise DamagedHeader(f"the backing file's name json:{text!r} names another backing in turn")
    layers = [""]
    while any(key.startswith(f"{layers[-1]}file.") for key in flat):
        layers.append(f"{layers[-1]}file.")
    innermost = layers[-1]
    driver, name = flat.get(f"{innermost}driver"), flat.get(f"{innermost}filename")
    if isinstance(driver, str) and _REMOTE_PROTOCOLS.fullmatch(driver):
        return None
    if not isinstance(name, str) or not name or "\0" in name:
        raise DamagedHeader(f"the backing file's name json:{text!r} names no file")
    return os.path.join(folder, name)


def _flatten(options: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Nested and dotted spellings made one: ``{"file": {"driver": "x"}}`` is ``file.driver``."""
    for key, value in options.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
