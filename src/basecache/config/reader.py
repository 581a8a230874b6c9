"""Files and arguments in, one ConfigOpts of our own out, every ``$reference`` in reach.

The later of two files wins, arguments win over files, and the environment stands between them
as for every OpenStack program (``OS_<GROUP>__<OPTION>``).
"""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oslo_config import cfg

from basecache import errors
from basecache.config import catalogue, nova
from basecache.config.files import ConfigFile, find, references

# Nova's defaults of options that nova.conf files refer to and that nothing here reads.
_REFERRED_TO = (
    cfg.StrOpt("bindir", default="/usr/local/bin"),
    cfg.StrOpt("my_block_storage_ip", default="$my_ip"),
    cfg.StrOpt("glance_host", default="$my_ip"),
    cfg.StrOpt("glance_port", default="9292"),
    cfg.StrOpt("glance_protocol", default="http"),
)
_SYSTEM_PACKAGES = ("usr/lib/python3/dist-packages/nova", "usr/lib/python3*/site-packages/nova")


class OptionError(errors.ConfigError):
    """An option that cannot be used: ``where`` it was set, and ``why`` not."""

    def __init__(self, where: str, why: str, advice: str | None = None) -> None:
        super().__init__(f"{where}: {why}", advice)
        self.where = where
        self.why = why


@dataclass(frozen=True, slots=True)
class Options:
    """Values not yet asked for: each is converted, and found wrong, when it is read."""

    conf: cfg.ConfigOpts
    files: tuple[ConfigFile, ...]
    arguments: frozenset[tuple[str, str]]

    @classmethod
    def open(cls, files: Sequence[ConfigFile], overrides: Mapping[str, Any]) -> Options:
        """Files and arguments together; ConfigError for an argument nobody knows."""
        given = list(_flatten(overrides))
        conf = _registered(files)
        _parse(conf, files)
        for group, name, value in given:
            _override(conf, group, name, value)
        options = cls(conf, tuple(files), frozenset((group, name) for group, name, _ in given))
        section = options.read("glance", "auth_section")
        if section:
            conf.register_opts(nova.auth_options(), group=_group(section))
        return options

    def read(self, group: str, name: str) -> Any:
        """The converted value of one option; OptionError when it cannot be used."""
        try:
            return self.conf[name] if group == "DEFAULT" else self.conf[group][name]
        except cfg.NoSuchOptError as error:
            missing = _missing_reference(error)
            raise OptionError(
                self.where(group, name),
                f"it refers to ${missing}, which no file sets",
                f"set {missing}, or write the value out",
            ) from error
        except (cfg.Error, ValueError) as error:
            why = error.__context__ if isinstance(error.__context__, ValueError) else error
            raise OptionError(self.where(group, name), str(why)) from error

    def error(self, group: str, name: str, why: str, advice: str | None = None) -> OptionError:
        """What to raise when a value that could be read makes no sense."""
        return OptionError(self.where(group, name), why, advice)

    def where(self, group: str, name: str) -> str:
        """Where an option is set, under whichever of its names: ``file: [group] name``."""
        if (group, name) not in self.arguments:
            older = [old for old, new in catalogue.newer_names().items() if new == (group, name)]
            found = find(self.files, {(group, name), *older})
            if found:
                return found.where
        return f"[{group}] {name}"


def own_address() -> str:
    """The IPv4 address this host would send from; 127.0.0.1 without a route. Nothing is sent.

    The target is from RFC 5737, as Nova's, so that ``_base_$my_ip`` is the same folder.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.0", 80))
            return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1"


def _registered(files: Sequence[ConfigFile]) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    for group, (text, opts) in catalogue.GROUPS.items():
        if group != "DEFAULT":
            conf.register_group(cfg.OptGroup(group, help=text))
        conf.register_opts(opts, group=_group(group))
    conf.set_default("my_ip", own_address())
    conf.set_default("host", _literal(socket.gethostname()))
    _register_referred_to(conf, files)
    return conf


def _register_referred_to(conf: cfg.ConfigOpts, files: Sequence[ConfigFile]) -> None:
    """Make what any value refers to, and a file or Nova's defaults give, known as plain text."""
    assignments = [a for file in files for a in file.assignments]
    wanted = {name.rpartition(".")[2] for a in assignments for name in references(a.value)}
    known = catalogue.places() | _register_older_names(conf, wanted)
    for place in dict.fromkeys((a.group, a.name) for a in assignments):
        group, name = place
        if name in wanted and place not in known and not name.startswith(("_", "config_")):
            conf.register_opt(cfg.StrOpt(name), group=_group(group))
            known.add(place)
    defaults = [opt for opt in _REFERRED_TO if ("DEFAULT", opt.name) not in known]
    if "pybasedir" in wanted and ("DEFAULT", "pybasedir") not in known:
        defaults += [cfg.StrOpt("pybasedir", default=str(path)) for path in _novas_modules()]
    conf.register_opts(defaults)


