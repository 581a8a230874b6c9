"""The Python of the page on the library does what the page says."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "library.md"
_BLOCK = re.compile(r"^```pycon\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def test_examples_print_what_the_page_says(tour: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tour)
    text = "\n".join(block["text"] for block in _BLOCK.finditer(_PAGE.read_text(encoding="utf-8")))
    test = doctest.DocTestParser().get_doctest(text, {}, _PAGE.name, str(_PAGE), 0)
    assert len(test.examples) > 10
    reports: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=reports.append)
    assert not reports, "".join(reports)
