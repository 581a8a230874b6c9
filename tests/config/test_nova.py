"""A nova.conf works as it is: today's whole sample, references, and files of ten years ago."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

from basecache import config, errors
from basecache.config import nova
from basecache.config.files import read_files
from basecache.config.reader import Options, own_address

SAMPLE = Path(__file__).parent / "data" / "nova.conf.sample"

# Where our default is not the one Nova's sample states, and why.
DIFFERENT_ON_PURPOSE = {
    ("DEFAULT", "state_path"): "Nova's own tree is not taken over unasked",
    ("DEFAULT", "my_ip"): "the sample has a placeholder for this host's address",
    ("DEFAULT", "host"): "the sample has a placeholder for this host's name",
}
# Nova gave these up (Icehouse had them), or takes them from another group.
NOT_IN_NOVA_TODAY = {
    ("libvirt", "image_info_filename_pattern"),
    ("libvirt", "remove_unused_kernels"),
    ("libvirt", "checksum_base_images"),
    ("libvirt", "checksum_interval_seconds"),
    ("glance", "auth_section"),
    *(("glance", name) for name in nova.AUTH_NAMES),
}
SHARED = [(group, opt.name) for group, (_, opts) in nova.GROUPS.items() for opt in opts]


def write(folder: Path, text: str, name: str = "nova.conf") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@functools.cache
def stated_defaults() -> dict[tuple[str, str], str]:
    """What the sample says each option's default is."""
    found, group = {}, ""
    for line in SAMPLE.read_text().splitlines():
        if section := re.fullmatch(r"\[(\w+)\]", line):
            group = section[1]
        elif option := re.fullmatch(r"#(\w+) =(.*)", line):
            found[group, option[1]] = option[2].strip()
    return found


def uncommented() -> str:
    """The sample with every default in force, but for those it only has placeholders for."""
    return re.sub(r"^#(\w+ =(?! *<).*)$", r"\1", SAMPLE.read_text(), flags=re.MULTILINE)


def test_every_shared_option_is_in_novas_sample_or_known_to_be_gone() -> None:
    assert {place for place in SHARED if place not in stated_defaults()} == NOT_IN_NOVA_TODAY


@pytest.mark.parametrize(
    ("group", "name"),
    [p for p in SHARED if p not in NOT_IN_NOVA_TODAY and p not in DIFFERENT_ON_PURPOSE],
)
def test_a_shared_default_is_novas(group: str, name: str, tmp_path: Path) -> None:
    stated = stated_defaults()[group, name]
    ours = Options.open([], {}).read(group, name)
    if stated == "<None>":
        assert ours in (None, [])
    else:
        file = write(tmp_path, f"[{group}]\n{name} = {stated}\n")
        theirs = Options.open(read_files([file]), {}).read(group, name)
        assert ours == theirs or (ours == [] and theirs == [""])


@pytest.mark.parametrize("place", sorted(DIFFERENT_ON_PURPOSE))
def test_a_default_listed_as_different_is_different(place: tuple[str, str]) -> None:
    assert str(Options.open([], {}).read(*place)) != stated_defaults()[place]


def test_the_sample_loads_and_changes_nothing_but_that_nova_is_there() -> None:
    with_sample, without = config.load([SAMPLE]), config.load(basecache={"beside_nova": True})
    assert with_sample == without


def test_the_sample_loads_with_every_default_in_force(tmp_path: Path) -> None:
    text = uncommented().replace("#pybasedir = <Path>", f"pybasedir = {tmp_path}/modules")
    settings = config.load([write(tmp_path, text)])
    assert settings.cache.instances_path == tmp_path / "modules" / "instances"
    assert settings.cache.sweep_interval_seconds == 2400
    assert settings.cache.original_min_age_seconds == 86400
    assert settings.cache.resized_min_age_seconds == 3600
    assert settings.disks.backend == "qcow2"
    assert settings.glance.valid_interfaces == ("internal", "public")


def test_references_of_every_kind_resolve(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        f"""\
[DEFAULT]
pool = {tmp_path}/pool
state_path = ${{pool}}/nova
my_ip = 192.0.2.7
instances_path = $state_path/instances
injected_network_template = $never_set/anywhere

[image_cache]
subdirectory_name = _base_$my_ip

[libvirt]
ceph_folder = $state_path/ceph
images_rbd_ceph_conf = $ceph_folder/ceph.conf
volume_group_root = vg
images_volume_group = ${{libvirt.volume_group_root}}-$my_ip
image_info_filename_pattern = $instances_path/info/$image_cache_subdirectory_name/%(image)s.json

[oslo_concurrency]
lock_path = $state_path/tmp

[glance]
api_servers = http://$my_block_storage_ip:9292,glance2:9292
""",
    )
    settings = config.load([file])
    assert settings.cache.instances_path == tmp_path / "pool/nova/instances"
    assert settings.cache.base_name == "_base_192.0.2.7"
    assert settings.cache.lock_path == tmp_path / "pool/nova/tmp"
    assert settings.cache.info_pattern == (
        f"{tmp_path}/pool/nova/instances/info/_base_192.0.2.7/%(image)s.json"
    )
    assert settings.disks.lvm.volume_group == "vg-192.0.2.7"
    assert settings.disks.rbd.ceph_conf == tmp_path / "pool/nova/ceph/ceph.conf"
    assert settings.glance.api_servers == ("http://192.0.2.7:9292", "http://glance2:9292")


