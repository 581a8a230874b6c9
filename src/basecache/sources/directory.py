"""A folder as an image service: every file in it is an image.

Hidden files, checksum files and metadata are no images; neither are folders, nor links that lead
out of the folder. ``<file>.json`` beside an image may state what the image API would say of it
(``id name disk_format container_format size virtual_size os_hash_algo os_hash_value digest min_disk
min_ram status visibility owner created_at updated_at``, and properties: a ``properties`` object or
any other key). What it does not state is derived:

* **id**: the file name's stem where that is a UUID, else a version 5 UUID of the file name. An id
  so belongs to the *name*: other content under the same name keeps the id, and a cache that has
  the image goes on using what it fetched. New content wants a new name.
* **name**: the file name without its suffix.
* **disk_format**: by the suffix, see :mod:`basecache.sources.declared`.
* **digest**: from SHA512SUMS, SHA256SUMS, CHECKSUM or ``<file>.sha256`` in the folder.

An image is described by its id or, where only one has it, by its exact name.
"""

from __future__ import annotations

import json
import os
import stat
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from basecache import errors
from basecache.cache.layout import require_image_id
from basecache.model import Digest, Image
from basecache.sources import ImageQuery, Reader, declared, filters, require_active, sums

NAMESPACE = uuid.UUID("2b1d3c0e-5c4d-5f0a-9a51-0f3a6ce0d1c7")

_METADATA = ".json"
_NO_IMAGES = (
    *(_METADATA, ".asc", ".gpg", ".sig", ".md5", ".sha1", ".sha256", ".sha384", ".sha512"),
    *(".sha256sum", ".sha512sum", ".txt", ".md", ".part", ".tmp", ".torrent"),
)
_STATED = frozenset(
    {"id", "name", "status", "visibility", "owner", "created_at", "updated_at", "properties"}
    | {"disk_format", "container_format", "size", "virtual_size", "min_disk", "min_ram"}
    | {"os_hash_algo", "os_hash_value", "digest", "checksum"}
)


