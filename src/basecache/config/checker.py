"""What is wrong with configuration files, all of it at once, in words an operator can act on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from basecache.config import catalogue
from basecache.config.files import Assignment, ConfigFile, find, is_novas, references
from basecache.config.reader import OptionError, Options
from basecache.config.resolve import resolve
from basecache.config.settings import Settings

# From here on an unknown name counts as a misspelling. Nova's [cache] is below for [basecache].
_LIKE_OURS = 0.8


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to mend. An error keeps basecache from doing what the file asks."""

    severity: Literal["error", "warning"]
    where: str
    what: str


def check_files(files: Sequence[ConfigFile]) -> list[Finding]:
    """Every finding, errors first. No value of an option is shown unless it is at fault."""
    findings = [*_unknown_groups(files), *_unknown_options(files), *_older_names(files)]
    try:
        options = Options.open(files, {})
        unusable = list(_unusable_values(options))
        findings += unusable or _doubts(options, resolve(options))
    except OptionError as error:
        findings.append(_finding(error))
    return sorted(findings, key=lambda finding: finding.severity)


def _unknown_groups(files: Sequence[ConfigFile]) -> Iterator[Finding]:
    known = _groups_read(files)
    for file in files:
        for group in file.groups:
            if group in known:
                continue
            close = catalogue.nearest(group, catalogue.OWN_GROUPS, cutoff=_LIKE_OURS)
            if close:
                yield Finding(
                    "error", f"{file.path}: [{group}]", f"unknown group; did you mean [{close}]?"
                )
            elif not is_novas(file):
                yield Finding("warning", f"{file.path}: [{group}]", "basecache reads no such group")


def _groups_read(files: Sequence[ConfigFile]) -> set[str]:
    """Groups of today's and older options, and those that a value names."""
    groups = {*catalogue.GROUPS, *(group for group, _ in catalogue.newer_names())}
    for one in _assignments(files):
        groups |= {name.partition(".")[0] for name in references(one.value) if "." in name}
        if (one.group, one.name) == ("glance", "auth_section"):
            groups.add(one.value)
    return groups


def _unknown_options(files: Sequence[ConfigFile]) -> Iterator[Finding]:
    """Errors in our groups; elsewhere warnings, and only in files that are not Nova's."""
    older = catalogue.newer_names()
    referred_to = {name for one in _assignments(files) for name in references(one.value)}
    for file in files:
        for one in file.assignments:
            if one.name in catalogue.names(one.group) or (one.group, one.name) in older:
                continue
            if one.group in catalogue.OWN_GROUPS:
                advice = catalogue.advice(one.group, one.name)
                yield Finding("error", one.where, f"unknown option; {advice}")
            elif (
                one.group in catalogue.GROUPS
                and not is_novas(file)
                and not {one.name, f"{one.group}.{one.name}"} & referred_to
            ):
                close = catalogue.nearest(one.name, catalogue.names(one.group), _LIKE_OURS)
                advice = f"; did you mean {close}?" if close else ""
                yield Finding("warning", one.where, f"basecache reads no such option{advice}")


def _older_names(files: Sequence[ConfigFile]) -> Iterator[Finding]:
    newer = catalogue.newer_names()
    for one in _assignments(files):
        if one.name in catalogue.names(one.group):
            continue
        if (one.group, one.name) in newer:
            group, name = newer[one.group, one.name]
            yield Finding("warning", one.where, f"an older name; today it is [{group}] {name}")


def _unusable_values(options: Options) -> Iterator[Finding]:
    for group, opt in catalogue.options():
        try:
            options.read(group, opt.name)
        except OptionError as error:
            yield _finding(error)


def _doubts(options: Options, settings: Settings) -> Iterator[Finding]:
    cache, source = settings.cache, settings.source
    if cache.beside_nova:
        yield from _doubts_beside_nova(options, settings)
    if not cache.instances_path.is_dir():
        yield Finding(
            "warning",
            options.where("DEFAULT", "instances_path"),
            f"{cache.instances_path} is no folder yet; it is made when first needed",
        )
    if source.driver == "none" and (source.path or source.urls):
        yield Finding(
            "warning",
            options.where("source", "path" if source.path else "urls"),
            "it is set, but no [source] driver that would use it",
        )


def _doubts_beside_nova(options: Options, settings: Settings) -> Iterator[Finding]:
    cache = settings.cache
    novas = [file for file in options.files if is_novas(file)]
    removes = cache.remove_unused and cache.sweep_interval_seconds is not None
    if removes and not novas:
        yield Finding(
            "warning",
            options.where("basecache", "beside_nova"),
            "no file of Nova's was given: whether its cache manager removes too cannot be told",
        )
    elif removes and _manager_removes(novas):
        yield Finding(
            "warning",
            options.where("basecache", "remove_unused"),
            "both Nova's cache manager and basecache would remove entries; set [image_cache] "
            "manager_interval = -1 in nova.conf, and [basecache] sweep_interval and "
            "remove_unused in basecache's own file",
        )
    if not find(options.files, {("DEFAULT", "instances_path"), ("DEFAULT", "state_path")}):
        yield Finding(
            "warning",
            options.where("DEFAULT", "instances_path"),
            "no file sets it, nor state_path: Nova then keeps instances in the folder of its own "
            f"modules, and basecache in {cache.instances_path}; name the folder",
        )


def _manager_removes(novas: Sequence[ConfigFile]) -> bool:
    """Whether Nova, which reads no file but its own, removes entries."""
    options = Options.open(novas, {})
    interval = options.read("image_cache", "manager_interval")
    return interval >= 0 and bool(options.read("image_cache", "remove_unused_base_images"))


def _finding(error: OptionError) -> Finding:
    return Finding("error", error.where, "; ".join(filter(None, (error.why, error.hint))))


def _assignments(files: Sequence[ConfigFile]) -> Iterator[Assignment]:
    for file in files:
        yield from file.assignments
