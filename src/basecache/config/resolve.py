"""Options made into settings, and what no single option can be wrong about alone."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from basecache.config import catalogue, nova
from basecache.config.files import is_novas
from basecache.config.reader import Options
from basecache.config.settings import (
    CacheSettings,
    DiskSettings,
    GlanceOptions,
    LvmSettings,
    RbdSettings,
    Settings,
    SourceSettings,
    SpaceSettings,
    UsageSettings,
)

# Nova looks for a base file, then makes the overlay that shows the use: seconds lie between.
YOUNGEST_BESIDE_NOVA_SECONDS = 60
_INTERVAL_FOR_ZERO_SECONDS = 60

T = TypeVar("T")


def resolve(options: Options) -> Settings:
    """Settings, whole and consistent; OptionError names the option that is not."""
    glance = _glance(options)
    settings = Settings(
        cache=_cache(options),
        disks=_disks(options),
        source=_source(options, glance),
        glance=glance,
        usage=_usage(options),
        space=_space(options),
    )
    if settings.cache.beside_nova:
        _require_ages(options)
    return settings


def _cache(options: Options) -> CacheSettings:
    default, ageing = _values(options, "DEFAULT"), _values(options, "image_cache")
    libvirt, ours = _values(options, "libvirt"), _values(options, "basecache")
    instances_path = _made(options, "DEFAULT", "instances_path", _require_path)
    base_name = _made(options, "image_cache", "subdirectory_name", _require_name)
    info_pattern = _made(options, "libvirt", "image_info_filename_pattern", _info_pattern)
    if info_pattern == f"{instances_path / base_name}/%(image)s.info":
        info_pattern = None
    beside_nova = _first(ours["beside_nova"], any(map(is_novas, options.files)))
    return CacheSettings(
        host=default["host"],
        my_ip=default["my_ip"],
        instances_path=instances_path,
        base_name=base_name,
        info_pattern=info_pattern,
        lock_path=_path(options.read("oslo_concurrency", "lock_path")),
        remove_unused=_first(ours["remove_unused"], ageing["remove_unused_base_images"]),
        sweep_interval_seconds=_interval(
            _first(ours["sweep_interval"], ageing["manager_interval"])
        ),
        original_min_age_seconds=ageing["remove_unused_original_minimum_age_seconds"],
        resized_min_age_seconds=ageing["remove_unused_resized_minimum_age_seconds"],
        remove_unused_kernels=libvirt["remove_unused_kernels"],
        force_raw_images=default["force_raw_images"],
        checksum=libvirt["checksum_base_images"],
        checksum_interval_seconds=libvirt["checksum_interval_seconds"],
        precache_concurrency=ageing["precache_concurrency"],
        beside_nova=beside_nova,
    )


def _disks(options: Options) -> DiskSettings:
    default, libvirt = _values(options, "DEFAULT"), _values(options, "libvirt")
    return DiskSettings(
        images_type=libvirt["images_type"],
        use_cow_images=default["use_cow_images"],
        preallocate=default["preallocate_images"] == "space",
        virt_mkfs=_made(options, "DEFAULT", "virt_mkfs", _mkfs_commands),
        default_ephemeral_format=default["default_ephemeral_format"] or None,
        lvm=LvmSettings(
            volume_group=libvirt["images_volume_group"] or None,
            sparse=libvirt["sparse_logical_volumes"],
            clear=libvirt["volume_clear"],
            clear_mib=libvirt["volume_clear_size"],
        ),
        rbd=RbdSettings(
            pool=libvirt["images_rbd_pool"],
            ceph_conf=_path(libvirt["images_rbd_ceph_conf"]),
            user=libvirt["rbd_user"] or None,
        ),
    )


def _source(options: Options, glance: GlanceOptions) -> SourceSettings:
    source = _values(options, "source")
    path = _path(source["path"])
    driver = source["driver"] or ("glance" if glance.auth or glance.cloud else "none")
    if driver == "directory" and path is None:
        raise options.error("source", "path", "the directory driver needs it, and it is not set")
    return SourceSettings(
        driver=driver,
        path=path,
        urls=tuple(source["urls"]),
        require_digest=source["require_digest"],
        connect_timeout_seconds=source["connect_timeout_seconds"],
        timeout_seconds=source["timeout_seconds"],
        attempts=source["attempts"],
        cafile=_path(source["cafile"]),
        ssh_command=_made(options, "source", "ssh_command", _words),
        fallback_from_host=source["fallback_from_host"] or None,
    )


def _glance(options: Options) -> GlanceOptions:
    glance = _values(options, "glance")
    auth_type, auth = _credentials(options, glance["auth_section"] or "glance")
    return GlanceOptions(
        auth_type=auth_type,
        auth=auth,
        cloud=options.read("source", "cloud") or None,
        api_servers=tuple(s if "://" in s else f"http://{s}" for s in glance["api_servers"]),
        endpoint_override=glance["endpoint_override"] or None,
        region_name=glance["region_name"] or None,
        service_type=glance["service_type"],
        valid_interfaces=tuple(glance["valid_interfaces"]),
        cafile=_path(glance["cafile"]),
        certfile=_path(glance["certfile"]),
        keyfile=_path(glance["keyfile"]),
        insecure=glance["insecure"],
        num_retries=glance["num_retries"],
        timeout_seconds=glance["timeout"],
    )


def _credentials(options: Options, group: str) -> tuple[str | None, Mapping[str, str] | None]:
    """The Keystone plugin and what it takes; two Nones where no credentials are given."""
    values = {name: options.read(group, name) for name in nova.AUTH_NAMES}
    auth_type = values.pop("auth_type")
    if not auth_type and values["auth_url"]:
        by_secret = values["application_credential_secret"] is not None
        auth_type = "v3applicationcredential" if by_secret else "password"
    if not auth_type:
        return None, None
    return auth_type, MappingProxyType({k: v for k, v in values.items() if v is not None})


def _usage(options: Options) -> UsageSettings:
    ours = _values(options, "basecache")
    file = _path(ours["usage_file"])
    providers = tuple(_first(ours["usage"], ("folder", "file") if file else ("folder",)))
    if "file" in providers and file is None:
        raise options.error("basecache", "usage", "it names file, and usage_file is not set")
    return UsageSettings(
        providers=providers,
        file=file,
        set_aside=tuple(Path(disk).absolute() for disk in ours["set_aside_disks"]),
    )


def _space(options: Options) -> SpaceSettings:
    ours = _values(options, "basecache")
    return SpaceSettings(
        max_size=ours["max_size"],
        min_free=ours["min_free"],
        eviction_min_age_seconds=ours["eviction_minimum_age_seconds"],
        max_virtual_size_bytes=ours["max_virtual_size"] or None,
    )


def _require_ages(options: Options) -> None:
    """Refuse ages so short that a file Nova is about to use could look unused."""
    for group, name in (
        ("image_cache", "remove_unused_original_minimum_age_seconds"),
        ("image_cache", "remove_unused_resized_minimum_age_seconds"),
        ("basecache", "eviction_minimum_age_seconds"),
    ):
        seconds = options.read(group, name)
        if seconds < YOUNGEST_BESIDE_NOVA_SECONDS:
            raise options.error(
                group,
                name,
                f"{seconds} seconds are not safe beside Nova, "
                f"at least {YOUNGEST_BESIDE_NOVA_SECONDS} are",
                "Nova looks at an entry some time before its disk shows the use; raise the age",
            )


def _values(options: Options, group: str) -> Mapping[str, Any]:
    return {name: options.read(group, name) for name in catalogue.names(group)}


def _made(options: Options, group: str, name: str, make: Callable[[Any], T]) -> T:
    """What ``make`` makes of an option; its ValueError says what is wrong with the value."""
    value = options.read(group, name)
    try:
        return make(value)
    except ValueError as error:
        raise options.error(group, name, str(error)) from error


def _first(ours: Any, novas: Any) -> Any:
    return novas if ours is None else ours


def _interval(seconds: int) -> int | None:
    if seconds < 0:
        return None
    return seconds or _INTERVAL_FOR_ZERO_SECONDS


def _path(text: str | None) -> Path | None:
    return Path(text).absolute() if text else None


def _require_path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError(f"{text!r} is not a folder")
    return Path(text).absolute()


def _require_name(text: str) -> str:
    if text in ("", ".", "..") or "/" in text or "\0" in text:
        raise ValueError(f"{text!r} is not the name of a folder; a path will not do")
    return text


def _info_pattern(pattern: str | None) -> str | None:
    if not pattern:
        return None
    try:
        one, other = (pattern % {"image": name} for name in "ab")
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(
            f"{pattern!r} is no pattern ({error!r}); %(image)s stands for the entry, %% for a %"
        ) from error
    if one == other:
        raise ValueError(f"{pattern!r} has no %(image)s: all entries would share one record")
    return str(Path(pattern).absolute())


def _mkfs_commands(lines: Sequence[str]) -> Mapping[str, str]:
    commands = {}
    for line in filter(None, lines):
        os_type, equals, command = (part.strip() for part in line.partition("="))
        if not (os_type and equals and command):
            raise ValueError(f"{line!r} is not <os_type>=<command>")
        commands[os_type] = command
    return MappingProxyType(commands)


def _words(command: str) -> tuple[str, ...]:
    words = tuple(shlex.split(command))
    if not words:
        raise ValueError("no command is given")
    return words
