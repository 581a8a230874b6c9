"""Somebody dies while others wait for what he was making, or while a program of his goes on."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.crash.stories import STORIES, Telling
from tests.crash.test_stop_points import prepare
from tests.crash.tree import Images, Tree, check, check_clean, visible_disks
from tests.support import crash
from tests.support.needs import need_tool
from tests.support.place import sha256

# qemu-img, or another, but started as late as a busy machine may start it.
_LATE = """#!/bin/sh
if [ "$1" != info ]; then
    touch "$0.begun"
    until [ -e "$0.open" ]; do sleep 0.01; done
fi
exec {real} "$@"
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
class Late:
    """A story whose programs are found in a folder first."""

    telling: Telling
    folder: Path

    def __call__(self) -> None:
        os.environ["PATH"] = f"{self.folder}:{os.environ['PATH']}"
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
        ("disk_with_everything", "qemu-img"),
        ("disk_flat_converted", "qemu-img"),
        ("disk_blank", "qemu-img"),
        ("disk_swap", "mkswap"),
    ],
)
def test_a_program_that_starts_after_its_caller_died_does_no_harm(
    name: str, tool: str, images: Images, tmp_path: Path
) -> None:
    """Its caller is dead, the story was told again and guests run, when it begins to write."""
    late = tmp_path / "bin" / tool
    late.parent.mkdir()
    late.write_text(_LATE.format(real=need_tool(tool, "scripts/need-packages run")))
    late.chmod(0o755)
    story = STORIES[name]
    tree = prepare(story, tmp_path / "tree", images)
    try:
        with crash.started(Late(Telling(name, tree), late.parent)) as process:
            begun = late.with_name(f"{tool}.begun")
            crash.wait_until(begun.exists, f"{tool} to be started")
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        check(tree)
        story.act(tree)
        story.expect(tree)
        before = {path: sha256(path) for path in visible_disks(tree)}
    finally:
        late.with_name(f"{tool}.open").touch()
    crash.wait_for_helpers(tree.folder)
    assert {path: sha256(path) for path in visible_disks(tree)} == before
    check(tree)
    check_clean(tree)


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
