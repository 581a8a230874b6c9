"""Whether an image's content may be used, decided before anything opens it as a disk.

Three readers must agree on what it is: oslo.utils' format inspectors, our own header reader, and
qemu-img, which is asked last and with the format given, so that content never chooses qemu's
driver. What could make the host read or write another file, allocate without bound, or give a
guest other bytes than were meant, is an UnsafeImage that says what was declared and what was
found.

Format names going in are the image service's (``ami``, ``vhd``, ``ploop``); those coming out are
qemu-img's, and ``iso``, which qemu reads as ``raw``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basecache import errors
from basecache.images import headers, qemu_img
from basecache.model import Image, KiB, MiB

if TYPE_CHECKING:
    from oslo_utils.imageutils.format_inspector import FileInspector

#: Formats that content may have when nobody declared one.
UNDECLARED_FORMATS = frozenset({"raw", "qcow2", "iso"})
#: VMDK subformats that keep everything in one file, as Nova's vmdk_allowed_types has them.
VMDK_TYPES = frozenset({"monolithicSparse", "streamOptimized"})

_QEMU_NAMES = {"ami": "raw", "aki": "raw", "ari": "raw", "vhd": "vpc", "ploop": "parallels"}
_SECTOR_BYTES = 512
_FIRST_CHUNK_BYTES = 512 * KiB
_CHUNK_BYTES = 1 * MiB
_OPAQUE = frozenset({"raw", "iso"})
_UNKNOWN_TO_OSLO = frozenset({"parallels"})
_SIZE_KNOWN_TO_BOTH = frozenset({"qcow2", "vmdk", "vdi", "vhdx", "parallels"})


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a file is and how large the disk in it is."""

    format: str
    virtual_size_bytes: int


def require_safe(
    path: Path,
    image: Image,
    *,
    max_virtual_size_bytes: int | None,
    allowed_formats: Collection[str] | None = None,
) -> Inspection:
    """What ``path`` holds, once it is known that it may be used as ``image``.

    A declared format must be the content's. Where none is declared the content must be raw, qcow2
    or iso, or one of ``allowed_formats``; where those are given, a declared one must be among them
    too. Errors: UnsafeImage; StorageFailed when the file cannot be read; ToolFailed when qemu-img
    is not installed.
    """
    declared = name_for_qemu(image.disk_format)
    allowed = None if allowed_formats is None else {name_for_qemu(one) for one in allowed_formats}
    found = _look(path, image.id)
    if declared is None and found not in (UNDECLARED_FORMATS if allowed is None else allowed):
        raise errors.UnsafeImage(image.id, f"no format is declared, and its content is {found}")
    if declared is not None and declared != found:
        raise errors.UnsafeImage(
            image.id, f"its declared format is {image.disk_format}, its content is {found}"
        )
    if allowed is not None and found not in allowed:
        raise errors.UnsafeImage(image.id, f"{found} is not among the allowed formats")
    inspection = _ask_qemu(path, found, image.id, max_virtual_size_bytes)
    _require_whole(path, found, image.id)
    return inspection


def detect(path: Path) -> Inspection:
    """What a cache file without a record is; UnsafeImage where :func:`require_safe` would refuse.

    Its metadata is not gone through: it is trusted as whoever put it there trusted it.
    """
    return _ask_qemu(path, _look(path, path.name), path.name, None)


def name_for_qemu(format: str | None) -> str | None:  # noqa: A002
    """qemu-img's name of an image service's format; None (or "") when none is declared."""
    if not format:
        return None
    return _QEMU_NAMES.get(format.lower(), format.lower())


def _look(path: Path, image: str) -> str:
    """The format the content has, as oslo.utils and our own reader agree; both must accept it."""
    if _regular_size(path) == 0:
        raise errors.UnsafeImage(image, "it is empty")
    header = _read_header(path, image)
    if header.backing is not None:
        raise errors.UnsafeImage(image, f"it has a backing file, {header.backing!r}")
    if header.data_file is not None:
        raise errors.UnsafeImage(image, f"it has an external data file, {header.data_file!r}")
    found = {str(inspector): inspector for inspector in _match(path, image)}
    # A partition table is the guest's business: whatever it says, the host sees raw bytes. Bootable
    # ISO images carry one, and kernels and boot sectors look like one.
    found.pop("gpt", None)
    for inspector in found.values():
        _require_safety(inspector, image)
    names = {name_for_qemu(name) or name for name in found} - {"raw"} or {"raw"}
    if header.format in _UNKNOWN_TO_OSLO and names == {"raw"}:
        return header.format
    if header.format not in names | {"raw"}:
        raise errors.UnsafeImage(image, f"it begins as {header.format}, and is none that is known")
    if len(names) > 1:
        raise errors.UnsafeImage(
            image, f"it looks like several formats: {', '.join(sorted(names))}"
        )
    return names.pop()


