"""Every exit code, with its error and its hint on stderr, and nothing of them on stdout."""

from __future__ import annotations

from pathlib import Path

import pytest

from basecache.cli.main import COMMANDS
from tests.cli.running import Command
from tests.support.hostile import make_backed_qcow2
from tests.support.place import Place, make_old


def test_0_done(place: Place, run: Command) -> None:
    ran = run("cache", "ensure", place.add_raw())
    assert (ran.code, ran.err) == (0, "")


def test_1_failed(place: Place, run: Command) -> None:
    image = place.add_raw()
    place.host().ensure(image)
    place.host().pin(image)
    ran = run("cache", "remove", image)
    assert ran.code == 1
    assert ran.err.startswith("error: ")
    assert ran.out == ""


@pytest.mark.parametrize(
    "words",
    [
        ["bogus", "list"],
        ["cache", "bogus"],
        ["cache", "list", "--bogus"],
        ["cache", "ensure"],
        ["cache", "ensure", "a/b"],
        ["disk", "create", "--instance", "vm"],
        ["disk", "create", "--instance", "../x", "--blank", "--size", "1M"],
        ["disk", "create", "--instance", "vm", "--blank", "--size", "huge"],
        ["disk", "create", "--instance", "vm", "--blank", "--size", "-1"],
        ["disk", "create", "--instance", "vm", "--blank"],
        ["disk", "create", "--instance", "vm", "--swap", "0"],
        ["disk", "create", "--instance", "vm", "--swap", "-5"],
        ["disk", "create", "--instance", "vm", "--blank", "--size", "1M", "--backend", "floppy"],
        ["image", "list", "--property", "novalue"],
        ["image", "list", "--limit", "many"],
        ["--set", "foo", "cache", "list"],
        ["--set", ".x=1", "cache", "list"],
        ["--set", "no_such_option=1", "cache", "list"],
        ["--set", "no_such_group.option=1", "cache", "list"],
        ["--set", "basecache.min_free=lots", "cache", "list"],
        ["--config-file", "/no/such/file", "cache", "list"],
    ],
    ids=" ".join,
)
def test_2_usage(run: Command, words: list[str]) -> None:
    ran = run(*words)
    assert ran.code == 2
    assert ran.err.strip()
    assert "failed" in ran.out if words[1] == "ensure" and len(words) > 2 else ran.out == ""


@pytest.mark.parametrize(
    "words",
    [
        ["image", "show", "nope"],
        ["cache", "show", "nope"],
        ["cache", "ensure", "nope"],
        ["cache", "unpin", "nope"],
        ["cache", "remove", "nope"],
        ["cache", "verify", "nope"],
        ["disk", "show", "--instance", "nope"],
        ["disk", "delete", "--instance", "nope"],
        ["disk", "extract", "--instance", "nope", "out.raw"],
        ["disk", "create", "--instance", "vm", "--image", "nope"],
        ["sharer", "retire", "nope"],
    ],
    ids=" ".join,
)
def test_3_not_found(run: Command, words: list[str]) -> None:
    ran = run(*words)
    assert ran.code == 3
    assert "nope" in ran.err


def test_an_unknown_command_names_the_known(run: Command) -> None:
    ran = run("cache", "bogus", "--option")
    assert "unknown command 'cache bogus'" in ran.err
    assert "cache ensure" in ran.err
    assert "image list" not in ran.err
    assert "image list" in run("bogus").err


def test_2_no_source(run: Command) -> None:
    ran = run("image", "list", source={"driver": "none"})
    assert ran.code == 2
    assert "[source] driver" in ran.err


def test_4_no_space(place: Place, run: Command) -> None:
    ran = run("cache", "ensure", place.add_raw(), basecache={"min_free": "100%"})
    assert ran.code == 4
    assert "hint: free some space" in ran.err


def test_5_unsafe(place: Place, run: Command) -> None:
    ran = run("cache", "ensure", place.add(make_backed_qcow2))
    assert ran.code == 5
    assert "backing file" in ran.err
    assert "hint: " in ran.err


@pytest.mark.parametrize("words", [["cache", "sweep"], ["cache", "sweep", "-f", "json"]])
def test_6_evidence_missing(place: Place, run: Command, words: list[str]) -> None:
    image = place.add_raw()
    place.host().ensure(image)
    make_old(place.entry(image))
    (place.instances / "compute_nodes").write_text("damaged")
    ran = run(*words)
    assert ran.code == 6
    assert "compute_nodes" in ran.err + ran.out
    assert place.entry(image).exists()
    assert run("cache", "remove", image).code == 6


def test_7_corrupt(place: Place, run: Command) -> None:
    image = place.add_raw()
    place.host().ensure(image)
    with place.entry(image).open("r+b") as file:
        file.write(b"rot")
    ran = run("cache", "verify", image)
    assert ran.code == 7
    assert "corrupt" in ran.out
    assert str(place.entry(image)) in ran.err


def test_8_unreachable(place: Place, run: Command) -> None:
    source = {"driver": "directory", "path": str(place.root / "unmounted")}
    assert run("image", "list", source=source).code == 8
    assert run("cache", "ensure", "x", source=source).code == 8


def test_1_when_any_of_several_failed(place: Place, run: Command) -> None:
    ran = run("cache", "ensure", place.add_raw(), place.add(make_backed_qcow2), "nope")
    assert ran.code == 1
    assert ran.err.count("error: ") == 2


def test_to_look_makes_nothing(place: Place, run: Command, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    for words in (["cache", "list"], ["cache", "stat"], ["cache", "sweep"], ["disk", "list"]):
        run(*words, instances_path=nowhere)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_has_an_example(run: Command, command: str) -> None:
    ran = run(*command.split(), "--help")
    assert ran.code == 0
    assert f"example: basecache {command}" in " ".join(ran.out.replace("\n", " ").split()) or (
        f"basecache --config-file /etc/nova/nova.conf {command}" in " ".join(ran.out.split())
    )


def test_without_a_command_there_is_help(run: Command) -> None:
    ran = run()
    assert ran.code == 0
    assert all(command in ran.out for command in COMMANDS)
    assert "example:" in run("--help").out
