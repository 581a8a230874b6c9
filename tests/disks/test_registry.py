"""``images_type`` chooses the backend."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from basecache import errors
from basecache.cache.layout import Layout
from basecache.disks import by_name


@pytest.mark.parametrize(
    ("name", "use_cow_images", "chosen"),
    [
        ("raw", True, "raw"),
        ("flat", True, "raw"),
        ("qcow2", False, "qcow2"),
        ("default", True, "qcow2"),
        ("default", False, "raw"),
        (None, True, "qcow2"),
        ("", False, "raw"),
    ],
)
def test_images_type_chooses_the_backend(
    tmp_path: Path, name: str | None, use_cow_images: bool, chosen: str
) -> None:
    backend = by_name(name, Layout(tmp_path), use_cow_images=use_cow_images)
    assert (backend.name, backend.format) == (chosen, chosen)


def test_an_unknown_images_type_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(errors.UnknownChoice) as caught:
        by_name("floppy", Layout(tmp_path))
    assert caught.value.known == ("raw", "flat", "qcow2", "default")


def test_choosing_one_backend_does_not_load_the_others() -> None:
    script = (
        "import sys; from pathlib import Path; from basecache.cache.layout import Layout;"
        "from basecache.disks import by_name; by_name('raw', Layout(Path('.')));"
        "print('basecache.disks.qcow2' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
