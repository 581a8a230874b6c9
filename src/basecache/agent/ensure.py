"""ensure: an image is in the cache, verified, or the caller is told why not.

    find                          there: refresh its time, ``existing``; no source is asked
    describe                      what the source says: format, size, digest
    the entry's exclusive lock    one fetch over threads, processes and Nova; then look again
    admit                         room for the download and its conversion, or NoSpace before it
    fetch into staging            length and digest are checked while it is written
    inspect                       declared, found and qemu-img's format agree, nothing outside
    convert                       to raw, when force_raw_images says so
    publish                       the rename is the commit point: ``cached``

Dying on any line leaves the old state, and litter in staging that the next sweep takes once the
lock is free. Two at once: the second waits for the lock and finds the entry there.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basecache import errors, events
from basecache.agent.entry import CHECKS, DIGEST_CHECK, LENGTH_CHECK, read_base, valid_record
from basecache.agent.parts import Parts
from basecache.agent.presence import note_presence
from basecache.agent.room import admit, is_to_be_converted
from basecache.cache import layout as layout_
from basecache.cache import locks
from basecache.cache.store import Stage
from basecache.disks import Base
from basecache.images import convert, digest, inspect, qemu_img
from basecache.model import Digest, Entry, Image, ImageRole, Result, Status
from basecache.sources import Identifying, Source

# An ISO image is a disk's bytes as they are; qemu has no driver of that name.
_FOR_QEMU = {"iso": "raw"}


def ensure_all(
    parts: Parts,
    image_ids: Sequence[str],
    *,
    role: ImageRole = ImageRole.DISK,
    fallback_from_host: str | None = None,
) -> Iterator[Result]:
    """Ensure each image in turn; one that fails is a Result with its error, and the rest go on."""
    for image_id in image_ids:
        started = time.monotonic()
        try:
            yield ensure(parts, image_id, role=role, fallback_from_host=fallback_from_host)
        except errors.BasecacheError as error:
            seconds = time.monotonic() - started
            yield Result(image_id, Status.FAILED, seconds=seconds, error=error)


def ensure(
    parts: Parts,
    asked: str,
    *,
    role: ImageRole = ImageRole.DISK,
    fallback_from_host: str | None = None,
    must_refresh: bool = True,
    expected: Digest | None = None,
) -> Result:
    """Have the image in the cache; ``asked`` is its id, or what else its source knows it by.

    ``fallback_from_host`` names another host's cache to copy from when the source no longer has
    the image. An entry whose time cannot be refreshed is an error, unless ``must_refresh`` is
    false: a VM may start all the same (NFS may refuse, OpenStack bug 1809123). ``expected`` is a
    digest that the image must have, on a hit as on a miss; a URL may state one, too.

    Errors: NotFound, NoSpace, UnsafeImage, Unverifiable, Corrupt, SourceUnreachable,
    StorageFailed; after any of them nothing of the image is left behind.
    """
    started = time.monotonic()
    image_id = identify(parts, asked)
    stated = expected or stated_digest(parts, asked)
    name = entry_name(parts, image_id, role)
    if (base := find_present(parts, name, image_id, must_refresh)) is not None:
        require_stated(parts, base, stated)
        return _existing(parts, image_id, base, started)
    image, source = describe(parts, asked, fallback_from_host)
    image = _agree_on_digest(image, stated)
    name = entry_name(parts, image.id, role)
    with locks.hold(parts.store.layout.lock(name)):
        if parts.store.find(name) is None:
            with parts.store.stage(name) as stage:
                brought = bring_in(parts, stage, image, source, role)
                entry = _publish(parts, name, brought)
            if entry is not None:
                note_presence(parts)
                seconds = time.monotonic() - started
                size = brought.bytes
                return Result(image.id, Status.CACHED, entry.path, size, seconds, source.name)
    base = find_present(parts, name, image.id, must_refresh)
    if base is None:
        raise errors.Busy(f"entry {name}", "it was removed as soon as it was there")
    require_stated(parts, base, stated)
    return _existing(parts, image.id, base, started)


def _publish(parts: Parts, name: str, brought: Brought) -> Entry | None:
    """The entry, or None when somebody who takes no lock was faster: theirs stays."""
    try:
        return parts.store.publish(name, brought.path, brought.facts)
    except FileExistsError:
        return None


def require_stated(parts: Parts, base: Base, stated: Digest | None) -> None:
    """A digest that the caller states must be the one the entry came in with, by its record."""
    if stated is None:
        return
    known = valid_record(parts, base.entry).source_digest
    if known is None or known.algorithm != stated.algorithm:
        raise errors.Unverifiable(base.entry.name, f"its record ({known or 'no digest'})")
    if not known.value.startswith(stated.value):
        raise errors.Corrupt(f"entry {base.entry.name}", str(stated), str(known))


def entry_name(parts: Parts, image_id: str, role: ImageRole) -> str:
    """The cache file's name; BadName for an id that may be none."""
    layout_.require_image_id(image_id)
    return layout_.image_entry_name(
        image_id, role, remove_unused_kernels=parts.rules.remove_unused_kernels
    )


def identify(parts: Parts, image: str) -> str:
    """The id behind what a person typed, where the source can tell without being asked."""
    if isinstance(parts.source, Identifying):
        return parts.source.identify(image)
    return image


def stated_digest(parts: Parts, asked: str) -> Digest | None:
    """The digest that stands in what a person typed, as in ``https://...#sha256=...``."""
    return parts.source.stated(asked) if isinstance(parts.source, Identifying) else None


