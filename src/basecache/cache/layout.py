"""Every name and every path of the cache on disk; nobody else spells one.

    <instances_path>/
      _base/                          subdirectory_name
        <sha1(image id)>              an original
        <sha1>_<bytes>, <sha1>_sm     resized copies of older days: aged, not made
        <image id>                    a kernel or ramdisk while remove_unused_kernels is off
        swap_<MiB>                    a generated swap disk's template
        ephemeral_<GiB>_<7 chars>     a generated ephemeral disk's template
        <name>.info                   the record of an entry (image_info_filename_pattern)
        <name>.sha1                   an Essex checksum, taken over into the record
        <sha1>.part, .converted       what Nova leaves behind when it dies
        .pins/<name>                  a pin, a file of its own
        .templates/<name>_<bytes>...  the overlay qemu-img made once per base and size
        .staging/<name>.<token>       work in progress, reclaimed when nobody holds the entry's lock
        .quarantine/<name>.<token>    what no longer matches its record
        .healed/<name>                the good copy of a bad entry that disks still stand on
        .instances/<id>               who uses a cache folder that is a link or a mount of its own
      locks/nova-<name>               one lock per cache file, the very files Nova locks
      compute_nodes                   who shares this storage (Nova's registry)
      <instance>/disk, disk.info ...  instance folders

Names are pure functions of what they name; nothing here touches the disk.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from basecache import errors
from basecache.model import EntryKind, ImageRole

PINS, TEMPLATES, STAGING, QUARANTINE, HEALED = (
    ".pins",
    ".templates",
    ".staging",
    ".quarantine",
    ".healed",
)
TENANTS = ".instances"
OWN_FOLDERS = frozenset({PINS, TEMPLATES, STAGING, QUARANTINE, HEALED, TENANTS})
LOCKS = "locks"
REGISTRY = "compute_nodes"
DISK_INFO = "disk.info"
RESIZE_SUFFIX = "_resize"

_SHA1 = "[0-9a-f]{40}"
_NAMES: tuple[tuple[re.Pattern[str], EntryKind], ...] = (
    (re.compile(rf"{_SHA1}\Z"), EntryKind.ORIGINAL),
    (re.compile(rf"{_SHA1}_(?:sm|[0-9]+)\Z"), EntryKind.RESIZED),
    (re.compile(r"swap_[0-9]+\Z"), EntryKind.SWAP),
    (re.compile(r"ephemeral_[0-9]+_[0-9a-zA-Z]{1,7}\Z"), EntryKind.EPHEMERAL),
    (re.compile(rf"{_SHA1}\.(?:part|converted)\Z"), EntryKind.PARTIAL),
    (re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z"), EntryKind.KERNEL),
)
_DISK_LEFTOVER = re.compile(r"\.(?P<disk>.+)\.[0-9a-f]{8}\.basecache-(?:new|raw)\Z", re.DOTALL)
_LITTER = re.compile(r"\..+\.[0-9a-f]{8}\Z", re.DOTALL)
_RECORD_LITTER = re.compile(r"\..+\.info\.[0-9a-f]{8}\Z", re.DOTALL)
_NO_COMPONENT = re.compile(r"[/\x00-\x1f\x7f]")
_RECORD_SUFFIXES = (".info", ".sha1")
_NOT_DISKS = frozenset({DISK_INFO, "console.log", "libvirt.xml"})

# A file name may hold 255 bytes; the longest suffix we add to one is well under 55.
_LONGEST_NAME_BYTES = 200


def original_name(image_id: str) -> str:
    """The cache file of an image: the SHA-1 of its id (seed of Nova's ``get_cache_fname``).

    Any text has one, also what no image can be called: an instance may refer to it all the same.
    """
    content = image_id.encode("utf-8", "surrogatepass")
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def image_entry_name(image_id: str, role: ImageRole, *, remove_unused_kernels: bool) -> str:
    """The cache file of an image used as ``role``.

    While ``remove_unused_kernels`` is off, kernels and ramdisks keep their id as their name, so
    that a cache manager that knows only image_ref never takes them for unused (Grizzly-3).
    """
    if role is not ImageRole.DISK and not remove_unused_kernels:
        name = require_file_name(image_id, "image id")
        if recognise(name) not in (EntryKind.KERNEL, EntryKind.UNKNOWN) or name.endswith(
            _RECORD_SUFFIXES
        ):
            raise errors.BadName(f"image id {name!r} is the name of another kind of cache file")
        return name
    return original_name(image_id)


def swap_name(swap_mib: int) -> str:
    """The template of a swap disk of ``swap_mib`` MiB."""
    return f"swap_{swap_mib}"


def ephemeral_name(size_gib: int, mkfs_key: str) -> str:
    """The template of an ephemeral disk, as Nova names it.

    ``mkfs_key`` is the mkfs command or the file system's name, of which Nova takes the first
    seven characters of the MD5.
    """
    digest = hashlib.md5(mkfs_key.encode(), usedforsecurity=False).hexdigest()
    return f"ephemeral_{size_gib}_{digest[:7]}"


def recognise(name: str) -> EntryKind:
    """What a name in the cache folder says the file is; UNKNOWN when it is not one of ours."""
    for pattern, kind in _NAMES:
        if pattern.match(name):
            return kind
    if _RECORD_LITTER.match(name):
        return EntryKind.PARTIAL
    return EntryKind.UNKNOWN


def is_disk_leftover(name: str) -> bool:
    """Whether a file of this name in an instance folder is an unfinished disk of ours."""
    return _DISK_LEFTOVER.match(name) is not None


def is_info_litter(name: str) -> bool:
    """Whether a file in an instance folder is a disk.info whose writer died."""
    return name.startswith(f".{DISK_INFO}.") and is_litter(name)


def leftover_disk(name: str) -> str | None:
    """The disk that an unfinished one was to become; None for any other name."""
    match = _DISK_LEFTOVER.match(name)
    return match["disk"] if match else None


def is_litter(name: str) -> bool:
    """Whether a file is one that was being written to replace another when its writer died.

    Where an operator may keep files, more must be known: ``.notes.20240101`` looks like one.
    """
    return _LITTER.match(name) is not None


def disk_lock_name(instance: str, disk: str) -> str:
    """The name of the lock that one disk is made and removed under."""
    return f"disk-{instance}-{disk}"


def disk_info_lock_name(instance: str) -> str:
    """The name of the lock that an instance's disk.info is written under."""
    return f"disk-info-{instance}"


def generated_stem(name: str) -> str:
    """A swap's own name, or ``ephemeral_<GiB>`` of an ephemeral disk whatever made its system."""
    return name.rpartition("_")[0] if recognise(name) is EntryKind.EPHEMERAL else name


def parent_name(name: str) -> str:
    """The original that a resized copy or Nova's leftover belongs to; else the name itself."""
    if recognise(name) in (EntryKind.RESIZED, EntryKind.PARTIAL) and not name.startswith("."):
        return name[:40]
    return name


def require_file_name(name: str, what: str) -> str:
    """``name`` when it may stand as one path component, else BadName."""
    if not name or name in (".", "..") or name.startswith((".", "-")):
        raise errors.BadName(f"{what} {name[:80]!r} may not be a file name")
    if _NO_COMPONENT.search(name):
        raise errors.BadName(f"{what} {name[:80]!r} holds a slash or a control character")
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise errors.BadName(f"{what} {name[:80]!r} is not valid text") from None
    if length > _LONGEST_NAME_BYTES:
        raise errors.BadName(
            f"{what} {name[:40]!r}... is {length} bytes long; at most {_LONGEST_NAME_BYTES} will do"
        )
    return name


def require_image_id(image_id: str) -> str:
    """``image_id`` when it is one line of sensible text, else BadName."""
    if not image_id or len(image_id) > 255 or any(ord(c) < 32 or ord(c) == 127 for c in image_id):
        raise errors.BadName(
            f"image id {image_id[:60]!r} is not one line of 1 to 255 printable characters"
        )
    if "/" in image_id or image_id in (".", ".."):
        raise errors.BadName(f"image id {image_id[:60]!r} may not be a path")
    if any("\ud800" <= c <= "\udfff" for c in image_id):
        raise errors.BadName(f"image id {image_id[:60]!r} is not valid text")
    return image_id


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one cache. ``info_pattern`` holds ``%(image)s``, or is None for the default."""

    instances_path: Path
    base_name: str = "_base"
    info_pattern: str | None = None

    @property
    def base(self) -> Path:
        return self.instances_path / self.base_name

    @property
    def locks(self) -> Path:
        return self.instances_path / LOCKS

    @property
    def registry(self) -> Path:
        return self.instances_path / REGISTRY

    @property
    def pins(self) -> Path:
        return self.base / PINS

    @property
    def templates(self) -> Path:
        return self.base / TEMPLATES

    @property
    def staging(self) -> Path:
        return self.base / STAGING

    @property
    def quarantine(self) -> Path:
        return self.base / QUARANTINE

    @property
    def healed(self) -> Path:
        return self.base / HEALED

    def entry(self, name: str) -> Path:
        return self.base / name

    def record(self, name: str) -> Path:
        """The record of the entry ``name``, wherever image_info_filename_pattern puts it."""
        if self.info_pattern is None:
            return self.base / f"{name}.info"
        return Path(self.info_pattern % {"image": name})

    def old_checksum(self, name: str) -> Path:
        """Where Essex kept the SHA-1 of the entry ``name``."""
        return self.base / f"{name}.sha1"

    def lock(self, name: str) -> Path:
        """The lock of the cache file ``name``: the file that Nova's lockutils locks."""
        return self.locks / f"nova-{name}"

    def own_lock(self, name: str) -> Path:
        """A lock of our own that Nova knows nothing of."""
        return self.locks / f"basecache-{name}"

    def template(self, name: str, size_bytes: int, backing_format: str) -> Path:
        """The overlay kept for disks of ``size_bytes`` on the entry ``name``."""
        return self.templates / f"{name}_{size_bytes}_{backing_format}"

    def pin(self, name: str) -> Path:
        return self.pins / name

    def instance(self, instance: str) -> Path:
        """The folder of an instance, by uuid (or the name older Novas used)."""
        if instance in self.not_instances():
            raise errors.BadName(f"{instance!r} is no instance: that folder belongs to the cache")
        return self.instances_path / require_file_name(instance, "instance")

    def disk(self, instance: str, disk: str) -> Path:
        if disk in _NOT_DISKS:
            raise errors.BadName(
                f"disk name {disk!r}: such a file in an instance folder is no disk"
            )
        return self.instance(instance) / require_file_name(disk, "disk name")

    def is_record(self, name: str) -> bool:
        """Whether ``name`` in the cache folder is a record rather than an entry."""
        return name.endswith(_RECORD_SUFFIXES)

    def not_instances(self) -> frozenset[str]:
        """Folders under instances_path that hold no instance."""
        return frozenset({self.base_name, LOCKS})


def entry_name_of(backing: str, known: Iterable[str] = ()) -> str | None:
    """The entry that a backing name not found on this machine ends in, or None.

    A container or another mount point shows the same cache under another folder.
    """
    tail = backing.rstrip("/").rpartition("/")[2]
    if tail in known or recognise(tail) not in (EntryKind.UNKNOWN, EntryKind.PARTIAL):
        return tail
    return None
