"""The console blocks of a page, run in one shell, one after the other.

A line that begins with ``$ `` is a command, ``> `` goes on with it, and what follows is what it
prints. ``...`` stands for anything, over lines too. Blanks and the lines that tables are drawn
with count once however many there are, for a table is as wide as the paths in it.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```console\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = "<<end of output>>"


@dataclass(frozen=True)
class Step:
    """One command and what the page says that it prints."""

    command: str
    expected: str

    def matches(self, printed: str) -> bool:
        """Whether ``printed`` is what the page says."""
        pattern = ".*".join(re.escape(part) for part in _squeeze(self.expected).split("..."))
        return re.fullmatch(pattern, _squeeze(printed), re.DOTALL) is not None


def read_steps(page: Path) -> list[Step]:
    """Every command of every console block of ``page``."""
    blocks = _BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [step for block in blocks for step in _split(block["text"])]


def _split(text: str) -> Iterator[Step]:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        first, *rest = part.splitlines()
        command = [first]
        while rest and rest[0].startswith(">"):
            command.append(rest.pop(0)[2:])
        yield Step("\n".join(command), "\n".join(rest))


def run_steps(steps: list[Step], folder: Path, environment: Mapping[str, str]) -> list[str]:
    """What each step printed, stdout and stderr as they came."""
    script = ["exec 2>&1"]
    for step in steps:
        script += [step.command, f'status=$?; echo "{_MARK}"; (exit $status)']
    done = subprocess.run(
        ["bash"],
        input="\n".join(script) + "\n",
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    *printed, rest = done.stdout.split(f"{_MARK}\n")
    assert len(printed) == len(steps), f"the shell ended early: {rest}{done.stderr}"
    return printed


def _squeeze(text: str) -> str:
    lines = (
        re.sub(r"[ \t]+", " ", re.sub(r"-{3,}", "---", line)).strip() for line in text.split("\n")
    )
    return "\n".join(line for line in lines if line)
