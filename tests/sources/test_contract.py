"""What every source does, whatever is behind it."""

from __future__ import annotations

import random
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from basecache import errors
from basecache.model import Image
from basecache.sources import filters
from tests.sources.stands import is_digest_of, make_stand, query, read_all

DATA = random.Random(1).randbytes(300_001)

EVERY = [
    "directory",
    "url",
    pytest.param("glance-open", marks=pytest.mark.service),
    pytest.param("glance", marks=pytest.mark.service),
    "peer-folder",
    "peer-ssh",
    "retrying",
    "chain",
]
LISTING = [kind for kind in EVERY if not str(kind).startswith("peer")]
FILTERING = [kind for kind in LISTING if kind != "url"]


@pytest.fixture
def stand(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return make_stand(request.param, request, tmp_path)


@pytest.mark.parametrize("stand", EVERY, indirect=True)
class TestEverySource:
    def test_describes_an_image(self, stand: Any) -> None:
        image_id = stand.offer(DATA)
        image = stand.source.describe(image_id)
        assert (image.id, image.status, image.disk_format) == (image_id, "active", "raw")
        assert image.size_bytes == len(DATA)
        assert is_digest_of(image.digest, DATA)

    def test_reads_it_whole(self, stand: Any) -> None:
        image = _offered(stand, DATA)
        assert read_all(stand.source, image) == DATA

    def test_reads_into_a_small_buffer(self, stand: Any) -> None:
        image = _offered(stand, DATA[:1000])
        assert read_all(stand.source, image, buffer_bytes=7) == DATA[:1000]

    def test_leaves_the_rest_of_the_buffer_alone(self, stand: Any) -> None:
        image = _offered(stand, b"abc")
        buffer = bytearray(b"." * 8)
        with stand.source.open(image) as reader:
            assert reader.readinto(memoryview(buffer)) == 3
        assert buffer == b"abc....."

    @pytest.mark.parametrize("offset", [1, 65_536, len(DATA) - 1, len(DATA)])
    def test_reads_from_an_offset(self, stand: Any, offset: int) -> None:
        image = _offered(stand, DATA)
        assert read_all(stand.source, image, offset) == DATA[offset:]

    def test_may_be_left_in_the_middle(self, stand: Any) -> None:
        image = _offered(stand, DATA)
        with stand.source.open(image) as reader:
            assert reader.readinto(memoryview(bytearray(10))) > 0
        assert read_all(stand.source, image) == DATA

    def test_reads_an_empty_image(self, stand: Any) -> None:
        image = _offered(stand, b"")
        assert image.size_bytes == 0
        assert is_digest_of(image.digest, b"")
        assert read_all(stand.source, image) == b""

    def test_says_not_found(self, stand: Any) -> None:
        stand.offer(DATA)
        with pytest.raises(errors.NotFound):
            stand.source.describe(str(uuid.uuid4()))

    def test_refuses_to_open_what_is_not_active(self, stand: Any) -> None:
        image = _offered(stand, DATA)
        queued = replace(image, status="queued")
        with (
            pytest.raises(errors.SourceRefused, match="queued, not active"),
            stand.source.open(queued),
        ):
            pass

    def test_does_not_take_the_readers_errors_for_its_own(self, stand: Any) -> None:
        image = _offered(stand, DATA)
        with pytest.raises(FileNotFoundError), stand.source.open(image):
            raise FileNotFoundError("the caller's own file")

    def test_has_a_name(self, stand: Any) -> None:
        assert stand.source.name


@pytest.mark.parametrize("stand", LISTING, indirect=True)
class TestListing:
    def test_lists_what_it_describes(self, stand: Any) -> None:
        ids = {stand.offer(DATA[:size], name=f"image {size}") for size in (1, 2, 3)}
        listed = stand.source.list_images(stand.mine)
        assert {image.id for image in listed} == ids
        assert listed == [stand.source.describe(image.id) for image in listed]

    def test_nothing_is_an_empty_list(self, stand: Any) -> None:
        assert stand.source.list_images(stand.mine) == []

    def test_pages_hold_everything_once(self, stand: Any) -> None:
        for size in range(7):
            stand.offer(DATA[:size])
        whole = [image.id for image in stand.source.list_images(stand.mine)]
        assert len(whole) == 7
        paged: list[str] = []
        while page := stand.source.list_images(
            query(stand.mine, limit=3, marker=paged[-1] if paged else None)
        ):
            assert len(page) <= 3
            paged += [image.id for image in page]
        assert paged == whole

    def test_limit_zero_is_nothing(self, stand: Any) -> None:
        stand.offer(DATA)
        assert stand.source.list_images(query(stand.mine, limit=0)) == []

    def test_unknown_marker_is_not_found(self, stand: Any) -> None:
        stand.offer(DATA)
        with pytest.raises(errors.NotFound):
            stand.source.list_images(query(stand.mine, marker=str(uuid.uuid4())))

    def test_filters_by_name(self, stand: Any) -> None:
        wanted = stand.offer(DATA[:10], name="in:this, one")
        stand.offer(DATA[:11], name="this")
        stand.offer(DATA[:12], name="another")
        assert _ids(stand, name="in:this, one") == [wanted]

    def test_filters_by_status(self, stand: Any) -> None:
        image_id = stand.offer(DATA)
        assert _ids(stand, status="active") == [image_id]
        assert _ids(stand, status="queued") == []


@pytest.mark.parametrize("stand", FILTERING, indirect=True)
class TestFiltering:
    @pytest.mark.parametrize(
        ("fact", "filter_"),
        [
            ({"min_ram": 512}, {"minRam": "512"}),
            ({"min_disk": 3}, {"minDisk": "3"}),
            ({"properties": {"flavour": "mint"}}, {"property-flavour": "mint"}),
            ({"properties": {"image_type": "snapshot"}}, {"type": "snapshot"}),
            (
                {"properties": {"instance_uuid": "5e0b6f2c-0000-4000-8000-000000000001"}},
                {"server": "http://nova/servers/5e0b6f2c-0000-4000-8000-000000000001"},
            ),
        ],
    )
    def test_by_what_the_image_states(self, stand: Any, fact: Any, filter_: Any) -> None:
        wanted = stand.offer(DATA[:10], **fact)
        stand.offer(DATA[:11])
        parsed = filters.parse_query(filter_)
        found = stand.source.list_images(
            query(parsed, properties={**stand.mine.properties, **parsed.properties})
        )
        assert [image.id for image in found] == [wanted]

    def test_by_the_time_of_the_last_change(self, stand: Any) -> None:
        image_id = stand.offer(DATA)
        now = datetime.now(UTC).replace(microsecond=0)
        assert _ids(stand, changes_since=now.replace(year=2020).isoformat()) == [image_id]
        assert _ids(stand, changes_since=now.replace(year=2099).isoformat()) == []


def _offered(stand: Any, data: bytes) -> Image:
    image_id = stand.offer(data)
    return stand.source.describe(image_id)


def _ids(stand: Any, **wanted: Any) -> list[str]:
    return [image.id for image in stand.source.list_images(query(stand.mine, **wanted))]
