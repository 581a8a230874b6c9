"""What the tests of sweeps share."""

from __future__ import annotations

from pathlib import Path

from basecache.agent.sweep import SweepReport
from basecache.model import Decision
from tests.support.place import DAY, Place, make_old

SHA1 = "ab" * 20


def decided(report: SweepReport, path: Path) -> Decision:
    """The one decision about a file."""
    (decision,) = [each for each in report.decisions if each.path == path]
    return decision


def put(place: Place, *, age: float = 3 * DAY) -> str:
    """An image in the cache that nobody used for ``age`` seconds; its id."""
    image = place.add_raw()
    place.host().ensure(image)
    make_old(place.entry(image), age)
    return image
