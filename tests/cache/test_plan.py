"""Each reason a sweep can give, and the file it is given to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from basecache.cache.layout import original_name
from basecache.cache.plan import Facts, ImageUse, Policy, Use
from basecache.model import Action, Entry, EntryKind, FileId, Reason
from tests.cache.facts import (
    DAY,
    HOUR,
    LAYOUT,
    NOW,
    decide,
    make_entry,
    make_facts,
    make_pin,
    make_record,
    make_staging,
    make_template,
    plan,
    removed,
    stand_on,
)

NAME = original_name("image")
UUID = "3f1c0000-0000-4000-8000-0123456789ab"
USE = Use(images={"image": ImageUse(1, 2, ("vm1", "vm2", "vm3"))})


def code_of(entry: Entry, facts: Facts, policy: Policy | None = None) -> tuple[Action, Reason]:
    decision = decide(facts, entry, policy or Policy())
    return decision.action, decision.code


@pytest.mark.parametrize(
    "name", [NAME, f"{NAME}_sm", f"{NAME}_10", f"{NAME}_10737418240", f"{NAME}_20"]
)
def test_used_by_instances(name: str) -> None:
    entry = make_entry(name)
    decision = decide(make_facts([entry], use=USE), entry)
    assert (decision.action, decision.code) == (Action.TOUCH, Reason.USED)
    assert decision.used_by == ("vm1", "vm2", "vm3")
    assert "1 instance here, 2 elsewhere" in decision.reason


def test_every_resized_copy_of_a_used_image_stays() -> None:
    """Nova's own manager skips every second one, and removes it."""
    entries = [make_entry(f"{NAME}_{size}") for size in range(1, 8)]
    facts = make_facts(entries, use=USE)
    assert {code_of(entry, facts) for entry in entries} == {(Action.TOUCH, Reason.USED)}


@pytest.mark.parametrize("image", [UUID, "vmlinuz-6.1", "debian-12"])
def test_used_under_its_own_id_as_a_kernel(image: str) -> None:
    entry = make_entry(image)
    facts = make_facts([entry], use=Use(images={image: ImageUse(1, 0, ("vm1",))}))
    assert [d.path for d in plan(facts)] == [entry.path]
    assert code_of(entry, facts) == (Action.TOUCH, Reason.USED)


@pytest.mark.parametrize(
    ("name", "stem"), [("swap_512", "swap_512"), ("ephemeral_20_abc1234", "ephemeral_20")]
)
def test_used_as_a_generated_disk(name: str, stem: str) -> None:
    entry = make_entry(name)
    facts = make_facts([entry], use=Use(generated={stem: ("vm1",)}))
    assert code_of(entry, facts) == (Action.TOUCH, Reason.USED)
    other = make_facts([entry], use=Use(generated={stem + "1": ("vm1",)}))
    assert code_of(entry, other) == (Action.REMOVE, Reason.UNUSED)


@pytest.mark.parametrize("name", [NAME, f"{NAME}_10", UUID])
def test_used_by_disks_though_no_instance_has_the_image(name: str) -> None:
    entry = make_entry(name)
    for use in (
        Use(files={entry.file_id: ("/instances/vm/disk",)}),
        Use(names={name: ("/instances/vm/disk",)}),
    ):
        decision = decide(make_facts([entry], use=use), entry)
        assert (decision.action, decision.code) == (Action.TOUCH, Reason.USED_UNKNOWN_IMAGE)
        assert decision.used_by == ("/instances/vm/disk",)


@pytest.mark.parametrize("name", ["swap_512", "ephemeral_20_abc1234", "mine.img", f"{NAME}.part"])
def test_whatever_a_disk_stands_on_is_used(name: str) -> None:
    entry = make_entry(name)
    facts = make_facts([entry], use=Use(files={entry.file_id: ("/instances/vm/disk",)}))
    assert code_of(entry, facts) == (Action.TOUCH, Reason.USED)


def test_users_are_instances_and_disks_together() -> None:
    entry = make_entry(NAME)
    use = replace(USE, files={entry.file_id: ("/d1",)}, names={NAME: ("/d2",)})
    assert decide(make_facts([entry], use=use), entry).used_by == (
        "vm1",
        "vm2",
        "vm3",
        "/d1",
        "/d2",
    )


def test_pinned() -> None:
    entry = make_entry(NAME)
    for until in (None, NOW + 1):
        facts = make_facts([entry], pins={NAME: make_pin(NAME, until=until)})
        assert code_of(entry, facts) == (Action.TOUCH, Reason.PINNED)
        assert "a reason" in decide(facts, entry).reason
    ended = make_facts([entry], pins={NAME: make_pin(NAME, until=NOW)})
    assert code_of(entry, ended) == (Action.REMOVE, Reason.UNUSED)


