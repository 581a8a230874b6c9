"""Records beside the files: Nova's format, broken ones, stale ones, many writers, sudden death."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from basecache import errors
from basecache.cache import records
from basecache.cache.layout import Layout
from basecache.cache.records import Record
from basecache.cache.store import Store
from basecache.model import Digest
from tests.cache.holding import SHA1, Seen, make_layout, write_entry
from tests.support.lockers import SAFETY_SECONDS, RunScript
from tests.support.needs import need_root

OLD_SHA1 = "a9993e364706816aba3e25717850c26c9cd0d89d"


def write_raw(layout: Layout, content: bytes | str) -> None:
    path = layout.record(SHA1)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def read_raw(layout: Layout) -> dict[str, object]:
    content: dict[str, object] = json.loads(layout.record(SHA1).read_bytes())
    return content


def test_a_record_nova_wrote_is_read(layout: Layout) -> None:
    write_raw(layout, f'{{"sha1": "{OLD_SHA1}", "sha1-timestamp": 1400000000.5}}')
    record = records.read(layout, SHA1)
    assert record.at_rest == ("sha1", Digest("sha1", OLD_SHA1))
    assert record.taken_at("sha1") == 1400000000.5
    assert not record.bound


def test_what_we_write_has_a_time_for_each_field(layout: Layout) -> None:
    before = time.time()
    records.update(layout, SHA1, {"image_id": "i", "virtual_size_bytes": 5})
    content = read_raw(layout)
    assert set(content) == {
        "image_id",
        "image_id-timestamp",
        "virtual_size_bytes",
        "virtual_size_bytes-timestamp",
    }
    assert content["image_id"] == "i"
    stamp = content["image_id-timestamp"]
    assert isinstance(stamp, float)
    assert before <= stamp <= time.time()
    record = records.read(layout, SHA1)
    assert (record.image_id, record.virtual_size_bytes) == ("i", 5)


def test_fields_of_others_stay_and_only_what_is_named_changes(layout: Layout) -> None:
    theirs = {"sha1": OLD_SHA1, "sha1-timestamp": 1.0, "colour": ["red"], "colour-timestamp": 2}
    write_raw(layout, json.dumps({**theirs, "format": "raw", "format-timestamp": 3.0}))
    records.update(layout, SHA1, {"format": None, "image_id": "i"})
    content = read_raw(layout)
    assert {key: content[key] for key in theirs} == theirs
    assert set(content) - set(theirs) == {"image_id", "image_id-timestamp"}


def test_no_record_is_an_empty_one(layout: Layout) -> None:
    seen = Seen()
    assert records.read(layout, SHA1, seen) == Record({})
    assert seen == []
    assert not layout.record(SHA1).exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"sha1": "' + OLD_SHA1.encode(),
        b"[]",
        b"null",
        b"7",
        b'"text"',
        b"\xff\xfe\x00",
        b"\0" * 4096,
        b"[" * 200_000,
    ],
    ids=lambda content: repr(content[:12]),
)
def test_a_broken_record_is_an_event_and_an_empty_record(layout: Layout, content: bytes) -> None:
    write_raw(layout, content)
    seen = Seen()
    assert records.read(layout, SHA1, seen) == Record({})
    assert len(seen.troubles) == 1
    assert str(layout.record(SHA1)) in seen.troubles[0]
    assert layout.record(SHA1).read_bytes() == content
    records.update(layout, SHA1, {"format": "raw"}, emit=seen)
    assert len(seen.troubles) == 2
    assert records.read(layout, SHA1, seen).format == "raw"
    assert len(seen.troubles) == 2


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=8,
)
FIELDS = ("image_id", "format", "virtual_size_bytes", "checks", "blake3", "digest", "sha1")


@given(st.dictionaries(st.sampled_from(FIELDS), json_values))
@example({"virtual_size_bytes": float("inf")})
@example({"virtual_size_bytes": float("nan")})
def test_fields_of_any_kind_never_end_in_an_error(values: dict[str, object]) -> None:
    record = Record(values)
    assert record.image_id is None or record.image_id
    assert isinstance(record.virtual_size_bytes, int | None)
    assert all(isinstance(check, str) for check in record.checks)
    assert record.at_rest is None or record.at_rest[0] in ("blake3", "digest", "sha1")
    assert isinstance(record.source_digest, Digest | None)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"sha1": OLD_SHA1}, "sha1"),
        ({"sha1": OLD_SHA1, "digest": f"sha512:{'ab' * 64}"}, "digest"),
        ({"sha1": OLD_SHA1, "digest": f"sha512:{'ab' * 64}", "blake3": "ab" * 32}, "blake3"),
        ({"sha1": OLD_SHA1, "blake3": "no hex"}, "sha1"),
        ({"sha1": "", "digest": "sha512"}, None),
    ],
)
def test_the_best_digest_is_the_one_to_verify_with(
    values: dict[str, str], field: str | None
) -> None:
    found = Record(values).at_rest
    assert (found and found[0]) == field


def test_an_essex_checksum_is_taken_over_and_removed(layout: Layout) -> None:
    old = layout.old_checksum(SHA1)
    old.write_text(f"{OLD_SHA1}\n")
    record = records.read(layout, SHA1)
    assert record.at_rest == ("sha1", Digest("sha1", OLD_SHA1))
    assert record.taken_at("sha1") is None
    assert read_raw(layout) == {"sha1": OLD_SHA1}
    assert not old.exists()


def test_an_essex_checksum_does_not_replace_a_record(layout: Layout) -> None:
    layout.old_checksum(SHA1).write_text("f" * 40)
    write_raw(layout, json.dumps({"sha1": OLD_SHA1}))
    assert records.read(layout, SHA1).at_rest == ("sha1", Digest("sha1", OLD_SHA1))


@pytest.mark.parametrize("content", ["", "\n", "no digest at all", "\udcff\udcfe"])
def test_an_essex_checksum_that_is_none_leaves_nothing_to_verify_with(
    layout: Layout, content: str
) -> None:
    layout.old_checksum(SHA1).write_bytes(content.encode("utf-8", "surrogateescape"))
    assert records.read(layout, SHA1).at_rest is None


def test_records_go_where_the_pattern_says(tmp_path: Path) -> None:
    layout = make_layout(tmp_path, f"{tmp_path}/facts/%(image)s/record.json")
    records.update(layout, SHA1, {"format": "raw"})
    assert (tmp_path / "facts" / SHA1 / "record.json").exists()
    assert records.read(layout, SHA1).format == "raw"
    assert os.listdir(layout.base) == []
    entry = Store(layout).find(write_entry(layout).name)
    assert entry is not None
    Store(layout).remove(entry)
    assert not layout.record(SHA1).exists()


@pytest.mark.parametrize(
    ("pattern", "name", "is_one"),
    [
        (None, f"{SHA1}.info", True),
        (None, f"{SHA1}.json", False),
        ("{0}/facts/%(image)s.info", f"{SHA1}.info", False),
    ],
)
def test_records_are_told_by_their_place(
    tmp_path: Path, pattern: str | None, name: str, is_one: bool
) -> None:
    layout = make_layout(tmp_path, pattern and pattern.format(tmp_path))
    assert records.is_record_name(layout, layout.base / name) is is_one


def test_records_are_writable_by_the_folders_owner_and_group(open_folder: Path) -> None:
    need_root("to give files away")
    layout = make_layout(open_folder)
    records.update(layout, SHA1, {"format": "raw"})
    status, folder = layout.record(SHA1).stat(), open_folder.stat()
    assert (status.st_uid, status.st_gid) == (folder.st_uid, folder.st_gid)
    assert status.st_mode & 0o777 == 0o664


def test_a_record_that_cannot_be_read_is_a_clear_error(layout: Layout) -> None:
    layout.record(SHA1).mkdir()
    with pytest.raises(errors.StorageFailed):
        records.read(layout, SHA1)
    with pytest.raises(errors.StorageFailed):
        records.update(layout, SHA1, {"format": "raw"})


class Bound:
    """A file with a record that is about it."""

    def __init__(self, layout: Layout) -> None:
        self.path = write_entry(layout)
        self.record = records.fresh({"format": "raw", **records.bind(self.path)}, time.time())

    def is_valid(self) -> bool:
        return records.is_of(self.record, self.path, self.path.stat())


@pytest.fixture(params=["with xattrs", "without xattrs"])
def bound(request: pytest.FixtureRequest, layout: Layout) -> Bound:
    if request.param == "without xattrs":
        layout = make_layout(request.getfixturevalue("ramfs_folder"))
    made = Bound(layout)
    assert (records.TOKEN in made.record.values) is (request.param == "with xattrs")
    return made


@pytest.fixture
def ramfs_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system that has no user xattrs."""
    need_root("to mount ramfs")
    point = tmp_path / "ramfs"
    point.mkdir()
    subprocess.run(["mount", "-t", "ramfs", "ramfs", point], check=True)
    try:
        with pytest.raises(OSError) as caught:
            os.setxattr(point, "user.any", b"x")
        assert caught.value.errno == errno.ENOTSUP
        yield point
    finally:
        subprocess.run(["umount", point], check=True)


