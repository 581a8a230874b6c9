"""Progress for people: a bar per image on a terminal, nothing in a pipe, troubles always."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from basecache import events

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@contextlib.contextmanager
def watch(*, quiet: bool) -> Iterator[events.Emit]:
    """An emitter that shows progress on stderr when a person sits there."""
    shown = _Bars() if sys.stderr.isatty() and not quiet else None
    try:
        yield shown.see if shown else tell_trouble
    finally:
        if shown:
            shown.stop()


def tell_trouble(event: events.Event) -> None:
    """Print what an operator must see."""
    if isinstance(event, events.Trouble):
        print(f"warning: {event.what}: {event.why}", file=sys.stderr)
    elif isinstance(event, events.Retrying):
        where = f" at byte {event.offset}" if event.offset else ""
        print(f"warning: {event.why}; trying again{where}", file=sys.stderr)


class _Bars:
    """Bars, made when the first long piece of work reports: rich takes 60 ms to import."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def see(self, event: events.Event) -> None:
        match event:
            case events.Fetching(image, source, done, total):
                self._show(f"{image[:36]} from {source}", done, total)
            case events.Converting(image, from_format, to_format, fraction):
                self._show(f"{image[:36]} {from_format} to {to_format}", fraction * 100, 100)
            case events.Verifying(path, done, total):
                self._show(f"verifying {path.name[:24]}", done, total)
            case events.Trouble() | events.Retrying():
                self._pause(event)
            case _:
                pass

    def _show(self, what: str, done: float, total: float | None) -> None:
        if self._progress is None:
            self._progress = _make_progress()
            self._progress.start()
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total)
        self._progress.update(self._tasks[what], completed=done, total=total)

    def _pause(self, event: events.Event) -> None:
        if self._progress is None:
            tell_trouble(event)
            return
        self._progress.stop()
        tell_trouble(event)
        self._progress.start()

    def stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()


def _make_progress() -> Progress:
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
