"""Every option, read once into frozen settings; nobody else reads files or the environment.

``load`` is all that most callers need. Options keep Nova's names, groups, defaults and older
names where Nova has them, so that a ``nova.conf`` works as it is.

oslo.config is imported when something is loaded, checked or printed, not with this module.
"""
# ruff: noqa: PLC0415

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basecache.config.settings import (
    CacheSettings,
    DiskSettings,
    GlanceOptions,
    LvmSettings,
    RbdSettings,
    Settings,
    SourceSettings,
    SpaceSettings,
    UsageSettings,
)
from basecache.config.sizes import Amount, format_size, parse_amount, parse_size

if TYPE_CHECKING:
    from oslo_config import cfg

    from basecache.config.checker import Finding

__all__ = [
    "Amount",
    "CacheSettings",
    "DiskSettings",
    "GlanceOptions",
    "LvmSettings",
    "RbdSettings",
    "Settings",
    "SourceSettings",
    "SpaceSettings",
    "UsageSettings",
    "check",
    "default_config_files",
    "format_size",
    "load",
    "options",
    "parse_amount",
    "parse_size",
    "sample",
]

_DEFAULT_FILE = Path("/etc/basecache/basecache.conf")


def load(config_files: Sequence[Path | str] = (), **overrides: Any) -> Settings:
    """The settings that these files and arguments come to; the later of two files wins.

    An argument names an option of [DEFAULT] (``instances_path="vms"``), or a group with a dict of
    its options (``source={"driver": "directory", "path": "images"}``); values are Python's or
    written as in a file, None counts as not given. Relative paths start at the working directory.

    ConfigError names the file and line, option or argument that cannot be used.
    """
    from basecache.config.files import read_files
    from basecache.config.reader import Options
    from basecache.config.resolve import resolve

    return resolve(Options.open(read_files(config_files), overrides))


def check(config_files: Sequence[Path | str]) -> list[Finding]:
    """Everything that is wrong or doubtful in these files, errors first; empty when all is well.

    ConfigError when a file cannot be read or parsed at all.
    """
    from basecache.config.checker import check_files
    from basecache.config.files import read_files

    return check_files(read_files(config_files))


def sample() -> str:
    """A commented file of every option with its help and default."""
    from basecache.config.describe import write_sample

    return write_sample()


def default_config_files() -> list[Path]:
    """The files read when none is named: basecache's own, where it exists."""
    return [_DEFAULT_FILE] if _DEFAULT_FILE.is_file() else []


def options() -> Iterable[tuple[str, cfg.Opt]]:
    """Every option with the name of its group, our own groups first."""
    from basecache.config import catalogue

    return catalogue.options()