def _agree_on_digest(image: Image, stated: Digest | None) -> Image:
    """The image with the stated digest; Corrupt when its source says that it has another.

    A stated digest may be the beginning of one, where the whole is to be had from the source.
    """
    if stated is None:
        return image
    if image.digest is not None and image.digest.algorithm == stated.algorithm:
        if image.digest.value.startswith(stated.value):
            return image
        raise errors.Corrupt(f"image {image.id} at its source", str(stated), str(image.digest))
    return dataclasses.replace(image, digest=stated)


def find_present(parts: Parts, name: str, image_id: str, must_refresh: bool = True) -> Base | None:
    """The entry, refreshed and known for what it is, or None; nothing is fetched."""
    if parts.store.find(name) is None:
        return None
    with locks.hold(parts.store.layout.lock(name), shared=True):
        entry = parts.store.find(name)
        if entry is None:
            return None
        base = read_base(parts, entry, image_id)
        refresh(parts, entry.path, must_refresh=must_refresh)
        return base


def refresh(parts: Parts, path: Path, *, must_refresh: bool) -> None:
    """Note that the entry is in use now; where that may fail, failing is told and no more."""
    try:
        parts.store.touch(path)
    except errors.StorageFailed as error:
        if must_refresh:
            raise
        parts.emit(events.Trouble(f"entry {path.name}", error.message))


def _existing(parts: Parts, image_id: str, base: Base, started: float) -> Result:
    parts.emit(events.Hit(image_id, base.entry.path))
    note_presence(parts)
    seconds = time.monotonic() - started
    return Result(image_id, Status.EXISTING, base.entry.path, seconds=seconds)


def describe(parts: Parts, asked: str, fallback_from_host: str | None) -> tuple[Image, Source]:
    """What is known of the image, and the source to take it from."""
    try:
        if parts.source is None:
            raise errors.NotFound("image", asked, "the cache, and no image source is set")
        return parts.source.describe(asked), parts.source
    except errors.NotFound:
        host = fallback_from_host or parts.rules.fallback_from_host
        if host is None or parts.open_peer is None:
            raise
    peer = parts.open_peer(host)
    return peer.describe(identify(parts, asked)), peer


@dataclass(frozen=True, slots=True)
class Brought:
    """A staged file, what its record will say, and how many bytes came from the source."""

    path: Path
    facts: Mapping[str, Any]
    bytes: int


def bring_in(parts: Parts, stage: Stage, image: Image, source: Source, role: ImageRole) -> Brought:
    """From the source to a checked file ready to be published.

    The caller holds the exclusive lock of the stage's name.
    """
    if image.digest is None and parts.rules.require_digest:
        raise errors.Unverifiable(image.id, source.name)
    admit(parts, stage, image)
    # Kernels and ramdisks are what they are already.
    force_raw = parts.rules.force_raw_images and role is ImageRole.DISK
    is_kept = not is_to_be_converted(image, force_raw=force_raw)
    copied = _fetch(parts, stage.path("part"), image, source, durable=is_kept)
    found = inspect.require_safe(
        stage.path("part"),
        image,
        max_virtual_size_bytes=parts.rules.max_virtual_size_bytes,
    )
    staged, image_format = _convert(parts, stage, image, found, force_raw=force_raw)
    facts = _facts(image, source, copied, found, image_format)
    return Brought(staged, facts, copied.bytes)


def _fetch(
    parts: Parts, target: Path, image: Image, source: Source, *, durable: bool
) -> digest.Copied:
    started = time.monotonic()

    def report(done_bytes: int) -> None:
        parts.emit(events.Fetching(image.id, source.name, done_bytes, image.size_bytes))

    with source.open(image) as reader:
        copied = digest.copy_checked(
            reader,
            target,
            what=f"image {image.id} from {source.name}",
            size_bytes=image.size_bytes,
            digest=image.digest,
            max_bytes=parts.rules.max_virtual_size_bytes,
            durable=durable,
            progress=report,
        )
    seconds = time.monotonic() - started
    parts.emit(events.Fetched(image.id, source.name, copied.bytes, seconds))
    return copied


def _convert(
    parts: Parts, stage: Stage, image: Image, found: inspect.Inspection, *, force_raw: bool
) -> tuple[Path, str]:
    """The file to publish and its format."""
    step = convert.plan_conversion(found.format, force_raw=force_raw)
    if isinstance(step, convert.Keep):
        return stage.path("part"), _FOR_QEMU.get(step.format, step.format)
    admit(parts, stage, image, virtual_size_bytes=found.virtual_size_bytes)

    def report(fraction: float) -> None:
        parts.emit(events.Converting(image.id, step.source_format, "raw", fraction))

    source, target = stage.path("part"), stage.path("raw")
    qemu_img.convert(source, step.source_format, target, "raw", progress=report)
    source.unlink()
    return target, "raw"


def _is_url(location: str | None) -> bool:
    return location is not None and location.startswith(("http://", "https://"))


def _facts(
    image: Image,
    source: Source,
    copied: digest.Copied,
    found: inspect.Inspection,
    image_format: str,
) -> dict[str, Any]:
    """What the record says. The service's digest is the digest at rest where nothing changed."""
    checks = [CHECKS]
    if image.size_bytes is not None:
        checks.append(LENGTH_CHECK)
    if image.digest is not None:
        checks.append(DIGEST_CHECK)
    as_fetched = image_format == _FOR_QEMU.get(found.format, found.format)
    return {
        "image_id": image.id,
        "image_name": image.name,
        "source": source.name,
        "source_url": image.location if _is_url(image.location) else None,
        "source_format": found.format,
        "source_digest": None if image.digest is None else str(image.digest),
        "digest": str(copied.digest) if as_fetched and copied.digest else None,
        "format": image_format,
        "virtual_size_bytes": found.virtual_size_bytes,
        "checks": sorted(checks),
    }
