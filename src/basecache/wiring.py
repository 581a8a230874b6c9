"""Settings made into objects: the one file that knows every room."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basecache import config, errors, events
from basecache.agent.host import Host
from basecache.agent.parts import Parts, Rules
from basecache.cache import locks, sharers
from basecache.cache.layout import Layout
from basecache.cache.plan import Policy
from basecache.cache.space import Limits
from basecache.cache.store import Store
from basecache.config import Settings
from basecache.sources import Source
from basecache.usage import UsageProvider
from basecache.usage.file import FileUsage
from basecache.usage.folder import FolderUsage

if TYPE_CHECKING:
    from basecache.sources.glance import GlanceSettings


def open_host(
    config_files: Sequence[Path | str] | None = None,
    *,
    emit: events.Emit = events.ignore,
    make_folders: bool = True,
    **overrides: Any,
) -> Host:
    """This host's cache, by its configuration files and options given as keywords.

    Without ``config_files`` the default ones are read where they exist. Missing folders are
    made, unless ``make_folders`` is false. ConfigError for options that cannot be used.
    """
    files = config.default_config_files() if config_files is None else config_files
    settings = config.load(files, **overrides)
    return Host(build_parts(settings, emit, make_folders=make_folders))


def build_parts(
    settings: Settings, emit: events.Emit = events.ignore, *, make_folders: bool = True
) -> Parts:
    """What the stories of this host are told with."""
    cache = settings.cache
    layout = Layout(cache.instances_path, cache.base_name, cache.info_pattern)
    _require_shared_locks(layout)
    store = Store(layout, emit)
    if make_folders:
        store.prepare()
    return Parts(
        store=store,
        host=cache.host,
        source=build_source(settings, emit),
        providers=build_providers(settings, layout),
        set_aside=settings.usage.set_aside,
        rules=build_rules(settings),
        emit=emit,
        open_peer=_peer_opener(settings, layout, emit),
    )


def build_rules(settings: Settings) -> Rules:
    """What the operator decided."""
    cache, disks, space = settings.cache, settings.disks, settings.space

    def limits(device_bytes: int) -> Limits:
        most = None if space.max_size is None else space.max_size.of(device_bytes)
        return Limits(most, space.min_free.of(device_bytes))

    return Rules(
        sweep=Policy(
            original_min_age_seconds=cache.original_min_age_seconds,
            resized_min_age_seconds=cache.resized_min_age_seconds,
            remove_unused=cache.remove_unused,
            remove_unused_kernels=cache.remove_unused_kernels,
        ),
        eviction_min_age_seconds=space.eviction_min_age_seconds,
        limits=limits,
        force_raw_images=cache.force_raw_images,
        remove_unused_kernels=cache.remove_unused_kernels,
        require_digest=settings.source.require_digest,
        fallback_from_host=settings.source.fallback_from_host,
        max_virtual_size_bytes=space.max_virtual_size_bytes,
        checksum=cache.checksum,
        checksum_interval_seconds=cache.checksum_interval_seconds,
        images_type=disks.images_type,
        use_cow_images=disks.use_cow_images,
        preallocate=disks.preallocate,
        virt_mkfs=disks.virt_mkfs,
        default_ephemeral_format=disks.default_ephemeral_format,
    )


def build_providers(settings: Settings, layout: Layout) -> tuple[UsageProvider, ...]:
    """The usage providers that are chosen, by name."""
    providers: list[UsageProvider] = []
    for name in settings.usage.providers:
        if name == "folder":
            providers.append(FolderUsage(layout, settings.cache.host))
        elif name == "file":
            if settings.usage.file is None:
                raise errors.ConfigError("[basecache] usage names a file", "set usage_file")
            providers.append(FileUsage(settings.usage.file))
    return tuple(providers)


def build_source(settings: Settings, emit: events.Emit) -> Source | None:
    """The image source with its retries, or None when none is set."""
    if settings.source.driver == "none":
        return None
    driver = _DRIVERS[settings.source.driver](settings)
    from basecache.sources.retry import Retrying  # noqa: PLC0415

    return Retrying(driver, attempts=settings.source.attempts, emit=emit)


def _directory_source(settings: Settings) -> Source:
    from basecache.sources.directory import DirectorySource  # noqa: PLC0415

    if settings.source.path is None:
        raise errors.ConfigError("[source] driver is directory, but path is not set")
    return DirectorySource(settings.source.path)


def _url_source(settings: Settings) -> Source:
    from basecache.sources.url import UrlSource, parse_url  # noqa: PLC0415

    source = settings.source
    return UrlSource(
        [parse_url(text) for text in source.urls],
        timeout_seconds=source.timeout_seconds,
        connect_timeout_seconds=source.connect_timeout_seconds,
        ca_file=source.cafile,
    )


def _glance_source(settings: Settings) -> Source:
    from basecache.sources.glance import GlanceSource  # noqa: PLC0415

    return GlanceSource(_glance_settings(settings))


def _glance_settings(settings: Settings) -> GlanceSettings:
    from basecache.sources.glance import GlanceSettings  # noqa: PLC0415

    glance, source = settings.glance, settings.source
    auth = None
    if glance.auth_type is not None:
        auth = {"auth_type": glance.auth_type, **(glance.auth or {})}
    servers = (glance.endpoint_override,) if glance.endpoint_override else glance.api_servers
    return GlanceSettings(
        auth=auth,
        cloud=glance.cloud,
        api_servers=servers,
        region_name=glance.region_name,
        service_type=glance.service_type,
        interfaces=glance.valid_interfaces,
        cafile=glance.cafile or source.cafile,
        insecure=glance.insecure,
        certfile=glance.certfile,
        keyfile=glance.keyfile,
        num_retries=glance.num_retries,
        timeout_seconds=glance.timeout_seconds or source.timeout_seconds,
        connect_timeout_seconds=source.connect_timeout_seconds,
    )


_DRIVERS = {
    "directory": _directory_source,
    "url": _url_source,
    "glance": _glance_source,
}


def _peer_opener(settings: Settings, layout: Layout, emit: events.Emit) -> Any:
    def open_peer(host: str) -> Source:
        from basecache.sources.peer import PeerSource  # noqa: PLC0415
        from basecache.sources.retry import Retrying  # noqa: PLC0415

        peer = PeerSource(host, layout.base, ssh_command=settings.source.ssh_command)
        return Retrying(peer, attempts=settings.source.attempts, emit=emit)

    return open_peer


def _require_shared_locks(layout: Layout) -> None:
    """Refuse shared storage whose locks stay on this host."""
    mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    trouble = locks.nfs_lock_trouble(mountinfo, layout.instances_path.resolve())
    if trouble is not None and len(sharers.read(layout)) > 1:
        raise errors.ConfigError(trouble, "mount it without nolock and local_lock")
