"""The instances file: a JSON list of what instances there are, written by whoever knows.

Each object has ``uuid`` or ``name`` (one of them at least), and may have ``host task_state
vm_state image_ref kernel_id ramdisk_id os_type bdms``; ``bdms`` is a list of ``{"kind": "swap",
"size": MiB}`` and ``{"kind": "ephemeral", "size": GiB, "guest_format": ...}``. Missing keys are
None or empty, unknown keys are ignored. It speaks for all hosts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basecache import errors
from basecache.model import BlockDeviceMapping, Instance
from basecache.usage import Report


@dataclass(frozen=True, slots=True)
class FileUsage:
    """The instances that a file lists."""

    path: Path

    @property
    def name(self) -> str:
        return f"instances file {self.path}"

    def collect(self) -> Report:
        """All of them; EvidenceMissing when the file is not there, damaged or half sensible."""
        try:
            objects = json.loads(self.path.read_bytes())
        except OSError as error:
            raise self._missing(error.strerror or str(error)) from error
        except (ValueError, RecursionError) as error:
            raise self._missing(f"it is not JSON: {error}") from error
        try:
            instances = parse_instances(objects)
        except errors.UsageError as error:
            raise self._missing(error.message) from error
        return Report(self.name, instances, hosts=None)

    def _missing(self, why: str) -> errors.EvidenceMissing:
        return errors.EvidenceMissing((f"the {self.name} cannot be used: {why}",))


@dataclass(frozen=True, slots=True)
class GivenUsage:
    """Instances that the caller hands over, for all hosts."""

    instances: tuple[Instance, ...]
    name: str = "the instances given"

    def collect(self) -> Report:
        return Report(self.name, self.instances, hosts=None)


def parse_instances(objects: object) -> tuple[Instance, ...]:
    """The instances in a list of objects (or of Instances); UsageError when it is none."""
    if isinstance(objects, str | bytes | Mapping) or not isinstance(objects, Iterable):
        raise errors.UsageError(f"instances are a list of objects, not a {type(objects).__name__}")
    return tuple(_parse_instance(item, number) for number, item in enumerate(objects))


def _parse_instance(item: object, number: int) -> Instance:
    if isinstance(item, Instance):
        return item
    if not isinstance(item, Mapping):
        raise errors.UsageError(f"instance number {number} is a {type(item).__name__}, no object")
    texts = {key: _text(item, key, number) for key in _TEXTS}
    identity = texts["uuid"] or texts["name"]
    if identity is None:
        raise errors.UsageError(f"instance number {number} has neither uuid nor name")
    texts["uuid"] = identity
    bdms = item.get("bdms")
    bdms = () if bdms is None or bdms == "" else bdms
    if isinstance(bdms, str | Mapping) or not isinstance(bdms, Iterable):
        raise errors.UsageError(f"instance {identity}: bdms is not a list")
    return Instance(**texts, bdms=tuple(_parse_bdm(bdm, identity) for bdm in bdms))


_TEXTS = (
    "uuid",
    "name",
    "host",
    "task_state",
    "vm_state",
    "image_ref",
    "kernel_id",
    "ramdisk_id",
    "os_type",
)


def _text(item: Mapping[Any, Any], key: str, number: int) -> Any:
    value = item.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise errors.UsageError(f"instance number {number}: {key} is {value!r}, not text")
    return value


def _parse_bdm(bdm: object, instance: str) -> BlockDeviceMapping:
    if not isinstance(bdm, Mapping) or bdm.get("kind") not in ("swap", "ephemeral"):
        raise errors.UsageError(f"instance {instance}: {bdm!r} is no swap or ephemeral disk")
    size, guest_format = bdm.get("size"), bdm.get("guest_format")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise errors.UsageError(f"instance {instance}: the size {size!r} of a disk is no count")
    if guest_format is not None and not isinstance(guest_format, str):
        raise errors.UsageError(f"instance {instance}: guest_format {guest_format!r} is no text")
    return BlockDeviceMapping(str(bdm["kind"]), size, guest_format or None)
