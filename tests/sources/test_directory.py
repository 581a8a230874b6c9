"""A folder of images: what is one, and what is said of it."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

import pytest

from basecache import errors
from basecache.model import Digest
from basecache.sources import ImageQuery
from basecache.sources.directory import DirectorySource, derive_id
from tests.sources.stands import read_all

DATA = b"some bytes"
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "images"
    made.mkdir()
    return made


@pytest.fixture
def source(folder: Path) -> DirectorySource:
    return DirectorySource(folder)


def put(folder: Path, file_name: str, data: bytes = DATA, /, **stated: Any) -> None:
    (folder / file_name).write_bytes(data)
    if stated:
        (folder / f"{file_name}.json").write_text(json.dumps(stated))


def names(source: DirectorySource) -> list[str | None]:
    return [image.location for image in source.list_images(ImageQuery())]


class TestIds:
    def test_uuid_as_a_file_name(self, folder: Path, source: DirectorySource) -> None:
        image_id = str(uuid.uuid4())
        put(folder, f"{image_id}.qcow2")
        assert source.describe(image_id).name == image_id

    def test_id_stays_with_the_name_whatever_the_content(
        self, folder: Path, source: DirectorySource
    ) -> None:
        put(folder, "debian.raw")
        before = source.describe("debian")
        put(folder, "debian.raw", b"other bytes")
        assert source.describe("debian").id == before.id == derive_id("debian.raw")

    def test_the_derived_id_never_changes(self) -> None:
        assert derive_id("debian.raw") == "5f47e636-784b-5faf-9f12-b612b069c4ec"

    def test_stated_id_counts(self, folder: Path, source: DirectorySource) -> None:
        put(folder, "debian.raw", id="my-debian")
        assert source.describe("my-debian").location == "debian.raw"

    def test_two_files_with_one_id(self, folder: Path, source: DirectorySource) -> None:
        put(folder, "a.raw", id="same")
        put(folder, "b.raw", id="same")
        with pytest.raises(errors.SourceRefused, match=r"a\.raw and b\.raw"):
            source.describe("same")

    def test_by_a_name_only_one_has(self, folder: Path, source: DirectorySource) -> None:
        put(folder, "a.raw", name="web")
        put(folder, "b.raw", name="db")
        assert source.describe("db").location == "b.raw"

    def test_by_a_name_two_have(self, folder: Path, source: DirectorySource) -> None:
        put(folder, "a.raw", name="web", id="id-1")
        put(folder, "b.raw", name="web", id="id-2")
        with pytest.raises(errors.UsageError) as caught:
            source.describe("web")
        assert caught.value.hint == "ids: id-1, id-2"

    def test_an_id_goes_before_a_name(self, folder: Path, source: DirectorySource) -> None:
        put(folder, "a.raw", name="x", id="y")
        put(folder, "b.raw", name="y", id="x")
        assert source.describe("x").location == "b.raw"

    @pytest.mark.parametrize("bad", ["a/b", "..", "x" * 300, "a\nb"])
    def test_stated_id_that_may_be_none(
        self, folder: Path, source: DirectorySource, bad: str
    ) -> None:
        put(folder, "a.raw", id=bad)
        with pytest.raises(errors.SourceRefused, match=r"a\.raw\.json"):
            source.list_images(ImageQuery())


class TestWhatIsAnImage:
    def test_hidden_and_side_files_are_not(self, folder: Path, source: DirectorySource) -> None:
        for name in (".hidden.raw", "SHA256SUMS", "a.raw.sha256", "a.raw.asc", "README.md"):
            put(folder, name)
        (folder / "subfolder.raw").mkdir()
        os.mkfifo(folder / "fifo.raw")
        put(folder, "a.raw", name="a")
        assert names(source) == ["a.raw"]

    def test_links_that_stay_inside_are(self, folder: Path, source: DirectorySource) -> None:
        put(folder, "debian-12.1.raw")
        (folder / "debian.raw").symlink_to("debian-12.1.raw")
        assert names(source) == ["debian-12.1.raw", "debian.raw"]
        assert read_all(source, source.describe("debian")) == DATA

    def test_links_that_leave_are_not(self, folder: Path, source: DirectorySource) -> None:
        put(folder.parent, "outside.raw")
        (folder / "a.raw").symlink_to("../outside.raw")
        (folder / "b.raw").symlink_to("/etc/passwd")
        (folder / "c.raw").symlink_to("c.raw")
        (folder / "d.raw").symlink_to("nowhere")
        assert names(source) == []

    def test_a_file_that_became_a_link_is_not_opened(
        self, folder: Path, source: DirectorySource
    ) -> None:
        put(folder, "a.raw")
        image = source.describe("a")
        (folder / "a.raw").unlink()
        (folder / "a.raw").symlink_to("/etc/passwd")
        with pytest.raises(errors.NotFound), source.open(image):
            pass

    def test_a_file_that_went_away(self, folder: Path, source: DirectorySource) -> None:
        put(folder, "a.raw")
        image = source.describe("a")
        (folder / "a.raw").unlink()
        with pytest.raises(errors.NotFound), source.open(image):
            pass


class TestWhatIsSaid:
    def test_everything_stated(self, folder: Path, source: DirectorySource) -> None:
        put(
            folder,
            "a.bin",
            id="i",
            name="n",
            disk_format="qcow2",
            container_format="bare",
            virtual_size=1 << 30,
            os_hash_algo="sha256",
            os_hash_value=SHA256,
            min_disk=2,
            min_ram=64,
            status="deactivated",
            visibility="public",
            owner="me",
            created_at="2026-01-01T00:00:00Z",
            updated_at="2026-01-02T00:00:00Z",
            os_distro="debian",
            properties={"hw_disk_bus": "scsi"},
        )
        image = source.describe("i")
        assert image.digest == Digest("sha256", SHA256)
        assert image.properties == {"os_distro": "debian", "hw_disk_bus": "scsi"}
        assert (image.virtual_size_bytes, image.min_disk_gib, image.min_ram_mib) == (1 << 30, 2, 64)
        assert (image.status, image.visibility, image.owner) == ("deactivated", "public", "me")
        assert (image.created_at, image.updated_at) == (
            "2026-01-01T00:00:00Z",
            "2026-01-02T00:00:00Z",
        )
        with pytest.raises(errors.SourceRefused, match="deactivated"), source.open(image):
            pass

    @pytest.mark.parametrize(
        ("name", "head", "declared"),
        [
            ("a.qcow2", b"", "qcow2"),
            ("a.RAW", b"", "raw"),
            ("a.iso", b"", "iso"),
            ("a.vmdk", b"", "vmdk"),
            ("a.img", b"QFI\xfb", "qcow2"),
            ("a.img", b"\xeb\x63", "raw"),
            ("vmlinuz", b"QFI\xfb", None),
        ],
    )
    def test_declared_format(
        self, folder: Path, source: DirectorySource, name: str, head: bytes, declared: str | None
    ) -> None:
        put(folder, name, head)
        assert source.describe(Path(name).stem).disk_format == declared

    @pytest.mark.parametrize(
        ("file", "text"),
        [
            ("SHA256SUMS", f"{SHA256}  a.raw\n"),
            ("a.raw.sha256", f"{SHA256}\n"),
            ("CHECKSUM", f"SHA256 (a.raw) = {SHA256}\n"),
        ],
    )
    def test_digest_from_a_checksum_file(
        self, folder: Path, source: DirectorySource, file: str, text: str
    ) -> None:
        put(folder, "a.raw")
        put(folder, file, text.encode())
        assert source.describe("a").digest == Digest("sha256", SHA256)

    def test_md5_only_where_there_is_nothing_else(
        self, folder: Path, source: DirectorySource
    ) -> None:
        put(folder, "a.raw", checksum="0" * 32)
        assert source.describe(derive_id("a.raw")).digest == Digest("md5", "0" * 32)
        put(folder, "SHA256SUMS", f"{SHA256}  a.raw\n".encode())
        assert source.describe(derive_id("a.raw")).digest == Digest("sha256", SHA256)

    def test_no_digest(self, folder: Path, source: DirectorySource) -> None:
        put(folder, "a.raw")
        assert source.describe("a").digest is None

    @pytest.mark.parametrize(
        "text", ["{", "[]", '{"min_ram": "much"}', '{"digest": "sha256"}', '{"properties": 3}']
    )
    def test_broken_metadata_names_the_file(
        self, folder: Path, source: DirectorySource, text: str
    ) -> None:
        put(folder, "a.raw")
        (folder / "a.raw.json").write_text(text)
        with pytest.raises(errors.SourceRefused, match=r"a\.raw\.json"):
            source.list_images(ImageQuery())

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(errors.SourceUnreachable):
            DirectorySource(tmp_path / "missing").list_images(ImageQuery())
