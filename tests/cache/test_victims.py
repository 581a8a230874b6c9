"""Eviction: the least recently used first, as much as is asked for, and nothing torn."""

from __future__ import annotations

import pytest

from basecache.cache.layout import original_name
from basecache.cache.plan import choose_victims
from basecache.model import Action, Reason
from tests.cache.facts import (
    DAY,
    NOW,
    make_entry,
    make_facts,
    make_pin,
    make_record,
    make_template,
    plan,
    stand_on,
)

BLOCK = 4096
A, B, C, D = (make_entry(original_name(n), age=(9 - i) * DAY) for i, n in enumerate("abcd"))


@pytest.mark.parametrize(
    ("missing", "victims"),
    [
        (1, [A]),
        (BLOCK, [A]),
        (BLOCK + 1, [A, B]),
        (4 * BLOCK, [A, B, C, D]),
        (4 * BLOCK + 1, []),
    ],
)
def test_the_longest_unused_go_first_and_only_as_many_as_it_takes(
    missing: int, victims: list[object]
) -> None:
    facts = make_facts([C, A, D, B])
    chosen = choose_victims(facts, plan(facts), missing)
    assert [d.path for d in chosen] == [entry.path for entry in victims]  # type: ignore[attr-defined]
    assert {(d.action, d.code) for d in chosen} <= {(Action.REMOVE, Reason.EVICTED)}


def test_templates_go_before_what_they_stand_on_and_records_with_it() -> None:
    template, other = make_template(A.name), make_template(B.name)
    facts = make_facts([A, B, template, other, make_record(A.name)])
    chosen = choose_victims(facts, plan(facts), 1)
    assert [d.path for d in chosen] == [template.path, A.path]


def test_what_stands_on_a_file_goes_before_it_though_used_later() -> None:
    """B stands on A: A is of use as long as B is, so C, which is older than B, goes first."""
    young_child = make_entry(B.name, age=2 * DAY)
    facts = make_facts([A, young_child, C], parents=stand_on((young_child, A)))
    planned = plan(facts)
    for blocks, wanted in ((1, [C]), (2, [C, young_child]), (3, [C, young_child, A])):
        chosen = choose_victims(facts, planned, blocks * BLOCK)
        assert [d.path for d in chosen] == [entry.path for entry in wanted]


def test_the_same_through_a_file_between() -> None:
    top, middle = make_entry("swap_1", age=2 * DAY), make_entry("swap_2", age=20 * DAY)
    facts = make_facts([A, middle, top], parents=stand_on((top, middle), (middle, A)))
    chosen = choose_victims(facts, plan(facts), 1)
    assert [d.path for d in chosen] == [top.path]


def test_nothing_used_pinned_or_young_is_evicted() -> None:
    young = make_entry("swap_1", age=DAY - 1)
    facts = make_facts([A, young], pins={A.name: make_pin(A.name, until=NOW + 1)})
    assert choose_victims(facts, plan(facts), 1) == ()
