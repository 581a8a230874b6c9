"""The cache that the stories happen to, and what must be true of it at every moment.

A disk's folder is named after its content: ``raw-1/disk`` is made from the image ``raw``. That is
how :func:`check` knows, from outside and without any record of ours, what must be in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from basecache.agent.host import Host
from basecache.cache.layout import original_name
from tests.support.hostile import MiB, run_qemu_img
from tests.support.place import Place, make_old

OWNER = 4321
LONG_AGO = 10 * 24 * 3600.0
_NO_ENTRIES = (".part", ".converted", ".sha1")
_KNOWN_LOCK = re.compile(
    r"nova-(info-|hash-)?([0-9a-f]{40}(_[0-9]+)?(\.good)?|swap_[0-9]+)\Z"
    r"|nova-storage-registry-lock\Z|basecache-(sweep|admission|litter|pins)\Z|basecache-disk-.+\Z"
)


@dataclass(frozen=True)
class Images:
    """A folder of images; ``ids`` and ``contents`` (what a guest must read) by their names."""

    folder: Path
    ids: dict[str, str]
    contents: dict[str, Path]

    @classmethod
    def make(cls, root: Path) -> Images:
        place = Place(root)
        ids = {
            "raw": place.add_raw(MiB, name="raw"),
            "other": place.add_raw(MiB, name="other"),
            "cow": place.add_qcow2(MiB, name="cow"),
        }
        contents = {name: root / f"{name}.content" for name in (*ids, "blank")}
        for name, image_id in ids.items():
            source = place.source_file(image_id)
            run_qemu_img("convert", "-O", "raw", source, contents[name])
        with contents["blank"].open("wb") as file:
            file.truncate(MiB)
        return cls(place.images, ids, contents)

    def name_of(self, entry: str) -> str | None:
        """The image whose cache file is named so."""
        return next((n for n, i in self.ids.items() if original_name(i) == entry), None)


@dataclass
class Tree:
    """One instances folder. ``overrides`` are options; ``damaged`` entries may hold anything.

    With ``recorded`` no entry is but ours, so that each has its record.
    """

    place: Place
    images: Images
    overrides: dict[str, Any] = field(default_factory=dict)
    damaged: frozenset[str] = frozenset()
    recorded: bool = True
    checked: dict[Path, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def make(cls, root: Path, images: Images, *, owned: bool = True, **overrides: Any) -> Tree:
        """A new one; ``owned``, where possible, by somebody else, as Nova's folder is."""
        place = Place(root, images.folder)
        if owned and os.geteuid() == 0:
            os.chown(place.instances, OWNER, OWNER)
        return cls(place, images, overrides)

    @property
    def folder(self) -> Path:
        return self.place.instances

    def host(self, **overrides: Any) -> Host:
        return self.place.host(**self.overrides, **overrides)

    def id(self, image: str) -> str:
        return self.images.ids[image]

    def entry(self, image: str) -> Path:
        return self.place.entry(self.images.ids[image])

    def ensure(self, *images: str) -> None:
        host = self.host()
        for image in images:
            host.ensure(self.id(image))

    def make_old(self) -> None:
        """As if nothing had been used for days."""
        for path in self.folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                make_old(path, LONG_AGO)

    def spoil(self, image: str) -> None:
        """Change a byte of an entry, as a failing medium would."""
        self.damaged |= {self.entry(image).name}
        with self.entry(image).open("r+b") as file:
            file.write(b"\xff")


def check(tree: Tree) -> None:
    """What no crash may break: whatever is visible is whole."""
    for path in sorted(tree.place.base.glob("[!.]*")):
        if path.suffix == ".info":
            assert isinstance(json.loads(path.read_bytes()), dict), path
        else:
            check_entry(tree, path)
            if tree.recorded and path.suffix not in _NO_ENTRIES:
                assert path.with_name(f"{path.name}.info").exists(), f"{path} lost its record"
    for path in visible_disks(tree):
        check_disk(tree, path)
    for pin in tree.place.base.glob(".pins/[!.]*"):
        assert {"reason", "until", "made_at"} <= json.loads(pin.read_bytes()).keys(), pin
    if (registry := tree.folder / "compute_nodes").exists():
        assert all(json.loads(registry.read_bytes()).values())


