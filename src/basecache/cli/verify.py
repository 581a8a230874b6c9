"""basecache cache verify: what lies in the cache is still what came in."""

from __future__ import annotations

import sys
from typing import Any

from basecache.cli.base import Lister, Names, add_usage_file, usage_options
from basecache.errors import Corrupt
from basecache.model import Verdict, Verification


class Verify(Lister):
    """Compare entries with the digests in their records.

    All entries while checksum_base_images is on, no oftener than checksum_interval_seconds; one
    that is named, or all with --force, at once. Leaves with 7 when one is corrupt and was not
    healed, with 1 when one could not be read.

    example: basecache cache verify --force --heal
    """

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "name",
            nargs="?",
            metavar="NAME",
            help="an entry, by its name or its image's id or name",
        )
        parser.add_argument(
            "--heal",
            action="store_true",
            help="fetch a corrupt entry again; beside it where disks stand on it",
        )
        parser.add_argument("--force", action="store_true", help="whatever the options say")
        add_usage_file(parser)
        return parser

    def take_action(self, parsed_args: Any) -> Any:
        with self.host(**usage_options(parsed_args.usage_file)) as host:
            outcomes = host.verify(parsed_args.name, heal=parsed_args.heal, force=parsed_args.force)
        for outcome in outcomes:
            if outcome.verdict is Verdict.CORRUPT and outcome.used_by:
                print(
                    f"corrupt: {outcome.path}; disks standing on it: " + ", ".join(outcome.used_by),
                    file=sys.stderr,
                )
        self.outcome = exit_code(outcomes)
        return ("Name", "Verdict", "Reason", "Used by", "Good copy"), [
            (
                outcome.name,
                str(outcome.verdict),
                outcome.reason,
                Names(list(outcome.used_by)),
                str(outcome.copy or ""),
            )
            for outcome in outcomes
        ]


def exit_code(outcomes: list[Verification]) -> int:
    """7 when one is corrupt, 1 when one could not be verified, else 0."""
    verdicts = {outcome.verdict for outcome in outcomes}
    if Verdict.CORRUPT in verdicts:
        return Corrupt.exit_code
    return 1 if Verdict.FAILED in verdicts else 0