def test_this_hosts_address_stands_in_for_my_ip(tmp_path: Path) -> None:
    file = write(tmp_path, "[image_cache]\nsubdirectory_name = _base_$my_ip\n")
    assert config.load([file]).cache.base_name == f"_base_{own_address()}"


def test_pybasedir_is_where_novas_modules_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nova").mkdir()
    (tmp_path / "nova" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    file = write(tmp_path, "[DEFAULT]\nstate_path = $pybasedir\n")
    assert config.load([file]).cache.instances_path == tmp_path / "instances"


def test_a_reference_that_nothing_sets_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, "[DEFAULT]\nroot = $nowhere\ninstances_path = $root/instances\n")
    with pytest.raises(errors.ConfigError) as caught:
        config.load([file])
    assert str(caught.value) == (
        f"{file}: [DEFAULT] instances_path: it refers to $nowhere, which no file sets"
    )


def test_the_pattern_that_icehouse_wrote_out_is_the_default(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "[DEFAULT]\nimage_info_filename_pattern = "
        "$instances_path/$image_cache_subdirectory_name/%(image)s.info\n",
    )
    assert config.load([file]).cache.info_pattern is None


@pytest.mark.parametrize("older", ["image_cache_subdirectory_name", "base_dir_name"])
@pytest.mark.parametrize("setter", ["[image_cache]\nsubdirectory_name", "[DEFAULT]\nbase_dir_name"])
def test_a_reference_by_an_older_name_gives_the_value(
    older: str, setter: str, tmp_path: Path
) -> None:
    pattern = f"[libvirt]\nimage_info_filename_pattern = /info/${older}/%(image)s\n"
    file = write(tmp_path, f"{setter} = cache\n{pattern}")
    assert config.load([file]).cache.info_pattern == "/info/cache/%(image)s"
    overridden = config.load([file], image_cache={"subdirectory_name": "other"})
    assert overridden.cache.info_pattern == "/info/other/%(image)s"


def test_the_names_of_havana_and_icehouse_still_work(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """\
[DEFAULT]
state_path = /srv/nova
glance_host = images.example
glance_api_servers = $glance_host:$glance_port
image_cache_manager_interval = 0
base_dir_name = _old
libvirt_images_type = lvm
libvirt_images_volume_group = vg0
libvirt_sparse_logical_volumes = true
image_info_filename_pattern = /srv/info/%(image)s
remove_unused_kernels = false
checksum_base_images = True
checksum_interval_seconds = 60
remove_unused_resized_minimum_age_seconds = 7200
lock_path = /srv/lock
virt_mkfs = default=mkfs.ext3 -L %(fs_label)s -F %(target)s
virt_mkfs = linux=mkfs.ext4 -E a=b %(target)s

[libvirt]
remove_unused_base_images = no
remove_unused_original_minimum_age_seconds = 172800

[ssl]
ca_file = /etc/ssl/glance.pem
""",
    )
    settings = config.load([file])
    cache, disks = settings.cache, settings.disks
    assert cache.instances_path == Path("/srv/nova/instances")
    assert cache.base_name == "_old"
    assert cache.sweep_interval_seconds == 60
    assert not cache.remove_unused
    assert not cache.remove_unused_kernels
    assert cache.checksum
    assert cache.checksum_interval_seconds == 60
    assert cache.original_min_age_seconds == 172800
    assert cache.resized_min_age_seconds == 7200
    assert cache.info_pattern == "/srv/info/%(image)s"
    assert cache.lock_path == Path("/srv/lock")
    assert disks.backend == "lvm"
    assert (disks.lvm.volume_group, disks.lvm.sparse) == ("vg0", True)
    assert disks.virt_mkfs == {
        "default": "mkfs.ext3 -L %(fs_label)s -F %(target)s",
        "linux": "mkfs.ext4 -E a=b %(target)s",
    }
    assert settings.glance.api_servers == ("http://images.example:9292",)
    assert settings.glance.cafile == Path("/etc/ssl/glance.pem")


