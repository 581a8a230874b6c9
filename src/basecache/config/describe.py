"""The options in words: a commented file, and the facts that reference pages are made from."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from oslo_config import cfg

from basecache.config import catalogue
from basecache.config.own import ParsedType

_WIDTH = 88
_HEAD = """\
Options of basecache. Every line that sets something is commented out and shows the default.
Groups marked "shared with Nova" have Nova's names and meanings: nova.conf may be given as well
(basecache --config-file /etc/nova/nova.conf --config-file /etc/basecache/basecache.conf ...);
the later file wins."""


@dataclass(frozen=True, slots=True)
class OptionFacts:
    """One option as a person reads of it. ``default`` is None for "not set"."""

    group: str
    name: str
    kind: str
    default: str | None
    limits: str | None
    choices: tuple[str, ...]
    older: tuple[str, ...]
    secret: bool
    help: str


def describe_options() -> Iterator[OptionFacts]:
    """Every option, our own groups first."""
    for group, opt in catalogue.options():
        yield OptionFacts(
            group=group,
            name=opt.name,
            kind=_kind(opt),
            default=_default(opt),
            limits=_limits(opt),
            choices=tuple(str(choice) for choice in getattr(opt.type, "choices", None) or ()),
            older=tuple(f"[{g}] {n}" for g, n in catalogue.older_names(group, opt)),
            secret=opt.secret,
            help=opt.help or "",
        )


def group_help(group: str) -> str:
    """What a group is about, in one line."""
    return catalogue.GROUPS[group][0]


def write_sample() -> str:
    """A file in which every option is explained and commented out."""
    lines = [f"# {line}" for line in _HEAD.splitlines()]
    group = None
    for option in describe_options():
        if option.group != group:
            group = option.group
            lines += ["", "", f"[{group}]", f"# {group_help(group)}"]
        lines += ["", *_comment(option), f"#{option.name} = {option.default or ''}".rstrip()]
    return "\n".join(lines) + "\n"


def _comment(option: OptionFacts) -> Iterator[str]:
    facts = [option.kind]
    if option.limits:
        facts.append(option.limits)
    if option.choices:
        facts.append(f"one of {', '.join(option.choices)}")
    if option.older:
        facts.append(f"formerly {', '.join(option.older)}")
    for paragraph in (option.help, f"({'; '.join(facts)})"):
        for line in textwrap.wrap(paragraph, _WIDTH, break_on_hyphens=False):
            yield f"# {line}"


def _kind(opt: cfg.Opt) -> str:
    if isinstance(opt.type, ParsedType):
        return opt.type.type_name
    kinds: list[tuple[type[cfg.Opt], str]] = [
        (cfg.BoolOpt, "true or false"),
        (cfg.IntOpt, "whole number"),
        (cfg.FloatOpt, "number"),
        (cfg.ListOpt, "list, separated by commas"),
        (cfg.MultiStrOpt, "text, may be repeated"),
    ]
    return next((word for kind, word in kinds if isinstance(opt, kind)), "text")


def _default(opt: cfg.Opt) -> str | None:
    if opt.sample_default is not None:
        return str(opt.sample_default)
    if opt.default is None or opt.default in ("", []):
        return None
    if isinstance(opt.default, bool):
        return str(opt.default).lower()
    if isinstance(opt.default, list):
        return ",".join(opt.default)
    return str(opt.default)


def _limits(opt: cfg.Opt) -> str | None:
    low = getattr(opt.type, "min", None)
    return None if low is None else f"at least {low:g}"
