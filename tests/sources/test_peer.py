"""Another host's cache: what its records are worth, and hosts that cannot be reached."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from basecache import errors
from basecache.cache.layout import original_name
from basecache.model import Digest
from basecache.sources import ImageQuery
from basecache.sources.peer import PeerSource
from tests.sources.stands import read_all
from tests.support.sshd import Sshd

IMAGE = "3f1c0000-0000-4000-8000-000000000001"
DATA = b"0123456789"


@pytest.fixture(params=["folder", "ssh"])
def source(request: pytest.FixtureRequest, base: Path) -> PeerSource:
    if request.param == "folder":
        return PeerSource(str(base))
    sshd: Sshd = request.getfixturevalue("sshd")
    return PeerSource(sshd.host, base, ssh_command=sshd.command())


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "_base; touch hacked"
    folder.mkdir()
    return folder


@pytest.fixture
def put(base: Path) -> Callable[..., Path]:
    def put_file(**record: Any) -> Path:
        path = base / original_name(IMAGE)
        path.write_bytes(DATA)
        if record:
            Path(f"{path}.info").write_text(json.dumps(record))
        return path

    return put_file


class TestRecords:
    @pytest.mark.parametrize(
        ("record", "digest"),
        [
            ({"digest": "sha512:" + "1" * 128}, Digest("sha512", "1" * 128)),
            ({"sha1": "2" * 40, "sha1-timestamp": 1.0}, Digest("sha1", "2" * 40)),
            ({"blake3": "3" * 64}, Digest("blake3", "3" * 64)),
            ({"source_digest": "sha512:" + "1" * 128}, None),
            ({"file_size": 999, "sha1": "2" * 40}, None),
            ({"file_inode": 1, "sha1": "2" * 40}, None),
            ({}, None),
        ],
    )
    def test_digest_at_rest(
        self,
        source: PeerSource,
        put: Callable[..., Path],
        record: dict[str, Any],
        digest: Digest | None,
    ) -> None:
        put(**record)
        assert source.describe(IMAGE).digest == digest

    def test_stored_format_and_sizes(self, source: PeerSource, put: Callable[..., Path]) -> None:
        put(format="qcow2", virtual_size_bytes=1 << 30, file_size=len(DATA))
        image = source.describe(IMAGE)
        assert (image.disk_format, image.size_bytes) == ("qcow2", len(DATA))
        assert image.virtual_size_bytes == 1 << 30

    @pytest.mark.parametrize("text", ["{", "[1]", "\xff" * 100, "[" * 100_000])
    def test_broken_record_is_none(
        self, source: PeerSource, put: Callable[..., Path], text: str
    ) -> None:
        Path(f"{put()}.info").write_text(text)
        assert source.describe(IMAGE).digest is None


class TestFiles:
    def test_link_is_no_image(self, source: PeerSource, base: Path) -> None:
        (base / original_name(IMAGE)).symlink_to("/etc/passwd")
        with pytest.raises(errors.NotFound):
            source.describe(IMAGE)

    def test_file_that_went_away(self, source: PeerSource, put: Callable[..., Path]) -> None:
        path = put()
        image = source.describe(IMAGE)
        path.unlink()
        with pytest.raises(errors.NotFound):
            read_all(source, image)

    def test_no_cache_folder_at_all(self, source: PeerSource, base: Path) -> None:
        base.rmdir()
        with pytest.raises(errors.SourceUnreachable):
            source.describe(IMAGE)

    def test_lists_nothing(self, source: PeerSource, put: Callable[..., Path]) -> None:
        put()
        assert source.list_images(ImageQuery()) == []


class TestSsh:
    def test_early_end_is_interrupted(
        self, sshd: Sshd, base: Path, put: Callable[..., Path]
    ) -> None:
        source = PeerSource(sshd.host, base, ssh_command=sshd.command())
        path = put()
        image = source.describe(IMAGE)
        os.truncate(path, 4)
        with pytest.raises(errors.SourceInterrupted, match="6 bytes early"):
            read_all(source, image)

    def test_nobody_listens(self, sshd: Sshd, base: Path) -> None:
        command = (*sshd.command(), "-p", "9")
        source = PeerSource("127.0.0.1", base, ssh_command=("ssh", "-p9", *command[1:]))
        with pytest.raises(errors.SourceUnreachable) as caught:
            source.describe(IMAGE)
        assert caught.value.retryable

    @pytest.mark.parametrize("wrong", [{"key": "stranger"}, {"known_hosts": "other_hosts"}])
    def test_keys_that_are_not_known(self, sshd: Sshd, base: Path, wrong: dict[str, str]) -> None:
        source = PeerSource(sshd.host, base, ssh_command=sshd.command(**wrong))
        with pytest.raises(errors.SourceRefused):
            source.describe(IMAGE)

    def test_host_that_never_answers(self, base: Path) -> None:
        silent = ("sh", "-c", "exec sleep 60")
        source = PeerSource("host", base, ssh_command=silent, timeout_seconds=0.2)
        with pytest.raises(errors.SourceUnreachable, match="no answer"):
            source.describe(IMAGE)

    def test_stream_that_stalls(self, base: Path, put: Callable[..., Path]) -> None:
        image = PeerSource(str(base)).describe(IMAGE) if put() else None
        assert image is not None
        silent = ("sh", "-c", "printf 123; exec sleep 60")
        source = PeerSource("host", base, ssh_command=silent, timeout_seconds=0.2)
        with pytest.raises(errors.SourceInterrupted, match="stalled"):
            read_all(source, image)

    def test_no_ssh_on_this_machine(self, base: Path) -> None:
        source = PeerSource("host", base, ssh_command=("no-such-ssh",))
        with pytest.raises(errors.ToolFailed) as caught:
            source.describe(IMAGE)
        assert caught.value.install

    @pytest.mark.parametrize(
        "host",
        ["-oProxyCommand=id", "", "a b", "a;b", "user@-x", "a$(id)", "x@y@z", "a\n", "host/"],
    )
    def test_what_is_no_host(self, base: Path, host: str) -> None:
        with pytest.raises(errors.ConfigError):
            PeerSource(host, base)

    @pytest.mark.parametrize("host", ["h1", "root@h1.example.org", "10.0.0.1", "me@fe80::1"])
    def test_what_is_one(self, base: Path, host: str) -> None:
        assert host in PeerSource(host, base).name

    def test_cache_folder_must_be_absolute(self) -> None:
        with pytest.raises(errors.ConfigError):
            PeerSource("h1", "_base")
