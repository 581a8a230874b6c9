"""Fixtures of this folder."""

from tests.usage.disks import stand

__all__ = ["stand"]
