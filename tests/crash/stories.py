"""What happens to a cache, told so that it can be cut off anywhere and told again.

``prepare`` makes the old state, ``act`` is what gets killed, ``expect`` is the new state, which
a second telling must reach from wherever the first one died; ``holds`` is true all the while.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from basecache import errors
from basecache.agent.disk import Blank, Content, Swap
from basecache.model import Verdict
from tests.crash.tree import Tree, register_by_hand, registered_hosts
from tests.support.hostile import MiB, run_qemu_img
from tests.support.place import make_old, sha256

# What the code under test loads when it first needs it; the server that stories are forked from
# loads this module, so that the stories themselves load nothing.
_LOADED_LATE = (
    *("blake3", "encodings.unicode_escape", "oslo_utils.imageutils.format_inspector"),
    *("basecache.wiring", "basecache.config.reader", "basecache.config.resolve"),
    *("basecache.disks.flat", "basecache.disks.qcow2"),
    *("basecache.sources.directory", "basecache.sources.retry"),
)
for _module in _LOADED_LATE:
    importlib.import_module(_module)

Step = Callable[[Tree], object]
_ORPHAN = "0" * 40


def nothing(tree: Tree) -> None:
    """Nothing to do, or to see."""


@dataclass(frozen=True)
class Story:
    """``overrides`` are options of the host it happens on."""

    name: str
    act: Step
    expect: Step
    prepare: Step = nothing
    holds: Step = nothing
    overrides: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Telling:
    """The act of a story, for a process of its own."""

    name: str
    tree: Tree

    def __call__(self) -> None:
        STORIES[self.name].act(self.tree)


def has(*images: str) -> Step:
    def look(tree: Tree) -> None:
        for image in images:
            assert tree.entry(image).is_file(), f"{image} is gone"

    return look


def ensure(*images: str) -> Step:
    return lambda tree: tree.ensure(*images)


def make_disk(
    instance: str,
    size: int = 2 * MiB,
    *,
    backend: str = "qcow2",
    content: Content | None = None,
) -> Step:
    """A disk of the image that the instance is named after, or of ``content``."""

    def act(tree: Tree) -> None:
        image = None if content else tree.id(instance.partition("-")[0])
        tree.host().create_disk(instance, image=image, content=content, size=size, backend=backend)

    return act


def has_disk(instance: str, disk_format: str, size: int = 2 * MiB) -> Step:
    def look(tree: Tree) -> None:
        disk = tree.host().disk(instance)
        assert (disk.format, disk.size_bytes) == (disk_format, size)

    return look


def steps(*each: Step) -> Step:
    def run(tree: Tree) -> None:
        for step in each:
            step(tree)

    return run


# What a sweep finds: files in use, files to go, and what the dead left everywhere.


def prepare_sweep(tree: Tree) -> None:
    steps(ensure("raw", "other", "cow"), make_disk("raw-1"), make_disk("other-1"))(tree)
    host, base = tree.host(), tree.place.base
    host.delete_disk("other-1", "disk")
    host.pin(tree.id("cow"))
    ended = {"reason": "ended", "until": 1.0, "made_at": 0.0, "image_id": None}
    (base / ".pins" / _ORPHAN).write_text(json.dumps(ended))
    (tree.folder / "raw-1" / ".disk.eph0.0123abcd.basecache-new").write_bytes(b"QFI\xfbjunk")
    for name in (f"{_ORPHAN}.info", f"{_ORPHAN}.part", f".{_ORPHAN}.info.0123abcd"):
        (base / name).write_bytes(b"{}")
    (base / ".staging" / f"{_ORPHAN}.0123456789abcdef.part").write_bytes(b"x")
    register_by_hand(tree, "h0")
    give_owner(tree)
    tree.make_old()


def give_owner(tree: Tree) -> None:
    """Hand what a test wrote itself to the owner of the tree."""
    owner = tree.folder.stat()
    for path in tree.folder.rglob("*"):
        os.chown(path, owner.st_uid, owner.st_gid)


def sweep(tree: Tree) -> None:
    report = tree.host().sweep(instances=[])
    assert report.missing_evidence == ()


def swept(tree: Tree) -> None:
    has("raw", "cow")(tree)
    assert not tree.entry("other").exists()
    assert not (tree.place.base / f"{_ORPHAN}.part").exists()
    assert registered_hosts(tree) == {"h0", "h1"}


def in_registry(*hosts: str) -> Step:
    def look(tree: Tree) -> None:
        assert registered_hosts(tree) >= set(hosts)

    return look


# Corruption: an entry whose byte has flipped, with and without a disk on it.


def spoil(image: str) -> Step:
    return lambda tree: tree.spoil(image)


def heal(tree: Tree) -> None:
    tree.host().verify(heal=True, force=True)


def healed(tree: Tree) -> None:
    """Died between taking the bad file away and fetching a good one, it is fetched when wanted."""
    tree.damaged = frozenset()
    tree.ensure("raw")


def has_good_copy(tree: Tree) -> None:
    name = tree.entry("raw").name
    assert sha256(tree.place.base / ".healed" / name) == sha256(tree.images.contents["raw"])
    assert [v.verdict for v in tree.host().verify(name)] == [Verdict.CORRUPT], "still told"


def verify(tree: Tree) -> None:
    tree.host().verify(force=True)


def verified(tree: Tree) -> None:
    assert {v.verdict for v in tree.host().verify(force=True)} == {Verdict.OK}


def put_essex_file(tree: Tree) -> None:
    """An entry that an early Nova left, with its checksum in a file."""
    tree.recorded = False
    tree.place.base.mkdir(exist_ok=True)
    shutil.copy(tree.images.contents["raw"], tree.entry("raw"))
    found = hashlib.sha1(tree.entry("raw").read_bytes()).hexdigest()
    tree.entry("raw").with_suffix(".sha1").write_text(found)
    give_owner(tree)


# The registry and the pins: one small file each.


def retire(tree: Tree) -> None:
    with contextlib.suppress(errors.NotFound):
        tree.host().retire_sharer("h0")


def retired(tree: Tree) -> None:
    assert registered_hosts(tree) == {"h1"}


def pin(reason: str) -> Step:
    return lambda tree: tree.host().pin(tree.id("raw"), reason=reason)


def unpin(tree: Tree) -> None:
    with contextlib.suppress(errors.NotFound):
        tree.host().unpin(tree.id("raw"))


def pin_reason(tree: Tree) -> str | None:
    held = tree.host().entry(tree.id("raw")).pin
    return held.reason if held else None


def is_pinned(*reasons: str | None) -> Step:
    def look(tree: Tree) -> None:
        assert pin_reason(tree) in reasons

    return look


# The rest of a disk's life.


def delete_disk(tree: Tree) -> None:
    with contextlib.suppress(errors.NotFound):
        tree.host().delete_disk("raw-1", "disk")


def deleted(tree: Tree) -> None:
    assert tree.host().disks("raw-1") == []


def remove(tree: Tree) -> None:
    with contextlib.suppress(errors.NotFound):
        tree.host().remove(tree.id("raw"))


def removed(tree: Tree) -> None:
    assert not tree.entry("raw").exists()


def resized_name(tree: Tree) -> str:
    return f"{tree.entry('raw').name}_{2 * MiB}"


def stand_on_resized(tree: Tree) -> None:
    """A disk of an old Nova's, whose resized base is gone."""
    tree.ensure("raw")
    resized = tree.place.base / resized_name(tree)
    shutil.copy(tree.entry("raw"), resized)
    os.truncate(resized, 2 * MiB)
    disk = tree.folder / "raw-1" / "disk"
    disk.parent.mkdir()
    run_qemu_img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", resized, disk)
    (disk.parent / "disk.info").write_text(json.dumps({str(disk): "qcow2"}))
    resized.unlink()
    tree.damaged |= {resized.name}
    tree.recorded = False
    give_owner(tree)


