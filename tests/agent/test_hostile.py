"""Hostile images and sources: a clear error, its exit code, and nothing left behind.

Every case goes through the library and through the command.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from basecache import errors
from basecache.cli.main import main
from tests.support import hostile
from tests.support.hostile import KiB, MiB
from tests.support.place import Place, nothing_left
from tests.support.web import Answer, Web, redirect

GiB = 1024 * MiB


def refuse(
    place: Place,
    image: str,
    error: type[errors.BasecacheError],
    capsys: pytest.CaptureFixture[str],
    **overrides: object,
) -> errors.BasecacheError:
    """Ensure ``image`` both ways; each fails as it should and leaves nothing. The error."""
    with nothing_left(place.instances):
        with pytest.raises(error) as caught:
            place.host(**overrides).ensure(image)
        assert caught.value.message
        code = main([*place.arguments(**overrides), "cache", "ensure", image])
        assert code == error.exit_code
        said = capsys.readouterr().err
        assert said.splitlines()[-1 if caught.value.hint is None else -2].startswith("error: ")
        assert "Traceback" not in said
    return caught.value


BUILDERS = [
    hostile.make_backed_qcow2,
    hostile.make_external_data_qcow2,
    hostile.make_json_data_qcow2,
    hostile.make_nameless_data_qcow2,
    hostile.make_huge_table_qcow2,
    hostile.make_lying_size_qcow2,
    hostile.make_unknown_feature_qcow2,
    hostile.make_truncated_qcow2,
    hostile.make_beheaded_qcow2,
    hostile.make_stub_qcow2,
    hostile.make_qcow2_iso,
]


@pytest.mark.parametrize("force_raw", [True, False])
@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_hostile_qcow2(
    place: Place,
    build: Callable[[Path], Path],
    force_raw: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = place.add(build, disk_format="qcow2")
    refuse(place, image, errors.UnsafeImage, capsys, force_raw_images=force_raw)


def foreign(path: Path) -> Path:
    return hostile.make_foreign_extent_vmdk(path, "/etc/hostname")


def two_faced(path: Path) -> Path:
    return hostile.make_two_faced_vmdk(path, "/etc/hostname")


@pytest.mark.parametrize("build", [foreign, two_faced, hostile.make_backed_vmdk])
def test_vmdk_with_its_data_elsewhere(
    place: Place, build: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    refuse(place, place.add(build, disk_format="vmdk"), errors.UnsafeImage, capsys)


@pytest.mark.parametrize(
    ("build", "declared"),
    [
        (hostile.make_honest_qcow2, "raw"),
        (hostile.make_backed_qcow2, "raw"),
        (hostile.make_raw, "qcow2"),
        (hostile.make_honest_qcow2, "vmdk"),
        (hostile.make_honest_qcow2, "no-such-format"),
    ],
)
def test_content_that_is_not_of_the_declared_format(
    place: Place,
    build: Callable[[Path], Path],
    declared: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refuse(place, place.add(build, disk_format=declared), errors.UnsafeImage, capsys)


def test_a_bomb(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    image = place.add(hostile.make_bomb_qcow2)
    told = refuse(place, image, errors.UnsafeImage, capsys)
    assert str(1 << 50) in told.message
    assert str(2 << 40) in told.message


def test_a_limit_of_ones_own_on_virtual_size(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    image = place.add_qcow2(64 * MiB)
    refuse(place, image, errors.UnsafeImage, capsys, basecache={"max_virtual_size": "63M"})
    assert place.host(basecache={"max_virtual_size": "64M"}).ensure(image).path is not None


def test_an_empty_image(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    image = place.add(hostile.make_empty, disk_format="raw")
    refuse(place, image, errors.UnsafeImage, capsys)


@pytest.mark.parametrize("difference", [-4096, 4096])
def test_more_or_fewer_bytes_than_promised(
    place: Place, difference: int, capsys: pytest.CaptureFixture[str]
) -> None:
    image = place.add_raw(MiB, size=MiB - difference)
    told = refuse(place, image, errors.Corrupt, capsys)
    assert f"{MiB - difference} bytes" in told.message


@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "md5"])
def test_a_wrong_digest(place: Place, algorithm: str, capsys: pytest.CaptureFixture[str]) -> None:
    length = {"sha256": 64, "sha512": 128, "md5": 32}[algorithm]
    image = place.add_raw(digest=f"{algorithm}:{'0' * length}")
    told = refuse(place, image, errors.Corrupt, capsys)
    assert "0" * length in told.message


def test_an_algorithm_nobody_knows(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    refuse(place, place.add_raw(digest="rot13:abcd"), errors.UnknownChoice, capsys)


def test_no_digest_at_all(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    refuse(place, place.add_raw(digest=None), errors.Unverifiable, capsys)


def test_an_image_that_is_not_active(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    refuse(place, place.add_raw(status="queued"), errors.SourceRefused, capsys)


@pytest.mark.parametrize(
    "image",
    ["a/b", "../../etc/passwd", "/etc/passwd", "two\nlines", "x" * 10_000, "", ".", "..", "a\0b"],
    ids=lambda image: repr(image)[:20],
)
def test_bad_image_ids(place: Place, image: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = refuse(place, image, errors.BadName, capsys)
    assert len(told.message) < 300


def test_an_image_id_that_looks_like_an_option(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    with nothing_left(place.instances):
        assert main([*place.arguments(), "cache", "ensure", "--", "-f"]) == 3
    assert "'-f' is not in" in capsys.readouterr().err


class TestSources:
    """What a web server may do instead of sending the image."""

    BODY = b"raw disk" * (64 * KiB)

    def options(self, url: str) -> dict[str, object]:
        quick = {"timeout_seconds": 0.3, "connect_timeout_seconds": 0.3, "attempts": 1}
        return {"driver": "url", "urls": url, "require_digest": False, **quick}

    def test_it_does_what_it_should(self, place: Place, web: Web) -> None:
        url = web.put_file("/image.raw", self.BODY)
        host = place.host(source=self.options(url))
        assert host.ensure(host.images()[0].id).bytes == len(self.BODY)

    @pytest.mark.parametrize(
        ("answers", "error"),
        [
            ([Answer(BODY, stall_before_headers=True)], errors.SourceUnreachable),
            ([Answer(BODY), Answer(BODY, cut_after=1000, stall=True)], errors.SourceInterrupted),
            ([Answer(BODY), Answer(BODY, cut_after=1000, reset=True)], errors.SourceInterrupted),
            ([Answer(BODY), Answer(BODY, cut_after=200_000)], errors.SourceInterrupted),
            ([Answer(b"<!DOCTYPE html><p>log in</p>")], errors.SourceRefused),
            ([Answer(BODY), Answer(b"<html>try later</html>")], errors.SourceRefused),
            ([redirect("/image.raw")], errors.SourceRefused),
            ([redirect("file:///etc/passwd")], errors.SourceRefused),
            ([Answer(b"broken", 500)], errors.SourceUnreachable),
            ([Answer(b"no", 403)], errors.SourceUnreachable),
            ([Answer(b"gone", 404)], errors.NotFound),
            (
                [Answer(gzip.compress(BODY), headers={"Content-Encoding": "gzip"}, ranges=False)],
                errors.SourceRefused,
            ),
        ],
        ids=lambda value: value.__name__ if isinstance(value, type) else None,
    )
    @pytest.mark.parametrize("way", ["library", "command"])
    def test_misbehaviour(
        self,
        place: Place,
        web: Web,
        *,
        answers: list[Answer],
        error: type[errors.BasecacheError],
        way: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        url = web.put("/image.raw", *answers)
        source = self.options(url)
        image = url
        with nothing_left(place.instances):
            if way == "library":
                with pytest.raises(error):
                    place.host(source=source).ensure(image)
            else:
                arguments = [*place.arguments(source=source), "cache", "ensure", image]
                assert main(arguments) == error.exit_code
                assert "error: " in capsys.readouterr().err

    def test_nobody_is_there(self, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
        source = self.options("http://127.0.0.1:1/image.raw")
        refuse(
            place,
            "http://127.0.0.1:1/image.raw",
            errors.SourceUnreachable,
            capsys,
            source=source,
        )

    def test_more_than_may_be_fetched_without_a_length(
        self, place: Place, web: Web, capsys: pytest.CaptureFixture[str]
    ) -> None:
        url = web.put("/image.raw", Answer(bytes(4 * MiB), chunked=True, ranges=False))
        told = refuse(
            place,
            url,
            errors.NoSpace,
            capsys,
            source=self.options(url),
            basecache={"max_virtual_size": "1M"},
        )
        assert os.fspath(place.base) in told.message


def test_a_folder_stands_where_the_entry_would_be(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    image = place.add_raw()
    place.entry(image).mkdir(parents=True)
    told = refuse(place, image, errors.StorageFailed, capsys)
    assert "not a regular file" in told.message


def test_a_link_stands_where_the_entry_would_be(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    image = place.add_raw()
    place.base.mkdir()
    place.entry(image).symlink_to("/etc/passwd")
    refuse(place, image, errors.StorageFailed, capsys)
    assert str(place.entry(image).readlink()) == "/etc/passwd"
