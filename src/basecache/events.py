"""Frozen facts the core emits while it works; progress bars, logs and metrics are adaptors.

An emitter is any callable taking an event. It runs in the thread that emits and must not raise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from basecache.model import Action, Reason


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True, slots=True)
class Fetching(Event):
    """A transfer goes on: ``done_bytes`` of ``total_bytes`` (None when not known)."""

    image: str
    source: str
    done_bytes: int
    total_bytes: int | None


@dataclass(frozen=True, slots=True)
class Fetched(Event):
    """All bytes came and their digest is right."""

    image: str
    source: str
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Retrying(Event):
    """A source failed in a way worth another try; ``offset`` is where reading goes on."""

    image: str
    source: str
    attempt: int
    offset: int
    why: str


@dataclass(frozen=True, slots=True)
class Converting(Event):
    """A conversion goes on, ``fraction`` from 0 to 1."""

    image: str
    from_format: str
    to_format: str
    fraction: float


@dataclass(frozen=True, slots=True)
class Published(Event):
    """An entry became visible in the cache."""

    image: str
    path: Path
    size_bytes: int
    allocated_bytes: int


@dataclass(frozen=True, slots=True)
class Hit(Event):
    """An image was asked for and was there."""

    image: str
    path: Path


@dataclass(frozen=True, slots=True)
class Adopted(Event):
    """A file without a valid record was met and given one."""

    path: Path
    why: str


@dataclass(frozen=True, slots=True)
class DiskCreated(Event):
    """A VM disk was made."""

    path: Path
    backend: str
    size_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Decided(Event):
    """A sweep carried out one decision."""

    path: Path
    action: Action
    code: Reason
    reason: str


@dataclass(frozen=True, slots=True)
class Verifying(Event):
    """A verification goes on."""

    path: Path
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Trouble(Event):
    """Something went wrong that does not stop the pass but that an operator must see."""

    what: str
    why: str


Emit = Callable[[Event], None]


def ignore(event: Event) -> None:
    """An emitter for those who do not listen."""