def has_resized(tree: Tree) -> None:
    tree.damaged = frozenset()
    assert (tree.place.base / resized_name(tree)).stat().st_size == 2 * MiB


def evicts(tree: Tree) -> None:
    tree.ensure("raw")
    assert not tree.entry("other").exists()


def prepare_eviction(tree: Tree) -> None:
    tree.ensure("other")
    make_old(tree.entry("other"))


_ALL = (
    Story("ensure_first", ensure("raw"), has("raw")),
    Story("ensure_converted", ensure("cow"), has("cow")),
    Story("ensure_existing", ensure("raw"), has("raw"), ensure("raw"), has("raw")),
    Story(
        "ensure_evicting",
        ensure("raw"),
        has("raw"),
        prepare_eviction,
        overrides=(("basecache", {"max_size": "1100K", "usage": "folder"}),),
    ),
    Story("adopt", verify, verified, put_essex_file, has("raw")),
    Story(
        "disk_with_template",
        make_disk("raw-1"),
        has_disk("raw-1", "qcow2"),
        ensure("raw"),
        has("raw"),
    ),
    Story(
        "disk_on_a_hit",
        make_disk("raw-1"),
        has_disk("raw-1", "qcow2"),
        make_disk("raw-0"),
        has_disk("raw-0", "qcow2"),
    ),
    Story("disk_flat", make_disk("raw-1", backend="raw"), has_disk("raw-1", "raw"), ensure("raw")),
    Story(
        "disk_flat_converted",
        make_disk("cow-1", backend="raw"),
        has_disk("cow-1", "raw"),
        ensure("cow"),
        overrides=(("force_raw_images", False),),
    ),
    Story(
        "disk_blank",
        make_disk("blank-1", content=Blank()),
        has_disk("blank-1", "qcow2"),
    ),
    Story(
        "disk_swap",
        make_disk("swap-1", MiB, backend="raw", content=Swap(1)),
        has_disk("swap-1", "raw", MiB),
    ),
    Story(
        "disk_grown",
        make_disk("raw-1", 4 * MiB),
        has_disk("raw-1", "qcow2", 4 * MiB),
        make_disk("raw-1"),
    ),
    Story("disk_deleted", delete_disk, deleted, make_disk("raw-1"), has("raw")),
    Story("disk_given_its_base", make_disk("raw-1", 0), has_resized, stand_on_resized, has("raw")),
    Story(
        "sweep",
        sweep,
        swept,
        prepare_sweep,
        steps(has("raw", "cow"), has_disk("raw-1", "qcow2"), in_registry("h0")),
    ),
    Story("remove", remove, removed, steps(make_disk("raw-1"), delete_disk)),
    Story("verify", verify, verified, ensure("cow"), has("cow")),
    Story("heal_replacing", heal, healed, steps(ensure("raw"), spoil("raw"))),
    Story(
        "heal_beside",
        heal,
        has_good_copy,
        steps(make_disk("raw-1"), spoil("raw")),
        steps(has("raw"), has_disk("raw-1", "qcow2")),
    ),
    Story(
        "pin",
        pin("new"),
        is_pinned("new"),
        steps(ensure("raw"), pin("old")),
        is_pinned("old", "new"),
    ),
    Story(
        "unpin", unpin, is_pinned(None), steps(ensure("raw"), pin("old")), is_pinned("old", None)
    ),
    Story(
        "retire",
        retire,
        retired,
        lambda tree: register_by_hand(tree, "h0", "h1"),
        in_registry("h1"),
    ),
)
STORIES = {story.name: story for story in _ALL}
