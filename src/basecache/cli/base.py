"""What the commands share: opening the host, telling errors, columns for people and programs."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from cliff import columns, command, lister, show

from basecache import errors, events
from basecache.agent.host import Host


class Told:
    """A command that tells its errors in plain words and leaves with their exit code.

    ``outcome`` is the exit code of a command that printed its results all the same. Only a
    command that puts something into the cache ``makes_folders``: to look at a cache that is not
    there must not make one.
    """

    outcome = 0
    makes_folders = False
    app: Any
    app_args: Any

    def run(self, parsed_args: Any) -> int:
        try:
            result: int = super().run(parsed_args)  # type: ignore[misc]
        except errors.BasecacheError as error:
            if self.app_args.debug:
                raise
            tell_error(error)
            return error.exit_code
        return result or self.outcome

    @contextlib.contextmanager
    def host(self, **overrides: Any) -> Iterator[Host]:
        """This host's cache; progress is shown on a terminal while the block lasts."""
        from basecache.cli.progress import watch  # noqa: PLC0415

        with watch(quiet=self.app_args.verbose_level == 0) as emit:
            yield open_host(self.app_args, emit=emit, make_folders=self.makes_folders, **overrides)


class Command(Told, command.Command):
    """A command that prints what it wants."""


class Lister(Told, lister.Lister):
    """A command that gives a table."""


class ShowOne(Told, show.ShowOne):
    """A command that shows one thing."""


def open_host(arguments: Any, *, emit: events.Emit, make_folders: bool, **overrides: Any) -> Host:
    """The host that the global options describe; ``overrides`` come on top of ``--set``."""
    from basecache import wiring  # noqa: PLC0415

    options = parse_settings(arguments.set)
    for name, value in overrides.items():
        if isinstance(value, dict):
            options[name] = {**options.get(name, {}), **value}
        elif value is not None:
            options[name] = value
    return wiring.open_host(arguments.config_file, emit=emit, make_folders=make_folders, **options)


def parse_settings(texts: list[str]) -> dict[str, Any]:
    """``--set`` arguments as open_host takes them; UsageError for one that is none."""
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        group, dot, option = name.rpartition(".")
        if not equals or not option or (dot and not group):
            raise errors.UsageError(f"--set {text!r} is not [GROUP.]OPTION=VALUE")
        if group in ("", "DEFAULT"):
            options[option] = value
        else:
            options.setdefault(group, {})[option] = value
    return options


def tell_error(error: errors.BasecacheError) -> None:
    """Say on stderr what happened and what to do next."""
    print(f"error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)


def require_columns(asked: list[str], names: tuple[str, ...]) -> None:
    """Refuse a column that is not there before anything is done; UnknownChoice."""
    for column in asked:
        if column not in names:
            raise errors.UnknownChoice("column", column, names)


def is_for_people(arguments: Any) -> bool:
    """Whether a whole table is wanted, and so what a person wants to see of it."""
    return bool(arguments.formatter == "table" and not arguments.columns)


def add_usage_file(parser: Any) -> None:
    """The option that names the instances file."""
    parser.add_argument(
        "--usage-file",
        metavar="FILE",
        help="a JSON list of all instances of all hosts that share this storage, as evidence of "
        "use besides the disks themselves",
    )


def usage_options(usage_file: str | None) -> dict[str, Any]:
    """The options that ``--usage-file`` stands for."""
    if usage_file is None:
        return {}
    return {"basecache": {"usage": ["folder", "file"], "usage_file": usage_file}}


class Size(columns.FormattableColumn[int | None]):
    """Bytes: in the largest unit that fits for people, as a number for programs."""

    def human_readable(self) -> str:
        return "" if self._value is None else format_bytes(self._value)


class Span(columns.FormattableColumn[float | None]):
    """Seconds: as people say them, as a number for programs."""

    def human_readable(self) -> str:
        return "" if self._value is None else format_seconds(self._value)


class Names(columns.FormattableColumn[list[str]]):
    """Several names: one below the other for people, a list for programs."""

    def human_readable(self) -> str:
        return "\n".join(self._value)


class Lines(columns.FormattableColumn[str]):
    """A text of several lines: as it is for people, one line for programs."""

    def human_readable(self) -> str:
        return self._value

    def machine_readable(self) -> str:
        return self._value.replace("\n", " ")


class Counts(columns.FormattableColumn[dict[str, int]]):
    """How many of each: in a row for people, an object for programs."""

    def human_readable(self) -> str:
        return ", ".join(f"{number} {what}" for what, number in self._value.items())


class Moment(columns.FormattableColumn[float | None]):
    """A time: local for people, seconds since the epoch for programs."""

    def human_readable(self) -> str:
        if self._value is None:
            return ""
        return datetime.fromtimestamp(self._value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def format_bytes(count: float) -> str:
    """For people: 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def format_seconds(seconds: float) -> str:
    """For people: 12 s, 5 min, 3 h, 4 d."""
    if seconds < 0:
        return f"in {format_seconds(-seconds)}"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_until(text: str | None) -> float | None:
    """A time as seconds since the epoch: ISO 8601, or from now on: 90m, 12h, 7d, 2w."""
    if text is None:
        return None
    if text[:-1].isdigit() and text[-1] in _UNITS:
        return time.time() + int(text[:-1]) * _UNITS[text[-1]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise errors.UsageError(
            f"{text!r} is no time", "give one as 2030-01-31T12:00:00+00:00, or 90m, 12h, 7d, 2w"
        ) from None


def parse_bytes(text: str) -> int:
    """A size: bytes, or with K, M, G or T."""
    from basecache import config  # noqa: PLC0415

    try:
        return config.parse_size(text)
    except ValueError as error:
        raise errors.UsageError(f"{text!r} is no size: {error}", "give one as 20G") from error
