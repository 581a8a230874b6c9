"""The command, at hand."""

from __future__ import annotations

import pytest

from tests.cli.running import Command
from tests.support.place import Place


@pytest.fixture
def run(place: Place, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(place, capsys)
