"""The options shared with Nova: its names, groups and defaults, and every older name of each.

A default that differs from Nova's, or from the code basecache's behaviour comes from, says why
in its help. Nova's choices and limits are kept, so that what Nova starts with loads here too.
"""

from __future__ import annotations

from oslo_config import cfg

_KERNELS = (
    "Whether kernels and ramdisks are named by SHA-1 and removed when unused, as other entries. "
    "On by default, where Icehouse had it off: it was off for the sake of cache managers of "
    "Grizzly-3 and before, and every Nova of today names kernels by SHA-1. When off, they keep "
    "the image id as their name and are never removed."
)
_STATE_PATH = (
    "The folder other defaults are relative to. Nova's default is the folder of its Python "
    "modules; ours is its own, so that a cache of Nova's is never taken over unless a file or "
    "an argument names it."
)


def _older(*names: str) -> list[cfg.DeprecatedOpt]:
    """Older names, written ``group/name``."""
    pairs = (name.split("/") for name in names)
    return [cfg.DeprecatedOpt(name, group=group) for group, name in pairs]


_DEFAULT: list[cfg.Opt] = [
    cfg.StrOpt("state_path", default="/var/lib/basecache", help=_STATE_PATH),
    cfg.StrOpt(
        "instances_path",
        default="$state_path/instances",
        help="Where instance folders and the cache are; local, or shared by several hosts.",
    ),
    cfg.StrOpt(
        "my_ip",
        sample_default="<the IPv4 address of this host>",
        help="The address of this host, for _base_$my_ip and the like.",
    ),
    cfg.StrOpt(
        "host",
        sample_default="<the host name>",
        help="This host's name, as instances on it and the registry of sharers know it.",
    ),
    cfg.MultiStrOpt(
        "virt_mkfs",
        default=[],
        help="How an ephemeral disk is formatted, by OS type: <os_type>=<mkfs command>, where "
        "%(fs_label)s and %(target)s stand for the label and the disk. May be repeated.",
    ),
    cfg.BoolOpt(
        "use_cow_images",
        default=True,
        help="Whether images_type = default means qcow2 overlays (else flat copies).",
    ),
    cfg.BoolOpt(
        "force_raw_images", default=True, help="Whether cached images are converted to raw."
    ),
    cfg.StrOpt(
        "preallocate_images",
        default="none",
        choices=("none", "space"),
        help="space allocates a disk's whole size when it is made.",
    ),
    cfg.StrOpt(
        "default_ephemeral_format",
        help="The file system of ephemeral disks where neither virt_mkfs nor a request says.",
    ),
]

_IMAGE_CACHE: list[cfg.Opt] = [
    cfg.IntOpt(
        "manager_interval",
        default=2400,
        min=-1,
        deprecated_opts=_older("DEFAULT/image_cache_manager_interval"),
        help="Seconds between two passes of the cache manager; 0 is every 60 s and -1 never.",
    ),
    cfg.StrOpt(
        "subdirectory_name",
        default="_base",
        deprecated_opts=_older("DEFAULT/image_cache_subdirectory_name", "DEFAULT/base_dir_name"),
        help="The cache's folder in instances_path: a name, not a path. _base_$my_ip gives every "
        "host on shared storage its own.",
    ),
    cfg.BoolOpt(
        "remove_unused_base_images",
        default=True,
        deprecated_opts=_older(
            "DEFAULT/remove_unused_base_images", "libvirt/remove_unused_base_images"
        ),
        help="Whether entries that nothing uses are removed.",
    ),
    cfg.IntOpt(
        "remove_unused_original_minimum_age_seconds",
        default=24 * 3600,
        min=0,
        deprecated_opts=_older(
            "DEFAULT/remove_unused_original_minimum_age_seconds",
            "libvirt/remove_unused_original_minimum_age_seconds",
        ),
        help="An unused original, swap or ephemeral entry younger than this is kept.",
    ),
    cfg.IntOpt(
        "remove_unused_resized_minimum_age_seconds",
        default=3600,
        min=0,
        deprecated_opts=_older(
            "libvirt/remove_unused_resized_minimum_age_seconds",
            "DEFAULT/remove_unused_resized_minimum_age_seconds",
        ),
        help="An unused resized copy younger than this is kept.",
    ),
    cfg.IntOpt(
        "precache_concurrency",
        default=1,
        min=1,
        help="How many hosts pre-cache at a time when a request does not say.",
    ),
]

