"""Which NFS mounts keep locks to one host; lines as /proc/self/mountinfo has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from basecache.cache.locks import nfs_lock_trouble

ROOT = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw"
NFS4 = (
    "rw,vers=4.2,rsize=1048576,wsize=1048576,namlen=255,hard,proto=tcp,timeo=600,retrans=2,"
    "sec=sys,clientaddr=10.0.0.2,local_lock=none,addr=10.0.0.1"
)
NFS3 = (
    "rw,vers=3,rsize=1048576,wsize=1048576,namlen=255,hard,{}proto=tcp,timeo=600,retrans=2,sec=sys,"
    "mountaddr=10.0.0.1,mountvers=3,mountport=20048,mountproto=udp,local_lock={},addr=10.0.0.1"
)
INSTANCES = "/var/lib/nova/instances"


def mount(point: str, kind: str, options: str, number: int = 30) -> str:
    """One mount, with the propagation field that some have and some have not."""
    field = "shared:12 master:3 " if number % 2 else ""
    return f"{number} 22 0:4{number} / {point} rw,relatime {field}- {kind} nas:/vol {options}"


def trouble(*lines: str, path: str = INSTANCES) -> str | None:
    return nfs_lock_trouble("\n".join((ROOT, *lines)) + "\n", Path(path))


@pytest.mark.parametrize(
    "line",
    [
        mount(INSTANCES, "nfs4", NFS4),
        mount(INSTANCES, "nfs", NFS3.format("", "none")),
        mount(INSTANCES, "nfs", NFS3.format("", "flock"), 31),
        mount("/var/lib", "nfs4", NFS4),
        mount(INSTANCES, "fuse.glusterfs", "rw,nolock"),
        mount(INSTANCES, "ext4", "rw,nolock"),
        mount(INSTANCES + "2", "nfs", NFS3.format("nolock,", "all")),
        mount(INSTANCES + "/deeper", "nfs", NFS3.format("nolock,", "all")),
        mount("/mnt/nolock", "nfs4", NFS4),
        "30 22 broken",
        "",
    ],
)
def test_locks_reach_other_hosts(line: str) -> None:
    assert trouble(line) is None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (NFS3.format("nolock,", "none"), "nolock"),
        (NFS3.format("", "all"), "local_lock=all"),
        (NFS3.format("", "posix"), "local_lock=posix"),
        (NFS4.replace("none", "posix"), "local_lock=posix"),
    ],
)
@pytest.mark.parametrize("kind", ["nfs", "nfs4"])
@pytest.mark.parametrize("number", [30, 31])
def test_locks_stay_on_this_host(options: str, named: str, kind: str, number: int) -> None:
    said = trouble(mount(INSTANCES, kind, options, number))
    assert said is not None
    assert f"mounted with {named}:" in said
    assert INSTANCES in said


def test_the_deepest_mount_decides() -> None:
    far = mount("/var", "nfs", NFS3.format("nolock,", "all"))
    near = mount("/var/lib/nova", "nfs4", NFS4)
    assert trouble(far, near) is None
    assert trouble(near, far) is None
    assert trouble(mount("/var/lib/nova", "nfs", NFS3.format("nolock,", "all"))) is not None


def test_of_two_mounts_on_one_point_the_later_decides() -> None:
    below = mount(INSTANCES, "nfs", NFS3.format("nolock,", "all"))
    above = mount(INSTANCES, "nfs4", NFS4, 33)
    assert trouble(below, above) is None
    assert trouble(above, below) is not None


@pytest.mark.parametrize(
    ("written", "point"),
    [
        (r"/srv/my\040images", "/srv/my images"),
        (r"/srv/tab\011new\012line", "/srv/tab\tnew\nline"),
        (r"/srv/back\134slash", r"/srv/back\slash"),
        (r"/srv/back\134040", r"/srv/back\040"),
        ("/srv/imágenes", "/srv/imágenes"),
        (r"/srv/imágenes\040ü", "/srv/imágenes ü"),
        ("/srv/\udcff", "/srv/\udcff"),
        ("/srv/no\u00a0break\u2028here", "/srv/no\u00a0break\u2028here"),
    ],
)
def test_escapes_in_mount_points_are_read(written: str, point: str) -> None:
    said = trouble(mount(written, "nfs", NFS3.format("nolock,", "all")), path=f"{point}/instances")
    assert said is not None


def test_this_machines_own_mounts_are_understood() -> None:
    mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    assert nfs_lock_trouble(mountinfo, Path("/proc")) is None
