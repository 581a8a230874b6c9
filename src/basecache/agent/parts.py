"""What the stories of one host are told with: its cache, its sources, its evidence, its rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from basecache import events
from basecache.cache.plan import Policy
from basecache.cache.space import Limits
from basecache.cache.store import Store
from basecache.sources import Source
from basecache.usage import UsageProvider


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator decided. ``limits`` is asked with the device's size in bytes."""

    sweep: Policy = field(default_factory=Policy)
    eviction_min_age_seconds: float = 300.0
    limits: Callable[[int], Limits] = lambda _: Limits()
    force_raw_images: bool = True
    remove_unused_kernels: bool = True
    require_digest: bool = True
    fallback_from_host: str | None = None
    max_virtual_size_bytes: int | None = None
    checksum: bool = False
    checksum_interval_seconds: float = 3600.0
    images_type: str = "default"
    use_cow_images: bool = True
    preallocate: bool = False
    virt_mkfs: Mapping[str, str] = field(default_factory=dict)
    default_ephemeral_format: str | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """The objects a host works with; ``source`` is None where only what is there is used."""

    store: Store
    host: str
    source: Source | None = None
    providers: tuple[UsageProvider, ...] = ()
    set_aside: tuple[Path, ...] = ()
    rules: Rules = field(default_factory=Rules)
    emit: events.Emit = events.ignore
    open_peer: Callable[[str], Source] | None = None
