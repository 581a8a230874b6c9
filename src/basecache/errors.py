"""The whole error tree. Each error says what happened to what and why; ``hint`` says what next.

    BasecacheError                       exit   HTTP
      UsageError                            2    400   the request itself is wrong
        ConfigError, BadName, UnknownChoice, DiskTooSmall, FormatChange
      NotFound                              3    404
      NoSpace                               4    507
      UnsafeImage                           5    422
      EvidenceMissing                       6    503   could not tell whether something is in use
      Corrupt                               7    502   bytes are not what their digest says
      SourceUnreachable                     8    502   retryable
        SourceInterrupted                   8    502   retryable, after some bytes came
      SourceRefused                         8    502   credentials, TLS, a server's final no
      Unverifiable                          5    422   nothing to check the bytes against
      Busy                                  1    409   retryable
      InUse                                 1    409
      ToolFailed                            1    500
      StorageFailed                         1    500

Retrying is worth it where ``retryable`` is true; nothing else may be retried blindly.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class BasecacheError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1
    http_status = 500
    retryable = False

    @property
    def message(self) -> str:
        return str(self.args[0]) if self.args else type(self).__name__

    @property
    def hint(self) -> str | None:
        return None

    def __str__(self) -> str:
        return self.message


@dataclass(eq=False)
class UsageError(BasecacheError):
    """The request cannot be carried out as it was made."""

    what: str
    advice: str | None = None
    exit_code = 2
    http_status = 400

    @property
    def message(self) -> str:
        return self.what

    @property
    def hint(self) -> str | None:
        return self.advice


class ConfigError(UsageError):
    """An option's value, name or file cannot be used."""


class BadName(UsageError):
    """An image id, instance or disk name that may not become a file name."""


@dataclass(eq=False)
class UnknownChoice(BasecacheError):
    """A name that is not one of a known list."""

    kind: str
    name: str
    known: tuple[str, ...]
    exit_code = 2
    http_status = 400

    @property
    def message(self) -> str:
        return f"unknown {self.kind} {self.name!r}"

    @property
    def hint(self) -> str | None:
        return f"known: {', '.join(self.known)}"


@dataclass(eq=False)
class DiskTooSmall(BasecacheError):
    """A disk was asked for that is smaller than what the image holds."""

    image: str
    wanted_bytes: int
    virtual_size_bytes: int
    exit_code = 2
    http_status = 400

    @property
    def message(self) -> str:
        return (
            f"a disk of {self.wanted_bytes} bytes is too small for {self.image}, "
            f"whose virtual size is {self.virtual_size_bytes} bytes"
        )

    @property
    def hint(self) -> str | None:
        return f"ask for at least {self.virtual_size_bytes} bytes, or 0 for the image's own size"


@dataclass(eq=False)
class FormatChange(BasecacheError):
    """A disk's recorded format is not the one asked for (OpenStack bug 1221190)."""

    path: Path
    recorded: str
    wanted: str
    exit_code = 2
    http_status = 409

    @property
    def message(self) -> str:
        return f"{self.path} was born as {self.recorded}; it will not be treated as {self.wanted}"

    @property
    def hint(self) -> str | None:
        return (
            "a guest can write any header into its disk: keep the recorded format, "
            "or delete the disk first"
        )


@dataclass(eq=False)
class NotFound(BasecacheError):
    """Something named is not there, or the caller may not know that it is."""

    kind: str
    name: str
    where: str
    exit_code = 3
    http_status = 404

    @property
    def message(self) -> str:
        return f"{self.kind} {self.name!r} is not in {self.where}"


@dataclass(eq=False)
class NoSpace(BasecacheError):
    """What was asked for does not fit; ``needed_bytes`` is 0 where nobody could tell."""

    path: Path
    needed_bytes: int
    free_bytes: int
    why: str = "free space"
    exit_code = 4
    http_status = 507

    @property
    def message(self) -> str:
        if not self.needed_bytes:
            return f"{self.path}: {self.why}"
        return (
            f"{self.path}: {self.needed_bytes} bytes needed, "
            f"{self.free_bytes} available ({self.why})"
        )

    @property
    def hint(self) -> str | None:
        return (
            "free some space, unpin or remove images, or raise [basecache] max_size "
            "or lower min_free"
        )


