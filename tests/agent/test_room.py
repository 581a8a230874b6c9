"""Room: admitted before a byte is fetched, made by evicting what may go, promised once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from basecache import errors, events
from basecache.cache import locks
from basecache.cli.main import main
from tests.support.hostile import KiB, MiB
from tests.support.place import Place, content_of, make_old, process

HOUR = 3600.0


def limited(place: Place, max_size: str, **more: Any) -> Any:
    """A host whose cache may take ``max_size``, and evicts what an hour passed over."""
    return place.host(basecache={"max_size": max_size, **more})


def put(place: Place, *, age: float, size: int = 4 * MiB) -> str:
    """An image of whole data in the cache, last used ``age`` seconds ago."""
    image = place.add(lambda path: _write(path, size), disk_format="raw")
    place.host().ensure(image)
    make_old(place.entry(image), age)
    return image


def _write(path: Path, size: int) -> Path:
    path.write_bytes(b"\1" * size)
    return path


class TestAdmission:
    def test_beyond_max_size(self, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
        image = place.add(lambda path: _write(path, 4 * MiB))

        with pytest.raises(errors.NoSpace) as caught:
            limited(place, "3M").ensure(image)

        assert caught.value.needed_bytes == 4 * MiB
        assert caught.value.free_bytes == pytest.approx(3 * MiB, abs=64 * KiB)
        assert "max_size" in caught.value.why
        assert place.seen == [], "nothing was fetched"
        options = place.arguments(basecache={"max_size": "3M"})
        assert main([*options, "cache", "ensure", image]) == 4
        assert str(4 * MiB) in capsys.readouterr().err

    def test_below_min_free(self, place: Place) -> None:
        image = place.add(lambda path: _write(path, 4 * MiB))
        host = place.host(basecache={"min_free": "100%"})

        with pytest.raises(errors.NoSpace) as caught:
            host.ensure(image)

        assert (caught.value.needed_bytes, caught.value.free_bytes) == (4 * MiB, 0)
        assert "free space" in caught.value.why
        assert place.seen == []

    def test_just_enough(self, place: Place) -> None:
        image = place.add(lambda path: _write(path, 4 * MiB))
        assert limited(place, "4200K").ensure(image).path == place.entry(image)

    def test_a_conversion_counts(self, place: Place) -> None:
        image = place.add_qcow2(8 * MiB)
        with pytest.raises(errors.NoSpace) as caught:
            limited(place, "7M").ensure(image)
        # What is fetched by then takes its room already; the conversion is still to come.
        assert 8 * MiB - 64 * KiB < caught.value.needed_bytes <= 8 * MiB
        assert caught.value.free_bytes < 7 * MiB
        assert limited(place, "7M").ensure(place.add_raw()).path is not None
        kept = place.host(basecache={"max_size": "7M"}, force_raw_images=False)
        assert kept.ensure(image).path is not None

    def test_a_conversion_counts_before_fetching_where_its_size_is_declared(
        self, place: Place
    ) -> None:
        image = place.add_qcow2(8 * MiB, virtual_size=8 * MiB)
        with pytest.raises(errors.NoSpace):
            limited(place, "7M").ensure(image)
        assert place.saw(events.Fetching) == []


class TestEviction:
    def test_the_least_recently_used_goes(self, place: Place) -> None:
        older, newer = put(place, age=3 * HOUR), put(place, age=2 * HOUR)
        image = place.add(lambda path: _write(path, 4 * MiB))

        limited(place, "9M").ensure(image)

        assert not place.entry(older).exists()
        assert place.entry(newer).exists()
        assert place.entry(image).exists()
        assert not place.record_path(older).exists()

    def test_as_many_as_it_takes(self, place: Place) -> None:
        images = [put(place, age=age * HOUR) for age in (5, 4, 3, 2)]
        limited(place, "17M").ensure(place.add(lambda path: _write(path, 8 * MiB)))
        assert [place.entry(each).exists() for each in images] == [False, False, True, True]

    @pytest.mark.parametrize("why", ["used", "pinned", "young", "referred to"])
    def test_never_what_is_needed(self, place: Place, why: str) -> None:
        other = put(place, age=3 * HOUR)
        more: dict[str, Any] = {}
        if why == "used":
            place.make_overlay("vm", place.entry(other))
        elif why == "pinned":
            place.host().pin(other)
        elif why == "young":
            make_old(place.entry(other), 0.9 * HOUR)
        else:
            more["usage_file"] = str(place.usage_file({"uuid": "u", "image_ref": other}))
        image = place.add(lambda path: _write(path, 4 * MiB))
        before = content_of(place.base)

        with pytest.raises(errors.NoSpace):
            limited(place, "7M", **more).ensure(image)

        assert content_of(place.base) == before

    def test_the_floor_is_an_option(self, place: Place) -> None:
        other = put(place, age=0.9 * HOUR)
        image = place.add(lambda path: _write(path, 4 * MiB))
        limited(place, "7M", eviction_minimum_age_seconds=600).ensure(image)
        assert not place.entry(other).exists()

    def test_nothing_goes_where_all_of_it_would_not_be_enough(self, place: Place) -> None:
        other = put(place, age=3 * HOUR)
        with pytest.raises(errors.NoSpace):
            limited(place, "7M").ensure(place.add(lambda path: _write(path, 8 * MiB)))
        assert place.entry(other).exists()

    def test_nothing_goes_where_evidence_is_missing(self, place: Place) -> None:
        other = put(place, age=3 * HOUR)
        disk = place.instances / "vm" / "disk"
        disk.parent.mkdir()
        disk.write_bytes(b"QFI\xfb" + b"\xff" * 100)
        with pytest.raises(errors.NoSpace):
            limited(place, "7M").ensure(place.add(lambda path: _write(path, 4 * MiB)))
        assert place.entry(other).exists()

    def test_nothing_goes_where_removing_is_off(self, place: Place) -> None:
        other = put(place, age=3 * HOUR)
        with pytest.raises(errors.NoSpace):
            limited(place, "7M", remove_unused=False).ensure(
                place.add(lambda path: _write(path, 4 * MiB))
            )
        assert place.entry(other).exists()


class TestPromises:
    """Room that another process was given is gone, until it is done or dead."""

    @pytest.fixture
    def promised(self, place: Place) -> Iterator[None]:
        """Another process that is about to fetch 4 MiB."""
        place.host()
        with process(_PROMISING, json.dumps(place.options()), 4 * MiB):
            yield

    def test_they_count(self, place: Place, promised: None) -> None:
        image = place.add(lambda path: _write(path, 4 * MiB))
        with pytest.raises(errors.NoSpace) as caught:
            limited(place, "7M").ensure(image)
        assert caught.value.free_bytes == pytest.approx(3 * MiB, abs=64 * KiB)
        assert place.host().stat().promised_bytes == pytest.approx(4 * MiB, abs=64 * KiB)
        assert limited(place, "9M").ensure(image).path is not None

    def test_those_of_the_dead_do_not(self, place: Place) -> None:
        place.host()
        with process(_PROMISING, json.dumps(place.options()), 4 * MiB):
            pass
        assert list((place.base / ".staging").glob("*.plan")), "it died without a word"
        image = place.add(lambda path: _write(path, 4 * MiB))
        assert limited(place, "7M").ensure(image).path is not None
        assert place.host().stat().promised_bytes == 0

    def test_what_already_came_is_not_counted_twice(self, place: Place) -> None:
        place.host()
        with process(_PROMISING, json.dumps(place.options()), 4 * MiB, 3 * MiB):
            stock = place.host().stat()
        assert stock.promised_bytes == pytest.approx(1 * MiB, abs=64 * KiB)
        assert stock.allocated_bytes == pytest.approx(3 * MiB, abs=64 * KiB)


_PROMISING = """
    import json, sys, basecache
    from basecache.cache import locks, space
    store = basecache.open_host([], **json.loads(sys.argv[1])).parts.store
    name = "cd" * 20
    with locks.hold(store.layout.lock(name)), store.stage(name) as stage:
        space.promise(stage, int(sys.argv[2]))
        for came in map(int, sys.argv[3:]):
            stage.path("part").write_bytes(b"x" * came)
        print("promised", flush=True)
        sys.stdin.read()
"""


def test_nobody_evicts_beside_a_sweep(place: Place) -> None:
    """While one goes on it is waited for."""
    other = put(place, age=3 * HOUR)
    image = place.add(lambda path: _write(path, 4 * MiB))
    host = limited(place, "7M")
    with ThreadPoolExecutor(1) as pool:
        with locks.hold(host.parts.store.layout.own_lock("sweep")):
            waiting = pool.submit(host.ensure, image)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.5)
            assert place.entry(other).exists()
        waiting.result(timeout=30)
    assert not place.entry(other).exists()
