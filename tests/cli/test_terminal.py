"""The command as its users meet it: a process of its own, at a terminal or in a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.support.hostile import MiB
from tests.support.place import Place
from tests.support.web import Answer, Web

PYTHON = [sys.executable, "-m", "basecache.cli.main"]


def run(place: Place, *words: str, **how: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PYTHON, *place.arguments(), *words],
        capture_output=True,
        text=True,
        check=False,
        **how,  # type: ignore[call-overload]
    )


def run_at_terminal(command: list[str], columns: int = 120) -> tuple[int, str]:
    """Exit code and all output of a command whose every stream is a terminal."""
    environment = {**os.environ, "TERM": "xterm"}
    child, terminal = pty.fork()
    if child == 0:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("4H", 40, columns, 0, 0))
        os.execvpe(command[0], command, environment)
    said = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            break
        if not piece:
            break
        said += piece
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.decode()


def test_in_a_pipe_it_is_quiet(place: Place) -> None:
    image = place.add_qcow2(8 * MiB)
    done = run(place, "cache", "ensure", image)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout


def test_at_a_terminal_there_is_a_bar(place: Place) -> None:
    image = place.add_qcow2(8 * MiB)
    code, said = run_at_terminal([*PYTHON, *place.arguments(), "cache", "ensure", image])
    assert code == 0
    assert "from directory" in said
    assert "qcow2 to raw" in said
    assert "100%" in said
    assert "cached" in said


def test_quiet_at_a_terminal(place: Place) -> None:
    image = place.add_raw()
    code, said = run_at_terminal([*PYTHON, "-q", *place.arguments(), "cache", "ensure", image])
    assert code == 0
    assert "from directory" not in said


def test_tables_fit_the_terminal(place: Place) -> None:
    host = place.host()
    host.create_disk("5e0b0000-0000-4000-8000-000000000001", image=place.add_raw())
    command = [*PYTHON, *place.arguments(), "cache", "sweep", "--dry-run"]
    _, said = run_at_terminal(command, columns=150)
    table = [line for line in said.splitlines() if line.startswith(("|", "+"))]
    assert table
    assert max(map(len, table)) <= 150


def test_a_retry_is_told(place: Place, web: Web) -> None:
    body = os.urandom(64 * 1024)
    url = web.put("/image.raw", Answer(b"busy", 503), Answer(body))
    source = ["driver=url", f"urls={url}", "require_digest=false", "attempts=2"]
    options = [word for each in source for word in ("--set", f"source.{each}")]
    done = run(place, *options, "cache", "ensure", url)
    assert done.returncode == 0, done.stderr
    assert "trying again" in done.stderr


def test_a_reader_that_goes_away(place: Place) -> None:
    for _ in range(20):
        place.add_raw(64 * 1024 * 2)
    command = [*PYTHON, *place.arguments(), "image", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        said = running.stderr.read().decode()
        code = running.wait()
    assert "Traceback" not in said
    assert "Error" not in said
    assert code in (0, 141)


def test_interrupted(place: Place, web: Web) -> None:
    url = web.put(
        "/image.raw", Answer(os.urandom(MiB)), Answer(os.urandom(MiB), cut_after=1000, stall=True)
    )
    source = ["driver=url", f"urls={url}", "require_digest=false"]
    options = [word for each in source for word in ("--set", f"source.{each}")]
    command = [*PYTHON, *place.arguments(), *options, "cache", "ensure", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        while not list((place.base / ".staging").glob("*.part")):
            assert running.poll() is None
        running.send_signal(2)
        _, said = running.communicate(timeout=30)
    assert running.returncode == 130
    assert b"Traceback" not in said
    assert [path for path in place.base.rglob("*") if path.is_file()] == []


def test_debug_shows_where(place: Place) -> None:
    done = subprocess.run(
        [*PYTHON, "--debug", *place.arguments(), "cache", "show", "nope"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" in done.stderr
    assert done.returncode != 0


def test_the_script_is_installed(place: Place) -> None:
    script = Path(sys.executable).with_name("basecache")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert "basecache" in done.stdout


@pytest.mark.parametrize("backend", ["qcow2", "raw"])
def test_a_disk_on_a_hit_imports_no_more_than_it_needs(place: Place, backend: str) -> None:
    image = place.add_raw()
    place.host().ensure(image)
    place.host().create_disk("warm", image=image, backend=backend)
    words = ["disk", "create", "--instance", "vm", "--image", image, "--backend", backend]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *PYTHON[1:], *place.arguments(), *words],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "basecache.agent.disk" in imported
    heavy = {"openstack", "keystoneauth1", "urllib3", "rich", "requests", "blake3", "sqlalchemy"}
    assert {name.partition(".")[0] for name in imported} & heavy == set()
