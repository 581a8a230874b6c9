"""Write the reference page of all options, made from the options themselves.

    python docs/generate_options.py [FILE]

Without FILE it writes ``reference/options.md`` beside itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from basecache.config.describe import OptionFacts, describe_options, group_help

_PAGE = Path(__file__).parent / "reference" / "options.md"
_HEAD = """\
# Options

Options stand in files of groups, `[group]` above its `name = value` lines. Where Nova has an
option, its name, group, meaning and older names are Nova's, so that `nova.conf` itself may be
given; a later `--config-file` wins over an earlier one. A value may refer to other options:
`$name`, `${group.name}`. Sizes are bytes, or numbers with K, M, G, T or P (binary).
"""


def render() -> str:
    """The page, in Markdown."""
    parts = [_HEAD]
    for group, options in groupby(describe_options(), key=lambda option: option.group):
        parts.append(f"## [{group}]\n\n{group_help(group)}\n")
        parts += ["\n".join(_describe(option)) + "\n" for option in options]
    return "\n".join(parts)


def _describe(option: OptionFacts) -> Iterator[str]:
    yield f"({_anchor(option)})="
    yield f"### `{option.name}`"
    yield ""
    yield _escape(option.help)
    yield ""
    yield f"- Type: {', '.join(filter(None, (option.kind, option.limits)))}"
    if option.choices:
        yield f"- One of: {', '.join(f'`{choice}`' for choice in option.choices)}"
    yield f"- Default: {_default(option.default)}"
    if option.older:
        yield f"- Older names: {', '.join(f'`{name}`' for name in option.older)}"
    if option.secret:
        yield "- Secret: never printed"


def _anchor(option: OptionFacts) -> str:
    return f"option-{option.group}-{option.name}".lower().replace("_", "-")


def _default(default: str | None) -> str:
    if default is None:
        return "not set"
    if default.startswith("<") and default.endswith(">"):
        return _escape(default[1:-1])
    return f"`{default}`"


def _escape(text: str) -> str:
    """Plain words that Markdown leaves alone."""
    for mark in "\\`*_<>[]$":
        text = text.replace(mark, "\\" + mark)
    return text


def write(target: Path) -> None:
    """Put the page into ``target``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else _PAGE)
