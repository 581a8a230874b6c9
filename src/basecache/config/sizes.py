"""Sizes as people write them: ``512M``, ``10G``, ``1.5T``; and amounts, which may be ``80%`` too.

Suffixes are binary, as qemu-img's are: K is 1024 bytes. A bare number is bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_SUFFIXES = ("", "K", "M", "G", "T", "P")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGTP]?)(?:(?<=[KMGTP])(?:iB)?)?", re.IGNORECASE)
_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*%")


@dataclass(frozen=True, slots=True)
class Amount:
    """So many bytes, or a share of a whole that is known later."""

    value: int | Fraction

    def of(self, total_bytes: int) -> int:
        """The bytes this comes to where the whole is ``total_bytes``."""
        if isinstance(self.value, Fraction):
            return int(self.value * total_bytes)
        return self.value

    def __str__(self) -> str:
        if isinstance(self.value, Fraction):
            return f"{float(self.value * 100):g}%"
        return format_size(self.value)


def parse_size(text: str | int) -> int:
    """Bytes; ValueError when ``text`` is not a size."""
    if isinstance(text, int) and not isinstance(text, bool):
        if text < 0:
            raise ValueError(f"{text} is below 0")
        return text
    match = _SIZE.fullmatch(str(text).strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size; write bytes, or a number with K, M, G, T or P")
    number, suffix = match.groups()
    return int(Fraction(number) * 1024 ** _SUFFIXES.index(suffix.upper()))


def parse_amount(text: str | int | Amount) -> Amount:
    """A size, or a percentage from 0% to 100%; ValueError when it is neither."""
    if isinstance(text, Amount):
        return text
    match = _PERCENT.fullmatch(str(text).strip())
    if match is None:
        return Amount(parse_size(text))
    share = Fraction(match.group(1)) / 100
    if share > 1:
        raise ValueError(f"{text!r} is more than the whole")
    return Amount(share)


def format_size(size_bytes: int) -> str:
    """The shortest text that :func:`parse_size` reads as exactly ``size_bytes``."""
    power = 0
    while size_bytes and size_bytes % 1024 == 0 and power + 1 < len(_SUFFIXES):
        size_bytes //= 1024
        power += 1
    return f"{size_bytes}{_SUFFIXES[power]}"
