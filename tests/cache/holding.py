"""An empty cache of the test's own, and files put into it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from basecache import events
from basecache.cache.layout import Layout
from basecache.cache.store import Store

SHA1 = "0123456789abcdef0123456789abcdef01234567"


def make_layout(instances: Path, info_pattern: str | None = None) -> Layout:
    layout = Layout(instances, info_pattern=info_pattern)
    Store(layout).prepare()
    return layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A cache in the test's folder."""
    return make_layout(tmp_path)


def write_entry(layout: Layout, name: str = SHA1, content: bytes = b"x" * 4096) -> Path:
    path = layout.entry(name)
    path.write_bytes(content)
    return path


def set_age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


class Seen(list[events.Event]):
    """An emitter that keeps what it is given."""

    def __call__(self, event: events.Event) -> None:
        self.append(event)

    @property
    def troubles(self) -> list[str]:
        return [f"{e.what}: {e.why}" for e in self if isinstance(e, events.Trouble)]
