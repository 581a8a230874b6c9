"""Pins: a promise that an entry stays until a time, or until it is unpinned.

A pin is a file of its own, ``.pins/<name>``, so that it outlives records and binds files that
are not there yet. A pin that cannot be read counts as one without an end.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from basecache import errors, events
from basecache.cache import locks, records
from basecache.cache.layout import Layout

_LOCK = "pins"


@dataclass(frozen=True, slots=True)
class Pin:
    """``until`` is in seconds since the epoch; None has no end."""

    name: str
    reason: str
    until: float | None
    made_at: float
    image_id: str | None = None

    def holds(self, now: float) -> bool:
        return self.until is None or now < self.until


def write(
    layout: Layout, name: str, *, reason: str, until: float | None, image_id: str | None = None
) -> Pin:
    """Pin the entry ``name``; an earlier pin of it is replaced."""
    pin = Pin(name, reason, until, time.time(), image_id)
    if until is not None and not until > pin.made_at:
        raise errors.UsageError("the pin would end in the past", "give a later --until")
    try:
        locks.make_folder(layout.pins)
    except OSError as error:
        raise errors.from_os(error, layout.pins, "making the folder") from error
    content = {
        "reason": reason,
        "until": until,
        "made_at": pin.made_at,
        "image_id": image_id,
    }
    with locks.hold(layout.own_lock(_LOCK)):
        records.replace_durably(layout.pin(name), json.dumps(content).encode() + b"\n")
    return pin


def remove(layout: Layout, name: str) -> None:
    """Take the pin of ``name`` away; NotFound when it has none."""
    try:
        layout.pin(name).unlink()
    except FileNotFoundError:
        raise errors.NotFound("pin", name, str(layout.pins)) from None
    except OSError as error:
        raise errors.from_os(error, layout.pin(name), "unpinning") from error


def drop_ended(layout: Layout, emit: events.Emit = events.ignore) -> None:
    """Remove the pins whose time is over; one that is made anew meanwhile stays."""
    with locks.hold(layout.own_lock(_LOCK)):
        now = time.time()
        for name, pin in read_all(layout, emit).items():
            if not pin.holds(now):
                try:
                    remove(layout, name)
                except errors.NotFound:
                    continue
                except errors.StorageFailed as error:
                    emit(events.Trouble(f"pin {name}", f"it has ended and stays: {error}"))


def read_all(layout: Layout, emit: events.Emit = events.ignore) -> dict[str, Pin]:
    """Every pin by entry name, those that have ended too."""
    try:
        paths = sorted(layout.pins.iterdir())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise errors.from_os(error, layout.pins, "reading the pins in") from error
    found = (_read(path, emit) for path in paths if not path.name.startswith("."))
    return {pin.name: pin for pin in found if pin is not None}


def _read(path: Path, emit: events.Emit) -> Pin | None:
    try:
        content = json.loads(path.read_bytes())
        until = content["until"]
        return Pin(
            path.name,
            str(content["reason"]),
            None if until is None else float(until),
            float(content["made_at"]),
            content.get("image_id"),
        )
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OSError) as error:
        emit(events.Trouble(f"pin {path}", f"cannot be read and counts as endless: {error}"))
        return Pin(path.name, "a pin that cannot be read", None, 0.0)
