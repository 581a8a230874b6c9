"""Somebody dies while others wait for what he was making, or while a program of his goes on."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from basecache.model import Verdict
from tests.crash.stories import STORIES, Telling
from tests.crash.test_stop_points import prepare
from tests.crash.tree import Images, Tree, check, check_clean, visible_disks
from tests.support import crash
from tests.support.needs import need_tool
from tests.support.place import sha256

# A program, but started as late as a busy machine may start it, or as slow to end.
_LATE = """#!/bin/sh
[ "$1" = info ] && exec {real} "$@"
touch "$0.begun"
until [ -e "$0.open" ]; do sleep 0.01; done
{real} "$@"
touch "$0.ended"
"""
_SLOW = """#!/bin/sh
{real} "$@" || exit
touch "$0.begun"
until [ -e "$0.open" ]; do sleep 0.01; done
"""


@dataclass(frozen=True)
class Ensure:
    """Ensure an image and write down how that ended."""

    tree: Tree
    answer: Path

    def __call__(self) -> None:
        result = self.tree.host().ensure(self.tree.id("raw"))
        self.answer.write_text(result.status)


@dataclass(frozen=True)
class Gate:
    """A program that waits for ``open``, and says how far it is."""

    path: Path

    @classmethod
    def make(cls, path: Path, script: str) -> Gate:
        path.parent.mkdir()
        path.write_text(script.format(real=need_tool(path.name, "scripts/need-packages run")))
        path.chmod(0o755)
        return cls(path)

    def wait_until(self, state: str) -> None:
        crash.wait_until(Path(f"{self.path}.{state}").exists, f"{self.path} to have {state}")

    def open(self) -> None:
        Path(f"{self.path}.open").touch()


@dataclass(frozen=True)
class Through:
    """A telling that finds the program of a gate before any other."""

    gate: Gate
    telling: Telling

    def __call__(self) -> None:
        os.environ["PATH"] = f"{self.gate.path.parent}:{os.environ['PATH']}"
        self.telling()


def test_one_who_waits_takes_over_from_one_who_dies(images: Images, tmp_path: Path) -> None:
    whole = Tree.make(tmp_path / "whole", images)
    calls = crash.trace(Ensure(whole, tmp_path / "a"), tmp_path / "trace")
    marked = next(call for call in calls if call.name == "setxattr")
    tree = Tree.make(tmp_path / "tree", images)
    lock = tree.folder / "locks" / f"nova-{tree.entry('raw').name}"
    answers = [tmp_path / "b", tmp_path / "c"]
    stopping = crash.signalled(marked, "STOP")
    with crash.started(Ensure(tree, tmp_path / "a"), stopping, tmp_path / "stopped") as first:
        crash.wait_until_stopped(tmp_path / "stopped")
        with (
            crash.started(Ensure(tree, answers[0])) as second,
            crash.started(Ensure(tree, answers[1])) as third,
        ):
            crash.wait_until(lambda: crash.waiting_for(lock) == 2, "two to wait for the lock")
            check(tree)
            assert not tree.entry("raw").exists()
            crash.kill(first)
            second.join()
            third.join()
    assert (second.exitcode, third.exitcode) == (0, 0)
    assert sorted(answer.read_text() for answer in answers) == ["cached", "existing"]
    check(tree)
    check_clean(tree)


@pytest.mark.parametrize(
    ("name", "tool"),
    [
        ("ensure_converted", "qemu-img"),
        ("disk_with_template", "qemu-img"),
        ("disk_flat_converted", "qemu-img"),
        ("disk_blank", "qemu-img"),
        ("disk_swap", "mkswap"),
    ],
)
def test_a_program_that_starts_after_its_caller_died_does_no_harm(
    name: str, tool: str, images: Images, tmp_path: Path
) -> None:
    """Its caller is dead, the story was told again and guests run, when it begins to write."""
    story, late = STORIES[name], Gate.make(tmp_path / "late" / tool, _LATE)
    tree = prepare(story, tmp_path / "tree", images)
    try:
        die_waiting_for(late, Telling(name, tree))
        check(tree)
        story.act(tree)
        story.expect(tree)
        before = {path: sha256(path) for path in visible_disks(tree)}
    finally:
        late.open()
    late.wait_until("ended")
    assert {path: sha256(path) for path in visible_disks(tree)} == before
    check(tree)
    check_clean(tree)


@pytest.mark.parametrize("name", ["disk_flat_converted", "disk_blank"])
def test_nor_does_it_write_where_its_successor_writes(
    name: str, images: Images, tmp_path: Path
) -> None:
    """Else it would go on writing into a disk that has its name and a guest by then."""
    tree = prepare(STORIES[name], tmp_path / "tree", images)
    late = Gate.make(tmp_path / "late" / "qemu-img", _LATE)
    slow = Gate.make(tmp_path / "slow" / "qemu-img", _SLOW)
    try:
        die_waiting_for(late, Telling(name, tree))
        with crash.started(Through(slow, Telling(name, tree))) as process:
            slow.wait_until("begun")
            made = {path: path.stat().st_mtime_ns for path in tree.folder.glob("*-*/.*")}
            late.open()
            late.wait_until("ended")
            assert made
            assert {path: path.stat().st_mtime_ns for path in made} == made
            slow.open()
            process.join()
    finally:
        late.open()
    assert process.exitcode == 0
    STORIES[name].expect(tree)
    check(tree)
    check_clean(tree)


def die_waiting_for(gate: Gate, telling: Telling) -> None:
    """The teller is killed, and only he, when he has started the program of the gate."""
    with crash.started(Through(gate, telling)) as process:
        gate.wait_until("begun")
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()


def test_a_digest_never_ends_up_in_the_record_of_another_file(
    images: Images, tmp_path: Path
) -> None:
    """A verification reads on while its file is removed and made anew; no two swaps are equal."""
    whole, tree = (prepare(STORIES["disk_swap"], tmp_path / n, images) for n in ("whole", "tree"))
    for each in (whole, tree):
        STORIES["disk_swap"].act(each)
    calls = crash.trace(Telling("verify", whole), tmp_path / "trace")
    opened = next(c for c in calls if c.name == "openat" and '_base/swap_1", ' in c.rest)
    stopping = crash.signalled(opened, "STOP")
    with crash.started(Telling("verify", tree), stopping, tmp_path / "stopped") as process:
        crash.wait_until_stopped(tmp_path / "stopped")
        tree.host().remove("swap_1")
        tree.host().delete_disk("swap-1", "disk")
        STORIES["disk_swap"].act(tree)
        os.kill(process.pid or 0, signal.SIGCONT)
        process.join()
    assert process.exitcode == 0
    verdicts = {v.verdict for _ in range(2) for v in tree.host().verify(force=True)}
    assert verdicts == {Verdict.BASELINE, Verdict.OK}


@pytest.mark.parametrize("file", [".info.", ".plan.", ".part", "nova-"])
def test_a_sweep_spares_what_is_being_written(file: str, images: Images, tmp_path: Path) -> None:
    """Also where entries may go as soon as nothing uses them."""
    no_age = {"remove_unused_original_minimum_age_seconds": 0}
    whole = Tree.make(tmp_path / "whole", images)
    calls = crash.trace(Ensure(whole, tmp_path / "a"), tmp_path / "trace")
    halfway = next(c for c in calls if c.name == "fchown" and f"{file}" in c.rest)
    tree = Tree.make(tmp_path / "tree", images)
    answer = tmp_path / "b"
    stopping = crash.signalled(halfway, "STOP")
    with crash.started(Ensure(tree, answer), stopping, tmp_path / "stopped") as process:
        crash.wait_until_stopped(tmp_path / "stopped")
        tree.host(image_cache=no_age).sweep(instances=[])
        os.kill(process.pid or 0, signal.SIGCONT)
        process.join()
    assert (process.exitcode, answer.read_text()) == (0, "cached")
    check(tree)
    check_clean(tree)
