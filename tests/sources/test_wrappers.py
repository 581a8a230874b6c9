"""Retrying and chains: when they go on, and when they stop."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from basecache import errors, events
from basecache.sources import ImageQuery
from basecache.sources.chain import Chain
from basecache.sources.directory import DirectorySource
from basecache.sources.retry import Retrying
from basecache.sources.url import UrlSource
from tests.sources.stands import read_all
from tests.support.web import Answer, Web

DATA = random.Random(1).randbytes(300_000)


class TestRetrying:
    @pytest.fixture
    def heard(self) -> list[events.Event]:
        return []

    @pytest.fixture
    def source(self, heard: list[events.Event]) -> Retrying:
        inner = UrlSource(timeout_seconds=0.3)
        return Retrying(inner, attempts=3, emit=heard.append, first_wait_seconds=0.01)

    def test_asks_again(self, web: Web, source: Retrying, heard: list[events.Event]) -> None:
        fine = Answer(DATA)
        url = web.put("/a.raw", Answer(status=500), Answer(DATA, cut_after=0, reset=True), fine)
        assert source.describe(url).size_bytes == len(DATA)
        assert [(e.attempt, e.offset) for e in heard if isinstance(e, events.Retrying)] == [
            (1, 0),
            (2, 0),
        ]

    def test_gives_up(self, web: Web, source: Retrying) -> None:
        url = web.put("/a.raw", Answer(status=500))
        with pytest.raises(errors.SourceUnreachable, match="500"):
            source.describe(url)
        assert len(web.asked("/a.raw")) == 3

    @pytest.mark.parametrize("status", [403, 404])
    def test_takes_a_final_no(
        self, web: Web, source: Retrying, heard: list[events.Event], status: int
    ) -> None:
        url = web.put("/a.raw", Answer(status=status))
        with pytest.raises((errors.SourceRefused, errors.NotFound)):
            source.describe(url)
        assert len(web.asked("/a.raw")) == 1
        assert heard == []

    def test_progress_starts_the_count_anew(
        self, web: Web, source: Retrying, heard: list[events.Event]
    ) -> None:
        url = web.put("/a.raw", Answer(DATA))
        image = source.describe(url)
        web.put("/a.raw", Answer(DATA, cut_after=20_000))
        assert read_all(source, image) == DATA  # 15 pieces, 14 breaks, 3 attempts
        retried = [event for event in heard if isinstance(event, events.Retrying)]
        assert [event.offset for event in retried] == list(range(20_000, 300_000, 20_000))

    def test_no_progress_ends(self, web: Web, source: Retrying, heard: list[events.Event]) -> None:
        url = web.put("/a.raw", Answer(DATA))
        image = source.describe(url)
        web.put("/a.raw", Answer(DATA, cut_after=10), Answer(DATA, cut_after=0))
        with pytest.raises(errors.SourceUnreachable):
            read_all(source, image)
        assert [e.offset for e in heard if isinstance(e, events.Retrying)] == [10, 10]

    def test_stall_is_an_interruption(self, web: Web, source: Retrying) -> None:
        url = web.put("/a.raw", Answer(DATA))
        image = source.describe(url)
        web.put("/a.raw", Answer(DATA, cut_after=1000, stall=True), Answer(DATA))
        assert read_all(source, image) == DATA

    def test_content_that_changed_in_between_is_refused(self, web: Web, source: Retrying) -> None:
        image = source.describe(web.put_file("/a.raw", DATA))
        etag = image.properties["etag"]
        web.put(
            "/a.raw",
            Answer(DATA, headers={"ETag": etag}, cut_after=1000),
            Answer(bytes(len(DATA)), headers={"ETag": '"other"'}),
        )
        with pytest.raises(errors.SourceRefused, match="changed"):
            read_all(source, image)

    def test_several_stalls_before_opening(self, web: Web, source: Retrying) -> None:
        image = source.describe(web.put("/a.raw", Answer(DATA)))
        web.put("/a.raw", Answer(stall_before_headers=True), Answer(status=502), Answer(DATA))
        assert read_all(source, image) == DATA


class TestChain:
    @pytest.fixture
    def folders(self, tmp_path: Path) -> tuple[Path, Path]:
        first, second = tmp_path / "first", tmp_path / "second"
        for folder in (first, second):
            folder.mkdir()
            (folder / "both.raw").write_bytes(folder.name.encode())
        (second / "second.raw").write_bytes(DATA)
        return first, second

    @pytest.fixture
    def chain(self, folders: tuple[Path, Path]) -> Chain:
        return Chain([DirectorySource(folder, folder.name) for folder in folders])

    def test_first_that_has_it(self, chain: Chain) -> None:
        assert read_all(chain, chain.describe("both")) == b"first"
        assert read_all(chain, chain.describe("second")) == DATA

    def test_lists_each_id_once_in_order(self, chain: Chain) -> None:
        listed = chain.list_images(ImageQuery())
        assert [image.name for image in listed] == ["both", "second"]
        assert read_all(chain, listed[0]) == b"first"

    def test_says_who_gave_it(self, chain: Chain) -> None:
        holder, image = chain.holder(chain.describe("second"))
        assert (holder.name, image.location) == ("second", "second.raw")

    def test_opens_an_image_known_by_its_id_alone(self, chain: Chain) -> None:
        image = replace(chain.describe("second"), location=None)
        assert read_all(chain, image) == DATA

    def test_unreachable_source_stops_the_search(self, folders: tuple[Path, Path]) -> None:
        missing = DirectorySource(folders[0] / "missing", "missing")
        chain = Chain([missing, DirectorySource(folders[1])])
        with pytest.raises(errors.SourceUnreachable, match="missing"):
            chain.describe("second")

    def test_not_found_names_all(self, chain: Chain) -> None:
        with pytest.raises(errors.NotFound, match="first, second"):
            chain.describe("third")

    def test_of_nothing(self) -> None:
        with pytest.raises(errors.ConfigError):
            Chain([])
