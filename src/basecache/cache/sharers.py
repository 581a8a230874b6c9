"""Who shares this storage: Nova's registry ``compute_nodes``, JSON of host name to time last seen.

Nova drops a host that was silent for 24 hours from its thinking; a host that was merely down
then lost its base files (OpenStack bug 1029674). Here a host counts until an operator retires
it. A registry that cannot be read is missing evidence: the sharers are unknown.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from basecache import errors
from basecache.cache import locks, records
from basecache.cache.layout import Layout

# nova.virt.storage_users takes this lock with its usual prefix.
_LOCK = "storage-registry-lock"


@dataclass(frozen=True, slots=True)
class Sharer:
    """A host and when it last said that it uses this storage."""

    host: str
    seen_at: float


def read(layout: Layout) -> tuple[Sharer, ...]:
    """Every host ever registered and not retired; EvidenceMissing when that cannot be told."""
    path = layout.registry
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        why = f"the registry of sharers {path} cannot be read: {error.strerror}"
        raise errors.EvidenceMissing((why,)) from error
    try:
        hosts = json.loads(content)
        found = [Sharer(str(host), float(seen)) for host, seen in hosts.items()]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        why = f"the registry of sharers {path} is damaged: {error}"
        raise errors.EvidenceMissing((why,)) from error
    return tuple(sorted(found, key=lambda sharer: sharer.host))


def register(layout: Layout, host: str) -> None:
    """Say that ``host`` uses this storage now. A damaged registry is left for an operator."""
    with locks.hold(layout.lock(_LOCK)):
        hosts = {sharer.host: sharer.seen_at for sharer in read(layout)}
        hosts[host] = time.time()
        _write(layout, hosts)


def retire(layout: Layout, host: str) -> None:
    """Take ``host`` out: it uses this storage no more. NotFound when it is not there.

    A damaged registry stays as it is (EvidenceMissing): which hosts it named is an operator's to
    find out before the file may go.
    """
    with locks.hold(layout.lock(_LOCK)):
        hosts = {sharer.host: sharer.seen_at for sharer in read(layout)}
        if host not in hosts:
            raise errors.NotFound("host", host, str(layout.registry))
        del hosts[host]
        _write(layout, hosts)


def _write(layout: Layout, hosts: dict[str, float]) -> None:
    content = json.dumps(hosts).encode()
    records.replace_durably(layout.registry, content, beside=layout.locks)
