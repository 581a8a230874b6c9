"""Whether an image is kept as it is or becomes raw before it is published. Pure."""

from __future__ import annotations

from dataclasses import dataclass

_READ_AS_IT_IS = ("raw", "iso")


@dataclass(frozen=True, slots=True)
class Keep:
    """Publish the bytes as they came; ``format`` is what they are."""

    format: str


@dataclass(frozen=True, slots=True)
class ToRaw:
    """Convert from ``source_format`` to raw, and publish that."""

    source_format: str


def plan_conversion(format: str, *, force_raw: bool) -> Keep | ToRaw:  # noqa: A002
    """What to do with an inspected image of ``format``; ``force_raw`` is ``force_raw_images``."""
    if force_raw and format not in _READ_AS_IT_IS:
        return ToRaw(format)
    return Keep(format)
