"""Running the command in this process, and what it printed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from basecache.cli.main import main
from tests.support.place import Place


@dataclass(frozen=True)
class Ran:
    """What a command left with and printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Command:
    """``basecache`` on one host: called with its words, it gives what came of them."""

    def __init__(self, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
        self._place = place
        self._capsys = capsys

    def __call__(self, *words: object, **overrides: Any) -> Ran:
        self._capsys.readouterr()
        try:
            code = main([*self._place.arguments(**overrides), *map(str, words)])
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = self._capsys.readouterr()
        assert "Traceback" not in said.err + said.out
        return Ran(code, said.out, said.err)