def _match(path: Path, image: str) -> list[FileInspector]:
    """Every inspector that knows the content; reads on until all have made up their minds."""
    from oslo_utils.imageutils import format_inspector  # noqa: PLC0415

    try:
        with open(path, "rb", buffering=0) as file:
            wrapper = format_inspector.InspectWrapper(file)
            length = _FIRST_CHUNK_BYTES
            while wrapper.read(length) and wrapper.formats is None:
                length = _CHUNK_BYTES
            wrapper.close()
        return list(wrapper.formats or ())
    except format_inspector.ImageFormatError as error:
        raise errors.UnsafeImage(image, f"its format cannot be told: {error}") from error
    except OSError as error:
        raise errors.from_os(error, path, "inspecting") from error


def _require_safety(inspector: FileInspector, image: str) -> None:
    from oslo_utils.imageutils import format_inspector  # noqa: PLC0415

    try:
        inspector.safety_check()
    except format_inspector.SafetyCheckFailed as error:
        why = "; ".join(f"{name}: {failure}" for name, failure in sorted(error.failures.items()))
        raise errors.UnsafeImage(image, f"{inspector} content fails its checks ({why})") from error
    except format_inspector.ImageFormatError as error:
        raise errors.UnsafeImage(image, f"{inspector} content is incomplete: {error}") from error


def _ask_qemu(path: Path, found: str, image: str, max_bytes: int | None) -> Inspection:
    """qemu-img's word on it, with the format given; it must agree and name no other file."""
    header = _read_header(path, image)
    claimed = header.virtual_size_bytes
    _require_size(claimed or 0, max_bytes, image)
    try:
        info = qemu_img.info(path, "raw" if found in _OPAQUE else found)
    except errors.ToolFailed as error:
        raise _refused(error, image, found) from error
    size = info.virtual_size_bytes
    if info.backing is not None or info.data_file is not None:
        other = info.backing or info.data_file
        raise errors.UnsafeImage(image, f"qemu-img finds that it needs another file, {other!r}")
    if found in _SIZE_KNOWN_TO_BOTH and claimed is not None and claimed != size:
        raise errors.UnsafeImage(
            image, f"its header says {claimed} bytes of virtual size, qemu-img says {size}"
        )
    if found == "vmdk":
        _require_one_file(info, path, image)
    _require_size(size, max_bytes, image)
    return Inspection(found, size)


def _require_size(size: int, max_bytes: int | None, image: str) -> None:
    if max_bytes is not None and size > max_bytes:
        raise errors.UnsafeImage(
            image, f"its virtual size is {size} bytes, and at most {max_bytes} are allowed"
        )


def _require_one_file(info: qemu_img.Info, path: Path, image: str) -> None:
    """A VMDK's descriptor can name extents anywhere; what counts is what qemu made of it."""
    data: dict[str, Any] = dict(info.raw.get("format-specific", {})).get("data", {})
    kind = data.get("create-type")
    if kind not in VMDK_TYPES:
        raise errors.UnsafeImage(image, f"it is a VMDK of type {kind}, not {_either(VMDK_TYPES)}")
    own = info.raw.get("filename")
    for extent in data.get("extents", ()):
        if extent.get("filename") != own:
            raise errors.UnsafeImage(
                image, f"it is a VMDK with extents in {extent!r}, not in {path}"
            )


def _require_whole(path: Path, found: str, image: str) -> None:
    """Refuse a file that is shorter than its own tables say.

    Past the end of a file qemu reads zeros without a word, so a truncated image would become a
    disk with holes in it. Only going through the tables shows that.
    """
    if found in _OPAQUE or found == "luks":
        return
    try:
        check = qemu_img.check(path, found)
    except errors.ToolFailed as error:
        raise _refused(error, image, found) from error
    if check is not None and check.damages:
        raise errors.UnsafeImage(
            image,
            f"its {found} metadata is damaged or it was cut short: qemu-img check counts "
            f"{check.damages} errors, the first: {check.first or 'not said'}",
        )


def _refused(error: errors.ToolFailed, image: str, found: str) -> errors.BasecacheError:
    """A tool that is missing says nothing about the image; one that ran and failed does."""
    if error.install is not None:
        return error
    return errors.UnsafeImage(image, f"qemu-img refuses it as {found}: {error.why}")


def _read_header(path: Path, image: str) -> headers.Header:
    try:
        return headers.read_header_of(path)
    except headers.DamagedHeader as error:
        raise errors.UnsafeImage(image, f"its header is damaged: {error}") from error
    except OSError as error:
        raise errors.from_os(error, path, "reading") from error


def _regular_size(path: Path) -> int:
    try:
        found = os.stat(path)
    except OSError as error:
        raise errors.from_os(error, path, "inspecting") from error
    if not stat.S_ISREG(found.st_mode):
        raise errors.UnsafeImage(path.name, "it is no regular file")
    return found.st_size


def _whole_sectors(size: int) -> int:
    """A raw file's size as qemu presents it to a guest."""
    return -(-size // _SECTOR_BYTES) * _SECTOR_BYTES


def _either(names: Collection[str]) -> str:
    return " or ".join(sorted(names))
