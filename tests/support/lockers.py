"""Other processes that take locks: Nova's way (oslo.concurrency) or ours, as any user.

start_locker         one that takes what it is told to, when it is told
run_script           a whole program of one's own
open_folder          a folder that another user owns and may enter
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.needs import need_root

OTHER_USER = "nobody"
SAFETY_SECONDS = 60.0

_NOVA = """
from oslo_concurrency import lockutils
where = dict(lock_file_prefix="nova-", lock_path=sys.argv[1])
lock = lockutils.external_lock(sys.argv[2], **where)
words = {
    "take": lambda: lock.acquire() and "taken",
    "try": lambda: "taken" if lock.acquire(blocking=False) else "busy",
    "release": lambda: lock.release() or "released",
    "remove": lambda: lockutils.remove_external_lock_file(sys.argv[2], **where) or "removed",
}
"""
_OURS = """
import contextlib
from pathlib import Path
from basecache import errors
from basecache.cache import locks
path, held = Path(sys.argv[1], "nova-" + sys.argv[2]), contextlib.ExitStack()
def take(**how):
    try:
        held.enter_context(locks.hold(path, **how))
    except errors.BasecacheError as error:
        return type(error).__name__
    return "taken"
words = {
    "take": take,
    "try": lambda: take(wait=False),
    "try shared": lambda: take(wait=False, shared=True),
    "release": lambda: held.close() or "released",
}
"""
# Only now, with all imports done: the other user may not be let into this checkout.
_LOOP = """
if sys.argv[4]:
    import pwd
    user = pwd.getpwnam(sys.argv[4])
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
words["touch"] = lambda: os.utime(sys.argv[3]) or "touched"
print("ready", flush=True)
for line in sys.stdin:
    print(words[line.strip()](), flush=True)
"""
PROGRAMS = {"nova": _NOVA, "ours": _OURS}


class Locker:
    """One process that holds at most one lock, named ``nova-<name>`` in ``folder``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert self.answer() == "ready"

    def ask(self, word: str) -> str:
        """Tell it to do something and wait until it is done."""
        self.tell(word)
        return self.answer()

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def has_open(self, path: Path) -> bool:
        """Whether it has opened the file that is now at ``path``."""
        wanted = path.stat()
        for link in Path(f"/proc/{self.process.pid}/fd").iterdir():
            try:
                status = link.stat()
            except FileNotFoundError:
                continue
            if os.path.samestat(status, wanted):
                return True
        return False


StartLocker = Callable[..., Locker]
RunScript = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def run_script() -> Iterator[RunScript]:
    """Start another Python with a program; it is killed with the test if it still runs."""
    running: list[subprocess.Popen[str]] = []

    def run(code: str, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", f"import os, sys\n{code}", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def start_locker(run_script: RunScript) -> StartLocker:
    """Start a locker: ``start_locker("nova" or "ours", folder, name, user=..., touches=...)``."""

    def start(
        kind: str, folder: Path, name: str, *, user: str | None = None, touches: Path | None = None
    ) -> Locker:
        if user is not None:
            need_root("to run a process as another user")
        program = PROGRAMS[kind] + _LOOP
        return Locker(run_script(program, folder, name, touches or "", user or ""))

    return start


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder outside the private one of the tests; root gives it to another user."""
    folder = Path(tempfile.mkdtemp(prefix="basecache-test-"))
    folder.chmod(0o755)
    if os.geteuid() == 0:
        other = pwd.getpwnam(OTHER_USER)
        os.chown(folder, other.pw_uid, other.pw_gid)
    yield folder
    shutil.rmtree(folder)


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for something that another process or thread brings about."""
    deadline = time.monotonic() + SAFETY_SECONDS
    for tries in itertools.count():
        if holds():
            return
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(min(0.001 * tries, 0.05))


def somebody_waits_for(path: Path) -> bool:
    """Whether a blocking lock request on the file at ``path`` is queued in the kernel."""
    inode = path.stat().st_ino
    lines = Path("/proc/locks").read_text().splitlines()
    return any(" -> " in line and f":{inode} " in line for line in lines)
