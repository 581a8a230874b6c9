"""Keystone and Glance as a test sees them once they run; tests/support/services.py starts them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

PASSWORD = "secret"
REGION = "RegionOne"
USERS = ("glance", "demo", "other")
HTTP = urllib3.PoolManager(retries=False, timeout=60)


@dataclass(frozen=True)
class Keystone:
    """A running Keystone."""

    url: str

    def credentials(self, user: str) -> dict[str, str]:
        """What a client passes to keystoneauth to be ``user`` in the project of the same name."""
        return {
            "auth_type": "password",
            "auth_url": self.url,
            "username": user,
            "password": PASSWORD,
            "project_name": user,
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        }

    def token(self, user: str) -> str:
        domain = {"name": "Default"}
        identity = {"user": {"name": user, "password": PASSWORD, "domain": domain}}
        body = {
            "auth": {
                "identity": {"methods": ["password"], "password": identity},
                "scope": {"project": {"name": user, "domain": domain}},
            }
        }
        answer = call("POST", f"{self.url}/auth/tokens", body=body)
        return answer.headers["X-Subject-Token"]


@dataclass(frozen=True)
class Glance:
    """A running Glance, seen as one user (nobody where there is no Keystone)."""

    url: str
    database: Path
    token: str | None = None

    def upload(self, data: bytes | None, *, name: str = "an image", **fields: Any) -> str:
        """A new image's id; with ``data`` None it stays queued."""
        body = {"name": name, "disk_format": "raw", "container_format": "bare", **fields}
        image_id: str = self._call("POST", "/v2/images", body=body).json()["id"]
        if data is not None:
            self._call("PUT", f"/v2/images/{image_id}/file", data=data)
        return image_id

    def deactivate(self, image_id: str) -> None:
        self._call("POST", f"/v2/images/{image_id}/actions/deactivate")

    def delete(self, image_id: str) -> None:
        self._call("DELETE", f"/v2/images/{image_id}")

    def forget_hash(self, image_id: str) -> None:
        """Leave the image with its MD5 alone, as images of releases before Rocky are."""
        command = "UPDATE images SET os_hash_algo = NULL, os_hash_value = NULL WHERE id = ?"
        with self._alone(), contextlib.closing(sqlite3.connect(self.database)) as database:
            database.execute(command, (image_id,))
            database.commit()

    def _call(self, method: str, path: str, **request: Any) -> urllib3.BaseHTTPResponse:
        with self._alone():
            return call(method, self.url + path, token=self.token, **request)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """SQLite refuses a second writer at once where it read before; workers take turns."""
        with Path(f"{self.database}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def call(
    method: str,
    url: str,
    *,
    body: Any = None,
    data: bytes | None = None,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> urllib3.BaseHTTPResponse:
    """One request to a service; anything but success ends the test with what it answered."""
    wanted = dict(headers or {})
    if token:
        wanted["X-Auth-Token"] = token
    if data is not None:
        wanted["Content-Type"] = "application/octet-stream"
    if body is not None:
        wanted["Content-Type"] = "application/json"
        data = json.dumps(body).encode()
    answer = HTTP.request(method, url, body=data, headers=wanted)
    assert 200 <= answer.status < 300, f"{method} {url}: {answer.status} {answer.data[:500]!r}"
    return answer


def seed(keystone_url: str, glance_url: str) -> None:
    """Projects, users, roles and the catalogue's image service."""
    token = Keystone(keystone_url).token("admin")

    def make(kind: str, **fields: Any) -> str:
        answer = call("POST", f"{keystone_url}/{kind}s", body={kind: fields}, token=token).json()
        made: str = answer[kind]["id"]
        return made

    answer = call("GET", f"{keystone_url}/roles", token=token).json()
    roles = {role["name"]: role["id"] for role in answer["roles"]}
    for user in USERS:
        project = make("project", name=user, domain_id="default")
        user_id = make("user", name=user, password=PASSWORD, domain_id="default")
        granted = ("admin", "service") if user == "glance" else ("member",)
        for role in granted:
            grant = f"projects/{project}/users/{user_id}/roles/{roles[role]}"
            call("PUT", f"{keystone_url}/{grant}", token=token)
    service = make("service", name="glance", type="image")
    for interface in ("public", "internal"):
        make(
            "endpoint",
            service_id=service,
            interface=interface,
            url=glance_url,
            region_id=REGION,
        )
