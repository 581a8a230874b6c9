"""Room: what others promised themselves counts while they live; deciding is arithmetic."""

from __future__ import annotations

import os
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basecache.cache import locks, space
from basecache.cache.layout import Layout
from basecache.cache.space import Limits, Space, admit
from basecache.cache.store import Stage, Store
from basecache.model import MiB
from tests.cache.holding import SHA1, write_entry
from tests.support.lockers import SAFETY_SECONDS, RunScript

sizes = st.integers(min_value=0, max_value=1 << 50)
spaces = st.builds(
    Space, device_bytes=sizes, free_bytes=sizes, cache_bytes=sizes, promised_bytes=sizes
)
limits = st.builds(Limits, max_size_bytes=st.none() | sizes, min_free_bytes=sizes)

PROMISE = """
from pathlib import Path
from basecache.cache import locks, space
from basecache.cache.layout import Layout
from basecache.cache.store import Store
layout = Layout(Path(sys.argv[1]))
with locks.hold(layout.lock(sys.argv[2])), Store(layout).stage(sys.argv[2]) as stage:
    space.promise(stage, int(sys.argv[3]))
    stage.path("part").write_bytes(b"x" * int(sys.argv[4]))
    print("promised", flush=True)
    sys.stdin.read()
"""


@given(sizes, spaces, limits)
def test_what_fits_leaves_every_bound_kept(needed: int, now: Space, bounds: Limits) -> None:
    fits = now.free_bytes - now.promised_bytes - needed >= bounds.min_free_bytes and (
        bounds.max_size_bytes is None
        or now.cache_bytes + now.promised_bytes + needed <= bounds.max_size_bytes
    )
    assert (admit(needed, now, bounds) is None) == fits


@given(sizes, spaces, limits)
def test_freeing_what_is_missing_is_just_enough(needed: int, now: Space, bounds: Limits) -> None:
    shortage = admit(needed, now, bounds)
    if shortage is None:
        return
    assert shortage.missing_bytes > 0
    assert shortage.available_bytes >= 0
    assert shortage.why

    def freed(count: int) -> Space:
        return replace(now, free_bytes=now.free_bytes + count, cache_bytes=now.cache_bytes - count)

    assert admit(needed, freed(shortage.missing_bytes), bounds) is None
    assert admit(needed, freed(shortage.missing_bytes - 1), bounds) is not None


@given(sizes, sizes, spaces, limits)
def test_what_fits_still_fits_when_less_is_needed(
    needed: int, less: int, now: Space, bounds: Limits
) -> None:
    if admit(needed, now, bounds) is None:
        assert admit(min(needed, less), now, bounds) is None


def test_the_bound_that_is_missed_most_is_named() -> None:
    now = Space(device_bytes=100, free_bytes=50, cache_bytes=30, promised_bytes=10)
    device = admit(45, now, Limits(max_size_bytes=90, min_free_bytes=5))
    assert device is not None
    assert (device.missing_bytes, device.available_bytes) == (10, 35)
    assert "device" in device.why
    bound = admit(45, now, Limits(max_size_bytes=60))
    assert bound is not None
    assert (bound.missing_bytes, bound.available_bytes) == (25, 20)
    assert "max_size" in bound.why


def test_blocks_are_counted_not_lengths_and_each_inode_once(layout: Layout) -> None:
    before = space.allocated(layout.base)
    entry = write_entry(layout, content=b"x" * MiB)
    os.truncate(entry, 1 << 40)
    os.link(entry, layout.entry("swap_1"))
    layout.entry("link").symlink_to(entry)
    layout.staging.mkdir()
    (layout.staging / "part").write_bytes(b"x" * MiB)
    assert space.allocated(layout.base) - before == 2 * MiB
    assert space.measure(layout).cache_bytes == space.allocated(layout.base)


def test_the_device_is_the_one_the_cache_is_on(layout: Layout) -> None:
    status = os.statvfs(layout.base)
    assert space.measure(layout).device_bytes == status.f_blocks * status.f_frsize


