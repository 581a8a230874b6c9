"""The folder that the pages of the documentation work in."""

from __future__ import annotations

import shutil
from hashlib import sha256
from pathlib import Path

import pytest

_CONFIG = """\
[DEFAULT]
instances_path = vms
host = h1

[source]
driver = directory
path = images
"""


@pytest.fixture
def tour(tmp_path: Path, guest_image: Path) -> Path:
    """The tutorial's folder before anything is fetched: an image, its digest, a configuration."""
    folder = tmp_path / "tour"
    (folder / "images").mkdir(parents=True)
    image = Path(shutil.copy(guest_image, folder / "images" / "guest.qcow2"))
    digest = sha256(image.read_bytes()).hexdigest()
    (folder / "images" / "SHA256SUMS").write_text(f"{digest}  {image.name}\n", encoding="utf-8")
    (folder / "basecache.conf").write_text(_CONFIG, encoding="utf-8")
    return folder
