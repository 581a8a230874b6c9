"""Stop points: a story is run in a process of its own and killed before a chosen system call.

    calls = trace(story, place)          one run under strace: what it did to ``place``, in order
    for stop in stops_of(calls): ...     every call of those that changes something
    kill_at(stop, story, place)          a run that gets SIGKILL as it enters that call

strace does the killing (``inject=...:signal=KILL:when=N``), so there is no hook in the code under
test. SIGKILL on entry keeps the call from being carried out: to die before each changing call,
and once not at all, is to leave behind everything the disk can look like in between. What a
power loss adves to that, lost caches, no kill can show; the order of fsync and rename can be read
from the trace (tests/crash/test_order.py).

The processes are forked from a server that has imported everything already.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from tests.support.needs import need_tool

Story = Callable[[Path], object]

_PRELOADED = ["pytest", "tests.crash.stories"]
# What changes a tree, and the calls around a helper process. read(2) is not among them: how often
# it is called depends on what else goes on.
_CHANGING = (
    *("openat", "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "symlink", "symlinkat"),
    *("link", "linkat", "rename", "renameat", "renameat2", "truncate", "ftruncate", "fallocate"),
    *("write", "writev", "pwrite64", "pwritev", "copy_file_range", "sendfile", "splice", "ioctl"),
    *("fsync", "fdatasync", "sync_file_range", "utimensat", "setxattr", "fsetxattr", "removexattr"),
    *("chmod", "fchmod", "fchmodat", "chown", "fchown", "lchown", "fchownat"),
)
_WAITING = ("vfork", "epoll_wait", "poll")
_TRACED = (*_CHANGING, *_WAITING)
_LINE = re.compile(r"(?P<pid>\d+) +(?P<name>\w+)\((?P<rest>.*)")


@dataclass(frozen=True)
class Call:
    """One system call: ``number`` counts the traced calls of its thread from 1, ``named`` those
    of its name."""

    pid: int
    name: str
    rest: str
    number: int
    named: int

    def __str__(self) -> str:
        return f"{self.name}({self.rest[:160]}"


@dataclass(frozen=True)
class Stop:
    """Where to die: as a thread enters its ``number``-th call of ``calls``.

    ``follow`` counts in every thread instead of the first. With ``helper`` the program that was
    started dies as well; without, it goes on alone.
    """

    what: str
    number: int
    calls: tuple[str, ...] = _TRACED
    follow: bool = False
    helper: bool = True


def trace(story: Story, place: Path) -> list[Call]:
    """What a whole run does, in the order in which it does it."""
    output = place.parent / f"{place.name}.trace"
    with started(story, place, ["-f", *_tracing(_TRACED)], output) as process:
        process.join()
        if process.exitcode != 0:
            raise AssertionError(f"the story failed, exit code {process.exitcode}")
    return list(_parse(output.read_text()))


def stops_of(calls: Sequence[Call], place: Path) -> Iterator[Stop]:
    """Before every call that changes ``place``, and around every helper's life."""
    main = calls[0].pid
    helper_starts = False
    for call in calls:
        text = str(call)
        if call.pid != main:
            if call.name == "pwrite64" and ".part>" in call.rest:
                yield Stop(text, call.named, ("pwrite64",), follow=True)
        elif call.name in _WAITING:
            if call.name != "vfork" and helper_starts:
                yield Stop(f"its helper at work: {text}", call.number, helper=True)
                yield Stop(f"its helper goes on alone: {text}", call.number, helper=False)
            helper_starts = call.name == "vfork"
        elif changes(call, place):
            yield Stop(text, call.number)


def changes(call: Call, place: Path) -> bool:
    """Whether a call changes something under ``place``."""
    if f"{place}/" not in call.rest and f"{place}>" not in call.rest:
        return False
    return call.name != "openat" or "O_CREAT" in call.rest


def kill_at(stop: Stop, story: Story, place: Path) -> None:
    """Run the story and have it killed there; AssertionError when it was not."""
    inject = f"inject={','.join(stop.calls)}:signal=KILL:when={stop.number}"
    options = [*(["-f"] if stop.follow else []), *_tracing(stop.calls), "-e", inject]
    output = place.parent / f"{place.name}.killed"
    with started(story, place, options, output) as process:
        process.join()
        if stop.helper:
            _kill_group(process)
    if process.exitcode != -signal.SIGKILL:
        raise AssertionError(f"not killed at {stop}: exit code {process.exitcode}")


@contextmanager
def started(
    story: Story, place: Path, options: Sequence[str] = (), output: Path | None = None
) -> Iterator[ForkServerProcess]:
    """A story in a process (and group) of its own, under strace when ``options`` are given.

    It is killed, with what it started, when the block is left before it ended.
    """
    ours, theirs = multiprocessing.Pipe()
    process = _context().Process(target=_run, args=(theirs, story, place))
    process.start()
    theirs.close()
    tracer = None
    try:
        ours.recv()
        if output is not None:
            tracer = _attach(process, options, output)
        ours.send("go")
        yield process
    finally:
        ours.close()
        if process.is_alive():
            _kill_group(process)
            process.join()
        if tracer is not None:
            tracer.wait()
            if tracer.stderr is not None:
                tracer.stderr.close()


def wait_for_helpers(place: Path) -> None:
    """Wait until no process is left that was started with a path under ``place``."""
    while any(_speaks_of(place)):
        time.sleep(0.005)


def wait_until(true: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Wait for something that is sure to come; the time is for when it does not."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:.0f} s for nothing: {what}")
        time.sleep(0.002)


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def _run(orders: Connection, story: Story, place: Path) -> None:
    os.setsid()
    orders.send("ready")
    orders.recv()
    story(place)


def _tracing(calls: Sequence[str]) -> list[str]:
    return ["-y", "-s", "300", "-e", f"trace={','.join(calls)}", "-e", "signal=none"]


def _attach(
    process: ForkServerProcess, options: Sequence[str], output: Path
) -> subprocess.Popen[str]:
    strace = need_tool("strace", "apt-get install strace")
    command = [strace, *options, "-o", str(output), "-p", str(process.pid)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    said = tracer.stderr.readline()
    if "attached" not in said:
        raise AssertionError(f"strace: {said or 'ended'}")
    return tracer


def _kill_group(process: ForkServerProcess) -> None:
    assert process.pid is not None
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _speaks_of(place: Path) -> Iterator[int]:
    needle = os.fsencode(place) + b"/"
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if needle in (folder / "cmdline").read_bytes():
                    yield int(folder.name)
            except OSError:
                continue


def _parse(text: str) -> Iterator[Call]:
    numbers: dict[int, int] = {}
    named: dict[tuple[int, str], int] = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        pid, name = int(match["pid"]), match["name"]
        numbers[pid] = numbers.get(pid, 0) + 1
        named[pid, name] = named.get((pid, name), 0) + 1
        yield Call(pid, name, match["rest"], numbers[pid], named[pid, name])
