"""The commented sample and the reference page, both made from the options themselves."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from basecache import config

GENERATOR = Path(__file__).parents[2] / "docs" / "generate_options.py"
OPTIONS = [(group, opt.name, opt.help) for group, opt in config.options()]


def load(folder: Path, text: str) -> config.Settings:
    file = folder / "basecache.conf"
    file.write_text(text)
    return config.load([file])


def test_the_sample_changes_nothing(tmp_path: Path) -> None:
    assert load(tmp_path, config.sample()) == config.load()


def test_the_sample_with_every_default_in_force_changes_nothing(tmp_path: Path) -> None:
    text = re.sub(r"^#(\w+ = (?!<).*)$", r"\1", config.sample(), flags=re.MULTILINE)
    assert "\nmin_free = 1%\n" in text
    assert load(tmp_path, text) == config.load()


def test_every_option_is_explained_once_in_its_group() -> None:
    groups = re.split(r"^\[(\w+)\]$", config.sample(), flags=re.MULTILINE)
    sections = dict(zip(groups[1::2], groups[2::2], strict=True))
    assert [
        (group, name)
        for group, section in sections.items()
        for name in re.findall(r"^#(\w+) =", section, flags=re.MULTILINE)
    ] == [(group, name) for group, name, _ in OPTIONS]


@pytest.mark.parametrize(("group", "name", "text"), OPTIONS)
def test_every_option_has_help(group: str, name: str, text: str) -> None:
    assert text.endswith((".", "..."))


def test_secrets_are_marked() -> None:
    assert {opt.name for _, opt in config.options() if opt.secret} == {
        "password",
        "application_credential_secret",
    }


def test_the_reference_page_has_every_option() -> None:
    spec = importlib.util.spec_from_file_location("generate_options", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    page = generator.render()
    assert re.findall(r"^### `(\w+)`$", page, flags=re.MULTILINE) == [
        name for _, name, _ in OPTIONS
    ]
    assert "- Older names: `[DEFAULT] image_cache_manager_interval`" in page
