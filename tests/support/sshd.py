"""A real sshd on loopback with keys of its own, as the user who runs the tests."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.needs import need_tool

_INSTALL = "apt-get install openssh-server openssh-client"


@dataclass(frozen=True)
class Sshd:
    """``host`` and ``command`` reach it; ``folder`` holds its keys."""

    host: str
    port: int
    folder: Path

    def command(self, known_hosts: str = "known_hosts", key: str = "client") -> tuple[str, ...]:
        return (
            *("ssh", "-F", "none", "-oBatchMode=yes", "-oConnectTimeout=10"),
            *(f"-oUserKnownHostsFile={self.folder / known_hosts}", "-oIdentitiesOnly=yes"),
            *("-i", str(self.folder / key), "-p", str(self.port)),
        )


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    server = need_tool("/usr/sbin/sshd", _INSTALL)
    keygen = need_tool("ssh-keygen", _INSTALL)
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "client", "stranger"):
        subprocess.run([keygen, "-qt", "ed25519", "-N", "", "-f", folder / name], check=True)
    port = _free_port()
    host_key = (folder / "host.pub").read_text()
    (folder / "authorized").write_text((folder / "client.pub").read_text())
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    stranger = (folder / "stranger.pub").read_text()
    (folder / "other_hosts").write_text(f"[127.0.0.1]:{port} {stranger}")
    (folder / "config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nPermitRootLogin yes\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxStartups 100\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [server, "-D", "-e", "-f", folder / "config"], stdout=log, stderr=log
        )
    try:
        _wait_for(port, process, folder / "log")
        yield Sshd(f"{getpass.getuser()}@127.0.0.1", port, folder)
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    pytest.fail(f"sshd did not come up:\n{log.read_text(errors='replace')}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