def test_a_record_is_of_its_file_whatever_its_times_and_name(bound: Bound) -> None:
    assert bound.is_valid()
    os.utime(bound.path, (1, 1))
    bound.path = bound.path.rename(bound.path.with_name("moved"))
    assert bound.is_valid()


def test_another_file_in_its_place_makes_a_record_stale(bound: Bound) -> None:
    copy = bound.path.with_name("copy")
    copy.write_bytes(bound.path.read_bytes())
    copy.rename(bound.path)
    assert not bound.is_valid()


def test_another_size_makes_a_record_stale(bound: Bound) -> None:
    os.truncate(bound.path, 100)
    assert not bound.is_valid()


def test_another_mark_makes_a_record_stale(layout: Layout) -> None:
    """An inode number may come again, for the next file of the same size."""
    bound = Bound(layout)
    os.setxattr(bound.path, records.XATTR, b"0123456789abcdef")
    assert not bound.is_valid()
    os.removexattr(bound.path, records.XATTR)
    assert not bound.is_valid()
    again = Bound(layout)
    assert again.is_valid()
    assert again.record.text(records.TOKEN) != bound.record.text(records.TOKEN)


def test_a_record_moved_to_where_there_are_no_xattrs_is_stale(
    layout: Layout, ramfs_folder: Path
) -> None:
    bound = Bound(layout)
    elsewhere = ramfs_folder / SHA1
    elsewhere.write_bytes(bound.path.read_bytes())
    same_inode = {**bound.record.values, records.INODE: elsewhere.stat().st_ino}
    assert not records.is_of(Record(same_inode), elsewhere, elsewhere.stat())


