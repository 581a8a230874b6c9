"""What holds for the plan whatever the cache holds and whoever uses it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from basecache.cache.plan import Policy, choose_victims, owner_name
from basecache.model import Action, EntryKind, Reason
from tests.cache.facts import DAY, LAYOUT, NOW, plan, removed
from tests.cache.trees import Tree, ages, paths, policies, trees

AGELESS = (EntryKind.STAGING, EntryKind.TEMPLATE)
NEVER = (EntryKind.UNKNOWN, EntryKind.KERNEL)
wanted_bytes = st.integers(min_value=1, max_value=20 * 4096)


@given(trees(), policies)
def test_nothing_that_somebody_needs_is_removed(tree: Tree, policy: Policy) -> None:
    gone = paths(plan(tree.facts, policy))
    assert not gone & tree.referenced
    assert not gone & tree.backing
    assert not gone & tree.pinned


@given(trees(), policies)
def test_what_is_needed_is_refreshed(tree: Tree, policy: Policy) -> None:
    """Else a Nova manager that was left running finds it old."""
    touched = {d.path for d in plan(tree.facts, policy) if d.action is Action.TOUCH}
    unknown = {e.path for e in tree.facts.entries if e.kind is EntryKind.UNKNOWN}
    needed = tree.referenced | tree.backing | (tree.pinned - unknown)
    assert needed - tree.facts.busy <= touched


@given(trees(), policies)
def test_nothing_young_future_or_unknown_is_removed(tree: Tree, policy: Policy) -> None:
    gone = paths(plan(tree.facts, policy))
    for entry in tree.facts.entries:
        if entry.path in gone and entry.kind not in AGELESS:
            assert NOW - entry.mtime >= policy.min_age(entry.kind) > 0
            assert entry.kind not in NEVER


@given(trees(), policies, st.booleans())
def test_without_evidence_or_leave_nothing_at_all_is_removed(
    tree: Tree, policy: Policy, allowed: bool
) -> None:
    unclear = replace(tree.facts, missing=("a disk cannot be read",))
    assert paths(plan(unclear, replace(policy, remove_unused=allowed))) == set()
    assert paths(plan(tree.facts, replace(policy, remove_unused=False))) == set()


@given(trees(), policies)
def test_every_file_has_exactly_one_decision(tree: Tree, policy: Policy) -> None:
    decisions = plan(tree.facts, policy)
    absent = {d.path for d in decisions if d.code is Reason.ABSENT_BUT_USED}
    there = Counter(d.path for d in decisions if d.path not in absent)
    assert there == Counter((*(e.path for e in tree.facts.entries), *tree.facts.irregular))
    assert not absent & set(there)
    assert all(d.reason for d in decisions)


@given(trees(), policies)
def test_removing_leaves_nothing_more_to_remove(tree: Tree, policy: Policy) -> None:
    gone = paths(plan(tree.facts, policy))
    assert paths(plan(tree.without(gone), policy)) == set()


@given(trees(), policies, st.data())
def test_older_files_are_removed_no_less(tree: Tree, policy: Policy, data: st.DataObject) -> None:
    some = data.draw(st.sets(st.sampled_from([e.path for e in tree.facts.entries] or [None])))
    older = tree.older({path: data.draw(ages.map(abs)) for path in some if path is not None})
    assert paths(plan(tree.facts, policy)) <= paths(plan(older, policy))


@given(trees(), policies)
def test_more_use_removes_no_more(tree: Tree, policy: Policy) -> None:
    unused = replace(tree.facts, use=replace(tree.facts.use, images={}, files={}))
    assert paths(plan(tree.facts, policy)) <= paths(plan(unused, policy))


@given(trees(), policies)
def test_children_go_first_and_kept_ones_keep_what_they_stand_on(
    tree: Tree, policy: Policy
) -> None:
    order = {path: number for number, path in enumerate(removed(plan(tree.facts, policy)))}
    for child in tree.facts.entries:
        for file in tree.facts.parents.get(child.file_id, ()):
            for parent in (e for e in tree.facts.entries if e.file_id == file):
                if parent.path in order:
                    assert child.path in order
                    assert order[child.path] < order[parent.path]


@given(trees(), policies)
def test_templates_go_with_or_before_their_entry(tree: Tree, policy: Policy) -> None:
    order = {path: number for number, path in enumerate(removed(plan(tree.facts, policy)))}
    for template in tree.facts.entries:
        owner = LAYOUT.entry(owner_name(template))
        staying = template.path in tree.backing | tree.facts.busy
        if template.kind is EntryKind.TEMPLATE and owner in order and not staying:
            assert order[template.path] < order[owner]


@given(trees(), policies)
def test_what_is_worked_on_or_belongs_to_what_stays_is_kept(tree: Tree, policy: Policy) -> None:
    gone = paths(plan(tree.facts, policy))
    assert not gone & tree.facts.busy
    present = {entry.path for entry in tree.facts.entries}
    for entry in tree.facts.entries:
        owner = LAYOUT.entry(owner_name(entry))
        if entry.kind is EntryKind.TEMPLATE and owner in present - gone:
            assert entry.path not in gone
        if entry.kind is EntryKind.RECORD and owner in present:
            assert entry.path not in gone


@given(trees(), policies, wanted_bytes)
def test_victims_free_enough_or_there_are_none(tree: Tree, policy: Policy, missing: int) -> None:
    decisions = plan(tree.facts, policy)
    victims = choose_victims(tree.facts, decisions, missing)
    removable = {d.path: d for d in decisions if d.action is Action.REMOVE}
    freed = sum(d.allocated_bytes for d in victims if d.code is Reason.EVICTED)
    possible = sum(
        d.allocated_bytes
        for d in removable.values()
        if d.kind not in (EntryKind.TEMPLATE, EntryKind.RECORD)
    )
    assert {d.path for d in victims} <= set(removable)
    assert (freed >= missing) if victims else (possible < missing)
    assert len({d.path for d in victims}) == len(victims)


@given(trees(), policies, wanted_bytes)
def test_victims_leave_whole_what_stays(tree: Tree, policy: Policy, missing: int) -> None:
    """Nothing is evicted from under a file that stays, and nothing without need."""
    decisions = plan(tree.facts, policy)
    victims = choose_victims(tree.facts, decisions, missing)
    order = {d.path: number for number, d in enumerate(victims)}
    for child in tree.facts.entries:
        below = tree.facts.parents.get(child.file_id, ())
        for parent in (e for e in tree.facts.entries if e.file_id in below):
            if parent.path in order:
                assert order.get(child.path, len(order)) < order[parent.path]
    evicted = [d for d in victims if d.code is Reason.EVICTED]
    assert sum(d.allocated_bytes for d in evicted[:-1]) < missing
    for template in tree.facts.entries:
        if template.kind is EntryKind.TEMPLATE and LAYOUT.entry(owner_name(template)) in order:
            assert template.path in set(order) | tree.backing | tree.facts.busy


@given(trees(), wanted_bytes)
def test_least_recently_used_goes_first(tree: Tree, missing: int) -> None:
    flat = replace(tree.facts, parents={})
    decisions = plan(flat, Policy(60, 60))
    victims = {d.path for d in choose_victims(flat, decisions, missing)}
    candidates = [
        d
        for d in decisions
        if d.action is Action.REMOVE and d.kind not in (EntryKind.TEMPLATE, EntryKind.RECORD)
    ]
    chosen = [d.age_seconds or 0 for d in candidates if d.path in victims]
    spared = [d.age_seconds or 0 for d in candidates if d.path not in victims]
    if chosen and spared:
        assert min(chosen) >= max(spared)


@given(trees(), policies)
def test_a_day_later_at_most_more_goes(tree: Tree, policy: Policy) -> None:
    assert paths(plan(tree.facts, policy)) <= paths(plan(tree.facts, policy, NOW + DAY))