@pytest.mark.parametrize(
    "older",
    [
        "DEFAULT/image_cache_subdirectory_name",
        "DEFAULT/base_dir_name",
    ],
)
def test_todays_name_beats_an_older_one(older: str, tmp_path: Path) -> None:
    group, name = older.split("/")
    file = write(tmp_path, f"[{group}]\n{name} = old\n[image_cache]\nsubdirectory_name = new\n")
    assert config.load([file]).cache.base_name == "new"


def test_a_file_is_parsed_as_nova_parses_it(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """\
[DEFAULT]
instances_path: /first
[LibVirt]
images_type = raw
# repeated groups are one group, and the last value of a name counts
[DEFAULT]
instances_path = "/second"
virt_mkfs = linux=mkfs 100%
  of it
host = h$$1
""",
    )
    settings = config.load([file])
    assert settings.cache.instances_path == Path("/second")
    assert settings.cache.host == "h$1"
    assert settings.disks.backend == "flat"
    assert settings.disks.virt_mkfs == {"linux": "mkfs 100%\nof it"}


def test_the_later_file_wins(tmp_path: Path) -> None:
    nova_conf = write(
        tmp_path,
        "[DEFAULT]\nimage_cache_subdirectory_name = _nova\nhost = a\n"
        "[image_cache]\nmanager_interval = -1\nremove_unused_base_images = false\n",
    )
    ours = write(
        tmp_path,
        "[image_cache]\nsubdirectory_name = _ours\n"
        "[basecache]\nsweep_interval = 300\nremove_unused = true\n",
        "basecache.conf",
    )
    alone, both = config.load([nova_conf]).cache, config.load([nova_conf, ours]).cache
    assert (alone.base_name, alone.sweep_interval_seconds, alone.remove_unused) == (
        "_nova",
        None,
        False,
    )
    assert (both.base_name, both.sweep_interval_seconds, both.remove_unused) == ("_ours", 300, True)
    assert both.host == "a"


@pytest.mark.parametrize(
    ("name", "text", "beside"),
    [
        ("nova.conf", "[DEFAULT]\n", True),
        ("nova-compute.conf", "[DEFAULT]\n", True),
        ("kolla.conf", "[DEFAULT]\ncompute_driver = libvirt.LibvirtDriver\n", True),
        ("kolla.conf", "[placement]\nregion_name = r\n", True),
        ("basecache.conf", "[image_cache]\nmanager_interval = 60\n", False),
        ("nova.conf", "[basecache]\nbeside_nova = false\n", False),
        ("basecache.conf", "[basecache]\nbeside_nova = true\n", True),
    ],
)
def test_a_file_of_novas_is_recognised(name: str, text: str, beside: bool, tmp_path: Path) -> None:
    assert config.load([write(tmp_path, text, name)]).cache.beside_nova is beside


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("image_cache", "remove_unused_original_minimum_age_seconds"),
        ("image_cache", "remove_unused_resized_minimum_age_seconds"),
        ("basecache", "eviction_minimum_age_seconds"),
    ],
)
def test_ages_under_a_minute_are_refused_beside_nova_only(
    group: str, name: str, tmp_path: Path
) -> None:
    text = f"[{group}]\n{name} = 59\n"
    with pytest.raises(errors.ConfigError, match=f"{name}: 59 seconds are not safe"):
        config.load([write(tmp_path, text)])
    config.load([write(tmp_path, text.replace("59", "60"))])
    config.load([write(tmp_path, text, "basecache.conf")])


def test_credentials_are_taken_and_never_shown(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """\
[glance]
auth_url = http://keystone:5000
user_name = basecache
password = hunter2$$
tenant_name = service
user_domain_name = Default
""",
    )
    glance = config.load([file]).glance
    assert glance.auth_type == "password"
    assert glance.auth == {
        "auth_url": "http://keystone:5000",
        "username": "basecache",
        "password": "hunter2$",
        "project_name": "service",
        "user_domain_name": "Default",
    }
    assert "hunter2" not in repr(glance)
    assert config.load([file]).source.driver == "glance"
    assert "hunter2" not in str(config.check([file]))


def test_credentials_may_stand_in_another_group(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """\
[glance]
auth_section = service_user
[service_user]
auth_type = v3applicationcredential
auth_url = http://keystone:5000
application_credential_id = abc
application_credential_secret = s
send_service_user_token = true
""",
    )
    glance = config.load([file]).glance
    assert glance.auth_type == "v3applicationcredential"
    assert glance.auth == {
        "auth_url": "http://keystone:5000",
        "application_credential_id": "abc",
        "application_credential_secret": "s",
    }
