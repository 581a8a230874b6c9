"""What no kill can show: that a power loss finds the bytes before it finds their name.

Read from the traced system calls: whatever gets a name that promises something was fsynced after
its last byte was written and before it was renamed, and its folder was fsynced after that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.crash.stories import STORIES, Telling
from tests.crash.test_stop_points import prepare
from tests.crash.tree import Images, Tree
from tests.support import crash
from tests.support.crash import Call

_QUOTED = re.compile(r'"([^"]+)"')
_OPENED = re.compile(r"\d+<([^>]+)>")
_RENAMING = ("rename", "renameat", "renameat2")
_WRITING = ("write", "writev", "pwrite64", "pwritev", "ftruncate", "fallocate", "copy_file_range")
_SYNCING = ("fsync", "fdatasync")


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("ensure_first", {"raw", "raw.info"}),
        ("ensure_converted", {"cow", "cow.info"}),
        ("disk_on_a_hit", {"disk", "disk.info"}),
        ("disk_flat", {"disk", "disk.info"}),
        ("disk_blank", {"disk", "disk.info"}),
        ("disk_swap", {"swap_1", "swap_1.info", "disk", "disk.info"}),
        ("disk_with_template", {"raw_2097152_raw", "disk", "disk.info"}),
        ("disk_given_its_base", {"raw_2097152"}),
        ("heal_beside", {"raw"}),
        ("pin", {"raw"}),
        ("retire", {"compute_nodes"}),
    ],
)
def test_bytes_are_durable_before_their_name_and_that_before_all_is_said_done(
    name: str, published: set[str], images: Images, tmp_path: Path
) -> None:
    tree = prepare(STORIES[name], tmp_path / "tree", images)
    calls = crash.trace(Telling(name, tree), tmp_path / "trace")
    found = dict(renames(calls, tree))
    assert published <= {plain_name(tree, target) for target in found}
    for target, at in found.items():
        if plain_name(tree, target) in published:
            assert not trouble(calls, at, target), plain_name(tree, target)


def renames(calls: Sequence[Call], tree: Tree) -> Iterator[tuple[Path, int]]:
    """Where each file went by renaming, and the place of that call."""
    for at, call in enumerate(calls):
        if call.name in _RENAMING and crash.changes(call, tree.folder):
            yield Path(_QUOTED.findall(call.rest)[1]), at


def plain_name(tree: Tree, path: Path) -> str:
    """A file's name with the image's in place of its fingerprint."""
    fingerprint, rest = path.name[:40], path.name[40:]
    image = tree.images.name_of(fingerprint)
    return f"{image}{rest}" if image else path.name


def trouble(calls: Sequence[Call], at: int, target: Path) -> str:
    """What is missing round the rename at that place; nothing when it is durable."""
    source = _QUOTED.findall(calls[at].rest)[0]
    written = max(places(calls[:at], _WRITING, source), default=-1)
    synced = max(places(calls[:at], _SYNCING, source), default=-1)
    if synced <= written:
        return "its bytes are written but not fsynced when it gets its name"
    if not any(place > at for place in places(calls, _SYNCING, str(target.parent))):
        return "the folder of its name is not fsynced"
    return ""


def places(calls: Sequence[Call], names: Sequence[str], path: str) -> Iterator[int]:
    """Where calls of these names worked on the open file at ``path``."""
    for at, call in enumerate(calls):
        if call.name in names:
            opened = _OPENED.findall(call.rest.partition('"')[0])
            if opened and opened[-1] == path:
                yield at
