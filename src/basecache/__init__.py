"""basecache: the image cache of a fleet of hypervisor hosts.

host = basecache.open_host(instances_path="vms", source={"driver": "directory", "path": "i"})
host.ensure("3f1c...")
host.create_disk("5e0b...", image="3f1c...", size=20 * 2**30)
host.sweep(dry_run=True)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from basecache.agent.host import Host
    from basecache.wiring import open_host

__version__ = "0.1.0"
__all__ = ["Host", "__version__", "open_host"]


def __getattr__(name: str) -> Any:
    """Import on first use, so that a command pays only for the rooms it enters."""
    if name == "open_host":
        from basecache.wiring import open_host  # noqa: PLC0415

        return open_host
    if name == "Host":
        from basecache.agent.host import Host  # noqa: PLC0415

        return Host
    raise AttributeError(f"module 'basecache' has no attribute {name!r}")
