"""What a web server may do to us, and what we make of it."""

from __future__ import annotations

import hashlib
import random
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from basecache import errors
from basecache.model import Digest
from basecache.sources import ImageQuery
from basecache.sources.retry import Retrying
from basecache.sources.url import UrlImage, UrlSource, derive_id
from tests.sources.stands import read_all
from tests.support.web import Answer, Web, gzipped, redirect

DATA = random.Random(1).randbytes(400_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
SHA512 = hashlib.sha512(DATA).hexdigest()
HTML = b"\n<!DOCTYPE HTML><html><body>Please log in</body></html>"


@pytest.fixture
def source() -> UrlSource:
    return UrlSource(timeout_seconds=0.5, connect_timeout_seconds=5)


class TestDescribing:
    def test_any_url(self, web: Web, source: UrlSource) -> None:
        url = web.put_file("/images/disk%201.qcow2", DATA)
        image = source.describe(url)
        assert (image.id, image.name, image.disk_format) == (derive_id(url), "disk 1", "qcow2")
        assert (image.size_bytes, image.digest) == (len(DATA), None)

    def test_configured_image_by_its_id_and_by_its_url(self, web: Web) -> None:
        url = web.put_file("/a.bin", DATA)
        digest = Digest("sha256", SHA256)
        source = UrlSource([UrlImage(url, digest, "nice name", "raw", "image-1")])
        image = source.describe("image-1")
        assert (image.id, image.name, image.disk_format) == ("image-1", "nice name", "raw")
        assert image.digest == digest
        assert source.describe(url) == image

    def test_id_of_nothing_configured(self, source: UrlSource) -> None:
        with pytest.raises(errors.NotFound):
            source.describe("6d9d2f4e-0000-4000-8000-000000000000")

    def test_two_images_with_one_id(self, web: Web) -> None:
        with pytest.raises(errors.ConfigError):
            UrlSource([UrlImage(web.url("/a"), id="x"), UrlImage(web.url("/b"), id="x")])

    def test_fragment_states_the_digest(self, web: Web, source: UrlSource) -> None:
        url = web.put_file("/a.raw", DATA)
        assert source.describe(f"{url}#sha256={SHA256}").digest == Digest("sha256", SHA256)
        assert source.describe(f"{url}#sha512:{SHA512}").digest == Digest("sha512", SHA512)
        assert source.describe(f"{url}#sha256={SHA256}").id == derive_id(url)

    @pytest.mark.parametrize(
        "fragment", ["top", "sha256=abc", "md5=" + "0" * 32, "sha256=" + "g" * 64]
    )
    def test_fragment_that_is_no_digest(self, web: Web, source: UrlSource, fragment: str) -> None:
        with pytest.raises(errors.UsageError):
            source.describe(f"{web.put_file('/a.raw', DATA)}#{fragment}")
        assert web.requests == []

    @pytest.mark.parametrize(
        "url",
        [
            "file:///etc/passwd",
            "ftp://host/a.raw",
            "http:///a.raw",
            "http://[::1/a.raw",
            "http://user:secret@host/a.raw",
            "http://host/a b",
            "http://host/a\nb",
            "nbd:host:10809",
        ],
    )
    def test_what_is_never_fetched(self, source: UrlSource, url: str) -> None:
        with pytest.raises(errors.UsageError):
            source.describe(url)

    @pytest.mark.parametrize(
        ("path", "text"),
        [
            ("/d/SHA256SUMS", f"{'0' * 64}  other.img\n{SHA256} *a.img\n"),
            ("/d/SHA512SUMS", f"{SHA512}  a.img\n"),
            ("/d/CHECKSUM", f"# a.img: 400000 bytes\nSHA256 (a.img) = {SHA256}\n"),
            ("/d/a.img.sha256", f"{SHA256}\n"),
            ("/d/a.img.sha512", f"{SHA512}  a.img\n"),
        ],
    )
    def test_digest_from_a_checksum_file(
        self, web: Web, source: UrlSource, path: str, text: str
    ) -> None:
        web.put_file(path, text.encode())
        digest = source.describe(web.put_file("/d/a.img", DATA)).digest
        assert digest is not None
        assert digest.value in (SHA256, SHA512)

    def test_checksum_of_a_longer_name_is_not_taken(self, web: Web, source: UrlSource) -> None:
        web.put_file("/SHA256SUMS", f"{SHA256}  xa.img\n{SHA256}  a.img.gz\n".encode())
        assert source.describe(web.put_file("/a.img", DATA)).digest is None

    def test_checksum_file_that_cannot_be_read_is_not_none(
        self, web: Web, source: UrlSource
    ) -> None:
        web.put("/SHA256SUMS", Answer(status=503))
        with pytest.raises(errors.SourceUnreachable):
            source.describe(web.put_file("/a.img", DATA))

    def test_server_that_knows_no_ranges(self, web: Web, source: UrlSource) -> None:
        image = source.describe(web.put_file("/a.raw", DATA, ranges=False))
        assert image.size_bytes == len(DATA)

    def test_server_that_does_not_say_how_long(self, web: Web, source: UrlSource) -> None:
        image = source.describe(web.put_file("/a.raw", DATA, ranges=False, chunked=True))
        assert image.size_bytes is None
        assert read_all(source, image) == DATA
        assert read_all(source, image, 1000) == DATA[1000:]

    def test_img_is_told_by_its_first_bytes(self, web: Web, source: UrlSource) -> None:
        assert source.describe(web.put_file("/a.img", b"QFI\xfb123")).disk_format == "qcow2"
        assert source.describe(web.put_file("/b.img", b"123")).disk_format == "raw"

    def test_gone_image_is_listed_as_deleted(self, web: Web) -> None:
        here, gone = web.put_file("/a.raw", DATA), web.url("/gone.raw")
        source = UrlSource([UrlImage(here), UrlImage(gone)])
        listed = {image.location: image.status for image in source.list_images(ImageQuery())}
        assert listed == {here: "active", gone: "deleted"}
        with pytest.raises(errors.NotFound):
            source.describe(gone)

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (401, errors.SourceRefused),
            (403, errors.SourceRefused),
            (404, errors.NotFound),
            (410, errors.NotFound),
            (429, errors.SourceUnreachable),
            (500, errors.SourceUnreachable),
        ],
    )
    def test_statuses(
        self, web: Web, source: UrlSource, status: int, kind: type[errors.BasecacheError]
    ) -> None:
        with pytest.raises(kind) as caught:
            source.describe(web.put("/a.raw", Answer(status=status)))
        assert caught.value.retryable == (status in (429, 500))


