"""Places that have images, one for each implementation of the source protocol.

A stand offers what a test gives it and hands out a source that sees it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from basecache.cache.layout import original_name
from basecache.model import Digest, Image
from basecache.sources import ImageQuery, Source
from basecache.sources.chain import Chain
from basecache.sources.directory import DirectorySource
from basecache.sources.glance import GlanceSettings, GlanceSource
from basecache.sources.peer import PeerSource
from basecache.sources.retry import Retrying
from basecache.sources.url import UrlImage, UrlSource
from tests.support.openstack_api import Glance, Keystone
from tests.support.sshd import Sshd
from tests.support.web import Web


class DirectoryStand:
    """A folder with metadata beside each image."""

    mine = ImageQuery()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.source: Source = DirectorySource(folder)

    def offer(self, data: bytes, name: str = "an image", **facts: Any) -> str:
        image_id = str(uuid.uuid4())
        sha512 = hashlib.sha512(data).hexdigest()
        stated = {"id": image_id, "name": name, "digest": f"sha512:{sha512}", **facts}
        (self.folder / f"{image_id}.raw").write_bytes(data)
        (self.folder / f"{image_id}.raw.json").write_text(json.dumps(stated))
        return image_id


class UrlStand:
    """A web server with checksum files beside the images."""

    mine = ImageQuery()

    def __init__(self, web: Web) -> None:
        self._web = web
        self._catalogue: list[UrlImage] = []

    @property
    def source(self) -> Source:
        return UrlSource(self._catalogue)

    def offer(self, data: bytes, name: str = "an image", **facts: Any) -> str:
        path = f"/{uuid.uuid4()}.raw"
        url = self._web.put_file(path, data)
        self._web.put_file(f"{path}.sha512", f"{hashlib.sha512(data).hexdigest()}\n".encode())
        image = UrlImage(url, name=name)
        self._catalogue.append(image)
        return image.image_id


class GlanceStand:
    """A real image service, which other tests use too: hence a mark on what is ours."""

    def __init__(self, glance: Glance, settings: GlanceSettings) -> None:
        self._glance = glance
        self._batch = uuid.uuid4().hex
        self.mine = ImageQuery(properties={"batch": self._batch})
        self.source: Source = GlanceSource(settings)

    def offer(self, data: bytes, name: str = "an image", **facts: Any) -> str:
        properties = facts.pop("properties", {})
        return self._glance.upload(data, name=name, batch=self._batch, **properties, **facts)


class PeerStand:
    """Another host's cache folder, with records as our caches write them."""

    def __init__(self, folder: Path, source: Source) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self.source = source

    def offer(self, data: bytes, name: str = "an image", **facts: Any) -> str:
        image_id = str(uuid.uuid4())
        path = self._folder / original_name(image_id)
        path.write_bytes(data)
        record = {
            "image_id": image_id,
            "format": "raw",
            "digest": f"sha512:{hashlib.sha512(data).hexdigest()}",
            "file_size": len(data),
            "file_inode": path.stat().st_ino,
        }
        Path(f"{path}.info").write_text(json.dumps(record))
        return image_id


class WrappedStand:
    """Another stand behind a wrapper."""

    def __init__(self, inner: DirectoryStand, wrap: Callable[[Source], Source]) -> None:
        self.mine = inner.mine
        self.offer = inner.offer
        self.source = wrap(inner.source)


def make_stand(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """The stand of a kind; real services are started only when theirs is asked for."""
    makers: dict[str, Callable[[], Any]] = {
        "directory": lambda: DirectoryStand(tmp_path / "images"),
        "url": lambda: UrlStand(request.getfixturevalue("web")),
        "glance-open": lambda: _open_glance(request.getfixturevalue("open_glance")),
        "glance": lambda: _glance(
            request.getfixturevalue("glance"), request.getfixturevalue("keystone")
        ),
        "peer-folder": lambda: PeerStand(tmp_path / "base", PeerSource(str(tmp_path / "base"))),
        "peer-ssh": lambda: _peer(tmp_path / "it's a base", request.getfixturevalue("sshd")),
        "retrying": lambda: WrappedStand(DirectoryStand(tmp_path / "images"), Retrying),
        "chain": lambda: WrappedStand(
            DirectoryStand(tmp_path / "images"), lambda inner: chain_behind_empty(tmp_path, inner)
        ),
    }
    return makers[kind]()


def chain_behind_empty(tmp_path: Path, inner: Source) -> Source:
    (tmp_path / "empty").mkdir()
    return Chain([DirectorySource(tmp_path / "empty", name="empty"), inner])


def read_all(source: Source, image: Image, offset: int = 0, buffer_bytes: int = 1 << 16) -> bytes:
    """Everything from ``offset`` on, through one reused buffer."""
    buffer = memoryview(bytearray(buffer_bytes))
    content = bytearray()
    with source.open(image, offset) as reader:
        while count := reader.readinto(buffer):
            content += buffer[:count]
        assert reader.readinto(buffer) == 0
    return bytes(content)


def is_digest_of(digest: Digest | None, data: bytes) -> bool:
    return digest is not None and hashlib.new(digest.algorithm, data).hexdigest() == digest.value


def query(base: ImageQuery, **wanted: Any) -> ImageQuery:
    properties = {**base.properties, **wanted.pop("properties", {})}
    return dataclasses.replace(base, properties=properties, **wanted)


def _open_glance(glance: Glance) -> GlanceStand:
    return GlanceStand(
        glance, GlanceSettings(api_servers=(glance.url,), auth={"auth_type": "none"})
    )


def _glance(glance: Glance, keystone: Keystone) -> GlanceStand:
    return GlanceStand(glance, GlanceSettings(auth=keystone.credentials("demo")))


def _peer(folder: Path, sshd: Sshd) -> PeerStand:
    return PeerStand(folder, PeerSource(sshd.host, folder, ssh_command=sshd.command()))
