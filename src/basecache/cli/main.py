"""The ``basecache`` command: ``basecache [global options] NOUN VERB [options]``.

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 no space, 5 unsafe image, 6 evidence
missing, 7 corrupt, 8 source unreachable; with several images 1 when any of them failed.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cliff.app import App
from cliff.commandmanager import CommandManager

from basecache import __version__, errors
from basecache.cli.base import tell_error

COMMANDS = {
    "image list": "image:ListImages",
    "image show": "image:ShowImage",
    "cache list": "cache:ListEntries",
    "cache show": "cache:ShowEntry",
    "cache ensure": "cache:EnsureImages",
    "cache pin": "cache:PinEntry",
    "cache unpin": "cache:UnpinEntry",
    "cache remove": "cache:RemoveEntry",
    "cache stat": "cache:ShowStock",
    "cache sweep": "sweep:Sweep",
    "cache verify": "verify:Verify",
    "disk create": "disk:CreateDisk",
    "disk list": "disk:ListDisks",
    "disk show": "disk:ShowDisk",
    "disk extract": "disk:ExtractDisk",
    "disk delete": "disk:DeleteDisk",
    "sharer list": "sharer:ListSharers",
    "sharer retire": "sharer:RetireSharer",
    "config check": "config:CheckConfig",
    "config sample": "config:PrintSample",
}


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """A command that is imported when it is asked for, as cliff's entry points are."""

    name: str
    target: str

    def load(self) -> Any:
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(f"basecache.cli.{module}"), name)


class Commands(CommandManager):
    """Our own commands, without asking every installed package for more."""

    def load_commands(self, namespace: str) -> None:  # noqa: ARG002
        for name, target in COMMANDS.items():
            self.commands[name] = LazyCommand(name, target)  # type: ignore[assignment]


class Basecache(App):
    """The application: global options, and what the commands share."""

    def __init__(self) -> None:
        super().__init__(
            description="The image cache of a hypervisor host.",
            version=__version__,
            command_manager=Commands("basecache.cli"),
            deferred_help=True,
        )

    def configure_logging(self) -> None:
        """Warnings of libraries only where they are not said again in our own words."""
        super().configure_logging()
        for name in ("oslo_config", "oslo_utils.imageutils"):
            logging.getLogger(name).setLevel(logging.CRITICAL)

    def initialize_app(self, argv: list[str]) -> None:
        """Without a command there is help, and no shell: a script would wait in it forever."""
        self.options.deferred_help = self.options.deferred_help or not argv

    def run_subcommand(self, argv: list[str]) -> int:
        """Run it; an unknown one is an error as every other."""
        try:
            self.command_manager.find_command(argv)
        except ValueError:
            words = list(itertools.takewhile(lambda word: not word.startswith("-"), argv))[:2]
            if not words:
                what = f"{argv[0]} stands before the command"
                tell_error(errors.UsageError(what, "give a command's options after it"))
                return errors.UsageError.exit_code
            known = tuple(name for name in COMMANDS if name.split()[0] == words[0])
            tell_error(errors.UnknownChoice("command", " ".join(words), known or tuple(COMMANDS)))
            return errors.UnknownChoice.exit_code
        return int(super().run_subcommand(argv))

    def build_option_parser(
        self, description: str | None, version: str | None, *args: Any
    ) -> argparse.ArgumentParser:
        parser = super().build_option_parser(description, version, *args)
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.epilog = (
            "example:\n"
            "  basecache --set instances_path=vms --set source.driver=directory \\\n"
            "            --set source.path=images cache ensure debian-12"
        )
        parser.add_argument(
            "--config-file",
            action="append",
            metavar="FILE",
            help="read options from FILE, a nova.conf too; may be given again, the last wins "
            "(default: /etc/basecache/basecache.conf)",
        )
        parser.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="[GROUP.]OPTION=VALUE",
            help="set one option over the files; may be given again",
        )
        return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return int(Basecache().run(arguments))
    except KeyboardInterrupt:
        print("interrupted; nothing half-done is left visible", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
