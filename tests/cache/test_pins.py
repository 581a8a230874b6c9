"""Pins: they outlive what they pin, and one that cannot be read holds for good."""

from __future__ import annotations

import json
import time

import pytest

from basecache import errors
from basecache.cache import pins
from basecache.cache.layout import Layout
from basecache.cache.pins import Pin
from tests.cache.holding import SHA1, Seen


def test_a_pin_is_read_as_it_was_written(layout: Layout) -> None:
    until = time.time() + 60
    written = pins.write(layout, SHA1, reason="a release", until=until, image_id="i")
    assert written == Pin(SHA1, "a release", until, written.made_at, "i")
    assert pins.read_all(layout) == {SHA1: written}
    endless = pins.write(layout, "swap_1", reason="", until=None)
    assert pins.read_all(layout) == {SHA1: written, "swap_1": endless}


def test_a_pin_holds_until_its_time() -> None:
    pin = Pin(SHA1, "", until=100.0, made_at=0.0)
    assert pin.holds(99.9)
    assert not pin.holds(100.0)
    assert Pin(SHA1, "", until=None, made_at=0.0).holds(1e12)


def test_a_later_pin_replaces_an_earlier_one(layout: Layout) -> None:
    pins.write(layout, SHA1, reason="first", until=None)
    second = pins.write(layout, SHA1, reason="second", until=time.time() + 60)
    assert pins.read_all(layout) == {SHA1: second}


@pytest.mark.parametrize("until", [0.0, 1e9, float("nan"), float("-inf")])
def test_a_pin_that_would_never_hold_is_refused(layout: Layout, until: float) -> None:
    with pytest.raises(errors.UsageError):
        pins.write(layout, SHA1, reason="", until=until)
    assert pins.read_all(layout) == {}


def test_unpinning(layout: Layout) -> None:
    pins.write(layout, SHA1, reason="", until=None)
    pins.remove(layout, SHA1)
    assert pins.read_all(layout) == {}
    with pytest.raises(errors.NotFound):
        pins.remove(layout, SHA1)


def test_where_nothing_was_ever_pinned_there_are_no_pins(layout: Layout) -> None:
    assert not layout.pins.exists()
    assert pins.read_all(layout) == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b"{}",
        b'{"reason": "r", "until": 5}',
        b'{"reason": "r", "until": "tomorrow", "made_at": 1}',
        b'{"reason": "r", "until": [1], "made_at": 1}',
        b"\xff",
        b"[" * 200_000,
    ],
    ids=lambda content: repr(content[:60]),
)
def test_a_pin_that_cannot_be_read_holds_for_good_and_is_told(
    layout: Layout, content: bytes
) -> None:
    pins.write(layout, SHA1, reason="", until=None)
    layout.pin(SHA1).write_bytes(content)
    seen = Seen()
    found = pins.read_all(layout, seen)[SHA1]
    assert found.until is None
    assert found.holds(1e12)
    assert len(seen.troubles) == 1


def test_a_folder_in_the_place_of_a_pin_holds_too(layout: Layout) -> None:
    layout.pin(SHA1).mkdir(parents=True)
    seen = Seen()
    assert pins.read_all(layout, seen)[SHA1].holds(1e12)
    assert len(seen.troubles) == 1


def test_what_a_dead_writer_left_is_no_pin(layout: Layout) -> None:
    pins.write(layout, SHA1, reason="", until=None)
    (layout.pins / f".{SHA1}.0badcafe").write_bytes(b"{")
    assert set(pins.read_all(layout)) == {SHA1}


def test_ended_pins_are_dropped_and_no_others(layout: Layout) -> None:
    pins.write(layout, SHA1, reason="", until=time.time() + 60)
    pins.write(layout, "swap_1", reason="", until=None)
    pins.write(layout, "swap_2", reason="", until=time.time() + 60)
    ended = json.loads(layout.pin("swap_2").read_bytes()) | {"until": 5.0}
    layout.pin("swap_2").write_text(json.dumps(ended))
    layout.pin("swap_3").write_text("{")
    pins.drop_ended(layout)
    assert set(pins.read_all(layout)) == {SHA1, "swap_1", "swap_3"}
