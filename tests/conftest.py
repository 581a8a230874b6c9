"""Fixtures live in tests/support, a topic a file; this loads them all."""

from __future__ import annotations

from pathlib import Path

_SUPPORT = Path(__file__).parent / "support"

pytest_plugins = [
    f"tests.support.{path.stem}" for path in sorted(_SUPPORT.glob("*.py")) if path.stem != "__init__"
]
