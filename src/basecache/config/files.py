"""Configuration files as Nova reads them, kept as the plain assignments they hold."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from oslo_config import iniparser

from basecache import errors

_REFERENCE = re.compile(
    r"(?<![$\\])\$(?:\{([_a-z][._a-z0-9]*)\}|([_a-z][._a-z0-9]*))", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Assignment:
    """One ``name = value`` line, its continuation lines joined by newlines."""

    file: Path
    group: str
    name: str
    value: str

    @property
    def where(self) -> str:
        return f"{self.file}: [{self.group}] {self.name}"


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """One file: its groups in the order met, and every assignment."""

    path: Path
    groups: tuple[str, ...]
    assignments: tuple[Assignment, ...]


def read_files(paths: Iterable[Path | str]) -> tuple[ConfigFile, ...]:
    """Every file, parsed; ConfigError names the file, and the line that does not parse."""
    return tuple(_read_file(Path(path)) for path in paths)


def references(value: str) -> set[str]:
    """The options that a value refers to: ``name`` or ``group.name``."""
    return {braced or plain for braced, plain in _REFERENCE.findall(value)}


def is_novas(file: ConfigFile) -> bool:
    """Whether this looks like a file of Nova's rather than of ours."""
    if file.path.name.startswith("nova"):
        return True
    if {"placement", "neutron"} & set(file.groups):
        return True
    return any(a.group == "DEFAULT" and a.name == "compute_driver" for a in file.assignments)


def find(files: Sequence[ConfigFile], places: Collection[tuple[str, str]]) -> Assignment | None:
    """The last assignment to one of these (group, name) places."""
    found = (a for file in reversed(files) for a in reversed(file.assignments))
    return next((a for a in found if (a.group, a.name) in places), None)


class _Parser(iniparser.BaseParser):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.group = ""
        self.groups: dict[str, None] = {}
        self.assignments: list[Assignment] = []

    def new_section(self, section: str) -> None:
        self.group = section if section == "DEFAULT" else section.lower()
        self.groups[self.group] = None

    def assignment(self, key: str, value: list[str]) -> None:
        if not self.group:
            self.refuse("a value stands before any [group]")
        self.assignments.append(Assignment(self.path, self.group, key, "\n".join(value)))

    def refuse(self, why: str) -> NoReturn:
        raise errors.ConfigError(f"{self.path}, line {self.lineno}: {why}")

    # The line itself stays out of these: it may hold a password.

    def error_invalid_assignment(self, line: str) -> NoReturn:  # noqa: ARG002
        self.refuse("neither '=' nor ':' separates a name from its value")

    def error_empty_key(self, line: str) -> NoReturn:  # noqa: ARG002
        self.refuse("a value has no name")

    def error_unexpected_continuation(self, line: str) -> NoReturn:  # noqa: ARG002
        self.refuse("an indented line continues nothing")

    def error_no_section_end_bracket(self, line: str) -> NoReturn:  # noqa: ARG002
        self.refuse("a [group] has no closing bracket")

    def error_no_section_name(self, line: str) -> NoReturn:  # noqa: ARG002
        self.refuse("a [group] has no name")


def _read_file(path: Path) -> ConfigFile:
    parser = _Parser(path)
    try:
        with path.open(encoding="utf-8") as lines:
            parser.parse(lines)
    except OSError as error:
        raise errors.ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise errors.ConfigError(f"{path}: not UTF-8 text at byte {error.start}") from error
    return ConfigFile(path, tuple(parser.groups), tuple(parser.assignments))
