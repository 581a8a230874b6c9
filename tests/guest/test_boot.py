"""VMs booted from disks that basecache made: the guest itself says what it found.

The guest reads its disk's size, a content mark and a boot counter, writes the counter back, and
powers off. So one line shows that the size is right, that the bytes come through the overlay or the
copy, and that what the guest writes stays in its own disk and out of the base.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

import basecache
from tests.support.guest import boot_disk
from tests.support.needs import need_tool

MIB = 2**20
GIB = 2**30
INSTANCE = "6f1c2a58-3f0b-4a53-9d0c-6f2f5a1f7c11"

pytestmark = pytest.mark.slow


@pytest.fixture
def own_copy(guest_image: Path, tmp_path: Path) -> Path:
    """The image as a raw disk that no cache has touched."""
    disk = tmp_path / "own.raw"
    qemu_img = need_tool("qemu-img", "scripts/need-packages run")
    subprocess.run([qemu_img, "convert", "-f", "qcow2", "-O", "raw", guest_image, disk], check=True)
    return disk


def test_image_boots_and_keeps_what_it_writes(own_copy: Path) -> None:
    first = boot_disk(own_copy, "raw")
    second = boot_disk(own_copy, "raw")
    assert (first.size_bytes, first.boot) == (64 * MIB, 1)
    assert (second.size_bytes, second.boot, second.marker) == (64 * MIB, 2, first.marker)


def test_a_disk_that_cannot_boot_is_told(own_copy: Path) -> None:
    with own_copy.open("r+b") as disk:
        disk.write(bytes(512))
    with pytest.raises(AssertionError, match="said nothing"):
        boot_disk(own_copy, "raw")


@pytest.mark.parametrize(("backend", "disk_format"), [("qcow2", "qcow2"), ("raw", "raw")])
def test_disk_from_the_cache_boots(
    backend: str, disk_format: str, guest_image: Path, own_copy: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(guest_image, images)
    (images / "SHA256SUMS").write_text(f"{digest_of(guest_image)}  {guest_image.name}\n")
    host = basecache.open_host(
        instances_path=tmp_path / "vms",
        host="h1",
        source={"driver": "directory", "path": images},
    )
    [image] = host.images()
    base = host.ensure(image.id).path
    assert base is not None
    before = digest_of(base)

    disk = host.create_disk(
        instance=INSTANCE, image=image.id, name="disk", size=GIB, backend=backend
    )
    first = boot_disk(disk.path, disk_format)
    second = boot_disk(disk.path, disk_format)

    assert first.size_bytes == GIB
    assert (first.boot, second.boot) == (1, 2)
    assert first.marker == boot_disk(own_copy, "raw").marker
    assert digest_of(base) == before


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