@pytest.mark.parametrize(
    ("name", "least"),
    [
        (NAME, DAY),
        ("swap_512", DAY),
        ("ephemeral_20_abc1234", DAY),
        (f"{NAME}_10", HOUR),
        (f"{NAME}_sm", HOUR),
    ],
)
def test_young_until_its_age_is_reached(name: str, least: float) -> None:
    for age, code in ((0, Reason.YOUNG), (least - 1, Reason.YOUNG), (least, Reason.UNUSED)):
        entry = make_entry(name, age=age)
        decision = decide(make_facts([entry]), entry)
        assert decision.code is code
        assert decision.age_seconds == pytest.approx(age, abs=0.001)


@pytest.mark.parametrize("name", [NAME, f"{NAME}_10", "swap_1", f"{NAME}.part"])
def test_a_time_in_the_future_is_young(name: str) -> None:
    entry = make_entry(name, age=-1)
    assert code_of(entry, make_facts([entry])) == (Action.KEEP, Reason.FUTURE)


def test_a_future_time_does_not_matter_where_no_age_is_asked() -> None:
    entry = make_entry(NAME, age=-DAY)
    at_once = Policy(original_min_age_seconds=0, resized_min_age_seconds=0)
    assert code_of(entry, make_facts([entry]), at_once) == (Action.REMOVE, Reason.UNUSED)
    staging = make_staging(NAME, age=-DAY)
    assert code_of(staging, make_facts([staging])) == (Action.REMOVE, Reason.LEFTOVER)


def test_removal_off() -> None:
    entry = make_entry(NAME)
    policy = Policy(remove_unused=False)
    assert code_of(entry, make_facts([entry]), policy) == (Action.KEEP, Reason.REMOVAL_OFF)


def test_missing_evidence_is_named() -> None:
    entry = make_entry(NAME)
    decision = decide(make_facts([entry], missing=("disk /d is damaged",)), entry)
    assert (decision.action, decision.code) == (Action.KEEP, Reason.EVIDENCE_MISSING)
    assert "disk /d is damaged" in decision.reason


def test_absent_but_used() -> None:
    (decision,) = plan(make_facts([], use=USE))
    assert (decision.action, decision.code) == (Action.REPORT, Reason.ABSENT_BUT_USED)
    assert decision.path == LAYOUT.entry(NAME)
    assert decision.used_by == ("vm1", "vm2", "vm3")
    assert decision.age_seconds is None
    assert "image image" in decision.reason


@pytest.mark.parametrize("name", [NAME, f"{NAME}_10"])
def test_an_image_is_not_absent_while_a_file_of_it_is_there(name: str) -> None:
    codes = {d.code for d in plan(make_facts([make_entry(name)], use=USE))}
    assert codes == {Reason.USED}


def test_an_unfinished_download_is_not_the_image() -> None:
    facts = make_facts([make_entry(f"{NAME}.part"), make_record(NAME)], use=USE)
    assert Reason.ABSENT_BUT_USED in {d.code for d in plan(facts)}


def test_kernel_by_id_is_never_aged() -> None:
    entry = make_entry(UUID, age=1000 * DAY)
    for policy in (Policy(), Policy(0, 0), Policy(remove_unused_kernels=False)):
        assert code_of(entry, make_facts([entry]), policy) == (Action.KEEP, Reason.KERNEL_BY_ID)


@pytest.mark.parametrize(
    "name", ["notes.txt", NAME.upper(), NAME[:39], f"{NAME}.raw", "swap_x", ".notes.20240101"]
)
def test_unknown_names_are_reported_and_kept(name: str) -> None:
    entry = make_entry(name, age=1000 * DAY)
    assert code_of(entry, make_facts([entry]), Policy(0, 0)) == (
        Action.REPORT,
        Reason.UNKNOWN_NAME,
    )


def test_links_and_folders_are_reported() -> None:
    path = LAYOUT.entry(NAME)
    (decision,) = plan(make_facts([], irregular=(path,)))
    assert (decision.action, decision.code) == (Action.REPORT, Reason.NOT_A_FILE)
    assert decision.path == path


def test_a_record_stays_with_its_entry_and_goes_as_an_orphan() -> None:
    record = make_record(NAME)
    assert code_of(record, make_facts([record, make_entry(NAME)])) == (Action.KEEP, Reason.RECORD)
    assert code_of(record, make_facts([record])) == (Action.REMOVE, Reason.ORPHAN_RECORD)
    young = make_record(NAME, age=HOUR)
    assert code_of(young, make_facts([young])) == (Action.KEEP, Reason.YOUNG)


