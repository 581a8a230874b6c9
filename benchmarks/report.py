"""The figures as a table: on the terminal while they come, and as docs/performance.md."""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from figure import Figure
from place import file_system

_HEADS = ("figure", "unit", "ours", "named tool", "its time", "ratio", "goal", "verdict", "runs")

_PREFACE = """\
# Performance

Written by `make bench`; do not edit. Every figure is measured against a named tool in the same
run, in turn (A B A B), on the same files and in the same state of the page cache. *Ours* and *its
time* are minimum / median / maximum. The *ratio* is how many times as fast as the named tool,
by the medians: above 1 is faster. How each is measured stands in `benchmarks/README.md`.
"""


def row(figure: Figure) -> tuple[str, ...]:
    """The cells of one figure."""
    ratio = figure.ratio
    return (
        figure.name,
        figure.unit,
        str(figure.ours),
        figure.other_name or "-",
        "-" if figure.other is None else str(figure.other),
        "-" if ratio is None else f"{ratio:.2f}",
        figure.goal or "-",
        figure.verdict,
        str(figure.runs),
    )


def tell(figure: Figure) -> None:
    """Print one figure, as soon as it is there."""
    name, unit, ours, other_name, other, ratio, goal, verdict, runs = row(figure)
    print(f"{name}\n    ours {ours} {unit} ({runs} runs)")
    if figure.other is not None:
        print(f"    {other_name}: {other} {unit}; ratio {ratio}")
    if figure.goal:
        print(f"    goal: {goal}: {verdict}")
    print(flush=True)


def write(path: Path, figures: Sequence[Figure], skipped: Iterable[str], scratch: Path) -> None:
    """The whole run as a page."""
    lines = [_PREFACE, *_describe_machine(scratch), ""]
    lines += [_line(_HEADS), _line(["---"] * len(_HEADS))]
    lines += [_line(row(figure)) for figure in figures]
    if skipped := list(skipped):
        lines += ["", "Not measured:", "", *(f"- {why}" for why in skipped)]
    path.write_text("\n".join(lines) + "\n")


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _describe_machine(scratch: Path) -> list[str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    processor = next(
        (line.partition(":")[2].strip() for line in _read("/proc/cpuinfo") if "model name" in line),
        platform.machine(),
    )
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    facts = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{os.cpu_count()} CPUs ({processor}), {memory:.0f} GiB of memory",
        "load at the end": f"{load} (over 1, 5, 15 minutes)",
        "scratch file system": file_system(scratch),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "qemu-img": _version("qemu-img", "--version"),
        "curl": _version("curl", "--version"),
        "coreutils": _version("cp", "--version"),
        "openssl": _version("openssl", "version"),
    }
    return [f"- {name}: {value}" for name, value in facts.items()]


def _read(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _version(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return "not installed"
    said = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return said.splitlines()[0]
