"""What the options come to: frozen, typed, nothing left to look up.

Sizes are bytes and times seconds. None means "not set" or "never", as each field says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from basecache.config.sizes import Amount


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """The cache of this host and how long its entries live.

    ``info_pattern`` holds ``%(image)s``; None is the default place beside the entry.
    ``lock_path`` is Nova's folder for its other locks; the locks of cache files are always in
    ``<instances_path>/locks``. ``sweep_interval_seconds`` None means: never on its own.
    """

    host: str
    my_ip: str
    instances_path: Path
    base_name: str
    info_pattern: str | None
    lock_path: Path | None
    remove_unused: bool
    sweep_interval_seconds: int | None
    original_min_age_seconds: int
    resized_min_age_seconds: int
    remove_unused_kernels: bool
    force_raw_images: bool
    checksum: bool
    checksum_interval_seconds: int
    precache_concurrency: int
    beside_nova: bool


@dataclass(frozen=True, slots=True)
class LvmSettings:
    """Disks as logical volumes. ``clear_mib`` 0 wipes the whole volume."""

    volume_group: str | None
    sparse: bool
    clear: str
    clear_mib: int


@dataclass(frozen=True, slots=True)
class RbdSettings:
    """Disks in a Ceph pool; ``ceph_conf`` None leaves it to librados."""

    pool: str
    ceph_conf: Path | None
    user: str | None


@dataclass(frozen=True, slots=True)
class DiskSettings:
    """How VM disks are made. ``virt_mkfs`` maps an OS type to the command that formats for it."""

    images_type: str
    use_cow_images: bool
    preallocate: bool
    virt_mkfs: Mapping[str, str]
    default_ephemeral_format: str | None
    lvm: LvmSettings
    rbd: RbdSettings

    @property
    def backend(self) -> str:
        """The backend ``images_type`` stands for: flat, qcow2, lvm, rbd or ploop."""
        if self.images_type == "default":
            return "qcow2" if self.use_cow_images else "flat"
        return "flat" if self.images_type == "raw" else self.images_type


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """Where images come from. ``driver`` is one of none, directory, url, glance."""

    driver: str
    path: Path | None
    urls: tuple[str, ...]
    require_digest: bool
    connect_timeout_seconds: float
    timeout_seconds: float
    attempts: int
    cafile: Path | None
    ssh_command: tuple[str, ...]
    fallback_from_host: str | None


@dataclass(frozen=True, slots=True)
class GlanceOptions:
    """How Glance is reached.

    ``auth`` holds what the Keystone plugin ``auth_type`` takes (auth_url, username, password
    ...); both are None without credentials. ``cloud`` names a cloud of clouds.yaml.
    ``api_servers`` are URLs to try in turn; empty asks Keystone's catalogue.
    """

    auth_type: str | None
    auth: Mapping[str, str] | None = field(repr=False)
    cloud: str | None
    api_servers: tuple[str, ...]
    endpoint_override: str | None
    region_name: str | None
    service_type: str
    valid_interfaces: tuple[str, ...]
    cafile: Path | None
    certfile: Path | None
    keyfile: Path | None
    insecure: bool
    num_retries: int
    timeout_seconds: float | None


@dataclass(frozen=True, slots=True)
class UsageSettings:
    """Who is asked what is in use, and the disks an operator took out of that question."""

    providers: tuple[str, ...]
    file: Path | None
    set_aside: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class SpaceSettings:
    """How much room the cache may take; ``max_virtual_size_bytes`` None is no limit."""

    max_size: Amount | None
    min_free: Amount
    eviction_min_age_seconds: int
    max_virtual_size_bytes: int | None


@dataclass(frozen=True, slots=True)
class Settings:
    """Every option, resolved."""

    cache: CacheSettings
    disks: DiskSettings
    source: SourceSettings
    glance: GlanceOptions
    usage: UsageSettings
    space: SpaceSettings
