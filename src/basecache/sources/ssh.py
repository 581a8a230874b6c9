"""A folder on another host, reached through ssh.

The other side needs a shell, ``stat``, ``cat`` and ``tail``; nothing of ours. One command looks at
a file and its record, another streams a file from an offset, read from ssh's pipe straight into
the caller's buffer.
"""

from __future__ import annotations

import fcntl
import os
import select
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO

from basecache import errors
from basecache.sources import Reader

DEFAULT_COMMAND = ("ssh", "-oBatchMode=yes", "-oConnectTimeout=10")

_LACKING, _SSH_FAILED = 44, 255
_FINAL = ("permission denied", "host key verification failed", "could not resolve hostname")
_PIPE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class SshFolder:
    """The folder ``base`` on the host that ``command`` (with the host's name last) logs in to."""

    command: Sequence[str]
    base: PurePosixPath
    source: str
    timeout_seconds: float

    def look(self, name: str) -> tuple[int, int, str] | None:
        """Size, inode and record text of a regular file; None when there is none."""
        script = (
            f"cd {shlex.quote(str(self.base))} || exit 1; "
            f"[ -f {name} ] && [ ! -h {name} ] || exit {_LACKING}; "
            f"stat -c '%s %i' {name} || exit 1; [ ! -e {name}.info ] || cat {name}.info"
        )
        with tempfile.TemporaryFile() as said:
            process = self._start(script, said)
            try:
                answer, _ = process.communicate(timeout=self.timeout_seconds)
            except subprocess.TimeoutExpired as error:
                process.kill()
                process.communicate()
                raise errors.SourceUnreachable(self.source, "no answer in time") from error
            if process.returncode == _LACKING:
                return None
            if process.returncode:
                raise self.trouble(process.returncode, said)
        line, _, text = answer.decode(errors="replace").partition("\n")
        try:
            size, inode = map(int, line.split())
        except ValueError as error:
            raise errors.SourceRefused(self.source, f"answered {line[:80]!r}, no size") from error
        return size, inode, text

    @contextmanager
    def open(self, name: str, offset: int, size_bytes: int) -> Iterator[Reader]:
        """The file's bytes from ``offset`` to ``size_bytes``."""
        path = shlex.quote(str(self.base / name))
        script = f"[ -f {path} ] || exit {_LACKING}; exec tail -c +{offset + 1} {path}"
        with tempfile.TemporaryFile() as said, self._start(script, said) as process:
            try:
                yield SshReader(self, name, process, said, size_bytes - offset)
            finally:
                process.kill()

    def trouble(self, status: int, said: IO[bytes]) -> errors.BasecacheError:
        """The error that ssh's exit status and words mean."""
        said.seek(0)
        lines = said.read(65536).decode(errors="replace").strip().splitlines()
        why = lines[-1] if lines else f"the remote command ended with status {status}"
        if status == _SSH_FAILED and not any(final in why.lower() for final in _FINAL):
            return errors.SourceUnreachable(self.source, f"ssh: {why}")
        return errors.SourceRefused(self.source, f"ssh: {why}")

    def _start(self, script: str, said: IO[bytes]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                [*self.command, script],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                bufsize=0,
            )
        except OSError as error:
            raise errors.ToolFailed(
                self.command[0], error.strerror or str(error), "apt-get install openssh-client"
            ) from error


class SshReader:
    """What a remote ``tail`` writes, of which ``left`` bytes must come."""

    def __init__(
        self,
        folder: SshFolder,
        name: str,
        process: subprocess.Popen[bytes],
        said: IO[bytes],
        left: int,
    ) -> None:
        assert process.stdout is not None  # noqa: S101
        self._folder = folder
        self._name = name
        self._process = process
        self._said = said
        self._left = left
        self._pipe = process.stdout.fileno()
        self._ready = select.poll()
        self._ready.register(self._pipe, select.POLLIN)
        fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def readinto(self, buffer: memoryview, /) -> int:
        if not self._ready.poll(self._folder.timeout_seconds * 1000):
            raise errors.SourceInterrupted(
                self._folder.source, "the other host stalled: no byte within the timeout"
            )
        count = os.readv(self._pipe, [buffer])
        self._left -= count
        if count == 0:
            self._finish()
        return count

    def _finish(self) -> None:
        """At the end of the stream: SourceInterrupted when it came too early."""
        try:
            status = self._process.wait(self._folder.timeout_seconds)
        except subprocess.TimeoutExpired as error:
            raise errors.SourceInterrupted(self._folder.source, "ssh does not end") from error
        if status == _LACKING:
            raise errors.NotFound("cache file", self._name, self._folder.source)
        if status == 0 and self._left <= 0:
            return
        why = f"the stream ended {self._left} bytes early"
        if status:
            trouble = self._folder.trouble(status, self._said)
            if not trouble.retryable:
                raise trouble
            why = f"{why}: {trouble}"
        raise errors.SourceInterrupted(self._folder.source, why)