class TestRedirects:
    def test_are_followed(self, web: Web, source: UrlSource) -> None:
        web.put_file("/real.raw", DATA)
        url = web.put("/a.raw", redirect("hop"))
        web.put("/hop", redirect(web.url("/real.raw"), 307))
        image = source.describe(url)
        assert image.name == "a"
        assert read_all(source, image) == DATA

    @pytest.mark.parametrize(
        ("to", "word"),
        [
            ("/b", "circle"),
            ("/a", "circle"),
            ("file:///etc/passwd", "file"),
            ("gopher://host/", "gopher"),
            ("", "nowhere"),
        ],
    )
    def test_that_are_refused(self, web: Web, source: UrlSource, to: str, word: str) -> None:
        url = web.put("/a", redirect("/b"))
        web.put("/b", redirect(to))
        with pytest.raises(errors.SourceRefused, match=word):
            source.describe(url)

    def test_too_many(self, web: Web, source: UrlSource) -> None:
        for number in range(10):
            web.put(f"/{number}", redirect(f"/{number + 1}"))
        with pytest.raises(errors.SourceRefused, match="more than 5"):
            source.describe(web.url("/0"))


class TestReading:
    @pytest.mark.parametrize("content_type", ["text/html", "application/octet-stream"])
    def test_web_page_instead_of_an_image(
        self, web: Web, source: UrlSource, content_type: str
    ) -> None:
        url = web.put_file("/a.raw", DATA)
        image = source.describe(url)
        web.put("/a.raw", Answer(HTML, headers={"Content-Type": content_type}))
        with pytest.raises(errors.SourceRefused, match="HTML"), source.open(image):
            pass
        with pytest.raises(errors.SourceRefused, match="HTML"):
            source.describe(url)

    def test_stall_in_the_middle(self, web: Web, source: UrlSource) -> None:
        image = source.describe(web.put_file("/a.raw", DATA))
        web.put_file("/a.raw", DATA, cut_after=1000, stall=True)
        with pytest.raises(errors.SourceInterrupted, match="stalled"):
            read_all(source, image)

    def test_stall_before_the_answer(self, web: Web, source: UrlSource) -> None:
        with pytest.raises(errors.SourceUnreachable, match="stalled") as caught:
            source.describe(web.put("/a.raw", Answer(stall_before_headers=True)))
        assert caught.value.retryable

    @pytest.mark.parametrize("how", [{"reset": True}, {}, {"chunked": True}])
    def test_connection_that_breaks(
        self, web: Web, source: UrlSource, how: dict[str, bool]
    ) -> None:
        image = source.describe(web.put_file("/a.raw", DATA))
        web.put_file("/a.raw", DATA, cut_after=70_000, **how)
        with pytest.raises(errors.SourceInterrupted) as caught:
            read_all(source, image)
        assert caught.value.retryable

    def test_nobody_listens(self, web: Web, source: UrlSource) -> None:
        url = web.put_file("/a.raw", DATA)
        image = source.describe(url)
        web.stop()
        with pytest.raises(errors.SourceUnreachable), source.open(image):
            pass

    def test_body_longer_than_described_is_given_whole(self, web: Web, source: UrlSource) -> None:
        image = replace(source.describe(web.put_file("/a.raw", DATA)), size_bytes=10)
        assert read_all(source, image) == DATA

    def test_compressed_answer_is_refused(self, web: Web, source: UrlSource) -> None:
        image = source.describe(web.put_file("/a.raw", DATA))
        web.put("/a.raw", gzipped(DATA))
        with pytest.raises(errors.SourceRefused, match="gzip"), source.open(image):
            pass
        assert web.requests[-1].headers["accept-encoding"] == "identity"

    def test_certificate_nobody_knows(self, tmp_path: Path) -> None:
        with TlsServer(tmp_path) as server:
            with pytest.raises(errors.SourceRefused, match="TLS"):
                UrlSource().describe(server.url)
            trusting = UrlSource(ca_file=server.certificate)
            assert trusting.describe(server.url).size_bytes == len(DATA)

    def test_redirect_from_https_to_http(self, tmp_path: Path, web: Web) -> None:
        plain = web.put_file("/a.raw", DATA)
        with TlsServer(tmp_path, redirect_to=plain) as server:
            source = UrlSource(ca_file=server.certificate)
            with pytest.raises(errors.SourceRefused, match="https to http"):
                source.describe(server.url)
        assert web.requests == []


