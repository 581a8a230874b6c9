"""Beside OpenStack: a nova.conf, a real Keystone and Glance, and the command line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import basecache
from basecache import errors
from basecache.cache.layout import original_name
from basecache.cli.main import main
from basecache.images import qemu_img
from tests.support.hostile import run_qemu_img
from tests.support.openstack_api import Glance, Keystone

pytestmark = pytest.mark.service


@pytest.fixture
def nova_conf(tmp_path: Path, keystone: Keystone) -> Path:
    """A nova.conf as a compute host has it, with the credentials of a user of the cloud."""
    credentials = "\n".join(
        f"{name} = {value}" for name, value in keystone.credentials("demo").items()
    )
    path = tmp_path / "nova.conf"
    path.write_text(
        f"[DEFAULT]\nstate_path = {tmp_path}\ninstances_path = $state_path/instances\n"
        "my_ip = 192.0.2.7\nhost = compute-7\n"
        "[image_cache]\nsubdirectory_name = _base_$my_ip\nmanager_interval = -1\n"
        f"[glance]\n{credentials}\n"
    )
    return path


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    """A qcow2 image of 8 MiB whose first 64 KiB are ones."""
    raw, image = tmp_path / "content.raw", tmp_path / "content.qcow2"
    raw.write_bytes(b"\x01" * 65536)
    run_qemu_img("resize", "-q", "-f", "raw", str(raw), "8M")
    run_qemu_img("convert", "-f", "raw", "-O", "qcow2", str(raw), str(image))
    return image.read_bytes()


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    status = main(arguments)
    printed = capsys.readouterr().out
    return status, json.loads(printed) if printed.strip() else None


def test_from_glance_to_a_disk(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    nova_conf: Path,
    glance: Glance,
    content: bytes,
) -> None:
    image_id = glance.upload(content, name="small", disk_format="qcow2")
    command = ("--config-file", str(nova_conf))
    status, [result] = run(capsys, *command, "cache", "ensure", image_id, "-f", "json")
    assert (status, result["Status"], result["Bytes"]) == (0, "cached", len(content))
    entry = tmp_path / "instances" / "_base_192.0.2.7" / original_name(image_id)
    assert entry.read_bytes() == b"\x01" * 65536 + bytes(8 * 2**20 - 65536)
    record = json.loads(entry.with_name(f"{entry.name}.info").read_text())
    assert record["source_digest"] == f"sha512:{hashlib.sha512(content).hexdigest()}"

    status, disk = run(
        capsys, *command, "disk", "create", "--instance", "vm-1", "--image", image_id, "-f", "json"
    )
    assert (status, disk["backing"]) == (0, str(entry))
    assert qemu_img.info(Path(disk["path"]), "qcow2").virtual_size_bytes == 8 * 2**20


def test_an_image_the_caller_may_not_see(
    capsys: pytest.CaptureFixture[str], nova_conf: Path, tmp_path: Path
) -> None:
    status, _ = run(
        capsys, "--config-file", str(nova_conf), "cache", "ensure", "no-such-image", "-f", "json"
    )
    assert status == errors.NotFound.exit_code
    assert not any((tmp_path / "instances" / "_base_192.0.2.7").iterdir())


def test_gone_from_glance_copied_from_another_host(
    tmp_path: Path, nova_conf: Path, glance: Glance, content: bytes
) -> None:
    image_id = glance.upload(content, disk_format="qcow2")
    first = basecache.open_host([nova_conf])
    first.ensure(image_id)
    first.verify(force=True)
    glance.delete(image_id)

    second = basecache.open_host([nova_conf], instances_path=tmp_path / "second")
    with pytest.raises(errors.NotFound):
        second.ensure(image_id)
    there = str(first.parts.store.layout.base)
    result = second.ensure(image_id, fallback_from_host=there)
    assert result.path is not None
    assert result.path.read_bytes() == first.parts.store.layout.entry(result.path.name).read_bytes()

    spoilt = first.parts.store.layout.entry(result.path.name)
    with spoilt.open("r+b") as file:
        file.write(b"x")
    third = basecache.open_host([nova_conf], instances_path=tmp_path / "third")
    with pytest.raises(errors.Corrupt):
        third.ensure(image_id, fallback_from_host=there)
    assert not any(third.parts.store.layout.staging.iterdir())
