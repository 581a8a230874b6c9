"""The instances folder as a provider: it speaks for this host, by the folders that are there.

It knows no image ids. What the disks in the folders stand on is gathered for every sweep
(:mod:`basecache.usage.chains`), whatever provider is chosen; this one says that nothing but those
disks is to be asked: plain files, or libvirt hosts whose machines keep their disks here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from basecache import errors
from basecache.cache.layout import Layout
from basecache.usage import Report


@dataclass(frozen=True, slots=True)
class FolderUsage:
    """This host's instances folder."""

    layout: Layout
    host: str

    @property
    def name(self) -> str:
        return f"instances folder {self.layout.instances_path}"

    def collect(self) -> Report:
        """No instances, for this host; EvidenceMissing when the folder cannot be listed."""
        try:
            os.listdir(self.layout.instances_path)
        except OSError as error:
            why = f"the {self.name} cannot be listed: {error.strerror}"
            raise errors.EvidenceMissing((why,)) from error
        return Report(self.name, (), hosts=frozenset({self.host}))
