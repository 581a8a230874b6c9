"""Fixtures of this folder."""

from tests.cache.holding import layout

__all__ = ["layout"]
