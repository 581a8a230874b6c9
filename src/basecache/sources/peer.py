"""Another host's cache as a source, for images that their own service no longer has.

The other cache is a folder mounted here, or one reached through ssh (:mod:`.ssh`). It is addressed
by image id, as every cache is; its record gives the digest of the file at rest and the format it
is stored in, so what comes is checked as on every other way in. A record that is about another
file (its length or inode differ) counts as none, and then there is no digest.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from basecache import errors
from basecache.cache.layout import original_name, require_image_id
from basecache.cache.records import INODE, SIZE, Record
from basecache.model import Image
from basecache.sources import ImageQuery, Reader, require_active
from basecache.sources.directory import FileReader
from basecache.sources.ssh import DEFAULT_COMMAND, SshFolder

_USER = r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?"
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?"
_IPV6 = r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*"
_HOST = re.compile(rf"{_USER}(?:{_NAME}|{_IPV6})\Z")


class Folder(Protocol):
    """A cache folder somewhere. ``name`` is always a file name made from a SHA-1."""

    def look(self, name: str) -> tuple[int, int, str] | None:
        """Size, inode and the text of the record of a regular file; None when there is none."""
        ...

    def open(self, name: str, offset: int, size_bytes: int) -> AbstractContextManager[Reader]:
        """The file's bytes from ``offset``; NotFound when it is gone, at once or while reading."""
        ...


class PeerSource:
    """The cache in the folder ``base_path`` of ``host``, which is ``[user@]name`` for ssh.

    ``host`` may also be the absolute path of a cache folder mounted here, which then is the one
    read. ``timeout_seconds`` is how long the other host may be silent. Errors are those of
    :class:`basecache.sources.Source`; ConfigError for what is neither a host nor a path.
    """

    def __init__(
        self,
        host: str,
        base_path: str | Path = "",
        *,
        ssh_command: Sequence[str] = DEFAULT_COMMAND,
        timeout_seconds: float = 60,
        name: str | None = None,
    ) -> None:
        self._name = name or f"peer {host}"
        base = PurePosixPath(host if host.startswith("/") else base_path)
        if not base.is_absolute():
            raise errors.ConfigError(f"the cache folder {str(base)!r} of {host[:80]!r} is no path")
        self._base = base
        self._folder: Folder
        if host.startswith("/"):
            self._folder = MountedFolder(Path(base), self._name)
        elif _HOST.match(host):
            command = (*ssh_command, host)
            self._folder = SshFolder(command, base, self._name, timeout_seconds)
        else:
            raise errors.ConfigError(f"{host[:80]!r} is neither [user@]host nor an absolute path")

    @property
    def name(self) -> str:
        return self._name

    def list_images(self, query: ImageQuery) -> list[Image]:
        """Never any: a cache knows its images by the SHA-1 of their ids."""
        if query.marker is not None:
            self.describe(query.marker)
        return []

    def describe(self, image_id: str) -> Image:
        name = original_name(require_image_id(image_id))
        found = self._folder.look(name)
        if found is None:
            raise errors.NotFound("image", image_id, self._name)
        size, inode, text = found
        record = _read_record(text, size, inode)
        return Image(
            id=image_id,
            disk_format=record.format,
            container_format="bare",
            size_bytes=size,
            virtual_size_bytes=record.virtual_size_bytes,
            digest=record.at_rest[1] if record.at_rest else None,
            location=str(self._base / name),
        )

    @contextmanager
    def open(self, image: Image, offset: int = 0) -> Iterator[Reader]:
        require_active(image, self._name)
        name = original_name(require_image_id(image.id))
        size = self.describe(image.id).size_bytes if image.size_bytes is None else image.size_bytes
        with self._folder.open(name, offset, size or 0) as reader:
            yield reader


@dataclass(frozen=True, slots=True)
class MountedFolder:
    """A cache folder that this host can open."""

    base: Path
    source: str

    def look(self, name: str) -> tuple[int, int, str] | None:
        path = self.base / name
        try:
            self.base.stat()
        except OSError as error:
            raise self._trouble(error) from error
        try:
            facts = path.lstat()
            record = self.base / f"{name}.info"
            text = record.read_text(errors="replace") if record.exists() else ""
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._trouble(error) from error
        return (facts.st_size, facts.st_ino, text) if stat.S_ISREG(facts.st_mode) else None

    @contextmanager
    def open(self, name: str, offset: int, size_bytes: int) -> Iterator[Reader]:  # noqa: ARG002
        try:
            descriptor = os.open(self.base / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError as error:
            raise errors.NotFound("cache file", name, self.source) from error
        except OSError as error:
            raise self._trouble(error) from error
        try:
            os.posix_fadvise(descriptor, offset, 0, os.POSIX_FADV_SEQUENTIAL)
            os.lseek(descriptor, offset, os.SEEK_SET)
            yield FileReader(descriptor, self.source)
        finally:
            os.close(descriptor)

    def _trouble(self, error: OSError) -> errors.SourceUnreachable:
        why = f"{error.filename or self.base}: {error.strerror}"
        if isinstance(error, PermissionError):
            return errors.SourceRefused(self.source, why)
        return errors.SourceUnreachable(self.source, why)


def _read_record(text: str, size: int, inode: int) -> Record:
    """The record in ``text``, empty where it is broken or about another file than this one."""
    try:
        values = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return Record()
    if not isinstance(values, dict):
        return Record()
    if values.get(SIZE, size) != size or values.get(INODE, inode) != inode:
        return Record()
    return Record(values)
