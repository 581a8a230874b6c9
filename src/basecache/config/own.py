"""The options that are ours alone: groups [basecache] and [source]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oslo_config import cfg, types

from basecache.config.sizes import parse_amount, parse_size


class ParsedType(types.ConfigType):
    """A type that a function reads; ``type_name`` stands in samples and reference pages."""

    def __init__(self, parse: Callable[[Any], Any], type_name: str) -> None:
        super().__init__(type_name=type_name)
        self._parse = parse

    def __call__(self, value: Any) -> Any:
        return self._parse(value)

    def __repr__(self) -> str:
        return self.type_name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ParsedType) and self.type_name == other.type_name

    __hash__ = None  # type: ignore[assignment]

    def _formatter(self, value: Any) -> str:
        return str(value)


SIZE = ParsedType(parse_size, "size")
AMOUNT = ParsedType(parse_amount, "size or percentage")
DRIVERS = ("none", "directory", "url", "glance")
PROVIDERS = ("folder", "file")

_BASECACHE: list[cfg.Opt] = [
    cfg.IntOpt(
        "sweep_interval",
        min=-1,
        sample_default="<[image_cache] manager_interval>",
        help="Seconds between two sweeps of the cache; 0 is every 60 s and -1 never. Overrides "
        "[image_cache] manager_interval for basecache only, so that Nova's own manager can be off "
        "in nova.conf while basecache sweeps.",
    ),
    cfg.BoolOpt(
        "remove_unused",
        sample_default="<[image_cache] remove_unused_base_images>",
        help="Whether a sweep removes what nothing uses. Overrides [image_cache] "
        "remove_unused_base_images for basecache only. When off, sweeps still look and report.",
    ),
    cfg.BoolOpt(
        "beside_nova",
        sample_default="<whether a file given is Nova's>",
        help="Whether Nova uses the same cache on this host. Found out from the files given: one "
        "named nova*.conf, or that sets compute_driver or has a [placement] or [neutron] "
        "group, is Nova's. Beside Nova, minimum ages under 60 seconds are refused.",
    ),
    cfg.Opt(
        "max_size",
        type=AMOUNT,
        sample_default="<no limit>",
        help="The most that the cache may take on disk, as a size (200G) or a share of its file "
        "system (80%). Beyond it, unused entries go, least recently used first.",
    ),
    cfg.Opt(
        "min_free",
        type=AMOUNT,
        default="1%",
        help="What stays free on the cache's file system, as a size or a share of it. VM disks "
        "live on the same file system: a full one stops guests.",
    ),
    cfg.IntOpt(
        "eviction_minimum_age_seconds",
        min=0,
        default=3600,
        help="An entry used more recently than this is never evicted to make room.",
    ),
    cfg.Opt(
        "max_virtual_size",
        type=SIZE,
        default="2T",
        help="The largest disk an image may unfold to; 0 is no limit. A few kilobytes of a "
        "compressed or lying image can claim to be petabytes.",
    ),
    cfg.ListOpt(
        "usage",
        item_type=types.String(choices=PROVIDERS),
        sample_default="<folder, and file when usage_file is set>",
        help="Who is asked what is in use: folder (the instance folders on this storage), "
        "file (usage_file).",
    ),
    cfg.StrOpt(
        "usage_file", help="A JSON list of all instances, of every host that shares this storage."
    ),
    cfg.ListOpt(
        "set_aside_disks",
        default=[],
        help="Disk files that cannot be read and that an operator vouches for: they are no "
        "missing evidence. A base file that such a disk stands on may be removed.",
    ),
]

_SOURCE: list[cfg.Opt] = [
    cfg.StrOpt(
        "driver",
        choices=DRIVERS,
        sample_default="<glance with credentials in [glance] or a cloud, else none>",
        help="Where images come from.",
    ),
    cfg.StrOpt("path", help="The folder of the directory driver."),
    cfg.ListOpt(
        "urls", default=[], help="The images or listings of the url driver, http or https."
    ),
    cfg.StrOpt("cloud", help="The cloud of clouds.yaml whose credentials reach Glance."),
    cfg.BoolOpt(
        "require_digest",
        default=True,
        help="Whether an image that its source knows no digest of is refused.",
    ),
    cfg.FloatOpt(
        "connect_timeout_seconds", min=0.1, default=10.0, help="How long connecting may take."
    ),
    cfg.FloatOpt(
        "timeout_seconds",
        min=0.1,
        default=60.0,
        help="How long a source may send nothing before it counts as stalled.",
    ),
    cfg.IntOpt(
        "attempts",
        min=1,
        default=4,
        help="How often a transfer is tried in all; it goes on where it stopped.",
    ),
    cfg.StrOpt("cafile", help="Certificate authorities (PEM) of https sources."),
    cfg.StrOpt(
        "ssh_command",
        default="ssh -o BatchMode=yes",
        help="How another host is reached for fallback_from_host.",
    ),
    cfg.StrOpt(
        "fallback_from_host",
        help="A host whose cache is copied from when the source no longer has an image.",
    ),
]

GROUPS: dict[str, tuple[str, list[cfg.Opt]]] = {
    "basecache": ("How basecache keeps the cache of this host.", _BASECACHE),
    "source": ("Where images come from.", _SOURCE),
}
