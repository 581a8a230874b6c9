"""Filters as words, and what they match."""

from __future__ import annotations

import pytest

from basecache import errors
from basecache.model import Image
from basecache.sources import ImageQuery
from basecache.sources.filters import matches, parse_query


def test_every_word() -> None:
    query = parse_query(
        {
            "name": "n",
            "status": "ACTIVE",
            "server": "http://nova/v2.1/servers/5e0b",
            "type": "snapshot",
            "minRam": "512",
            "minDisk": 3,
            "changes-since": "2026-01-31T12:00:00Z",
            "property-os": "debian",
            "properties": {"arch": "x86_64"},
            "limit": "10",
            "marker": "m",
        }
    )
    assert query == ImageQuery(
        name="n",
        status="active",
        server="5e0b",
        type="snapshot",
        min_ram_mib=512,
        min_disk_gib=3,
        changes_since="2026-01-31T12:00:00+00:00",
        properties={"os": "debian", "arch": "x86_64"},
        limit=10,
        marker="m",
    )


def test_our_words_mean_the_same() -> None:
    ours = {"min_ram": 1, "min_disk": 2, "changes_since": "2026-01-31"}
    novas = {"minRam": 1, "minDisk": 2, "changes-since": "2026-01-31"}
    assert parse_query(ours) == parse_query(novas)


@pytest.mark.parametrize("word", ["colour", "property-", "Name", "minram", ""])
def test_unknown_word(word: str) -> None:
    with pytest.raises(errors.UnknownChoice) as caught:
        parse_query({word: "x"})
    assert "minRam" in caught.value.known


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("minRam", "much"),
        ("min_disk", -1),
        ("limit", "1.5"),
        ("limit", None),
        ("changes-since", "yesterday"),
        ("changes_since", "2026-13-01"),
    ],
)
def test_value_that_cannot_be_meant(word: str, value: object) -> None:
    with pytest.raises(errors.UsageError, match=word):
        parse_query({word: value})


IMAGE = Image(
    "i",
    name="n",
    min_ram_mib=512,
    updated_at="2026-01-31T12:00:00Z",
    properties={"image_type": "base", "flag": True},
)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, True),
        ({"name": "n"}, True),
        ({"name": "N"}, False),
        ({"minRam": 512}, True),
        ({"minRam": 256}, False),
        ({"minDisk": 0}, True),
        ({"changes-since": "2026-01-31T12:00:00Z"}, True),
        ({"changes-since": "2026-01-31T13:00:00+01:00"}, True),
        ({"changes-since": "2026-01-31T12:00:01"}, False),
        ({"type": "base"}, True),
        ({"type": "snapshot"}, False),
        ({"property-flag": "True"}, True),
        ({"property-none": "None"}, False),
        ({"server": "x"}, False),
    ],
)
def test_matches(filters: dict[str, object], expected: bool) -> None:
    assert matches(IMAGE, parse_query(filters)) is expected


def test_an_image_without_times_has_not_changed() -> None:
    assert not matches(Image("i"), ImageQuery(changes_since="2020-01-01"))
