"""Random caches for property tests: any files, any use of them, any age."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from hypothesis import strategies as st

from basecache.cache.layout import original_name, parent_name
from basecache.cache.plan import Facts, ImageUse, Policy, Use
from basecache.model import Decision, Entry, EntryKind
from tests.cache.facts import (
    DAY,
    LAYOUT,
    make_entry,
    make_facts,
    make_pin,
    make_record,
    make_staging,
    make_template,
    removed,
    stand_on,
)

IMAGES = ("one", "two", "three", "3f1c0000-0000-4000-8000-0123456789ab")
SIZES = (4096, 4096, 10 * 4096, 0)

# Most are old: what may go is what the properties are about.
ages = st.one_of(
    st.floats(min_value=DAY, max_value=30 * DAY),
    st.floats(min_value=DAY, max_value=30 * DAY),
    st.sampled_from((0.0, 3599.0, 3600.0, DAY - 1, DAY, -1.0)),
    st.floats(min_value=-2 * DAY, max_value=DAY),
)
policies = st.builds(
    Policy,
    original_min_age_seconds=st.sampled_from((60.0, DAY)),
    resized_min_age_seconds=st.sampled_from((60.0, 3600.0)),
    remove_unused_kernels=st.booleans(),
)


@dataclass(frozen=True)
class Tree:
    """Facts, and which entries somebody needs by them, worked out apart from the plan."""

    facts: Facts
    referenced: frozenset[Path]
    backing: frozenset[Path]
    pinned: frozenset[Path]

    def without(self, paths: set[Path]) -> Facts:
        """The facts once these are removed: the record of an entry goes with it."""
        gone = paths | {path.with_name(f"{path.name}.info") for path in paths}
        left = tuple(e for e in self.facts.entries if e.path not in gone)
        return replace(self.facts, entries=left)

    def older(self, seconds: dict[Path, float]) -> Facts:
        """The facts had some entries been used that much earlier."""
        entries = (
            replace(e, mtime_ns=e.mtime_ns - int(seconds.get(e.path, 0.0) * 1e9))
            for e in self.facts.entries
        )
        return replace(self.facts, entries=tuple(entries))


def _names(image: str) -> tuple[str, ...]:
    name = original_name(image)
    return (name, f"{name}_sm", f"{name}_10", f"{name}_5368709120", f"{name}.part", image)


NAMES = (
    *(name for image in IMAGES for name in _names(image)),
    "swap_1",
    "swap_2",
    "ephemeral_1_abc1234",
    "ephemeral_1_default",
    "notes.txt",
    ".notes.20240101",
)
TEMPLATED = (*(original_name(image) for image in IMAGES), f"{original_name('one')}_10")


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    entries = [
        make_entry(name, age=draw(ages), allocated=draw(st.sampled_from(SIZES)))
        for name in draw(st.sets(st.sampled_from(NAMES), max_size=12))
    ]
    entries = _link_some(draw, entries)
    parents = stand_on(*_draw_chains(draw, entries))
    extras = [make_record(n, age=draw(ages)) for n in draw(st.sets(st.sampled_from(TEMPLATED)))]
    extras += [make_template(n, age=draw(ages)) for n in draw(st.sets(st.sampled_from(TEMPLATED)))]
    extras += [make_staging(n, age=draw(ages)) for n in draw(st.sets(st.sampled_from(TEMPLATED)))]
    extras += [
        make_entry(f"{name}.bad", age=draw(ages), kind=EntryKind.QUARANTINED, folder=folder)
        for folder in (LAYOUT.quarantine, LAYOUT.healed)
        for name in draw(st.sets(st.sampled_from(TEMPLATED), max_size=1))
    ]
    everything = draw(st.permutations([*entries, *extras]))
    use = _draw_use(draw, everything)
    pins = {n: make_pin(n) for n in draw(st.sets(st.sampled_from(NAMES), max_size=2))}
    facts = make_facts(
        everything,
        use=use,
        pins=pins,
        parents=parents,
        busy=frozenset(e.path for e in extras if draw(st.integers(0, 3)) == 0),
        irregular=draw(st.sampled_from(((), (LAYOUT.base / "link",)))),
    )
    return Tree(
        facts,
        frozenset(e.path for e in everything if _is_referenced(e, use)),
        frozenset(e.path for e in everything if e.file_id in use.files or e.name in use.names),
        frozenset(e.path for e in entries if e.name in pins),
    )


def _link_some(draw: st.DrawFn, entries: list[Entry]) -> list[Entry]:
    """Some entries are one file under two names."""
    if len(entries) < 2 or not draw(st.booleans()):
        return entries
    one, other = draw(st.permutations(entries))[:2]
    linked = replace(other, file_id=one.file_id, mtime_ns=one.mtime_ns)
    return [linked if entry is other else entry for entry in entries]


def _draw_chains(draw: st.DrawFn, entries: list[Entry]) -> list[tuple[Entry, Entry]]:
    if len(entries) < 2:
        return []
    positions = st.integers(min_value=0, max_value=len(entries) - 1)
    pairs = draw(st.lists(st.tuples(positions, positions), min_size=2, max_size=8))
    # A file stands on earlier ones only, by whichever of its names: no loops.
    files = [entry.file_id for entry in entries]
    first = [files.index(file) for file in files]
    return [
        (entries[max(pair)], entries[min(pair)])
        for pair in ((first[one], first[other]) for one, other in pairs)
        if pair[0] != pair[1]
    ]


def _draw_use(draw: st.DrawFn, entries: list[Entry]) -> Use:
    images = draw(st.sets(st.sampled_from((*IMAGES, "not here")), max_size=2))
    generated = draw(st.sets(st.sampled_from(("swap_1", "ephemeral_1")), max_size=2))
    numbers = draw(st.sets(st.integers(min_value=0, max_value=40), max_size=2))
    files = [entries[number].file_id for number in numbers if number < len(entries)]
    names = draw(st.sets(st.sampled_from(NAMES), max_size=1))
    disks = ("/instances/vm/disk",)
    return Use(
        images={image: ImageUse(1, 0, ("vm",)) for image in images},
        generated=dict.fromkeys(generated, ("vm",)),
        files=dict.fromkeys(files, disks),
        names=dict.fromkeys(names, disks),
    )


def _is_referenced(entry: Entry, use: Use) -> bool:
    """By the rules of the design, told once more and differently."""
    if entry.path.parent != LAYOUT.base or entry.kind is EntryKind.RECORD:
        return False
    if entry.kind is EntryKind.PARTIAL:
        return False
    of_image = {original_name(image) for image in use.images} | set(use.images)
    by_stem = {entry.name.rpartition("_")[0], entry.name} & set(use.generated)
    return parent_name(entry.name) in of_image or bool(by_stem)


def paths(decisions: tuple[Decision, ...]) -> set[Path]:
    return set(removed(decisions))
