"""A host with a cache and a folder of images: what the stories are tested on, all of it real.

    place                a fresh one in the test's own folder
    make_place           more of them, or one on a file system of one's own

The helpers below it look at the disk from outside, and never through the code under test.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import basecache
from basecache import events
from basecache.agent.host import Host
from basecache.cache.layout import original_name
from tests.support.hostile import MiB, run_qemu_img

DAY = 24 * 3600.0
SECTOR = 512
MakePlace = Callable[..., "Place"]


class Place:
    """``instances`` is the instances path, ``images`` the folder the source reads."""

    def __init__(self, root: Path, images: Path | None = None) -> None:
        self.root = root
        self.instances = root / "instances"
        self.base = self.instances / "_base"
        self.images = images or root / "images"
        for folder in (self.instances, self.images):
            folder.mkdir(parents=True, exist_ok=True)
        self.seen: list[events.Event] = []

    def options(self, **overrides: Any) -> dict[str, Any]:
        """What ``open_host`` is given; a group among ``overrides`` comes on top."""
        options: dict[str, Any] = {
            "instances_path": str(self.instances),
            "host": "h1",
            "source": {"driver": "directory", "path": str(self.images), "attempts": 1},
            "basecache": {"min_free": "0"},
        }
        for name, value in overrides.items():
            options[name] = {**options.get(name, {}), **value} if isinstance(value, dict) else value
        return options

    def host(self, **overrides: Any) -> Host:
        return basecache.open_host([], emit=self.seen.append, **self.options(**overrides))

    def arguments(self, **overrides: Any) -> list[str]:
        """The same as ``host`` opens, as global arguments of the command."""
        texts = []
        for name, value in self.options(**overrides).items():
            if isinstance(value, dict):
                texts += [f"{name}.{option}={setting}" for option, setting in value.items()]
            else:
                texts.append(f"{name}={value}")
        return [word for text in texts for word in ("--set", text)]

    def saw(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self.seen if isinstance(event, kind)]

    def add(
        self,
        build: Callable[[Path], Path],
        *,
        name: str | None = None,
        disk_format: str | None = None,
        **stated: Any,
    ) -> str:
        """Have the source offer what ``build`` writes; the image's id."""
        image_id = str(uuid.uuid4())
        path = build(self.images / image_id)
        facts = {
            "id": image_id,
            "name": name or image_id,
            "disk_format": disk_format or declared_by_magic(path),
            "digest": f"sha256:{sha256(path)}",
            **stated,
        }
        known = {key: value for key, value in facts.items() if value is not None}
        (self.images / f"{image_id}.json").write_text(json.dumps(known))
        return image_id

    def add_raw(self, size: int = 4 * MiB, /, **stated: Any) -> str:
        """A raw image: some data at its front and its end, a hole between them."""

        def build(path: Path) -> Path:
            with path.open("wb") as file:
                file.truncate(size)
                for at in (0, size - 64 * 1024):
                    file.seek(at)
                    file.write(os.urandom(64 * 1024))
            return path

        return self.add(build, disk_format="raw", **stated)

    def add_qcow2(self, size: int = 4 * MiB, /, **stated: Any) -> str:
        """A qcow2 image with data, virtually ``size``."""

        def build(path: Path) -> Path:
            run_qemu_img("create", "-q", "-f", "qcow2", path, str(size))
            content = path.with_name(f".{path.name}")
            content.write_bytes(os.urandom(128 * 1024) + bytes(size - 128 * 1024))
            run_qemu_img("convert", "-f", "raw", "-O", "qcow2", content, path)
            content.unlink()
            return path

        return self.add(build, disk_format="qcow2", **stated)

    def source_file(self, image_id: str) -> Path:
        return self.images / image_id

    def entry(self, image_id: str) -> Path:
        """Where the image's cache file is, if it is there."""
        return self.base / original_name(image_id)

    def record_path(self, image_id: str) -> Path:
        return self.base / f"{original_name(image_id)}.info"

    def record(self, image_id: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.record_path(image_id).read_bytes())
        return content

    def write_old(self, name: str, *, age: float = 3 * DAY, size: int = 64 * 1024) -> Path:
        """A file in the cache folder, as somebody left it ``age`` seconds ago."""
        path = self.base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\1" * size)
        return make_old(path, age)

    def make_overlay(
        self, instance: str, backing: Path, *, name: str = "disk", backing_format: str = "raw"
    ) -> Path:
        """A disk that somebody else, Nova say, made on ``backing``."""
        path = self.instances / instance / name
        path.parent.mkdir(exist_ok=True)
        run_qemu_img("create", "-q", "-f", "qcow2", "-F", backing_format, "-b", backing, path)
        return path

    def usage_file(self, *instances: Mapping[str, Any]) -> Path:
        path = self.root / "usage.json"
        path.write_text(json.dumps(instances))
        return path


@pytest.fixture
def make_place(tmp_path: Path) -> MakePlace:
    def make(root: Path | None = None, images: Path | None = None) -> Place:
        return Place(root or tmp_path, images)

    return make


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def declared_by_magic(path: Path) -> str:
    return "qcow2" if path.read_bytes()[:4] == b"QFI\xfb" else "raw"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_old(path: Path, age: float = 3 * DAY) -> Path:
    """As if last used ``age`` seconds ago."""
    then = time.time() - age
    os.utime(path, (then, then), follow_symlinks=False)
    return path


def age_of(path: Path) -> float:
    return time.time() - path.lstat().st_mtime


def look(folder: Path) -> dict[str, tuple[int, int, int, int]]:
    """Everything under ``folder``: mode, size, inode and mtime of each by its relative path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        what = (status.st_mode, status.st_size, status.st_ino, status.st_mtime_ns)
        found[str(path.relative_to(folder))] = what
    return found


def content_of(folder: Path) -> set[str]:
    """What lies under ``folder`` apart from folders and lock files, which may always be left."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if not stat.S_ISDIR(path.lstat().st_mode) and path.parent.name != "locks"
    }


@contextlib.contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """The block leaves no file behind under ``folder``, and takes none away."""
    before = content_of(folder)
    yield
    assert content_of(folder) == before


@contextlib.contextmanager
def process(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Another Python with ``code``; the block starts once that has printed a line.

    It goes on until its standard input ends, if it reads that, and is killed otherwise.
    """
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        try:
            assert running.stdout.readline().strip(), "it ended before it was ready"
            yield running
        finally:
            running.kill()