_LIBVIRT: list[cfg.Opt] = [
    cfg.StrOpt(
        "images_type",
        default="default",
        choices=("raw", "flat", "qcow2", "lvm", "rbd", "ploop", "default"),
        deprecated_opts=_older("DEFAULT/libvirt_images_type"),
        help="How VM disks are kept; default leaves it to use_cow_images.",
    ),
    cfg.StrOpt(
        "images_volume_group",
        deprecated_opts=_older("DEFAULT/libvirt_images_volume_group"),
        help="The volume group of images_type = lvm.",
    ),
    cfg.BoolOpt(
        "sparse_logical_volumes",
        default=False,
        deprecated_opts=_older("DEFAULT/libvirt_sparse_logical_volumes"),
        help="Whether logical volumes are thin.",
    ),
    cfg.StrOpt(
        "images_rbd_pool",
        default="rbd",
        deprecated_opts=_older("DEFAULT/libvirt_images_rbd_pool"),
        help="The pool of images_type = rbd.",
    ),
    cfg.StrOpt(
        "images_rbd_ceph_conf",
        default="",
        deprecated_opts=_older("DEFAULT/libvirt_images_rbd_ceph_conf"),
        help="Ceph's configuration file; empty leaves it to librados.",
    ),
    cfg.StrOpt(
        "rbd_user",
        deprecated_opts=_older("DEFAULT/rbd_user"),
        help="The Ceph client name.",
    ),
    cfg.StrOpt(
        "image_info_filename_pattern",
        sample_default="$instances_path/$image_cache_subdirectory_name/%(image)s.info",
        deprecated_opts=_older("DEFAULT/image_info_filename_pattern"),
        help="Where the record of an entry is; %(image)s stands for the entry's name.",
    ),
    cfg.BoolOpt(
        "remove_unused_kernels",
        default=True,
        deprecated_opts=_older("DEFAULT/remove_unused_kernels"),
        help=_KERNELS,
    ),
    cfg.BoolOpt(
        "checksum_base_images",
        default=False,
        deprecated_opts=_older("DEFAULT/checksum_base_images"),
        help="Whether entries are compared with the digest in their record.",
    ),
    cfg.IntOpt(
        "checksum_interval_seconds",
        default=3600,
        min=0,
        deprecated_opts=_older("DEFAULT/checksum_interval_seconds"),
        help="An entry is not compared again before so many seconds have passed.",
    ),
    cfg.StrOpt(
        "volume_clear",
        default="zero",
        choices=("zero", "shred", "none"),
        help="How a logical volume is wiped when it is deleted.",
    ),
    cfg.IntOpt(
        "volume_clear_size",
        default=0,
        min=0,
        help="How many MiB at the start of a logical volume are wiped; 0 is all of it.",
    ),
]

_OSLO_CONCURRENCY: list[cfg.Opt] = [
    cfg.StrOpt(
        "lock_path",
        deprecated_opts=_older("DEFAULT/lock_path"),
        help="Where Nova keeps its other locks. The locks of cache files are in "
        "<instances_path>/locks, whatever this says.",
    ),
]

