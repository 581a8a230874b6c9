"""Every command shown in the tutorial and the how-to pages prints what the page says."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.console import read_steps, run_steps
from tests.support.needs import need_tool

_ROOT = Path(__file__).resolve().parents[2]
_DOCS = _ROOT / "docs"
_PAGES = [
    page
    for page in sorted([_DOCS / "tutorial.md", *(_DOCS / "howto").glob("*.md")])
    if "```console" in page.read_text(encoding="utf-8")
]


@pytest.fixture
def checkout(tmp_path: Path, guest_image: Path) -> dict[str, str]:
    """The environment of a reader who did the set-up: PATH and CHECKOUT."""
    need_tool("qemu-system-x86_64", "scripts/need-packages boot")
    path = f"{_ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    assert shutil.which("basecache", path=path), "make venv"
    assert guest_image == _ROOT / ".run" / "cache" / "guest.qcow2"
    # A page says when it goes on in the tutorial's folder; it begins as the tutorial's begins.
    tour = tmp_path / "tour"
    (tour / "images").mkdir(parents=True)
    shutil.copy(guest_image, tour / "images" / "guest.qcow2")
    subprocess.run("sha256sum * > SHA256SUMS", shell=True, cwd=tour / "images", check=True)
    (tour / "basecache.conf").write_text(_CONFIG, encoding="utf-8")
    return {"PATH": path, "HOME": str(tmp_path), "CHECKOUT": str(_ROOT), "LC_ALL": "C.UTF-8"}


_CONFIG = """\
[DEFAULT]
instances_path = vms
host = h1

[source]
driver = directory
path = images
"""


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.stem)
def test_commands_print_what_the_page_says(
    page: Path, tmp_path: Path, checkout: dict[str, str]
) -> None:
    folder = tmp_path if page.stem == "tutorial" else tmp_path / "tour"
    if page.stem == "tutorial":
        shutil.rmtree(tmp_path / "tour")
    steps = read_steps(page)
    printed = run_steps(steps, folder, checkout)
    for step, output in zip(steps, printed, strict=True):
        assert step.matches(output), (
            f"$ {step.command}\n\nthe page says:\n{step.expected}\n\nit prints:\n{output}"
        )


def test_a_page_with_console_blocks_is_found() -> None:
    assert {page.stem for page in _PAGES} >= {"tutorial", "space", "verification"}
