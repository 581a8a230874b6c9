"""Write the reference page of all commands, made from the parsers of the commands themselves.

    python docs/generate_commands.py [FILE]

Without FILE it writes ``reference/commands.md`` beside itself.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from cliff import command, lister, show

from basecache.cli.main import COMMANDS, Basecache, LazyCommand

_PAGE = Path(__file__).parent / "reference" / "commands.md"
_HEAD = """\
# Commands

    basecache [global options] NOUN VERB [options]

Global options stand before the noun. Progress is shown on a terminal and not in a pipe; warnings
and errors go to stderr, an error as `error: ...` and often a `hint: ...` of what to do next.
[Exit codes](exit-codes.md) are the same for all commands.
"""
_OUTPUT = """\
## Output

Most commands give a list or show one thing, as a table for people. For programs these options
change the form; [JSON shapes](json.md) says what `-f json` gives for each command.
"""
_PLAIN = "plain text"
_FORMS = {"a list": lister.Lister, "one thing": show.ShowOne, _PLAIN: command.Command}
# A list and a thing shown whose commands have no options of their own.
_WITHOUT_OPTIONS = ("sharer list", "cache stat")


def render() -> str:
    """The page, in Markdown."""
    app = Basecache()
    parts = [_HEAD, "## Global options\n", *_define(_actions(app.parser))]
    parts += [_OUTPUT, *_define(_shared_actions(app))]
    for noun, names in groupby(COMMANDS, key=lambda name: name.split()[0]):
        parts.append(f"## {noun}\n")
        for name in names:
            parts += _describe(app, name)
    return "\n".join(parts)


def _describe(app: Basecache, name: str) -> Iterator[str]:
    kind = _load(name)
    parser = kind(app, None).get_parser(f"basecache {name}")
    text, _, example = (inspect.getdoc(kind) or "").partition("\nexample:")
    form = next(word for word, made in _FORMS.items() if issubclass(kind, made))
    shared = {action.dest for action in _shared_actions(app)} if form != _PLAIN else set()
    own = [action for action in _actions(parser) if action.dest not in shared]
    yield f"### {name}\n"
    yield f"{text.strip()}\n"
    yield f"```text\n{_usage(parser, own)}\n```\n"
    yield from _define(own)
    yield f"Prints {form}.\n"
    if example.strip():
        yield f"```sh\n{example.strip()}\n```\n"


def _shared_actions(app: Basecache) -> list[argparse.Action]:
    """The options that cliff gives to every list and everything shown."""
    found: dict[tuple[str, ...], argparse.Action] = {}
    for name in _WITHOUT_OPTIONS:
        for action in _actions(_load(name)(app, None).get_parser("")):
            found.setdefault(tuple(action.option_strings), action)
    return list(found.values())


def _load(name: str) -> Any:
    return LazyCommand(name, COMMANDS[name]).load()


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    shown = [a for a in parser._actions if a.help != argparse.SUPPRESS]
    return [a for a in shown if "-h" not in a.option_strings]


def _usage(parser: argparse.ArgumentParser, own: list[argparse.Action]) -> str:
    formatter = argparse.HelpFormatter(parser.prog, width=96)
    groups: Iterable[Any] = [
        group
        for group in parser._mutually_exclusive_groups
        if all(action in own for action in group._group_actions)
    ]
    formatter.add_usage(None, own, groups, prefix="")
    return formatter.format_help().strip()


def _define(actions: Iterable[argparse.Action]) -> Iterator[str]:
    for action in actions:
        yield f"{_term(action)}\n: {_escape(_help(action))}\n"


def _term(action: argparse.Action) -> str:
    value = ""
    if action.nargs != 0:
        choices = "|".join(str(choice) for choice in action.choices or ())
        metavar = action.metavar if isinstance(action.metavar, str) else None
        value = metavar or choices or action.dest.upper()
    if not action.option_strings:
        return f"`{value}`"
    return f"`{', '.join(action.option_strings)}{' ' if value else ''}{value}`"


def _help(action: argparse.Action) -> str:
    if not action.help:
        raise ValueError(f"{_term(action)} has no help to show")
    return action.help.strip() % {"prog": "basecache", "default": action.default}


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
