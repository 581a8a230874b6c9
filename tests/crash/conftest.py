"""The images that all crash tests share."""

from __future__ import annotations

import pytest

from tests.crash.tree import Images


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return Images.make(tmp_path_factory.mktemp("images"))
