"""Checksum files in the styles people publish."""

from __future__ import annotations

import pytest

from basecache.model import Digest
from basecache.sources.sums import find_digest, find_only_digest

A, B, LONG = "a" * 64, "b" * 64, "c" * 128


@pytest.mark.parametrize(
    "text",
    [
        f"{A}  disk.img\n",
        f"{A} *disk.img\n",
        f"{A}  ./disk.img\r\n",
        f"{A.upper()}  disk.img",
        f"SHA256 (disk.img) = {A}\n",
        f"# disk.img: 12 bytes\nSHA256 (disk.img) = {A}\n",
        f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{B}  x\n{A}  disk.img\n",
    ],
)
def test_styles(text: str) -> None:
    assert find_digest(text, "disk.img") == Digest("sha256", A)


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"{A}  disk.img.xz\n",
        f"{A}  my-disk.img\n",
        f"{A}  other/disk.img\n",
        f"{'a' * 32}  disk.img\n",
        f"{'a' * 40}  disk.img\n",
        f"{'a' * 65}  disk.img\n",
        f"SHA256 (disk.img.sig) = {A}\n",
        "<html>disk.img</html>",
        f"{A}\n",
    ],
)
def test_no_line_for_this_file(text: str) -> None:
    assert find_digest(text, "disk.img") is None


def test_the_strongest_counts() -> None:
    text = f"{A}  disk.img\nSHA512 (disk.img) = {LONG}\n"
    assert find_digest(text, "disk.img") == Digest("sha512", LONG)


def test_name_with_spaces_and_parentheses() -> None:
    assert find_digest(f"{A}  my disk (1).img\n", "my disk (1).img") == Digest("sha256", A)
    assert find_digest(f"SHA256 (my disk (1).img) = {A}", "my disk (1).img") is not None


def test_bare_hex_stands_for_its_only_file() -> None:
    assert find_only_digest(f"{A}\n", "disk.img") == Digest("sha256", A)
    assert find_only_digest(f"{A}  disk.img\n", "disk.img") == Digest("sha256", A)
    assert find_only_digest(f"{A}  other.img\n", "disk.img") is None
