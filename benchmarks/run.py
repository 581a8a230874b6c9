"""Measure basecache against named tools: ``run.py [--only NAME] [--quick]``.

A full run writes docs/performance.md. What needs root (an XFS on a loop file) or a tool that is
not there is left out with a word. Exit code 1 when a goal was missed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import convert
import fetch
import flat
import qcow2
import report
import sweep
from figure import Figure, Skipped
from place import Place

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"

MEASUREMENTS: dict[str, tuple[Callable[[Place], Iterator[Figure]], tuple[str, ...]]] = {
    "sweep": (sweep.measure, ("qemu-img", "find")),
    "qcow2": (qcow2.measure_library, ("qemu-img",)),
    "command": (qcow2.measure_command, ("qemu-img",)),
    "flat": (flat.measure, ("cp",)),
    "flat-xfs": (flat.measure_xfs, ("cp",)),
    "fetch": (fetch.measure_speed, ("curl", "openssl")),
    "fetch-memory": (fetch.measure_memory, ()),
    "convert": (convert.measure, ("qemu-img", "sha256sum")),
}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse(argv)
    names = arguments.only or list(MEASUREMENTS)
    with tempfile.TemporaryDirectory(prefix="basecache-bench-", dir=arguments.scratch) as scratch:
        place = Place(Path(scratch), arguments.quick)
        page = PAGE if arguments.page or not (arguments.only or arguments.quick) else None
        figures = _measure(place, names, page)
    return 1 if any(figure.met is False for figure in figures) else 0


def _measure(place: Place, names: Sequence[str], page: Path | None) -> list[Figure]:
    """Measure in turn. The page is written after each, so a run that is cut off leaves its own."""
    figures: list[Figure] = []
    skipped: list[str] = []
    done: set[str] = set()
    for name in names:
        done.add(name)
        measure, tools = MEASUREMENTS[name]
        try:
            _require(tools)
            for figure in measure(place):
                report.tell(figure)
                figures.append(figure)
        except Skipped as why:
            print(f"{name}: left out: {why}\n", flush=True)
            skipped.append(f"{name}: {why}")
        if page is not None:
            left = [
                f"{other}: not measured in this run" for other in MEASUREMENTS if other not in done
            ]
            report.write(page, figures, [*skipped, *left], place.root)
            print(f"written: {os.path.relpath(page)}", flush=True)
    return figures


def _require(tools: Sequence[str]) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        raise Skipped(f"{', '.join(missing)} not installed")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", choices=MEASUREMENTS, metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="small inputs, few runs, no page")
    parser.add_argument("--page", action="store_true", help="write the page of a part, too")
    parser.add_argument(
        "--scratch", metavar="FOLDER", help="where to measure; takes 12 GiB (default: $TMPDIR)"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
