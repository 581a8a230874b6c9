"""Every option there is, by group, with the words people know it by."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Iterator, Mapping

from oslo_config import cfg

from basecache.config import nova, own

OWN_GROUPS = frozenset(own.GROUPS)
GROUPS: Mapping[str, tuple[str, list[cfg.Opt]]] = {**own.GROUPS, **nova.GROUPS}


def options() -> Iterator[tuple[str, cfg.Opt]]:
    """Every option with its group, our own groups first."""
    for group, (_, opts) in GROUPS.items():
        for opt in opts:
            yield group, opt


def places() -> set[tuple[str, str]]:
    """Every (group, name) there is today."""
    return {(group, opt.name) for group, opt in options()}


def names(group: str) -> tuple[str, ...]:
    """The options of a group; none when the group is not one that is read."""
    return tuple(opt.name for opt in GROUPS[group][1]) if group in GROUPS else ()


def older_names(group: str, opt: cfg.Opt) -> tuple[tuple[str, str], ...]:
    """The (group, name) pairs an option was once known by."""
    return tuple((old.group or group, old.name or opt.name) for old in opt.deprecated_opts)


@functools.cache
def newer_names() -> Mapping[tuple[str, str], tuple[str, str]]:
    """What each older (group, name) is called today."""
    return {old: (group, opt.name) for group, opt in options() for old in older_names(group, opt)}


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name most like ``name``, if any is like it."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=cutoff)), None)


def advice(group: str, name: str) -> str:
    """What to write instead of an unknown ``[group] name``."""
    newer = newer_names().get((group, name))
    if newer:
        return f"it is now [{newer[0]}] {newer[1]}"
    close = nearest(name, names(group))
    if close:
        return f"did you mean {close}?"
    elsewhere = next((g for g, opt in options() if opt.name == name), None)
    if elsewhere:
        return f"it belongs into [{elsewhere}]"
    return f"[{group}] has: {', '.join(sorted(names(group)))}"