_GLANCE: list[cfg.Opt] = [
    cfg.ListOpt(
        "api_servers",
        default=[],
        deprecated_opts=_older("DEFAULT/glance_api_servers"),
        help="Glance endpoints to try in turn, scheme://host:port. None: Keystone's catalogue.",
    ),
    cfg.IntOpt(
        "num_retries",
        default=3,
        min=0,
        deprecated_opts=_older("DEFAULT/glance_num_retries"),
        help="How often a request to Glance is repeated after a failure.",
    ),
    cfg.StrOpt(
        "cafile", deprecated_opts=_older("ssl/ca_file"), help="Certificate authorities (PEM)."
    ),
    cfg.StrOpt(
        "certfile", deprecated_opts=_older("ssl/cert_file"), help="A client certificate (PEM)."
    ),
    cfg.StrOpt("keyfile", deprecated_opts=_older("ssl/key_file"), help="The key of certfile."),
    cfg.BoolOpt(
        "insecure",
        default=False,
        deprecated_opts=_older("glance/api_insecure", "DEFAULT/glance_api_insecure"),
        help="Whether certificates go unchecked.",
    ),
    cfg.FloatOpt("timeout", help="Seconds a request may take."),
    cfg.StrOpt("service_type", default="image", help="Glance's type in Keystone's catalogue."),
    cfg.ListOpt("valid_interfaces", default=["internal", "public"], help="Interfaces, best first."),
    cfg.StrOpt("region_name", help="Glance's region in Keystone's catalogue."),
    cfg.StrOpt("endpoint_override", help="Glance's URL, instead of the catalogue's."),
    cfg.StrOpt(
        "auth_section",
        help="A group to read the credentials below from instead, such as service_user.",
    ),
]

# What the Keystone plugins password and v3applicationcredential take.
_AUTH: list[cfg.Opt] = [
    cfg.StrOpt("auth_type", help="A Keystone plugin: password, v3applicationcredential ..."),
    cfg.StrOpt("auth_url", help="Keystone's URL."),
    cfg.StrOpt("username", deprecated_opts=[cfg.DeprecatedOpt("user_name")], help="User's name."),
    cfg.StrOpt("user_id", help="User's id."),
    cfg.StrOpt("password", secret=True, help="User's password."),
    cfg.StrOpt("user_domain_name", help="User's domain, by name."),
    cfg.StrOpt("user_domain_id", help="User's domain, by id."),
    cfg.StrOpt(
        "project_name", deprecated_opts=[cfg.DeprecatedOpt("tenant_name")], help="Project, by name."
    ),
    cfg.StrOpt(
        "project_id", deprecated_opts=[cfg.DeprecatedOpt("tenant_id")], help="Project, by id."
    ),
    cfg.StrOpt("project_domain_name", help="Project's domain, by name."),
    cfg.StrOpt("project_domain_id", help="Project's domain, by id."),
    cfg.StrOpt("domain_name", help="Domain to be scoped to, by name."),
    cfg.StrOpt("domain_id", help="Domain to be scoped to, by id."),
    cfg.StrOpt("default_domain_name", help="Domain of user and project, by name."),
    cfg.StrOpt("default_domain_id", help="Domain of user and project, by id."),
    cfg.StrOpt("system_scope", help="Scope of a system-wide token (all)."),
    cfg.StrOpt("trust_id", help="Trust to act under."),
    cfg.StrOpt("application_credential_id", help="Application credential, by id."),
    cfg.StrOpt("application_credential_name", help="Application credential, by name."),
    cfg.StrOpt(
        "application_credential_secret", secret=True, help="Secret of the application credential."
    ),
]

AUTH_NAMES = tuple(opt.name for opt in _AUTH)

GROUPS: dict[str, tuple[str, list[cfg.Opt]]] = {
    "DEFAULT": ("Shared with Nova: this host and how its disks are made.", _DEFAULT),
    "image_cache": ("Shared with Nova: the cache and its ageing.", _IMAGE_CACHE),
    "libvirt": ("Shared with Nova: kinds of disks, and the older cache options.", _LIBVIRT),
    "oslo_concurrency": ("Shared with Nova: locks.", _OSLO_CONCURRENCY),
    "glance": ("Shared with Nova: the image service.", [*_GLANCE, *_AUTH]),
}


def auth_options() -> list[cfg.Opt]:
    """The credentials' options, to be read from another group (``auth_section``)."""
    return list(_AUTH)
