"""Stop points: a story is run in a process of its own and killed before a chosen system call.

    calls = trace(story, log)             one run under strace: its system calls, in order
    for stop in stops_of(calls, folder)   each of them that changes something in ``folder``
    kill_at(stop, story, log)             a run that gets SIGKILL as it enters that call

strace does the killing (``inject=...:signal=KILL:when=N``), so there is no hook in the code under
test. SIGKILL on entry keeps the call from being carried out: dying before each changing call, and
once not at all, leaves behind everything that the disk can look like in between. What a power
loss takes besides, no kill can show; but the order of fsync and rename stands in the trace.

A story is a picklable callable without arguments. Its process is forked from a server that has
imported everything already, and leads a process group of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from tests.support.needs import need_tool

Story = Callable[[], object]

_PRELOADED = ["pytest", "tests.crash.stories", "tests.crash.nova"]
_CHANGING = (
    *("openat", "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "symlink", "symlinkat"),
    *("link", "linkat", "rename", "renameat", "renameat2", "truncate", "ftruncate", "fallocate"),
    *("write", "writev", "pwrite64", "pwritev", "copy_file_range", "sendfile", "splice", "ioctl"),
    *("fsync", "fdatasync", "sync_file_range", "utimensat", "setxattr", "fsetxattr", "removexattr"),
    *("chmod", "fchmod", "fchmodat", "chown", "fchown", "lchown", "fchownat"),
)
# Our own runner of programs makes one epoll descriptor for each; subprocess.run polls, as often
# as the program's output happens to come in pieces, so that only its first poll can be counted.
_HELPER_WATCHED = "epoll_create1"
_HELPER_POLLED = "poll"
_TRACED = (*_CHANGING, _HELPER_WATCHED, _HELPER_POLLED)
_LINE = re.compile(r"(?:(?P<pid>\d+) +)?(?P<name>\w+)\((?P<rest>.*)")
_FIRST_FILE = re.compile(r'(?:AT_FDCWD<[^>]*>)?[^/]*[<"]/(?:[^">]*/)?([^/">]*)')
_TOKEN = re.compile(r"\.[0-9a-f]{8}(?:[0-9a-f]{8})?\b")


@dataclass(frozen=True)
class Call:
    """One system call; ``number`` counts those of its name in its thread, from 1 on."""

    pid: int
    name: str
    rest: str
    number: int

    def __str__(self) -> str:
        return f"{self.name}({self.rest[:200]}"

    @property
    def shape(self) -> tuple[str, str]:
        """What was done to a file of which name, whatever its folder and random parts."""
        match = _FIRST_FILE.match(self.rest)
        return self.name, _TOKEN.sub(".#", match[1]) if match else ""


@dataclass(frozen=True)
class Stop:
    """Where to die: on entering ``call``.

    ``follow``: it is not the first thread's. With ``helper`` the program that was started dies as
    well; without, it goes on alone.
    """

    call: Call
    follow: bool = False
    helper: bool = True

    def __str__(self) -> str:
        return f"{self.call}{'' if self.helper else ', and its helper goes on alone'}"


def trace(story: Story, log: Path) -> list[Call]:
    """What a whole run does, in the order in which it does it; strace writes to ``log``."""
    with started(story, ["-f", *_tracing(_TRACED)], log) as process:
        process.join()
        if process.exitcode != 0:
            raise AssertionError(f"the story failed, exit code {process.exitcode}")
    return list(_parse(log))


def stops_of(calls: Sequence[Call], folder: Path) -> Iterator[Stop]:
    """Before every call that changes something in ``folder``, and in the life of every helper."""
    main = calls[0].pid
    for call in calls:
        if call.pid != main:
            if call.name == "pwrite64" and call.rest.partition(">")[0].endswith(".part"):
                yield Stop(call, follow=True)
        elif call.name == _HELPER_WATCHED or (call.name == _HELPER_POLLED and call.number == 1):
            yield Stop(call)
            yield Stop(call, helper=False)
        elif changes(call, folder):
            yield Stop(call)


def changes(call: Call, folder: Path) -> bool:
    """Whether a call changed something in ``folder``."""
    if str(folder) not in call.rest or " = -1 " in call.rest:
        return False
    if call.name == "openat":
        return "O_CREAT" in call.rest
    return call.name != "ioctl" or "FICLONE" in call.rest


def kill_at(stop: Stop, story: Story, log: Path) -> None:
    """Run the story and have it killed there; AssertionError when that was elsewhere or never."""
    options = [*signalled(stop.call, "KILL"), *(["-f"] if stop.follow else [])]
    with started(story, options, log) as process:
        process.join()
        if stop.helper:
            kill(process)
    last = list(_parse(log))[-1]
    if process.exitcode != -signal.SIGKILL or last.shape != stop.call.shape:
        raise AssertionError(f"not killed at {stop} but {process.exitcode} at {last}")


def signalled(call: Call, name: str) -> list[str]:
    """Options of strace that send a signal on entering a call; one that kills keeps it from being
    carried out, after one that stops it is done."""
    inject = f"inject={call.name}:signal={name}:when={call.number}"
    return [*_tracing([call.name]), "-e", inject]


@contextmanager
def started(
    story: Story, options: Sequence[str] = (), log: Path | None = None
) -> Iterator[ForkServerProcess]:
    """A story at work, under strace when there is a ``log``; killed if the block ends before it."""
    ours, theirs = multiprocessing.Pipe()
    process = _context().Process(target=_run, args=(theirs, story))
    process.start()
    theirs.close()
    tracer = None
    try:
        ours.recv()
        if log is not None:
            tracer = _attach(process, options, log)
        ours.send("go")
        yield process
    finally:
        ours.close()
        if process.is_alive():
            kill(process)
        process.join()
        if tracer is not None:
            tracer.communicate()


def kill(process: ForkServerProcess) -> None:
    """SIGKILL for a story and every program it started."""
    assert process.pid is not None
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def wait_for_helpers(folder: Path) -> None:
    """Wait until every program has ended that was started with a path in ``folder``."""
    wait_until(lambda: not any(_working_on(folder)), f"programs working on {folder}")


def wait_until(true: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Wait for something that is sure to come; the time is for when it does not."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:.0f} s for nothing: {what}")
        time.sleep(0.002)


def wait_until_stopped(log: Path) -> None:
    """Wait until strace, which writes to ``log``, says that SIGSTOP came through."""
    wait_until(lambda: log.exists() and "stopped by SIGSTOP" in log.read_text(), "SIGSTOP")


def waiting_for(lock: Path) -> int:
    """How many descriptors wait for the lock on a file."""
    place = f":{lock.stat().st_ino} "
    waiting = (line for line in Path("/proc/locks").read_text().splitlines() if "->" in line)
    return sum(place in line for line in waiting)


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def _run(orders: Connection, story: Story) -> None:
    os.setsid()
    orders.send("ready")
    orders.recv()
    story()


def _tracing(calls: Sequence[str]) -> list[str]:
    return ["-y", "-s", "300", "-e", f"trace={','.join(calls)}", "-e", "signal=SIGSTOP"]


def _attach(process: ForkServerProcess, options: Sequence[str], log: Path) -> subprocess.Popen[str]:
    strace = need_tool("strace", "apt-get install strace")
    command = [strace, *options, "-o", str(log), "-p", str(process.pid)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    said = tracer.stderr.readline()
    if "attached" not in said:
        raise AssertionError(f"strace: {said or 'ended'}")
    return tracer


def _working_on(folder: Path) -> Iterator[str]:
    needle = os.fsencode(folder) + b"/"
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if needle in process.read_bytes():
                yield process.parent.name


def _parse(log: Path) -> Iterator[Call]:
    """The calls in a log; when it follows threads, each line begins with one's number."""
    numbers: Counter[tuple[int, str]] = Counter()
    for line in log.read_text().splitlines():
        if match := _LINE.match(line):
            pid, name = int(match["pid"] or 0), match["name"]
            numbers[pid, name] += 1
            yield Call(pid, name, match["rest"], numbers[pid, name])
