"""basecache sharer: the hosts that share this storage."""

from __future__ import annotations

import time
from typing import Any

from basecache.cli.base import Command, Lister, Moment, Span


class ListSharers(Lister):
    """List the hosts that share this storage, and when each was last seen.

    example: basecache sharer list
    """

    def take_action(self, parsed_args: Any) -> Any:  # noqa: ARG002
        with self.host() as host:
            found = host.sharers()
        now = time.time()
        return ("Host", "Last seen", "Silent for"), [
            (sharer.host, Moment(sharer.seen_at), Span(now - sharer.seen_at)) for sharer in found
        ]


class RetireSharer(Command):
    """Say that a host no longer uses this storage; its instances no longer hold entries back.

    example: basecache sharer retire compute-17
    """

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        parser.add_argument("host", metavar="HOST", help="its name, as sharer list has it")
        return parser

    def take_action(self, parsed_args: Any) -> None:
        with self.host() as host:
            host.retire_sharer(parsed_args.host)
        self.app.stdout.write(f"{parsed_args.host} is retired\n")
