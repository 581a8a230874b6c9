"""What a benchmark says: figures, each against a named tool measured in the same run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


class Skipped(Exception):
    """A figure cannot be had here; the message says what it needs."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Repeated measurements of one thing, in one unit."""

    least: float
    median: float
    most: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float], scale: float = 1.0) -> Spread:
        scaled = [value * scale for value in values]
        return cls(min(scaled), statistics.median(scaled), max(scaled), len(scaled))

    def __str__(self) -> str:
        return " / ".join(_round(value) for value in (self.least, self.median, self.most))


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    ``ours`` and ``other`` are in ``unit``, in which less is better. ``goal`` says in words what
    is wanted, ``met`` whether the medians meet it (None: it is there to compare, not to meet).
    """

    name: str
    ours: Spread
    other: Spread | None
    other_name: str
    unit: str
    goal: str = ""
    met: bool | None = None

    @property
    def ratio(self) -> float | None:
        """How many times as fast as the named tool, by the medians: above 1 is faster."""
        return None if self.other is None else self.other.median / self.ours.median

    @property
    def verdict(self) -> str:
        return {True: "met", False: "MISSED", None: "-"}[self.met]

    @property
    def runs(self) -> int:
        return self.ours.runs


def _round(value: float) -> str:
    """Three digits that mean something, without an exponent."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 4
    return f"{value:.{digits}f}"
