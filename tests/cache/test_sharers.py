"""The registry of sharers: Nova's file, and what a damaged one means."""

from __future__ import annotations

import json
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from basecache import errors
from basecache.cache import locks, sharers
from basecache.cache.layout import Layout
from basecache.cache.sharers import Sharer
from tests.cache.holding import make_layout
from tests.support.lockers import SAFETY_SECONDS, RunScript, StartLocker
from tests.support.needs import need_root

# What Nova does under its lock, in nova.virt.storage_users: read, set its own time, write.
REGISTER_AS_NOVA = """
import json, time
from oslo_concurrency import lockutils
folder, host = sys.argv[1:]
for number in range(30):
    with lockutils.lock("storage-registry-lock", "nova-", True, folder + "/locks", delay=0.001):
        path = folder + "/compute_nodes"
        hosts = json.load(open(path)) if os.path.exists(path) else {}
        hosts[f"{host}-{number}"] = time.time()
        with open(path, "w") as file:
            file.write(json.dumps(hosts))
"""


def test_what_nova_wrote_is_read(layout: Layout) -> None:
    layout.registry.write_text('{"node2": 1385524363.83, "node1": 1385524300}')
    assert sharers.read(layout) == (Sharer("node1", 1385524300.0), Sharer("node2", 1385524363.83))


def test_what_we_write_is_what_nova_reads(layout: Layout) -> None:
    layout.registry.write_text('{"node1": 1385524363.83}')
    before = time.time()
    sharers.register(layout, "node2")
    content = json.loads(layout.registry.read_bytes())
    assert content["node1"] == 1385524363.83
    assert before <= content.pop("node2") <= time.time()
    assert set(content) == {"node1"}


def test_where_nobody_registered_there_are_none(layout: Layout) -> None:
    assert sharers.read(layout) == ()


def test_registering_again_moves_the_time(layout: Layout) -> None:
    layout.registry.write_text('{"node1": 1.0}')
    sharers.register(layout, "node1")
    (only,) = sharers.read(layout)
    assert only.seen_at > 1.0


def test_a_host_silent_for_years_still_counts_until_it_is_retired(layout: Layout) -> None:
    layout.registry.write_text('{"node1": 1.0, "node2": 2.0}')
    sharers.register(layout, "node2")
    assert [sharer.host for sharer in sharers.read(layout)] == ["node1", "node2"]
    sharers.retire(layout, "node1")
    assert [sharer.host for sharer in sharers.read(layout)] == ["node2"]
    with pytest.raises(errors.NotFound):
        sharers.retire(layout, "node1")


DAMAGED = [
    b"",
    b"{",
    b'{"node1": 1385524363.83',
    b"[]",
    b"[1]",
    b"null",
    b"7",
    b'"node1"',
    b'{"node1": null}',
    b'{"node1": "yesterday"}',
    b'{"node1": [1]}',
    b"\xff\xfe",
    b"[" * 200_000,
]


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: repr(content[:30]))
def test_a_damaged_registry_is_missing_evidence_and_stays_as_it_is(
    layout: Layout, content: bytes
) -> None:
    layout.registry.write_bytes(content)
    with pytest.raises(errors.EvidenceMissing) as caught:
        sharers.read(layout)
    assert str(layout.registry) in caught.value.message
    with pytest.raises(errors.EvidenceMissing):
        sharers.register(layout, "node1")
    with pytest.raises(errors.EvidenceMissing):
        sharers.retire(layout, "node1")
    assert layout.registry.read_bytes() == content


def test_a_registry_that_cannot_be_read_is_missing_evidence(layout: Layout) -> None:
    layout.registry.mkdir()
    with pytest.raises(errors.EvidenceMissing):
        sharers.read(layout)


def test_the_registry_belongs_to_the_folders_owner(
    open_folder_layout: Layout,
) -> None:
    need_root("to give files away")
    sharers.register(open_folder_layout, "node1")
    status, folder = open_folder_layout.registry.stat(), open_folder_layout.locks.stat()
    assert (status.st_uid, status.st_gid) == (folder.st_uid, folder.st_gid)
    assert folder.st_uid != 0
    assert stat.S_IMODE(status.st_mode) == 0o664


@pytest.fixture
def open_folder_layout(request: pytest.FixtureRequest) -> Layout:
    return make_layout(request.getfixturevalue("open_folder"))


def test_registering_waits_for_a_nova_that_registers(
    layout: Layout, start_locker: StartLocker
) -> None:
    nova = start_locker("nova", layout.locks, "storage-registry-lock")
    assert nova.ask("take") == "taken"
    with ThreadPoolExecutor(1) as threads:
        registering = threads.submit(sharers.register, layout, "node1")
        assert not layout.registry.exists()
        assert nova.ask("release") == "released"
        registering.result(SAFETY_SECONDS)
    assert [sharer.host for sharer in sharers.read(layout)] == ["node1"]


def test_many_registering_at_once_lose_nobody(layout: Layout, run_script: RunScript) -> None:
    novas = [run_script(REGISTER_AS_NOVA, layout.instances_path, f"nova{n}") for n in range(2)]
    with ThreadPoolExecutor(3) as threads:
        ours = [f"ours-{number}" for number in range(40)]
        list(threads.map(lambda host: sharers.register(layout, host), ours))
    assert [nova.wait(SAFETY_SECONDS) for nova in novas] == [0, 0]
    theirs = [f"nova{n}-{number}" for n in range(2) for number in range(30)]
    assert [sharer.host for sharer in sharers.read(layout)] == sorted([*ours, *theirs])


def test_nothing_is_left_beside_it(layout: Layout) -> None:
    sharers.register(layout, "node1")
    assert set(os.listdir(layout.instances_path)) == {"_base", "locks", "compute_nodes"}
    assert os.listdir(layout.locks) == ["nova-storage-registry-lock"]
    assert not locks.is_held(layout.lock("storage-registry-lock"))
