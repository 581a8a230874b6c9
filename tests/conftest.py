"""Fixtures live in tests/support, a topic a file; this loads them all."""

from __future__ import annotations

from pathlib import Path

import pytest

_SUPPORT = Path(__file__).parent / "support"
_TOPICS = sorted(path.stem for path in _SUPPORT.glob("*.py") if path.stem != "__init__")

pytest.register_assert_rewrite("tests.support")
pytest_plugins = [f"tests.support.{topic}" for topic in _TOPICS]
