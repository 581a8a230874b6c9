"""The only caller of qemu-img.

Arguments go as a list, never through a shell, and every format is passed, never guessed. Every
path is made absolute: qemu takes what stands before a ``:`` for a protocol only when no ``/``
comes first, so a path that begins with ``/`` is a file whatever else it holds, and can be no
option either.

qemu-img runs under limits, since what it reads may be made to hurt: 2 GiB of address space and
30 s of CPU for looking, 4 GiB for converting. They are set by util-linux's ``prlimit``, which
becomes qemu-img: they hold from its first instruction (limits set on a child that already runs
do not), nothing of ours runs between fork and exec (which threads forbid), and it costs 1 ms.
glibc reserves up to 128 MiB of address space for the arena of each thread; MALLOC_ARENA_MAX keeps
that from counting against the limit.

Errors: ToolFailed with qemu-img's own words (``install`` is set only when a program is missing),
NoSpace when the target's file system is full.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from basecache import errors
from basecache.model import GiB, KiB, MiB

_LOOK_SECONDS = 60.0
_LOOK_LIMITS = ("--cpu=30:31", f"--as={2 * GiB}")
_WORK_LIMITS = (f"--as={4 * GiB}",)
_ENVIRONMENT = {"LC_ALL": "C", "PATH": os.defpath, "MALLOC_ARENA_MAX": "4"}
_MAX_STDOUT_BYTES = 64 * MiB
_MAX_STDERR_BYTES = 64 * KiB
_PROGRESS = re.compile(rb"\(\s*([0-9.]+)/100%\)")
_CHECK_NOT_SUPPORTED = 63


@dataclass(frozen=True, slots=True)
class Info:
    """What ``qemu-img info`` says. ``backing`` stands as written; ``raw`` is all of its JSON."""

    format: str
    virtual_size_bytes: int
    backing: str | None
    data_file: str | None
    raw: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Check:
    """What ``qemu-img check`` found: ``damages`` it counted, and the ``first`` in its words."""

    damages: int
    first: str


@dataclass(frozen=True, slots=True)
class _Ended:
    status: int
    stdout: bytes
    stderr: str


def info(path: Path, format: str, *, shared: bool = False) -> Info:  # noqa: A002
    """Look at one image, not at its backing file. ``shared`` for a disk that a VM has open."""
    arguments = ["info", "--output=json", "-f", format, *(["-U"] if shared else [])]
    said = _parse_json(_run([*arguments, _absolute(path)], _LOOK_LIMITS, path), path)
    if not isinstance(said, dict):
        raise errors.ToolFailed("qemu-img", f"{path}: info is no JSON object")
    return _read_info(said, path)


def chain(path: Path, format: str) -> tuple[str, ...]:  # noqa: A002
    """The file names of a disk's whole backing chain, the disk first, also while a VM runs on it.

    Below the disk qemu follows what the headers say. Bytes of a name that are not UTF-8 come as
    U+FFFD.
    """
    arguments = ["info", "--output=json", "-U", "--backing-chain", "-f", format]
    said = _parse_json(_run([*arguments, _absolute(path)], _LOOK_LIMITS, path), path)
    try:
        return tuple(str(layer["filename"]) for layer in said)
    except (TypeError, KeyError) as error:
        raise errors.ToolFailed("qemu-img", f"{path}: info is no backing chain") from error


def check(path: Path, format: str) -> Check | None:  # noqa: A002
    """Go through the image's metadata; None when qemu-img cannot check this format.

    Reads the tables, not the data: 5 ms for 1 GiB. Leaked clusters are no damage.
    """
    arguments = ["check", "--output=json", "-f", format, _absolute(path)]
    ended = _run(arguments, _LOOK_LIMITS, path, accept=(0, 2, 3, _CHECK_NOT_SUPPORTED))
    if ended.status == _CHECK_NOT_SUPPORTED:
        return None
    said = _parse_json(ended, path)
    damages = int(said.get("corruptions", 0)) + int(said.get("check-errors", 0))
    return Check(damages, ended.stderr.strip().split("\n", 1)[0])


def convert(
    source: Path,
    source_format: str,
    target: Path,
    target_format: str,
    *,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Write ``source`` anew as ``target``, sparse and durable. ``progress`` gets 0 to 1.

    With writes out of order and 16 requests at once qemu-img is twice as fast as without. Other
    cache modes gain nothing over the default, whose result is warm in the page cache for the
    first VM; the default does not flush, so that is done here.
    """
    arguments = ["convert", "-W", "-m", "16", "-f", source_format, "-O", target_format]
    watch = None
    if progress is not None:
        arguments.append("-p")
        watch = _watch_progress(progress)
    needed = _length(source)
    arguments += [_absolute(source), _absolute(target)]
    _run(arguments, _WORK_LIMITS, target, needed_bytes=needed, watch=watch)
    _make_durable(target)


def create(path: Path, format: str, size_bytes: int) -> None:  # noqa: A002
    """Make an empty image."""
    arguments = ["create", "-q", "-f", format, _absolute(path), str(size_bytes)]
    _run(arguments, _LOOK_LIMITS, path, needed_bytes=size_bytes)


def create_overlay(target: Path, size_bytes: int, backing: Path, backing_format: str) -> None:
    """Make a qcow2 overlay; ``backing`` is written into it as an absolute path."""
    arguments = ["create", "-q", "-f", "qcow2", "-F", backing_format, "-b", _absolute(backing)]
    _run([*arguments, _absolute(target), str(size_bytes)], _LOOK_LIMITS, target)


