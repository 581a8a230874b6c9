"""Who uses what.

A provider reports instances and says which hosts it speaks for. A host in the registry of the
storage for which no provider speaks is missing evidence, and with missing evidence nothing is
removed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from basecache.model import Instance


@dataclass(frozen=True, slots=True)
class Report:
    """What one provider knows: instances, and the hosts it speaks for (None: all of them)."""

    provider: str
    instances: tuple[Instance, ...]
    hosts: frozenset[str] | None


class UsageProvider(Protocol):
    """A place that knows instances."""

    @property
    def name(self) -> str:
        """Stands in messages about missing evidence."""
        ...

    def collect(self) -> Report:
        """Everything it knows, whole; EvidenceMissing when it could not be gathered whole."""
        ...