@dataclass(frozen=True, slots=True)
class FileReader:
    """A file's bytes, read by the kernel into the caller's buffer."""

    descriptor: int
    source: str

    def readinto(self, buffer: memoryview, /) -> int:
        try:
            return os.readv(self.descriptor, [buffer])
        except OSError as error:
            raise errors.SourceInterrupted(self.source, f"reading: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class DirectorySource:
    """The images of the folder ``path``. Errors are those of :class:`basecache.sources.Source`."""

    path: Path
    name: str = "directory"

    def list_images(self, query: ImageQuery) -> list[Image]:
        return filters.select(self._scan().values(), query, self.name)

    def describe(self, image_id: str) -> Image:
        """By id, else by a name only one image has; UsageError where several have it."""
        images = self._scan()
        if image_id in images:
            return images[image_id]
        named = [image for image in images.values() if image.name == image_id]
        if len(named) > 1:
            ids = ", ".join(image.id for image in named)
            raise errors.UsageError(
                f"{len(named)} images in {self.path} are named {image_id!r}", f"ids: {ids}"
            )
        if not named:
            raise errors.NotFound("image", image_id, f"{self.name} ({self.path})")
        return named[0]

    @contextmanager
    def open(self, image: Image, offset: int = 0) -> Iterator[Reader]:
        require_active(image, self.name)
        file_name = image.location or self.describe(image.id).location
        if file_name is None or not _may_be_image(file_name):
            raise errors.NotFound("image", image.id, f"{self.name} ({self.path})")
        descriptor = self._open_file(image, file_name)
        try:
            os.posix_fadvise(descriptor, offset, 0, os.POSIX_FADV_SEQUENTIAL)
            os.lseek(descriptor, offset, os.SEEK_SET)
            yield FileReader(descriptor, self.name)
        finally:
            os.close(descriptor)

    def _open_file(self, image: Image, file_name: str) -> int:
        try:
            real = self._inside(self.path / file_name)
            if real is None:
                raise errors.NotFound("image", image.id, f"{self.name} ({self.path})")
            return os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError as error:
            raise errors.NotFound("image", image.id, f"{self.name} ({self.path})") from error
        except OSError as error:
            raise self._trouble(error) from error

    def _scan(self) -> dict[str, Image]:
        """Every image by its id, in the order of the file names."""
        images: dict[str, Image] = {}
        try:
            names = sorted(os.listdir(self.path))
            digests = self._read_sums(names)
            for file_name in filter(_may_be_image, names):
                image = self._read_image(file_name, digests)
                if image is None:
                    continue
                twin = images.setdefault(image.id, image)
                if twin is not image:
                    raise errors.SourceRefused(
                        self.name,
                        f"{twin.location} and {file_name} in {self.path} both have id {image.id}",
                    )
        except OSError as error:
            raise self._trouble(error) from error
        return images

    def _read_image(self, file_name: str, sums_texts: Mapping[str, str]) -> Image | None:
        """The image in a file; None where the name leads to no file of this folder."""
        real = self._inside(self.path / file_name)
        if real is None:
            return None
        facts = real.stat()
        with real.open("rb") as file:
            head = file.read(declared.HEAD_BYTES)
        stated = self._read_metadata(file_name)
        try:
            image = _make_image(file_name, stated, facts, head)
            return replace(image, digest=_find_digest(stated, sums_texts, file_name))
        except (TypeError, ValueError, errors.BadName) as error:
            raise errors.SourceRefused(
                self.name, f"{self.path / file_name}{_METADATA}: {error}"
            ) from error

    def _inside(self, path: Path) -> Path | None:
        """What ``path`` really is when that is a regular file of this folder, else None."""
        try:
            real = path.resolve(strict=True)
            regular = stat.S_ISREG(real.stat().st_mode)
        except (FileNotFoundError, RuntimeError):
            return None
        return real if regular and real.is_relative_to(self.path.resolve()) else None

    def _read_metadata(self, file_name: str) -> Mapping[str, Any]:
        path = self.path / f"{file_name}{_METADATA}"
        try:
            stated = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise errors.SourceRefused(self.name, f"{path} is not JSON: {error}") from error
        if not isinstance(stated, dict):
            raise errors.SourceRefused(self.name, f"{path} holds no JSON object")
        return stated

    def _read_sums(self, names: list[str]) -> dict[str, str]:
        """The checksum files among ``names`` and their text."""
        return {
            name: (self.path / name).read_text(errors="replace")
            for name in names
            if name in sums.FOLDER_NAMES or name.endswith(sums.SUFFIXES)
        }

    def _trouble(self, error: OSError) -> errors.SourceUnreachable:
        why = f"{error.filename or self.path}: {error.strerror}"
        if isinstance(error, PermissionError):
            return errors.SourceRefused(self.name, why)
        return errors.SourceUnreachable(self.name, why)


def derive_id(file_name: str) -> str:
    """The id of an image whose metadata states none; it depends on the file's name alone."""
    try:
        return str(uuid.UUID(Path(file_name).stem))
    except ValueError:
        return str(uuid.uuid5(NAMESPACE, file_name))


def _may_be_image(file_name: str) -> bool:
    return (
        "/" not in file_name
        and not file_name.startswith(".")
        and file_name not in sums.FOLDER_NAMES
        and not file_name.lower().endswith(_NO_IMAGES)
    )


def _find_digest(
    stated: Mapping[str, Any], texts: Mapping[str, str], file_name: str
) -> Digest | None:
    """What the metadata says, else the checksum files; an MD5 only where there is nothing else."""
    if stated.get("digest"):
        return Digest.parse(str(stated["digest"]))
    if stated.get("os_hash_algo") and stated.get("os_hash_value"):
        return Digest.parse(f"{stated['os_hash_algo']}:{stated['os_hash_value']}")
    for name in sums.FOLDER_NAMES:
        digest = sums.find_digest(texts.get(name, ""), file_name)
        if digest is not None:
            return digest
    for suffix in sums.SUFFIXES:
        digest = sums.find_only_digest(texts.get(file_name + suffix, ""), file_name)
        if digest is not None:
            return digest
    return Digest.parse(f"md5:{stated['checksum']}") if stated.get("checksum") else None


def _make_image(
    file_name: str, stated: Mapping[str, Any], facts: os.stat_result, head: bytes
) -> Image:
    changed = datetime.fromtimestamp(int(facts.st_mtime), UTC).isoformat()
    others = {key: value for key, value in stated.items() if key not in _STATED}
    virtual_size = stated.get("virtual_size")
    return Image(
        id=require_image_id(str(stated.get("id") or derive_id(file_name))),
        name=str(stated.get("name") or Path(file_name).stem),
        status=str(stated.get("status") or "active"),
        disk_format=stated.get("disk_format") or declared.declared_format(file_name, head),
        container_format=stated.get("container_format") or "bare",
        size_bytes=int(stated.get("size", facts.st_size)),
        virtual_size_bytes=None if virtual_size is None else int(virtual_size),
        min_disk_gib=int(stated.get("min_disk") or 0),
        min_ram_mib=int(stated.get("min_ram") or 0),
        visibility=stated.get("visibility"),
        owner=stated.get("owner"),
        created_at=stated.get("created_at"),
        updated_at=stated.get("updated_at") or changed,
        properties={**others, **(stated.get("properties") or {})},
        location=file_name,
    )
