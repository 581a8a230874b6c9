"""An instances folder with a cache in it, and disks made by the real qemu-img."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from basecache import events
from basecache.cache.layout import Layout, original_name
from basecache.cache.store import Store
from basecache.model import FileId
from basecache.usage.chains import Chains, read_chains
from tests.support.hostile import MiB, run_qemu_img

NAME = original_name("image")
OTHER = original_name("other image")
JUNK_HEADER = b"QFI\xfb" + b"\xff" * 508


@dataclass
class Stand:
    """What the tests look at; ``seen`` holds the events of every reading."""

    layout: Layout
    seen: list[events.Event] = field(default_factory=list)

    def base(self, name: str = NAME) -> Path:
        path = self.layout.entry(name)
        if not path.exists():
            path.write_bytes(os.urandom(4096))
            os.truncate(path, MiB)
        return path

    def folder(self, instance: str = "vm") -> Path:
        path = self.layout.instances_path / instance
        path.mkdir(exist_ok=True)
        return path

    def overlay(
        self,
        backing: str | Path,
        name: str = "disk",
        *,
        instance: str = "vm",
        kind: str = "qcow2",
        backing_format: str = "raw",
    ) -> Path:
        """An overlay in an instance folder; ``backing`` is written into it as it is given."""
        path = self.folder(instance) / name
        backing_options = ["-u", "-b", backing, "-F", backing_format]
        run_qemu_img("create", "-q", "-f", kind, *backing_options, path, str(MiB))
        return path

    def raw(self, content: bytes, name: str = "disk", *, born: str | None = None) -> Path:
        """A raw disk that begins with what its guest wrote there."""
        path = self.folder() / name
        path.write_bytes(content)
        os.truncate(path, MiB)
        if born is not None:
            # The folder may have been moved since: Nova writes whole paths.
            recorded = {f"/elsewhere/vm/{name}": born}
            (self.folder() / "disk.info").write_text(json.dumps(recorded))
        return path

    def read(self, **how: object) -> Chains:
        return read_chains(self.layout, emit=self.seen.append, **how)  # type: ignore[arg-type]

    @property
    def troubles(self) -> list[str]:
        return [f"{e.what}: {e.why}" for e in self.seen if isinstance(e, events.Trouble)]


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    layout = Layout(tmp_path / "instances")
    Store(layout).prepare()
    return Stand(layout)


def id_of(path: Path) -> FileId:
    status = path.stat()
    return FileId(status.st_dev, status.st_ino)


def users(chains: Chains, path: Path) -> list[Path]:
    """The disks that stand on the file at ``path``."""
    return [Path(disk) for disk in chains.files.get(id_of(path), ())]