def test_a_record_nova_wrote_is_believed_and_an_empty_one_is_not(layout: Layout) -> None:
    path = write_entry(layout)
    assert records.is_of(Record({"sha1": OLD_SHA1}), path, path.stat())
    assert not records.is_of(Record({}), path, path.stat())


UPDATE = """
from pathlib import Path
from basecache.cache import records
from basecache.cache.layout import Layout
layout = Layout(Path(sys.argv[1]))
for number in range(int(sys.argv[4])):
    records.update(layout, sys.argv[2], {f"{sys.argv[3]}-{number}": number})
    print(number, flush=True)
"""


def test_concurrent_updates_lose_none(layout: Layout, run_script: RunScript) -> None:
    running = [run_script(UPDATE, layout.instances_path, SHA1, who, 40) for who in "abc"]

    def update(who: str) -> None:
        for number in range(40):
            records.update(layout, SHA1, {f"{who}-{number}": number})

    with ThreadPoolExecutor(2) as threads:
        for future in [threads.submit(update, who) for who in "de"]:
            future.result(SAFETY_SECONDS)
    for process in running:
        process.communicate(timeout=SAFETY_SECONDS)
        assert process.returncode == 0
    record = records.read(layout, SHA1)
    wanted = {f"{who}-{number}": number for who in "abcde" for number in range(40)}
    assert {name: record.number(name) for name in wanted} == wanted


def test_readers_meanwhile_see_whole_records(layout: Layout, run_script: RunScript) -> None:
    process = run_script(UPDATE, layout.instances_path, SHA1, "a", 100)
    seen = Seen()
    highest = -1
    while process.poll() is None:
        number = len(records.read(layout, SHA1, seen).values) // 2 - 1
        assert number >= highest
        highest = number
    assert process.returncode == 0
    assert seen.troubles == []


@pytest.mark.parametrize("updates", [1, 7, 20])
def test_killed_in_the_middle_the_record_is_the_old_or_the_new(
    layout: Layout, run_script: RunScript, updates: int
) -> None:
    process = run_script(UPDATE, layout.instances_path, SHA1, "a", 1_000_000)
    assert process.stdout is not None
    said = [int(process.stdout.readline()) for _ in range(updates)]
    process.send_signal(signal.SIGKILL)
    said += [int(line) for line in process.stdout.read().splitlines()]
    process.wait(SAFETY_SECONDS)
    seen = Seen()
    record = records.read(layout, SHA1, seen)
    assert seen.troubles == []
    kept = sorted(int(key[2:]) for key in record.values if not key.endswith("-timestamp"))
    assert kept in (said, [*said, said[-1] + 1])
    records.update(layout, SHA1, {"after": 1})
    assert records.read(layout, SHA1).number("after") == 1