def test_a_missing_folder_takes_nothing(tmp_path: Path) -> None:
    assert space.allocated(tmp_path / "nowhere") == 0


def test_the_promise_of_a_living_process_counts_less_what_it_took(
    layout: Layout, run_script: RunScript
) -> None:
    process = run_script(PROMISE, layout.instances_path, SHA1, 10 * MiB, 3 * MiB)
    assert process.stdout is not None
    assert process.stdout.readline() == "promised\n"
    (plan,) = layout.staging.glob("*.plan")
    plan_takes = plan.stat().st_blocks * 512
    assert space.promised(layout) == 7 * MiB - plan_takes
    assert space.measure(layout).promised_bytes == space.promised(layout)
    process.communicate(timeout=SAFETY_SECONDS)
    assert space.promised(layout) == 0
    assert os.listdir(layout.staging) == []


def test_the_promise_of_a_dead_process_counts_for_nothing(
    layout: Layout, run_script: RunScript
) -> None:
    process = run_script(PROMISE, layout.instances_path, SHA1, 10 * MiB, 0)
    assert process.stdout is not None
    assert process.stdout.readline() == "promised\n"
    process.kill()
    process.wait(SAFETY_SECONDS)
    assert list(layout.staging.glob("*.plan"))
    assert space.promised(layout) == 0


def test_one_does_not_stand_in_ones_own_way(layout: Layout) -> None:
    with locks.hold(layout.lock(SHA1)), Store(layout).stage(SHA1) as mine:
        space.promise(mine, 10 * MiB)
        with locks.hold(layout.lock("swap_1")), Store(layout).stage("swap_1") as other:
            space.promise(other, 20 * MiB)
            assert space.promised(layout, mine) == 20 * MiB - space.taken(other)
            assert space.promised(layout, other) == 10 * MiB - space.taken(mine)


def test_who_took_more_than_promised_promises_nothing_more(layout: Layout) -> None:
    with locks.hold(layout.lock(SHA1)), Store(layout).stage(SHA1) as stage:
        space.promise(stage, MiB)
        stage.path("part").write_bytes(b"x" * 3 * MiB)
        assert space.promised(layout) == 0


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"needed_bytes": null}', b"\xff", b"[" * 200_000]
)
def test_a_plan_that_cannot_be_read_counts_for_nothing(layout: Layout, content: bytes) -> None:
    with locks.hold(layout.lock(SHA1)), Store(layout).stage(SHA1) as stage:
        stage.path(space.PLAN).write_bytes(content)
        assert space.promised(layout) == 0


def test_other_files_in_staging_are_no_plans(layout: Layout) -> None:
    layout.staging.mkdir()
    for name in ("note.plan", f"{SHA1}.tooshort.plan", f"{SHA1}.0123456789abcdef.part"):
        (layout.staging / name).write_text('{"needed_bytes": 1000}')
    with locks.hold(layout.lock(SHA1)), locks.hold(layout.lock("note")):
        assert space.promised(layout) == 0


def test_a_stage_takes_only_its_own_files(layout: Layout) -> None:
    layout.staging.mkdir()
    one, other = Stage(SHA1, layout.staging), Stage(SHA1, layout.staging)
    one.path("part").write_bytes(b"x" * MiB)
    one.path("raw").write_bytes(b"x" * MiB)
    other.path("part").write_bytes(b"x" * MiB)
    assert space.taken(one) == 2 * MiB


def test_files_that_vanish_meanwhile_hide_no_others(layout: Layout) -> None:
    for number in range(20):
        write_entry(layout, f"swap_{number}")
    over = threading.Event()

    def churn() -> None:
        while not over.is_set():
            paths = [layout.base / secrets.token_hex(8) for _ in range(40)]
            for path in paths:
                path.write_bytes(b"")
            for path in paths:
                path.unlink()

    with ThreadPoolExecutor(1) as threads:
        churning = threads.submit(churn)
        found = {space.allocated(layout.base) for _ in range(200)}
        over.set()
        churning.result(SAFETY_SECONDS)
    assert found == {20 * 4096}