class TestResuming:
    def test_sends_only_what_is_missing(self, web: Web, source: UrlSource) -> None:
        image = source.describe(web.put_file("/a.raw", DATA))
        before = web.bytes_sent["/a.raw"]
        assert read_all(source, image, 300_000) == DATA[300_000:]
        assert web.bytes_sent["/a.raw"] - before == 100_000
        asked = web.requests[-1].headers
        assert asked["range"] == "bytes=300000-"
        assert asked["if-range"] == image.properties["etag"]

    def test_goes_on_where_the_connection_broke(self, web: Web, source: UrlSource) -> None:
        url = web.put_file("/a.raw", DATA)
        whole = Answer(DATA, headers={"ETag": '"1"'})
        web.put("/a.raw", whole)
        image = source.describe(url)
        web.put(
            "/a.raw",
            replace(whole, cut_after=150_000),
            Answer(status=503),
            replace(whole, cut_after=100_000),
            whole,
        )
        before = web.bytes_sent["/a.raw"]
        retrying = Retrying(source, attempts=3, first_wait_seconds=0.01)
        assert read_all(retrying, image) == DATA
        assert web.bytes_sent["/a.raw"] - before == len(DATA)

    def test_server_that_ignores_the_range(self, web: Web, source: UrlSource) -> None:
        image = source.describe(web.put_file("/a.raw", DATA, ranges=False))
        assert read_all(source, image, 250_000) == DATA[250_000:]

    def test_server_that_answers_another_range(self, web: Web, source: UrlSource) -> None:
        image = source.describe(web.put_file("/a.raw", DATA))
        web.put_file("/a.raw", DATA, shift=7)
        with pytest.raises(errors.SourceRefused, match="asked for bytes"), source.open(image, 10):
            pass

    def test_content_that_changed(self, web: Web, source: UrlSource) -> None:
        image = source.describe(web.put_file("/a.raw", DATA))
        web.put_file("/a.raw", bytes(len(DATA)))
        with pytest.raises(errors.SourceRefused, match="changed"), source.open(image, 10):
            pass

    def test_length_that_changed(self, web: Web, source: UrlSource) -> None:
        image = source.describe(web.put("/a.raw", Answer(DATA)))
        web.put("/a.raw", Answer(DATA + b"more"))
        with pytest.raises(errors.SourceRefused, match="bytes now"), source.open(image, 10):
            pass

    def test_offset_past_the_end(self, web: Web, source: UrlSource) -> None:
        image = source.describe(web.put_file("/a.raw", DATA))
        with pytest.raises(errors.SourceRefused), source.open(image, len(DATA) + 1):
            pass


class TlsServer:
    """A web server with a certificate of its own, which ``openssl`` makes."""

    def __init__(self, folder: Path, redirect_to: str | None = None) -> None:
        self.certificate = folder / "certificate.pem"
        key = folder / "key.pem"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"),
                *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost"),
                *("-addext", "subjectAltName=IP:127.0.0.1"),
                *("-keyout", str(key), "-out", str(self.certificate)),
            ],
            check=True,
            capture_output=True,
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        self._web = Web(context)
        self._web.put_file("/a.raw", DATA)
        if redirect_to:
            self._web.put("/a.raw", redirect(redirect_to))
        self.url = self._web.url("/a.raw")

    def __enter__(self) -> TlsServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._web.stop()
