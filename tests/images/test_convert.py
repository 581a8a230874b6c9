"""The plan: keep, or make raw."""

from __future__ import annotations

import pytest

from basecache.images.convert import Keep, ToRaw, plan_conversion


@pytest.mark.parametrize("name", ["raw", "iso"])
@pytest.mark.parametrize("force_raw", [True, False])
def test_raw_and_iso_are_always_kept(name: str, force_raw: bool) -> None:
    assert plan_conversion(name, force_raw=force_raw) == Keep(name)


@pytest.mark.parametrize("name", ["qcow2", "vmdk", "vdi", "vpc", "vhdx", "parallels", "luks"])
def test_everything_else_becomes_raw_only_when_forced(name: str) -> None:
    assert plan_conversion(name, force_raw=True) == ToRaw(name)
    assert plan_conversion(name, force_raw=False) == Keep(name)
