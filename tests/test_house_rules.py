"""The rules of the house, kept by reading the source: who may import whom, and what reads well.

Every rule is a function from a source tree to the places that break it, and every rule is first
shown a small tree that does.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "basecache"

FUNCTION_LINES = 60
FILE_LINES = 500

# The rooms, and which others each may import. The package's own __init__ is the room "".
FACTS = frozenset({"model", "errors", "events"})
STORED = FACTS | {"images", "cache"}
ON_A_HOST = STORED | {"disks", "datastore", "sources", "transfer", "usage"}
MAY_IMPORT: dict[str, frozenset[str]] = {
    "model": FACTS,
    "errors": FACTS,
    "events": FACTS,
    "config": frozenset({"model", "errors"}),
    "images": FACTS,
    "cache": FACTS | {"images"},
    "disks": STORED,
    "datastore": STORED,
    "sources": STORED,
    "transfer": STORED,
    "usage": STORED,
    "agent": ON_A_HOST,
    "controller": FACTS | {"sources"},
    "wiring": ON_A_HOST | {"config", "agent", "controller"},
}
ABOVE_ALL = frozenset({"cli", ""})

# What takes long to import or is not always installed; imported by the function that needs it. Our
# own modules that are about such a thing may begin with it, and are then as heavy themselves.
HEAVY = frozenset(
    {"openstack", "keystoneauth1", "libvirt", "rados", "rbd", "pyVmomi", "pyVim", "fastapi"}
)
HEAVY_MODULES = frozenset({"sources.keystone"})

# Package registries and folders of one machine. None of the patterns matches its own text.
FORBIDDEN = re.compile(
    r"pypi\.org|pythonhosted\.org|/(work/(main|shared)|opt/(pypi|wheels)|root)\b/?"
)
WRITTEN = (
    *("Makefile", "README.md", "pyproject.toml", ".ci", "requirements", "scripts", "docs"),
    *("changelog.d", "src", "tests", "benchmarks"),
)
MADE = frozenset({"__pycache__", "_build", "basecache.egg-info"})


@dataclass(frozen=True, order=True)
class Breach:
    """One place where a rule is broken."""

    path: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


@dataclass(frozen=True)
class Module:
    """One source file of the package."""

    path: Path
    name: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """The part of the package that it is in."""
        return self.name.split(".")[0]

    def breach(self, node: ast.AST | int, what: str) -> Breach:
        line = node if isinstance(node, int) else getattr(node, "lineno", 1)
        return Breach(str(self.path), line, what)


@cache
def modules(root: Path) -> tuple[Module, ...]:
    """Every module under ``root``/src/basecache."""
    package = root / "src" / PACKAGE
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Module(path, name, ast.parse(path.read_text())))
    return tuple(found)


def misplaced_imports(root: Path) -> Iterator[Breach]:
    """Imports run one way through the rooms."""
    for module in modules(root):
        if module.room in ABOVE_ALL:
            continue
        if module.room not in MAY_IMPORT:
            yield module.breach(1, f"{module.room} is no room; give it a place in MAY_IMPORT")
            continue
        for node, room in imported_rooms(module):
            if room not in MAY_IMPORT[module.room] | {module.room}:
                yield module.breach(
                    node, f"{module.room} must not import {room or 'the package itself'}"
                )


def imported_rooms(module: Module) -> Iterator[tuple[ast.AST, str]]:
    rooms = MAY_IMPORT.keys() | ABOVE_ALL
    for node, name in imported_names(module):
        package, _, inside = name.partition(".")
        if package == PACKAGE:
            room = inside.split(".")[0]
            yield node, room if room in rooms else ""


def imported_names(module: Module) -> Iterator[tuple[ast.stmt, str]]:
    """What a module imports anywhere in it, as dotted absolute names."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                parents = [PACKAGE, *module.name.split(".")]
                keep = len(parents) - node.level + (module.path.name == "__init__.py")
                origin = ".".join([*parents[:keep], *filter(None, [origin])])
            yield from ((node, f"{origin}.{alias.name}") for alias in node.names)


