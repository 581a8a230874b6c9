"""Every command shown in the tutorial and the how-to pages prints what the page says."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.docs.console import Step, read_steps, run_steps
from tests.support.needs import lacking, need_tool

_ROOT = Path(__file__).resolve().parents[2]
_TUTORIAL = _ROOT / "docs" / "tutorial.md"
_HOWTOS = [
    page
    for page in sorted((_ROOT / "docs" / "howto").glob("*.md"))
    if "```console" in page.read_text(encoding="utf-8")
]


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has read enough hangs up; that is its right."""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """No lines among the test's."""


@pytest.fixture
def environment(tmp_path: Path, guest_image: Path) -> Iterator[dict[str, str]]:
    """That of a reader who did the set-up; ``WEB`` offers the folder ``tour/images``."""
    need_tool("qemu-system-x86_64", "scripts/need-packages boot")
    programs = _ROOT / ".venv" / "bin"
    if not (programs / "basecache").exists():
        lacking(str(programs / "basecache"), "run: make venv")
    assert guest_image == _ROOT / ".run" / "cache" / "guest.qcow2"
    handler = partial(_Quiet, directory=str(tmp_path / "tour" / "images"))
    with _Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "CHECKOUT": str(_ROOT),
            "WEB": f"http://127.0.0.1:{server.server_port}",
            "LC_ALL": "C.UTF-8",
        }
        server.shutdown()


@pytest.mark.parametrize("page", _HOWTOS, ids=lambda page: page.stem)
def test_how_to_shows_what_happens(page: Path, tour: Path, environment: dict[str, str]) -> None:
    _compare(read_steps(page), tour, environment)


def test_tutorial_shows_what_happens(tmp_path: Path, environment: dict[str, str]) -> None:
    _compare(read_steps(_TUTORIAL), tmp_path, environment)


def test_the_pages_with_commands_are_found() -> None:
    assert {page.stem for page in _HOWTOS} >= {"space", "verification", "beside-nova", "kernels"}
    assert len(read_steps(_TUTORIAL)) > 10


def test_a_page_that_says_something_else_is_noticed() -> None:
    assert Step("x", "removed ... freed").matches("removed 3 files, 5 B freed\n")
    assert not Step("x", "removed ... freed").matches("removed 3 files\n")
    assert not Step("x", "").matches("error: nothing is there\n")


def _compare(steps: list[Step], folder: Path, environment: dict[str, str]) -> None:
    printed = run_steps(steps, folder, environment)
    for step, output in zip(steps, printed, strict=True):
        assert step.matches(output), (
            f"$ {step.command}\n\nthe page says:\n{step.expected}\n\nit prints:\n{output}"
        )
