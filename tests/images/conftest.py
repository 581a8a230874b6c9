"""What the tests of the images room share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.filesystems import MountFileSystem


@pytest.fixture(scope="session")
def small_disk(mount_file_system: MountFileSystem) -> Path:
    """A file system on which 8 MiB fit and 32 MiB do not."""
    return mount_file_system("ext4", size_bytes=20 << 20)