def _register_older_names(conf: cfg.ConfigOpts, wanted: set[str]) -> set[tuple[str, str]]:
    """Let a reference to an older name give the value of today's.

    oslo.config 10 looks for today's name in the older name's group, and so gives the default.
    """
    newer = catalogue.newer_names()
    for (group, name), today in newer.items():
        if name in wanted and (group, name) not in catalogue.places():
            conf.register_opt(cfg.StrOpt(name), group=_group(group))
            conf.set_override(name, _reference(*today), group=_group(group))
    return set(newer)


def _reference(group: str, name: str) -> str:
    return f"${{{name}}}" if group == "DEFAULT" else f"${{{group}.{name}}}"


def _novas_modules() -> list[Path]:
    """The folder Nova's modules are in, where this Python or the system's packages have it."""
    spec = importlib.util.find_spec("nova")
    if spec and spec.origin:
        return [Path(spec.origin).parent.parent]
    found = (path for pattern in _SYSTEM_PACKAGES for path in Path("/").glob(pattern))
    return [path.parent for path in found][:1]


def _parse(conf: cfg.ConfigOpts, files: Sequence[ConfigFile]) -> None:
    try:
        conf(
            args=[],
            project="basecache",
            default_config_files=[str(file.path) for file in files],
            default_config_dirs=[],
        )
    except (cfg.Error, OSError, ValueError) as error:
        raise errors.ConfigError(str(error)) from error


def _flatten(overrides: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Arguments as (group, name, value); None means that nothing was given."""
    for key, value in overrides.items():
        if key in catalogue.GROUPS and key != "DEFAULT":
            if not isinstance(value, Mapping):
                raise errors.ConfigError(f"{key} is a group of options and takes a dict")
            yield from ((key, name, item) for name, item in value.items() if item is not None)
        elif value is not None:
            yield "DEFAULT", key, value


def _override(conf: cfg.ConfigOpts, group: str, name: str, value: Any) -> None:
    spelt = name if group == "DEFAULT" else f"[{group}] {name}"
    if name not in catalogue.names(group):
        raise errors.ConfigError(f"unknown option {spelt}", _argument_advice(group, name))
    try:
        conf.set_override(name, _plain(name, value), group=_group(group))
    except (ValueError, TypeError) as error:
        raise errors.ConfigError(f"{spelt}: {error}") from error


def _argument_advice(group: str, name: str) -> str:
    if group == "DEFAULT" and (group, name) not in catalogue.newer_names():
        close = catalogue.nearest(name, [*catalogue.names(group), *catalogue.GROUPS])
        if close:
            return f"did you mean {close}?"
    return catalogue.advice(group, name)


def _plain(name: str, value: Any) -> Any:
    """A Python value as oslo.config takes it: paths and mappings become text."""
    if isinstance(value, os.PathLike):
        return _literal(os.fspath(value))
    if isinstance(value, Mapping):
        return [f"{key}={item}" for key, item in value.items()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_literal(os.fspath(v)) if isinstance(v, os.PathLike) else v for v in value]
    return [value] if name == "virt_mkfs" else value


def _literal(text: str) -> str:
    return text.replace("$", "$$")


def _group(group: str) -> str | None:
    return None if group == "DEFAULT" else group


def _missing_reference(error: BaseException) -> str:
    """The innermost option that was not found; oslo.config names the outermost."""
    name = ""
    cause: BaseException | None = error
    while cause is not None:
        name = cause.opt_name if isinstance(cause, cfg.NoSuchOptError) else name
        cause = cause.__cause__ or cause.__context__
    return name
