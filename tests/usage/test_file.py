"""The instances file: what it may hold, and that anything else is missing evidence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basecache import errors
from basecache.model import BlockDeviceMapping, Instance
from basecache.usage import Report
from basecache.usage.file import FileUsage, GivenUsage, parse_instances

WHOLE = {
    "name": "vm1",
    "uuid": "5e0b",
    "host": "h1",
    "task_state": "resize_prep",
    "vm_state": "active",
    "image_ref": "i",
    "kernel_id": "k",
    "ramdisk_id": "r",
    "os_type": "linux",
    "bdms": [
        {"kind": "swap", "size": 512},
        {"kind": "ephemeral", "size": 20, "guest_format": "ext4"},
        {"kind": "ephemeral", "size": 30, "guest_format": None},
    ],
}


def read(folder: Path, content: str | bytes) -> Report:
    path = folder / "instances.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return FileUsage(path).collect()


def test_everything_an_instance_may_have(tmp_path: Path) -> None:
    report = read(tmp_path, json.dumps([WHOLE]))
    assert report.hosts is None
    assert report.instances == (
        Instance(
            uuid="5e0b",
            name="vm1",
            host="h1",
            task_state="resize_prep",
            vm_state="active",
            image_ref="i",
            kernel_id="k",
            ramdisk_id="r",
            os_type="linux",
            bdms=(
                BlockDeviceMapping("swap", 512),
                BlockDeviceMapping("ephemeral", 20, "ext4"),
                BlockDeviceMapping("ephemeral", 30),
            ),
        ),
    )


@pytest.mark.parametrize("key", [key for key in WHOLE if key not in ("uuid", "name")])
def test_absent_null_and_empty_are_all_nothing(key: str) -> None:
    others = {k: v for k, v in WHOLE.items() if k != key}
    (absent,) = parse_instances([others])
    assert not getattr(absent, key)
    assert parse_instances([{**others, key: None}]) == (absent,)
    assert parse_instances([{**others, key: ""}]) == (absent,)


@pytest.mark.parametrize(("given_as", "label"), [("uuid", "x"), ("name", "x")])
def test_one_of_uuid_and_name_is_enough(given_as: str, label: str) -> None:
    (instance,) = parse_instances([{given_as: label}])
    assert instance.uuid == instance.label == label


def test_unknown_keys_are_ignored() -> None:
    (instance,) = parse_instances([{"uuid": "u", "flavor": {"ram": 1}, "bdms_": 3}])
    assert instance == Instance(uuid="u")


@pytest.mark.parametrize("content", ["[]", " [ ] \n"])
def test_no_instances_at_all_is_an_answer(tmp_path: Path, content: str) -> None:
    assert read(tmp_path, content).instances == ()


BAD_FILES: dict[str, str | bytes] = {
    "empty": "",
    "cut off": '[{"uuid": "u"}',
    "two lists": "[][]",
    "not UTF-8": b'[{"uuid": "\xff"}]',
    "zeros": b"\0" * 100,
    "an object": '{"uuid": "u"}',
    "null": "null",
    "a number": "7",
    "text": '"u"',
    "deep": "[" * 200_000,
    "a huge number": '[{"uuid": "u", "bdms": [{"kind": "swap", "size": ' + "9" * 5000 + "}]}]",
}
BAD_INSTANCES: dict[str, Any] = {
    "text": "u",
    "a list": ["u"],
    "null": None,
    "nameless": {},
    "no names": {"uuid": "", "name": None},
    "uuid a number": {"uuid": 5},
    "image a number": {"uuid": "u", "image_ref": 5},
    "image a list": {"uuid": "u", "image_ref": ["i"]},
    "image false": {"uuid": "u", "image_ref": False},
    "state a flag": {"uuid": "u", "vm_state": True},
    "bdms text": {"uuid": "u", "bdms": "swap"},
    "bdms an object": {"uuid": "u", "bdms": {"kind": "swap", "size": 1}},
    "bdms an empty object": {"uuid": "u", "bdms": {}},
    "bdms zero": {"uuid": "u", "bdms": 0},
    "bdms false": {"uuid": "u", "bdms": False},
    "bdms a number": {"uuid": "u", "bdms": 7},
    "a disk of text": {"uuid": "u", "bdms": ["swap"]},
    "a disk of null": {"uuid": "u", "bdms": [None]},
    "a disk of no kind": {"uuid": "u", "bdms": [{"size": 1}]},
    "a disk of another kind": {"uuid": "u", "bdms": [{"kind": "volume", "size": 1}]},
    "a disk of an odd kind": {"uuid": "u", "bdms": [{"kind": ["swap"], "size": 1}]},
    "a disk of no size": {"uuid": "u", "bdms": [{"kind": "swap"}]},
    "a disk of a text's size": {"uuid": "u", "bdms": [{"kind": "swap", "size": "1"}]},
    "a disk of half a size": {"uuid": "u", "bdms": [{"kind": "swap", "size": 1.5}]},
    "a disk of a true size": {"uuid": "u", "bdms": [{"kind": "swap", "size": True}]},
    "a disk less than none": {"uuid": "u", "bdms": [{"kind": "swap", "size": -1}]},
    "a disk of format 5": {
        "uuid": "u",
        "bdms": [{"kind": "ephemeral", "size": 1, "guest_format": 5}],
    },
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_file_that_is_none_is_missing_evidence(tmp_path: Path, content: str | bytes) -> None:
    with pytest.raises(errors.EvidenceMissing) as caught:
        read(tmp_path, content)
    assert str(tmp_path / "instances.json") in caught.value.message


@pytest.mark.parametrize("bad", BAD_INSTANCES.values(), ids=BAD_INSTANCES.keys())
def test_one_bad_instance_spoils_the_file(tmp_path: Path, bad: object) -> None:
    with pytest.raises(errors.UsageError):
        parse_instances([{"uuid": "good"}, bad])
    with pytest.raises(errors.EvidenceMissing):
        read(tmp_path, json.dumps([{"uuid": "good"}, bad]))


def test_a_file_that_is_not_there_is_missing_evidence(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(errors.EvidenceMissing):
            FileUsage(path).collect()


@pytest.mark.parametrize("objects", [{"uuid": "u"}, "u", b"u", None, 7])
def test_what_is_given_must_be_a_list(objects: object) -> None:
    with pytest.raises(errors.UsageError):
        parse_instances(objects)


def test_instances_may_be_given_as_they_are() -> None:
    mine = Instance(uuid="u", image_ref="i")
    report = GivenUsage(parse_instances(iter([mine, {"uuid": "v"}]))).collect()
    assert report.instances == (mine, Instance(uuid="v"))
    assert report.hosts is None


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.sampled_from(sorted(WHOLE)), values),
    max_leaves=10,
)


@given(json_values | st.lists(st.dictionaries(st.sampled_from(sorted(WHOLE)), json_values)))
def test_anything_is_either_instances_or_a_usage_error(objects: object) -> None:
    try:
        instances = parse_instances(objects)
    except errors.UsageError:
        return
    for instance in instances:
        assert instance.uuid
        texts = (instance.name, instance.host, instance.image_ref, instance.os_type)
        assert all(text is None or text for text in texts)
        assert all(isinstance(bdm.size, int) and bdm.size >= 0 for bdm in instance.bdms)
        assert all(isinstance(bdm.guest_format, str | None) for bdm in instance.bdms)
