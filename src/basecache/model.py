"""The words everybody speaks: frozen facts, no behaviour beyond small derivations.

Every size is in bytes and every time in seconds since the epoch unless its name says
otherwise (``size_gib``, ``swap_mib``, ``mtime_ns``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB


@dataclass(frozen=True, slots=True)
class Digest:
    """A digest of some bytes: hashlib's name of the algorithm (or ``blake3``), lower-case hex."""

    algorithm: str
    value: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.value}"

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read ``algorithm:hex``; ValueError when it is not that."""
        algorithm, colon, value = text.strip().partition(":")
        value = value.lower()
        if not colon or not algorithm or not value or set(value) - set("0123456789abcdef"):
            raise ValueError(f"{text!r} is not a digest of the form algorithm:hex")
        return cls(algorithm.lower(), value)


@dataclass(frozen=True, slots=True)
class Image:
    """What an image service says of an image; None where it says nothing.

    ``disk_format`` is the *declared* format: content must agree before it is used.
    ``location`` is the source's own business (a path, a URL) and means nothing elsewhere.
    """

    id: str
    name: str | None = None
    status: str = "active"
    disk_format: str | None = None
    container_format: str | None = None
    size_bytes: int | None = None
    virtual_size_bytes: int | None = None
    digest: Digest | None = None
    min_disk_gib: int = 0
    min_ram_mib: int = 0
    visibility: str | None = None
    owner: str | None = None
    created_at: str | None = None
    updated_at: str | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)
    location: str | None = None


class ImageRole(StrEnum):
    """What an instance uses an image as; it decides the name of its cache file."""

    DISK = "disk"
    KERNEL = "kernel"
    RAMDISK = "ramdisk"


class EntryKind(StrEnum):
    """What a name in the cache folder says a file is."""

    ORIGINAL = "original"
    RESIZED = "resized"
    KERNEL = "kernel"
    SWAP = "swap"
    EPHEMERAL = "ephemeral"
    PARTIAL = "partial"
    TEMPLATE = "template"
    STAGING = "staging"
    QUARANTINED = "quarantined"
    HEALED = "healed"
    RECORD = "record"
    UNKNOWN = "unknown"


# The kinds that hold what disks are made from, as against what belongs to one or is in the making.
CONTENT_KINDS = frozenset(
    {
        EntryKind.ORIGINAL,
        EntryKind.RESIZED,
        EntryKind.KERNEL,
        EntryKind.SWAP,
        EntryKind.EPHEMERAL,
    }
)


@dataclass(frozen=True, slots=True)
class FileId:
    """A file as the kernel knows it, however many names it has."""

    device: int
    inode: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the cache as one lstat saw it.

    ``allocated_bytes`` is what it takes on disk (512-byte blocks), ``size_bytes`` its length.
    """

    name: str
    path: Path
    kind: EntryKind
    file_id: FileId
    size_bytes: int
    allocated_bytes: int
    mtime_ns: int

    @property
    def mtime(self) -> float:
        return self.mtime_ns / 1e9


@dataclass(frozen=True, slots=True)
class BlockDeviceMapping:
    """A generated disk of an instance: ``swap`` (``size`` in MiB) or ``ephemeral`` (GiB)."""

    kind: str
    size: int
    guest_format: str | None = None


@dataclass(frozen=True, slots=True)
class Instance:
    """A VM as a usage provider reports it. None, "" and an absent key are all "no image"."""

    uuid: str
    name: str | None = None
    host: str | None = None
    task_state: str | None = None
    vm_state: str | None = None
    image_ref: str | None = None
    kernel_id: str | None = None
    ramdisk_id: str | None = None
    os_type: str | None = None
    bdms: tuple[BlockDeviceMapping, ...] = ()

    @property
    def label(self) -> str:
        """The name people know it by."""
        return self.name or self.uuid


class Status(StrEnum):
    """How asking for an image ended on this host."""

    CACHED = "cached"
    EXISTING = "existing"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Result:
    """What ensuring one image came to.

    ``bytes`` were read from the source (0 when existing); ``source`` names where from;
    ``error`` is set exactly when the status is failed.
    """

    image: str
    status: Status
    path: Path | None = None
    bytes: int = 0
    seconds: float = 0.0
    source: str | None = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Disk:
    """One VM disk. ``size_bytes`` is what the guest sees; ``base`` the entry it was made from."""

    instance: str
    name: str
    path: Path
    backend: str
    format: str
    size_bytes: int
    allocated_bytes: int
    backing: Path | None = None


class Verdict(StrEnum):
    """What a verification found."""

    OK = "ok"
    RECENT = "recent"
    OFF = "off"
    BASELINE = "baseline"
    CORRUPT = "corrupt"
    HEALED = "healed"
    BUSY = "busy"
    GONE = "gone"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Verification:
    """One entry's verification. ``used_by`` names the disks that stand on a corrupt file.

    ``copy`` is where a good copy was put, when the bad file could not be replaced.
    """

    name: str
    path: Path
    verdict: Verdict
    reason: str
    expected: str | None = None
    found: str | None = None
    used_by: tuple[str, ...] = ()
    copy: Path | None = None


class Action(StrEnum):
    """What a sweep does with a file."""

    KEEP = "keep"
    TOUCH = "touch"
    REMOVE = "remove"
    REPORT = "report"


class Reason(StrEnum):
    """Why. The closed list of codes; each has its sentence in :mod:`basecache.cache.plan`."""

    USED = "used"
    USED_UNKNOWN_IMAGE = "used-unknown-image"
    BACKING_OF_KEPT = "backing-of-kept"
    PINNED = "pinned"
    YOUNG = "young"
    FUTURE = "future"
    UNUSED = "unused"
    EVICTED = "evicted"
    REMOVAL_OFF = "removal-off"
    EVIDENCE_MISSING = "evidence-missing"
    ABSENT_BUT_USED = "absent-but-used"
    KERNEL_BY_ID = "kernel-by-id"
    UNKNOWN_NAME = "unknown-name"
    NOT_A_FILE = "not-a-file"
    RECORD = "record"
    ORPHAN_RECORD = "orphan-record"
    LEFTOVER = "leftover"
    IN_PROGRESS = "in-progress"
    TEMPLATE_IN_USE = "template-in-use"
    TEMPLATE_STALE = "template-stale"
    QUARANTINED = "quarantined"
    HEALED_COPY = "healed-copy"


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of a sweep's plan: a file, what to do, and why.

    ``age_seconds`` is None where a file is absent; ``used_by`` names instances and disk files.
    """

    path: Path
    kind: EntryKind
    action: Action
    code: Reason
    reason: str
    age_seconds: float | None = None
    allocated_bytes: int = 0
    used_by: tuple[str, ...] = ()
