"""Checksum files as people publish them beside images.

Lines of ``SHA256SUMS`` and its like come in two styles, GNU's ``<hex> [ *]<file>`` and BSD's
``SHA256 (<file>) = <hex>``; ``<file>.sha256`` may hold the bare hex alone. A name must be the
file's, exactly. Digests weaker than SHA-256 are not taken.
"""

from __future__ import annotations

import re

from basecache.model import Digest

FOLDER_NAMES = ("SHA512SUMS", "SHA256SUMS", "CHECKSUM")
SUFFIXES = (".sha512", ".sha256", ".SHA512SUM", ".SHA256SUM")

_BY_LENGTH = {64: "sha256", 96: "sha384", 128: "sha512"}
_GNU = re.compile(r"\\?(?P<hex>[0-9a-fA-F]{64,128}) [ *](?P<name>.+)\Z")
_BSD = re.compile(
    r"(?P<kind>SHA(?:256|384|512)) ?\((?P<name>.+)\) ?= ?(?P<hex>[0-9a-fA-F]{64,128})\Z"
)
_BARE = re.compile(r"[0-9a-fA-F]{64,128}\Z")


def find_digest(text: str, file_name: str) -> Digest | None:
    """The strongest digest that a checksum file gives for ``file_name``, or None."""
    found: list[Digest] = []
    for line in text.splitlines():
        match = _GNU.match(line) or _BSD.match(line.strip())
        if match is None or match["name"].strip().removeprefix("./") != file_name:
            continue
        digest = _digest(match["hex"])
        if digest is not None:
            found.append(digest)
    return max(found, key=lambda digest: len(digest.value), default=None)


def find_only_digest(text: str, file_name: str) -> Digest | None:
    """The same for a checksum file of one file, which may also hold its bare hex alone."""
    if _BARE.match(text.strip()):
        return _digest(text.strip())
    return find_digest(text, file_name)


def _digest(value: str) -> Digest | None:
    algorithm = _BY_LENGTH.get(len(value))
    return Digest(algorithm, value.lower()) if algorithm else None
