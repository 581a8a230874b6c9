"""kill -9 before every system call with which a story changes the cache.

After each death: nothing visible is half-done, and what must not change has not. Told again,
the story ends as if nothing had happened. Once everything has grown old and was swept, there
is no file left that nobody needs.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.crash.stories import STORIES, Story, Telling
from tests.crash.tree import Images, Tree, check, check_clean
from tests.support import crash


@pytest.mark.slow
@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_dying_at_every_step_does_no_harm(story: Story, images: Images, tmp_path: Path) -> None:
    tree = prepare(story, tmp_path / "whole", images)
    calls = crash.trace(Telling(story.name, tree), tmp_path / "trace")
    survive(story, tree)
    stops = list(crash.stops_of(calls, tree.folder))
    assert stops
    for number, stop in enumerate(stops):
        tree = prepare(story, tmp_path / str(number), images)
        crash.kill_at(stop, Telling(story.name, tree), tmp_path / "trace")
        try:
            survive(story, tree, alone=not stop.helper)
        except Exception as error:
            error.add_note(f"killed before {stop} ({number + 1} of {len(stops)})")
            raise
        shutil.rmtree(tmp_path / str(number))


def prepare(story: Story, root: Path, images: Images) -> Tree:
    tree = Tree.make(root, images, **dict(story.overrides))
    story.prepare(tree)
    return tree


def survive(story: Story, tree: Tree, *, alone: bool = False) -> None:
    """What follows a death. A qemu-img left ``alone`` keeps the disk that it grows locked."""
    if alone and story.name == "disk_grown":
        crash.wait_for_helpers(tree.folder)
    check(tree)
    story.holds(tree)
    story.act(tree)
    story.expect(tree)
    check(tree)
    story.holds(tree)
    crash.wait_for_helpers(tree.folder)
    check_clean(tree)