def early_heavy_imports(root: Path) -> Iterator[Breach]:
    """What is heavy or optional is imported inside the function that needs it."""
    heavy = HEAVY | {f"{PACKAGE}.{name}" for name in HEAVY_MODULES}
    for module in modules(root):
        if module.name in HEAVY_MODULES:
            continue
        late = {
            inner
            for node in ast.walk(module.tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_for_types_only(node)
            for inner in ast.walk(node)
        }
        for node, name in imported_names(module):
            if node not in late and any(f"{name}.".startswith(f"{each}.") for each in heavy):
                yield module.breach(node, f"{name} is imported before it is needed")


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def missing_docstrings(root: Path) -> Iterator[Breach]:
    """Every module tells its story at its head."""
    for module in modules(root):
        if not ast.get_docstring(module.tree):
            yield module.breach(1, "no docstring")


def long_functions(root: Path) -> Iterator[Breach]:
    """A function fits on a screen."""
    for module in modules(root):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    yield module.breach(
                        node, f"{node.name} has {lines} lines, more than {FUNCTION_LINES}"
                    )


def long_files(root: Path) -> Iterator[Breach]:
    """A file is about one thing."""
    for module in modules(root):
        lines = len(module.path.read_text().splitlines())
        if lines > FILE_LINES:
            yield module.breach(lines, f"{lines} lines, more than {FILE_LINES}")


def forbidden_words(root: Path) -> Iterator[Breach]:
    """Nothing written here knows a package registry or one machine's folders."""
    for path in written_files(root):
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
            if word := FORBIDDEN.search(line):
                yield Breach(str(path), number, f"{word[0]} stands in it")


def written_files(root: Path) -> Iterator[Path]:
    for name in WRITTEN:
        top = root / name
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file() and not MADE & set(path.parts):
                yield path


Rule = Callable[[Path], Iterator[Breach]]
DOC = '"""Doc."""\n'
BAD_TREES: list[tuple[Rule, dict[str, str], str]] = [
    (misplaced_imports, {"cache/store.py": f"{DOC}from basecache.sources import url\n"}, ":2:"),
    (misplaced_imports, {"cache/store.py": f"{DOC}import basecache.sources.url\n"}, "sources"),
    (misplaced_imports, {"cache/store.py": f"{DOC}from basecache import sources\n"}, "sources"),
    (misplaced_imports, {"cache/store.py": f"{DOC}from ..sources import url\n"}, "sources"),
    (misplaced_imports, {"cache/__init__.py": f"{DOC}from ..agent import x\n"}, "agent"),
    (misplaced_imports, {"cache/a.py": f"{DOC}def f():\n  from basecache import wiring\n"}, ":3:"),
    (misplaced_imports, {"usage/nova.py": f"{DOC}from basecache.sources import x\n"}, "sources"),
    (misplaced_imports, {"images/digest.py": f"{DOC}import basecache.cache\n"}, "cache"),
    (misplaced_imports, {"config.py": f"{DOC}from basecache.cache import x\n"}, "cache"),
    (misplaced_imports, {"controller/job.py": f"{DOC}import basecache.disks\n"}, "disks"),
    (misplaced_imports, {"wiring.py": f"{DOC}from basecache.cli import main\n"}, "cli"),
    (misplaced_imports, {"agent/a.py": f"{DOC}from basecache import open_host\n"}, "itself"),
    (misplaced_imports, {"cellar/a.py": DOC}, "cellar is no room"),
    (early_heavy_imports, {"sources/glance.py": f"{DOC}import openstack.connection\n"}, ":2:"),
    (early_heavy_imports, {"usage/a.py": f"{DOC}try:\n  import libvirt\nfinally: ...\n"}, ":3:"),
    (early_heavy_imports, {"a.py": f"{DOC}class A:\n  from rados import B\n"}, "rados"),
    (early_heavy_imports, {"a.py": f"{DOC}from basecache.sources import keystone\n"}, ":2:"),
    (missing_docstrings, {"cache/a.py": "# only a comment\n"}, ":1:"),
    (long_functions, {"a.py": DOC + "class A:\n def f(self):\n" + "  ...\n" * 60}, "f has 61"),
    (long_files, {"a.py": DOC + "...\n" * 500}, "501 lines"),
    (forbidden_words, {"a.py": "# https://py|pi.org/".replace("|", "")}, ":1:"),
    (forbidden_words, {"a.py": "\n# /wo|rk/shared/x".replace("|", "")}, ":2:"),
    (forbidden_words, {"data/list.txt": "/ro|ot/.config".replace("|", "")}, "list.txt:1:"),
]
GOOD_TREE = {
    "__init__.py": f"{DOC}from basecache.wiring import open_host\n",
    "cli/main.py": f"{DOC}import basecache\nfrom basecache import agent, config\n",
    "agent/ensure.py": f"{DOC}from basecache import cache, sources\nfrom . import sweep\n",
    "cache/store.py": f"{DOC}import os\nfrom basecache.images import digest\n",
    "cache/__init__.py": f"{DOC}from . import layout\nfrom .layout import Layout\n",
    "sources/glance.py": DOC
    + "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  import openstack\n"
    + "def connect():\n  import openstack\n",
    "sources/keystone.py": f"{DOC}import keystoneauth1\n",
    "model.py": DOC + "def f():\n" + "  ...\n" * 59,
}
RULES: list[Rule] = [
    misplaced_imports,
    early_heavy_imports,
    missing_docstrings,
    long_functions,
    long_files,
    forbidden_words,
]


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / "src" / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_is_kept(rule: Rule) -> None:
    breaches = sorted(rule(ROOT))
    assert not breaches, f"{rule.__doc__}\n" + "\n".join(map(str, breaches))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_accepts_a_good_tree(rule: Rule, tmp_path: Path) -> None:
    assert list(rule(plant(tmp_path, GOOD_TREE))) == []


@pytest.mark.parametrize(
    ("rule", "files", "said"),
    BAD_TREES,
    ids=[f"{r.__name__}-{i}" for i, (r, *_) in enumerate(BAD_TREES)],
)
def test_rule_can_fail(rule: Rule, files: dict[str, str], said: str, tmp_path: Path) -> None:
    breaches = list(rule(plant(tmp_path, files)))
    assert len(breaches) == 1, breaches
    assert said in str(breaches[0])


def test_every_rule_has_been_seen_to_fail() -> None:
    assert {rule for rule, *_ in BAD_TREES} == set(RULES)


def test_the_package_is_read() -> None:
    assert {"model", "errors", "cache.locks"} <= {module.name for module in modules(ROOT)}