@dataclass(eq=False)
class UnsafeImage(BasecacheError):
    """An image whose content could make the host read or write what it should not."""

    image: str
    why: str
    exit_code = 5
    http_status = 422

    @property
    def message(self) -> str:
        return f"image {self.image} is refused: {self.why}"

    @property
    def hint(self) -> str | None:
        return (
            "nothing of it was kept; have its owner upload it again as a self-contained "
            "raw or qcow2 image"
        )


@dataclass(eq=False)
class Unverifiable(BasecacheError):
    """Bytes would come in with nothing to check them against."""

    image: str
    where: str
    exit_code = 5
    http_status = 422

    @property
    def message(self) -> str:
        return f"image {self.image}: {self.where} knows no digest of it, so it cannot be verified"

    @property
    def hint(self) -> str | None:
        return (
            "give the digest, put a SHA256SUMS file beside the image, or set "
            "[source] require_digest = false"
        )


@dataclass(eq=False)
class EvidenceMissing(BasecacheError):
    """It could not be told whether something is in use, so nothing may be removed."""

    missing: tuple[str, ...]
    exit_code = 6
    http_status = 503

    @property
    def message(self) -> str:
        return "evidence of use is missing: " + "; ".join(self.missing)

    @property
    def hint(self) -> str | None:
        return "nothing was removed; mend what is named, or set the named disk or host aside"


@dataclass(eq=False)
class Corrupt(BasecacheError):
    """Bytes are not the ones their digest or length promised."""

    what: str
    expected: str
    found: str
    used_by: tuple[str, ...] = ()
    exit_code = 7
    http_status = 502

    @property
    def message(self) -> str:
        text = f"{self.what} is corrupt: expected {self.expected}, found {self.found}"
        return text + (f"; disks standing on it: {', '.join(self.used_by)}" if self.used_by else "")


@dataclass(eq=False)
class SourceUnreachable(BasecacheError):
    """A source did not answer, or not in a way that makes sense."""

    source: str
    why: str
    exit_code = 8
    http_status = 502
    retryable = True

    @property
    def message(self) -> str:
        return f"source {self.source}: {self.why}"


class SourceInterrupted(SourceUnreachable):
    """The stream broke, stalled or ended early; reading may be resumed where it stopped."""


class SourceRefused(SourceUnreachable):
    """The source answered, and its answer is final: asking again changes nothing."""

    retryable = False


@dataclass(eq=False)
class Busy(BasecacheError):
    """Somebody else holds what this would need."""

    what: str
    holder: str
    exit_code = 1
    http_status = 409
    retryable = True

    @property
    def message(self) -> str:
        return f"{self.what} is busy: {self.holder}"

    @property
    def hint(self) -> str | None:
        return "try again when it is done"


@dataclass(eq=False)
class InUse(BasecacheError):
    """Removal was asked for something that is used, pinned or too young."""

    path: Path
    why: str
    used_by: tuple[str, ...] = ()
    exit_code = 1
    http_status = 409

    @property
    def message(self) -> str:
        users = f" ({', '.join(self.used_by)})" if self.used_by else ""
        return f"{self.path} was not removed: {self.why}{users}"


@dataclass(eq=False)
class ToolFailed(BasecacheError):
    """An external program is missing or failed."""

    tool: str
    why: str
    install: str | None = None

    @property
    def message(self) -> str:
        return f"{self.tool}: {self.why}"

    @property
    def hint(self) -> str | None:
        return f"install it: {self.install}" if self.install else None


@dataclass(eq=False)
class StorageFailed(BasecacheError):
    """The file system would not do what was needed."""

    path: Path
    doing: str
    why: str

    @property
    def message(self) -> str:
        return f"{self.doing} {self.path}: {self.why}"


class SeveralFailed(BasecacheError):
    """Some of several requests failed; each outcome was reported on its own."""

    def __init__(self, failed: Iterable[str], total: int) -> None:
        self.failed = tuple(failed)
        super().__init__(f"{len(self.failed)} of {total} failed: {', '.join(self.failed)}")


def from_os(error: OSError, path: Path, doing: str) -> BasecacheError:
    """The domain's word for an OSError met while ``doing`` something to ``path``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(path, needed_bytes=0, free_bytes=0, why=f"{doing}: {error.strerror}")
    return StorageFailed(path, doing, error.strerror or str(error))