def resize(path: Path, format: str, size_bytes: int) -> None:  # noqa: A002
    """Make an image larger; qemu-img refuses to make it smaller."""
    arguments = ["resize", "-q", "-f", format, _absolute(path), str(size_bytes)]
    _run(arguments, _LOOK_LIMITS, path, needed_bytes=size_bytes)


def _read_info(said: Mapping[str, Any], path: Path) -> Info:
    specific = said.get("format-specific") or {}
    data = specific.get("data") if isinstance(specific, dict) else None
    try:
        return Info(
            format=str(said["format"]),
            virtual_size_bytes=int(said["virtual-size"]),
            backing=said.get("backing-filename"),
            data_file=data.get("data-file") if isinstance(data, dict) else None,
            raw=said,
        )
    except KeyError as error:
        raise errors.ToolFailed("qemu-img", f"{path}: info says no {error}") from error


def _parse_json(ended: _Ended, path: Path) -> Any:
    try:
        return json.loads(ended.stdout.decode("utf-8", "surrogateescape"))
    except ValueError as error:
        raise errors.ToolFailed("qemu-img", f"{path}: its answer is no JSON") from error


def _run(
    arguments: list[str],
    limits: tuple[str, ...],
    path: Path,
    *,
    accept: tuple[int, ...] = (0,),
    needed_bytes: int = 0,
    watch: Callable[[bytes], None] | None = None,
) -> _Ended:
    """Run qemu-img to its end; on any exception it is killed and reaped."""
    command = [_find("prlimit", "util-linux"), *limits, _find("qemu-img", "qemu-utils"), *arguments]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_ENVIRONMENT,
    ) as process:
        try:
            patience = _LOOK_SECONDS if limits is _LOOK_LIMITS else None
            stdout, stderr = _collect(process, watch, patience)
            ended = _Ended(process.wait(), stdout, stderr.decode("utf-8", "replace"))
        except BaseException:
            process.kill()
            raise
    if ended.status not in accept:
        raise _explain(ended, arguments[0], path, needed_bytes)
    return ended


def _find(tool: str, package: str) -> str:
    found = shutil.which(tool)
    if found is None:
        raise errors.ToolFailed(tool, "it is not installed", f"apt-get install {package}")
    return found


def _collect(
    process: subprocess.Popen[bytes],
    watch: Callable[[bytes], None] | None,
    patience_seconds: float | None,
) -> tuple[bytes, bytes]:
    """Read both outputs to their end. Of the errors only the first are kept: there can be GBs."""
    deadline = None if patience_seconds is None else time.monotonic() + patience_seconds
    stdout, stderr = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(_opened(process.stdout), selectors.EVENT_READ, stdout)
        selector.register(_opened(process.stderr), selectors.EVENT_READ, stderr)
        while selector.get_map():
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = selector.select(left)
            if not ready:
                raise errors.ToolFailed("qemu-img", f"no answer within {patience_seconds:.0f} s")
            for key, _ in ready:
                chunk = os.read(key.fd, 64 * KiB)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif key.data is stderr:
                    stderr += chunk[: _MAX_STDERR_BYTES - len(stderr)]
                elif watch is not None:
                    watch(chunk)
                elif len(stdout) + len(chunk) > _MAX_STDOUT_BYTES:
                    raise errors.ToolFailed("qemu-img", f"it says over {_MAX_STDOUT_BYTES} bytes")
                else:
                    stdout += chunk
    return bytes(stdout), bytes(stderr)


def _opened(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise ValueError("the child was started without a pipe")
    return stream


def _watch_progress(progress: Callable[[float], None]) -> Callable[[bytes], None]:
    """A reader of ``-p`` output, which comes in pieces: "    (12.50/100%)" and a return."""
    rest = b""

    def watch(chunk: bytes) -> None:
        nonlocal rest
        text = rest + chunk
        matches = list(_PROGRESS.finditer(text))
        if matches:
            progress(min(float(matches[-1][1]) / 100, 1.0))
        rest = text[matches[-1].end() if matches else 0 :][-64:]

    return watch


def _explain(
    ended: _Ended, command: str, path: Path, needed_bytes: int
) -> errors.ToolFailed | errors.NoSpace:
    if "No space left on device" in ended.stderr or "Disk quota exceeded" in ended.stderr:
        free = os.statvfs(path.parent)
        return errors.NoSpace(
            path, needed_bytes, free.f_bavail * free.f_frsize, f"qemu-img {command}"
        )
    if ended.status == -signal.SIGXCPU:
        return errors.ToolFailed("qemu-img", f"{command} of {path}: stopped at its CPU limit")
    said = ended.stderr.strip().removeprefix("qemu-img: ")[:2000]
    if ended.status < 0:
        said = f"ended by {signal.Signals(-ended.status).name} {said}".rstrip()
    return errors.ToolFailed("qemu-img", f"{command}: {said or f'ended with {ended.status}'}")


def _absolute(path: Path) -> str:
    """``path`` from the root on, nothing normalised: ``..`` after a link stays the kernel's."""
    return str(Path.cwd() / path)


def _length(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise errors.from_os(error, path, "reading") from error


def _make_durable(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise errors.from_os(error, path, "writing to disk") from error
