"""The format an image file declares where nobody wrote it down: by its suffix.

``.img`` says nothing by itself (clouds publish qcow2 and raw under it), so there the first bytes
decide between the two. An unknown suffix declares nothing. What is declared here must still agree
with the content before an image is used: this is a claim, not a finding.
"""

from __future__ import annotations

from pathlib import PurePath

HEAD_BYTES = 512

_BY_SUFFIX = {
    ".raw": "raw",
    ".qcow2": "qcow2",
    ".qcow": "qcow2",
    ".iso": "iso",
    ".vmdk": "vmdk",
    ".vdi": "vdi",
    ".vhd": "vhd",
    ".vpc": "vhd",
    ".vhdx": "vhdx",
    ".hdd": "ploop",
    ".hds": "ploop",
    ".ami": "ami",
    ".aki": "aki",
    ".ari": "ari",
}
_QCOW2_MAGIC = b"QFI\xfb"


def declared_format(file_name: str, head: bytes) -> str | None:
    """The Glance ``disk_format`` of a file, from its name and its first bytes."""
    suffix = PurePath(file_name).suffix.lower()
    if suffix == ".img":
        return "qcow2" if head.startswith(_QCOW2_MAGIC) else "raw"
    return _BY_SUFFIX.get(suffix)
