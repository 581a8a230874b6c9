"""Real Keystone and Glance, started when a test asks for them and stopped when the run ends.

    open_glance     Glance without Keystone: everybody may do everything
    keystone        Keystone with the users ``glance``, ``demo`` and ``other``, each its own project
    glance          Glance that asks this Keystone

They live in an environment of their own: ``$BASECACHE_SERVICES``, or ``.services`` beside the
tests. With several test workers one start serves all: a lock file decides who starts, and the
last worker that used a service stops it. uWSGI ends by itself when nobody called for half an hour,
so that a killed test run leaves nothing behind for long.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import urllib3

from tests.support.needs import lacking
from tests.support.openstack_api import HTTP, PASSWORD, REGION, Glance, Keystone, seed

_IDLE_SECONDS = 1800


@pytest.fixture(scope="session")
def service_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServicePool]:
    """The services of this test run, whatever the number of workers."""
    root = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        root = root.parent
    pool = ServicePool(root / "services")
    try:
        yield pool
    finally:
        pool.leave()


@pytest.fixture(scope="session")
def open_glance(service_pool: ServicePool) -> Glance:
    return service_pool.open_glance()


@pytest.fixture(scope="session")
def keystone(service_pool: ServicePool) -> Keystone:
    return service_pool.keystone()


@pytest.fixture(scope="session")
def glance(service_pool: ServicePool, keystone: Keystone) -> Glance:
    """Glance with Keystone, as the user ``demo``."""
    return service_pool.glance(keystone, "demo")


class ServicePool:
    """Starts each service once for all workers; ``leave`` stops them with the last worker."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._venv = _find_environment()
        folder.mkdir(parents=True, exist_ok=True)
        self._users = os.open(folder / "users", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._users, fcntl.LOCK_SH)

    def open_glance(self) -> Glance:
        facts = self._once("glance-open", lambda folder: self._start_glance(folder, None))
        return Glance(facts["url"], Path(facts["database"]))

    def keystone(self) -> Keystone:
        """Keystone; Glance that trusts it is started at the same time, on the other core."""
        facts = self._once("identity", self._start_identity)
        return Keystone(facts["keystone"])

    def glance(self, keystone: Keystone, user: str) -> Glance:
        facts = self._once("identity", self._start_identity)
        return Glance(facts["url"], Path(facts["database"]), keystone.token(user))

    def leave(self) -> None:
        with self._locked("starting"):
            try:
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            finally:
                os.close(self._users)
            for pidfile in self._folder.glob("*/*.pid"):
                _stop(int(pidfile.read_text()))
            for facts in self._folder.glob("*/facts.json"):
                facts.unlink()

    def _once(self, name: str, start: Callable[[Path], dict[str, str]]) -> dict[str, str]:
        folder = self._folder / name
        facts = folder / "facts.json"
        with self._locked("starting"):
            if not facts.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                facts.write_text(json.dumps(start(folder)))
            loaded: dict[str, str] = json.loads(facts.read_text())
            return loaded

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with (self._folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _start_identity(self, folder: Path) -> dict[str, str]:
        keystone_port, glance_port = _free_port(), _free_port()
        keystone_url = f"http://127.0.0.1:{keystone_port}/v3"
        with ThreadPoolExecutor() as threads:
            glance = threads.submit(self._start_glance, folder, keystone_url, glance_port)
            self._start_keystone(folder, keystone_port)
            seed(keystone_url, f"http://127.0.0.1:{glance_port}")
            return {"keystone": keystone_url, **glance.result()}

    def _start_keystone(self, folder: Path, port: int) -> None:
        config = folder / "keystone.conf"
        url = f"http://127.0.0.1:{port}/v3"
        for keys in ("fernet", "credential"):
            _make_keys(folder / keys)
        config.write_text(_KEYSTONE_CONF.format(folder=folder))
        manage = [self._venv / "bin/keystone-manage", "--config-file", config]
        _run(folder, *manage, "db_sync")
        _run(
            folder, *manage, "bootstrap", "--bootstrap-password", PASSWORD,
            "--bootstrap-region-id", REGION, "--bootstrap-public-url", url,
            "--bootstrap-internal-url", url, "--bootstrap-admin-url", url,
        )  # fmt: skip
        environment = {"OS_KEYSTONE_CONFIG_DIR": str(folder)}
        # Logging in writes, and SQLite refuses a second writer: one request at a time.
        self._serve(folder, "keystone", port, environment, threads=1)
        _wait_for(url, folder / "keystone.log")

    def _start_glance(
        self, folder: Path, keystone_url: str | None, port: int | None = None
    ) -> dict[str, str]:
        port = port or _free_port()
        for name in ("images", "staging", "tasks"):
            (folder / name).mkdir()
        config = folder / "glance-api.conf"
        if keystone_url:
            flavor, tail = "flavor = keystone", _GLANCE_TOKENS.format(url=keystone_url)
        else:
            flavor, tail = "", _OPEN_POLICY.format(folder=folder)
            (folder / "open-policy.yaml").write_text(_open_policy())
        shutil.copy(self._venv / "etc/glance/glance-api-paste.ini", folder)
        config.write_text(_GLANCE_CONF.format(folder=folder, port=port, flavor=flavor) + tail)
        _run(folder, self._venv / "bin/glance-manage", "--config-file", config, "db_sync")
        with contextlib.closing(sqlite3.connect(folder / "glance.sqlite")) as database:
            database.execute("PRAGMA journal_mode = WAL")
        environment = {"OS_GLANCE_CONFIG_DIR": str(folder)}
        self._serve(folder, "glance", port, environment, threads=4)
        url = f"http://127.0.0.1:{port}"
        _wait_for(f"{url}/healthcheck", folder / "glance.log")
        return {"url": url, "database": str(folder / "glance.sqlite")}

    def _serve(
        self, folder: Path, name: str, port: int, environment: Mapping[str, str], threads: int
    ) -> None:
        command = [
            self._venv / "bin/uwsgi", "--http-socket", f"127.0.0.1:{port}",
            "--module", f"{name}.wsgi.api:application",
            "--venv", self._venv, "--master", "--processes", "1", "--threads", str(threads),
            "--enable-threads", "--lazy-apps", "--need-app", "--die-on-term",
            "--idle", str(_IDLE_SECONDS), "--die-on-idle", "--buffer-size", "65535",
            "--chunked-input-limit", "16777216", "--add-header", "Connection: close",
            "--pidfile", folder / f"{name}.pid",
        ]  # fmt: skip
        with (folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        (folder / f"{name}.pid").write_text(str(process.pid))


def _find_environment() -> Path:
    """The environment that holds Glance and Keystone."""
    named = os.environ.get("BASECACHE_SERVICES")
    venv = Path(named) if named else Path(__file__).resolve().parents[2] / ".services"
    programs = ("uwsgi", "glance-manage", "keystone-manage")
    if not all((venv / "bin" / program).exists() for program in programs):
        lacking("Glance and Keystone", "run `make services`")
    return venv.resolve()


def _make_keys(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    for number in range(2):
        (folder / str(number)).write_bytes(base64.urlsafe_b64encode(os.urandom(32)))


def _run(folder: Path, *command: str | Path) -> None:
    with (folder / "setup.log").open("ab") as log:
        done = subprocess.run(command, stdout=log, stderr=log, check=False)
    if done.returncode:
        text = (folder / "setup.log").read_text(errors="replace")[-3000:]
        pytest.fail(f"{' '.join(map(str, command))} failed:\n{text}")


def _wait_for(url: str, log: Path, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            if HTTP.request("GET", url, timeout=5).status == 200:
                return
        time.sleep(0.1)
    pytest.fail(f"{url} did not come up:\n{log.read_text(errors='replace')[-3000:]}")


def _stop(pid: int) -> None:
    """End a uWSGI that this run started: its own process group and nothing else."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _open_policy() -> str:
    """Glance without Keystone gives its callers no role, which its default rules refuse."""
    rules = (
        "default context_is_admin add_image delete_image get_image get_images modify_image "
        "publicize_image communitize_image download_image upload_image deactivate reactivate"
    )
    return "".join(f'"{rule}": "@"\n' for rule in rules.split())


_KEYSTONE_CONF = """\
[DEFAULT]
use_stderr = true
[database]
connection = sqlite:///{folder}/keystone.sqlite
[token]
provider = fernet
[fernet_tokens]
key_repository = {folder}/fernet
[credential]
key_repository = {folder}/credential
[cache]
enabled = true
backend = dogpile.cache.memory
[identity]
password_hash_rounds = 4
"""

_GLANCE_CONF = """\
[DEFAULT]
enabled_backends = fs:file
node_staging_uri = file://{folder}/staging
worker_self_reference_url = http://127.0.0.1:{port}
use_stderr = true
transport_url = fake://
[glance_store]
default_backend = fs
[fs]
filesystem_store_datadir = {folder}/images
[os_glance_staging_store]
filesystem_store_datadir = {folder}/staging
[os_glance_tasks_store]
filesystem_store_datadir = {folder}/tasks
[database]
connection = sqlite:///{folder}/glance.sqlite
[oslo_concurrency]
lock_path = {folder}/locks
[oslo_messaging_notifications]
driver = noop
[paste_deploy]
config_file = {folder}/glance-api-paste.ini
{flavor}
"""

_OPEN_POLICY = """\
[oslo_policy]
policy_file = {folder}/open-policy.yaml
"""

_GLANCE_TOKENS = """\
[keystone_authtoken]
www_authenticate_uri = {url}
auth_url = {url}
auth_type = password
username = glance
password = secret
project_name = glance
user_domain_name = Default
project_domain_name = Default
"""