@pytest.mark.parametrize("name", [f"{NAME}.part", f"{NAME}.converted", f".{NAME}.info.0badcafe"])
def test_leftovers_go_at_the_originals_age(name: str) -> None:
    for age, code in ((DAY - 1, Reason.YOUNG), (DAY, Reason.LEFTOVER)):
        entry = make_entry(name, age=age)
        assert code_of(entry, make_facts([entry]))[1] is code


def test_staging_goes_at_once_unless_somebody_works_on_it() -> None:
    entry = make_staging(NAME, age=0)
    assert code_of(entry, make_facts([entry])) == (Action.REMOVE, Reason.LEFTOVER)
    busy = make_facts([entry], busy=frozenset({entry.path}))
    assert code_of(entry, busy) == (Action.KEEP, Reason.IN_PROGRESS)


def test_what_somebody_works_on_is_kept_whatever_else_holds() -> None:
    entry = make_entry(f"{NAME}.part", age=1000 * DAY)
    facts = make_facts([entry], busy=frozenset({entry.path}))
    assert code_of(entry, facts, Policy(0, 0)) == (Action.KEEP, Reason.IN_PROGRESS)


def test_a_template_lives_and_goes_with_its_entry() -> None:
    template, entry = make_template(NAME), make_entry(NAME, age=0)
    facts = make_facts([template, entry])
    assert code_of(template, facts) == (Action.KEEP, Reason.TEMPLATE_IN_USE)
    old = make_entry(NAME)
    facts = make_facts([template, old])
    assert removed(plan(facts)) == [template.path, old.path]
    assert code_of(template, facts) == (Action.REMOVE, Reason.TEMPLATE_STALE)
    alone = make_facts([template])
    assert code_of(template, alone) == (Action.REMOVE, Reason.TEMPLATE_STALE)


def test_a_template_of_a_resized_copy_is_not_the_originals() -> None:
    template, original = make_template(f"{NAME}_10"), make_entry(NAME, age=0)
    assert code_of(template, make_facts([template, original]))[0] is Action.REMOVE


@pytest.mark.parametrize("folder", [LAYOUT.quarantine, LAYOUT.healed])
def test_what_was_moved_aside_goes_when_it_is_old_and_holds_no_template(folder: Path) -> None:
    for age, code in ((DAY - 1, Reason.YOUNG), (DAY, Reason.QUARANTINED)):
        aside = make_entry(NAME, age=age, kind=EntryKind.QUARANTINED, folder=folder)
        template = make_template(NAME)
        facts = make_facts([aside, template])
        assert code_of(aside, facts)[1] is code
        assert code_of(template, facts) == (Action.REMOVE, Reason.TEMPLATE_STALE)


def test_children_go_before_what_they_stand_on() -> None:
    chain = [make_entry(original_name(str(n))) for n in range(6)]
    parents = stand_on(*((chain[n + 1], chain[n]) for n in range(5)))
    wanted = [entry.path for entry in reversed(chain)]
    assert removed(plan(make_facts(chain, parents=parents))) == wanted
    assert removed(plan(make_facts(reversed(chain), parents=parents))) == wanted


def test_what_a_kept_file_stands_on_stays_however_far_down() -> None:
    chain = [make_entry(original_name(str(n)), age=0 if n == 3 else 3 * DAY) for n in range(5)]
    parents = stand_on(*((chain[n + 1], chain[n]) for n in range(4)))
    facts = make_facts(chain, parents=parents)
    assert removed(plan(facts)) == [chain[4].path]
    for entry in chain[:3]:
        assert code_of(entry, facts) == (Action.KEEP, Reason.BACKING_OF_KEPT)


def test_files_that_stand_on_each_other_end_no_pass() -> None:
    one, other = make_entry(original_name("1")), make_entry(original_name("2"))
    facts = make_facts([one, other], parents=stand_on((one, other), (other, one), (one, one)))
    assert sorted(removed(plan(facts))) == sorted([one.path, other.path])


def test_each_name_of_one_file_is_decided_on() -> None:
    """Hard links: both names show in the plan, and a use of the file keeps both."""
    file_id = FileId(1, 7)
    names = [NAME, f"{NAME}_10", "mine.img"]
    entries = [make_entry(name, file_id=file_id) for name in names]
    assert [d.path.name for d in sorted(plan(make_facts(entries)), key=lambda d: d.path)] == names
    assert {d.path.name for d in plan(make_facts(entries)) if d.action is Action.REMOVE} == {
        NAME,
        f"{NAME}_10",
    }
    used = make_facts(entries, use=Use(files={file_id: ("/d",)}))
    assert {d.action for d in plan(used)} == {Action.TOUCH}
