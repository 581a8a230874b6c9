"""What a test needs of the machine: skipped with the remedy where missing, an error in CI."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def lacking(what: str, install: str) -> NoReturn:
    """End the test: skipped with the command that would help, failed where CI is set."""
    text = f"{what} is missing; {install}"
    if os.environ.get("CI"):
        pytest.fail(f"in CI nothing is skipped: {text}")
    pytest.skip(text)


def need_tool(tool: str, install: str) -> str:
    """The path of a program."""
    found = shutil.which(tool)
    if found is None:
        lacking(tool, f"install it: {install}")
    return found


def need_root(why: str) -> None:
    """Root, for mounts and other users."""
    if os.geteuid() != 0:
        lacking(f"root ({why})", "run the tests as root")