def check_entry(tree: Tree, path: Path) -> None:
    """A cache file holds all of what its name promises, whether or not it has a record."""
    name, _, size = path.name.partition("_")
    if path.name in tree.damaged or path.suffix in _NO_ENTRIES:
        return
    content = path.read_bytes()
    if name == "swap":
        assert content.endswith(bytes(4096)), path
        assert (len(content), content[4086:4096]) == (int(size) * MiB, b"SWAPSPACE2"), path
        return
    image = tree.images.name_of(name)
    assert image is not None, f"{path} is no file of this cache"
    expected = tree.images.contents[image].read_bytes()
    if tree.overrides.get("force_raw_images") is False:
        expected = tree.place.source_file(tree.id(image)).read_bytes()
    wanted = expected.ljust(int(size or 0), b"\0")
    found = hashlib.sha256(content).hexdigest()
    assert found == hashlib.sha256(wanted).hexdigest(), f"{path} is not whole"


def check_disk(tree: Tree, path: Path) -> None:
    """A disk was announced, stands on what is there, and reads as its image does."""
    recorded = json.loads((path.parent / "disk.info").read_bytes())
    assert str(path) in recorded, f"{path} is there, but not its format"
    disk_format = recorded[str(path)]
    base = backing(path) if disk_format == "qcow2" else None
    if base is not None and base.name in tree.damaged:
        return
    assert base is None or base.is_file(), f"{path} stands on {base}, which is gone"
    seen = (path.stat().st_ino, path.stat().st_mtime_ns, base.stat().st_ino if base else 0)
    if tree.checked.get(path) == seen:
        return
    if disk_format == "qcow2":
        run_qemu_img("check", "-q", "-f", "qcow2", path)
    content = path.parent.name.partition("-")[0]
    if content == "swap":
        assert b"SWAPSPACE2" in (base or path).read_bytes()[:4096], path
    else:
        expected = tree.images.contents[content]
        run_qemu_img("compare", "-q", "-f", disk_format, "-F", "raw", path, expected)
    tree.checked[path] = seen


def visible_disks(tree: Tree) -> list[Path]:
    """The disks in the instance folders; one that goes while this looks is left out."""
    found: list[Path] = []
    for folder in sorted(tree.folder.glob("*-*")):
        with contextlib.suppress(FileNotFoundError):
            names = sorted(os.listdir(folder))
            found += [folder / n for n in names if n != "disk.info" and not n.startswith(".")]
    return found


def backing(path: Path) -> Path | None:
    """What a qcow2 disk's header names as its backing file, read by hand."""
    header = path.read_bytes()[:4096]
    magic, _, offset, length = struct.unpack(">IIQI", header[:20])
    assert magic == 0x514649FB, f"{path} is no qcow2 file"
    return Path(os.fsdecode(header[offset : offset + length])) if offset else None


def check_clean(tree: Tree) -> None:
    """After everything has grown old and was swept: each file is needed, or it is litter."""
    for _ in range(2):
        tree.make_old()
        report = tree.host().sweep(instances=[])
        assert report.missing_evidence == ()
    assert report.errors == ()
    check(tree)
    unexplained = sorted(set(files_of(tree.folder)) - needed(tree))
    assert not unexplained, f"litter: {[str(p.relative_to(tree.folder)) for p in unexplained]}"
    check_owners(tree)


def check_owners(tree: Tree) -> None:
    """Everything belongs to whom the instances folder belongs to.

    But for an instance's folder whose maker died: it is given away when something goes into it.
    """
    owner = tree.folder.stat()
    for path in tree.folder.rglob("*"):
        if path.match("*-*/") and path.is_dir() and not os.listdir(path):
            continue
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (owner.st_uid, owner.st_gid), path


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()]


def needed(tree: Tree) -> set[Path]:
    """The files that have a reason to be there, by what disks and pins say."""
    base = tree.place.base
    disks = visible_disks(tree)
    pins = set(base.glob(".pins/[!.]*"))
    kept = {base / pin.name for pin in pins}
    kept |= {stood for disk in disks if is_qcow2(disk) and (stood := backing(disk))}
    beside = {path for entry in kept for path in belonging(base, entry.name)}
    locks = {path for path in tree.folder.glob("locks/*") if _KNOWN_LOCK.match(path.name)}
    infos = set(tree.folder.glob("*-*/disk.info"))
    registry = {tree.folder / "compute_nodes"}
    return {*disks, *pins, *kept, *beside, *locks, *infos, *registry}


def belonging(base: Path, entry: str) -> list[Path]:
    """What may be there for an entry's sake: its record, its templates, a good copy of it."""
    templates = base.glob(f".templates/{entry}_*_*")
    return [base / f"{entry}.info", base / ".healed" / entry, *templates]


def is_qcow2(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"QFI\xfb"


def registered_hosts(tree: Tree) -> set[str]:
    path = tree.folder / "compute_nodes"
    return set(json.loads(path.read_bytes())) if path.exists() else set()


def register_by_hand(tree: Tree, *hosts: str) -> None:
    (tree.folder / "compute_nodes").write_text(json.dumps(dict.fromkeys(hosts, time.time())))
