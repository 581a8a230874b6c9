"""The reference pages say what the code says: lists, keys, codes, names."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import re
from enum import StrEnum
from itertools import dropwhile, takewhile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from basecache import errors
from basecache.agent import ensure, entry
from basecache.cache import pins, records
from basecache.cache.layout import Layout
from basecache.cli.main import COMMANDS, main
from basecache.config.describe import describe_options
from basecache.model import Action, EntryKind, Instance, Reason, Status, Verdict

_DOCS = Path(__file__).resolve().parents[2] / "docs"
_REFERENCE = _DOCS / "reference"
_VM = "6f1c2a58-3f0b-4a53-9d0c-6f2f5a1f7c11"


def read_table(page: str, heading: str, column: int = 0) -> list[str]:
    """The cells of one column of the first table under a heading, without backquotes round them."""
    lines = iter((_REFERENCE / page).read_text(encoding="utf-8").splitlines())
    assert any(re.fullmatch(rf"#+ {re.escape(heading)}", line) for line in lines), heading
    _, _, *rows = takewhile(_is_row, dropwhile(lambda line: not _is_row(line), lines))
    cells = [row.strip("| ").split(" | ")[column] for row in rows]
    return [re.sub(r"\A`([^`]*)`\Z", r"\1", cell) for cell in cells]


def _is_row(line: str) -> bool:
    return line.startswith("|")


def read_row(page: str, heading: str, word: str) -> str:
    """The second cell of the row that begins with a word."""
    return read_table(page, heading, 1)[read_table(page, heading).index(word)]


@pytest.mark.parametrize(
    ("heading", "words"),
    [("actions", Action), ("codes", Reason), ("kinds", EntryKind), ("verdicts", Verdict)],
)
def test_closed_lists_are_whole(heading: str, words: type[StrEnum]) -> None:
    assert sorted(read_table("json.md", heading)) == sorted(words)


def test_statuses_are_named() -> None:
    text = read_row("json.md", "cache ensure", "Status")
    assert re.findall("`(.*?)`", text) == [str(status) for status in Status]


def test_every_error_is_listed_as_it_is() -> None:
    classes = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.BasecacheError) and kind is not errors.BasecacheError
    ]
    columns = [read_table("exit-codes.md", "The error tree", column) for column in range(4)]
    assert set(zip(*columns, strict=True)) == {
        (
            kind.__name__,
            kind.__bases__[0].__name__,
            str(kind.exit_code),
            "yes" if kind.retryable else "no",
        )
        for kind in classes
    }


def test_every_exit_code_of_an_error_is_listed() -> None:
    codes = {str(kind.exit_code) for kind in _subclasses(errors.BasecacheError)}
    assert codes <= set(read_table("exit-codes.md", "Exit codes and errors"))


def _subclasses(kind: type[errors.BasecacheError]) -> set[type[errors.BasecacheError]]:
    return {kind}.union(*(_subclasses(below) for below in kind.__subclasses__()))


def test_instances_file_has_the_keys_of_an_instance() -> None:
    fields = [field.name for field in dataclasses.fields(Instance)]
    assert sorted(read_table("instances-file.md", "The instances file")) == sorted(fields)


def test_record_fields_are_listed(tour: Path, run_json: Any) -> None:
    run_json("cache", "ensure", "guest")
    run_json("cache", "verify", "guest")
    [path] = (tour / "vms" / "_base").glob("*.info")
    fields = {name for name in json.loads(path.read_bytes()) if not name.endswith("-timestamp")}
    assert fields <= set(read_table("disk-tree.md", "The record"))
    assert {records.INODE, records.SIZE, records.TOKEN, "sha1"} <= set(
        read_table("disk-tree.md", "The record")
    )


def test_checks_are_listed() -> None:
    row = read_row("disk-tree.md", "The record", "checks")
    assert set(re.findall("`(.*?)`", row)) == {
        entry.CHECKS,
        ensure.LENGTH_CHECK,
        ensure.DIGEST_CHECK,
    }


def test_own_folders_stand_in_the_tree() -> None:
    tree = (_REFERENCE / "disk-tree.md").read_text(encoding="utf-8")
    layout = Layout(Path("/i"))
    for folder in (layout.pins, layout.templates, layout.staging, layout.quarantine, layout.healed):
        assert f"    {folder.name}/" in tree
    assert "  locks/\n" in tree
    assert layout.locks.name == "locks"
    assert f"\n  {layout.registry.name} " in tree


def test_pin_has_the_fields_listed(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    pins.write(layout, "swap_1", reason="why", until=None)
    tree = (_REFERENCE / "disk-tree.md").read_text(encoding="utf-8")
    section = tree[tree.index("## Pins") :]
    for name in json.loads(layout.pin("swap_1").read_bytes()):
        assert f"`{name}`" in section


@pytest.fixture
def run_json(
    tour: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """Run a command in the tour's folder and give what its ``-f json`` holds."""
    monkeypatch.chdir(tour)

    def run(*arguments: str) -> Any:
        main(["--config-file", "basecache.conf", *arguments, "-f", "json"])
        return json.loads(capsys.readouterr().out)

    return run


def test_json_has_the_keys_listed(run_json: Any) -> None:
    """Every command that prints a list or a thing, once."""
    disk = ("--instance", _VM)
    asked = {
        "config check": (),
        "image list": (),
        "image show": ("guest",),
        "cache ensure": ("guest",),
        "disk create": (*disk, "--image", "guest"),
        "cache list": (),
        "cache show": ("guest",),
        "cache verify": ("guest",),
        "cache stat": (),
        "disk list": (),
        "sharer list": (),
    }
    for command, arguments in asked.items():
        if command == "sharer list":
            run_json("cache", "sweep")
        answer = run_json(*command.split(), *arguments)
        keys = list(answer[0] if isinstance(answer, list) else answer)
        assert keys == read_table("json.md", command), command
    show = run_json("disk", "show", *disk)
    assert list(show) == read_table("json.md", "disk create")
    formatted = {c for c in COMMANDS if c not in ("cache sweep", "disk show")}
    plain = {"cache pin", "cache unpin", "cache remove", "disk extract", "disk delete"}
    assert formatted - plain - {"sharer retire", "config sample"} == set(asked)


def test_sweep_prints_the_object_listed(run_json: Any, tour: Path) -> None:
    run_json("disk", "create", "--instance", _VM, "--image", "guest")
    [image] = run_json("image", "list")
    instances = tour / "instances.json"
    instances.write_text(json.dumps([{"uuid": _VM, "image_ref": image["ID"]}]), encoding="utf-8")
    answer = run_json("cache", "sweep", "--usage-file", str(instances))
    assert list(answer) == read_table("json.md", "cache sweep")
    assert list(answer["decisions"][0]) == read_table("json.md", "decisions")
    assert list(answer["totals"]) == read_table("json.md", "totals")
    assert list(answer["images"][image["ID"]]) == read_table("json.md", "images")


def _generator(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, _DOCS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_command_page_has_every_command() -> None:
    page = _generator("generate_commands").render()
    for command in COMMANDS:
        assert f"\n### {command}\n" in page


def test_option_page_has_every_option() -> None:
    page = _generator("generate_options").render()
    for option in describe_options():
        assert f"\n### `{option.name}`\n" in page
