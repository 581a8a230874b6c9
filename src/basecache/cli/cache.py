"""basecache cache: what this host holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from basecache import errors
from basecache.agent.stock import Held
from basecache.cli.base import (
    Command,
    Counts,
    Lister,
    Moment,
    ShowOne,
    Size,
    Span,
    add_usage_file,
    is_for_people,
    parse_until,
    tell_error,
    usage_options,
)
from basecache.model import ImageRole, Result


class ListEntries(Lister):
    """List the entries of the cache.

    example: basecache cache list -f json
    """

    def take_action(self, parsed_args: Any) -> Any:  # noqa: ARG002
        with self.host() as host:
            entries = host.entries()
        names = (
            "Name",
            "Kind",
            "Image",
            "Format",
            "Virtual size",
            "On disk",
            "Unused for",
            "Pinned",
        )
        return names, [
            (
                held.entry.name,
                str(held.entry.kind),
                held.record.text("image_name") or held.record.image_id or "",
                held.record.format or "",
                Size(held.record.virtual_size_bytes),
                Size(held.entry.allocated_bytes),
                Span(held.age_seconds),
                held.pin.reason if held.pin else "",
            )
            for held in entries
        ]


class ShowEntry(ShowOne):
    """Show one entry of the cache: its file, its record, its pin.

    example: basecache cache show debian-12
    """

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        _add_entry(parser)
        return parser

    def take_action(self, parsed_args: Any) -> Any:
        with self.host() as host:
            fields = describe_entry(host.entry(parsed_args.name))
        return tuple(fields), tuple(fields.values())


def describe_entry(held: Held) -> dict[str, Any]:
    """What ``cache show`` prints."""
    entry, record = held.entry, held.record
    at_rest = record.at_rest
    return {
        "name": entry.name,
        "path": str(entry.path),
        "kind": str(entry.kind),
        "image_id": record.image_id or "",
        "image_name": record.text("image_name") or "",
        "format": record.format or "",
        "size_bytes": Size(entry.size_bytes),
        "allocated_bytes": Size(entry.allocated_bytes),
        "virtual_size_bytes": Size(record.virtual_size_bytes),
        "age_seconds": Span(held.age_seconds),
        "source": record.text("source") or "",
        "source_digest": str(record.source_digest or ""),
        "digest_at_rest": str(at_rest[1]) if at_rest else "",
        "verified_at": Moment(record.number("verified_at")),
        "corrupt_since": Moment(record.number("corrupt_since")),
        "checks": " ".join(sorted(record.checks)),
        "pinned": held.pin.reason if held.pin else "",
        "pinned_until": Moment(held.pin.until if held.pin else None),
    }


class EnsureImages(Lister):
    """Fetch images into the cache, verified; those that are there are kept.

    Each image ends as cached, existing or failed. One image's failure does not stop the others.

    example: basecache cache ensure 3f1c7f3e-... debian-12
    """

    makes_folders = True

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        parser.add_argument("images", nargs="+", metavar="IMAGE", help="an id, a name, or a URL")
        parser.add_argument(
            "--role",
            choices=[str(role) for role in ImageRole],
            default="disk",
            help="what instances use it as (default: disk)",
        )
        parser.add_argument(
            "--fallback-from-host",
            metavar="HOST",
            help="a host ([user@]name, through ssh) or a cache folder mounted here, to copy from "
            "when the source no longer has the image",
        )
        add_usage_file(parser)
        return parser

    def take_action(self, parsed_args: Any) -> Any:
        with self.host(**usage_options(parsed_args.usage_file)) as host:
            results = list(
                host.ensure_all(
                    parsed_args.images,
                    role=parsed_args.role,
                    fallback_from_host=parsed_args.fallback_from_host,
                )
            )
        self.outcome = tell_failures(results)
        names = ("Image", "Status", "Path", "Bytes", "Seconds", "Source", "Error")
        rows = list(_rows(results))
        if is_for_people(parsed_args):
            # Errors were told on stderr, whole and with their hints.
            return names[:-1], [row[:-1] for row in rows]
        return names, rows


def tell_failures(results: Sequence[Result]) -> int:
    """Tell each failure on stderr; the exit code of a command with these results."""
    failed = [r.error for r in results if isinstance(r.error, errors.BasecacheError)]
    for error in failed:
        tell_error(error)
    if not failed:
        return 0
    return failed[0].exit_code if len(results) == 1 else 1


def _rows(results: Sequence[Result]) -> Iterator[tuple[Any, ...]]:
    for result in results:
        yield (
            result.image,
            str(result.status),
            str(result.path or ""),
            Size(result.bytes),
            Span(round(result.seconds, 6)),
            result.source or "",
            "" if result.error is None else str(result.error),
        )


class PinEntry(Command):
    """Keep an entry until a time, or until it is unpinned; it need not be there yet.

    example: basecache cache pin debian-12 --until 7d --reason "spring rollout"
    """

    makes_folders = True

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        _add_entry(parser)
        parser.add_argument(
            "--until", metavar="TIME", help="ISO 8601, or from now on: 90m, 12h, 7d, 2w"
        )
        parser.add_argument("--reason", default="pinned by hand", help="stands in every report")
        return parser

    def take_action(self, parsed_args: Any) -> None:
        until = parse_until(parsed_args.until)
        with self.host() as host:
            pin = host.pin(parsed_args.name, reason=parsed_args.reason, until=until)
        end = "for good" if pin.until is None else f"until {Moment(pin.until).human_readable()}"
        there = "" if host.parts.store.find(pin.name) else "; it is not in the cache yet"
        self.app.stdout.write(f"{pin.name} is pinned {end}{there}\n")


class UnpinEntry(Command):
    """Take the pin of an entry away.

    example: basecache cache unpin debian-12
    """

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        _add_entry(parser)
        return parser

    def take_action(self, parsed_args: Any) -> None:
        with self.host() as host:
            host.unpin(parsed_args.name)
        self.app.stdout.write(f"{parsed_args.name} is no longer pinned\n")


class RemoveEntry(Command):
    """Remove one entry now, whatever its age, unless something needs it.

    example: basecache cache remove debian-12
    """

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        _add_entry(parser)
        add_usage_file(parser)
        return parser

    def take_action(self, parsed_args: Any) -> None:
        with self.host(**usage_options(parsed_args.usage_file)) as host:
            decision = host.remove(parsed_args.name)
        freed = Size(decision.allocated_bytes).human_readable()
        self.app.stdout.write(f"{decision.path} is removed, {freed} freed\n")


class ShowStock(ShowOne):
    """Show the cache in figures.

    example: basecache cache stat -f json
    """

    def take_action(self, parsed_args: Any) -> Any:  # noqa: ARG002
        with self.host() as host:
            stock = host.stat()
        fields = {
            "folder": stock.folder,
            "entries": sum(stock.entries.values()),
            "entries_by_kind": Counts(stock.entries),
            "pinned": stock.pinned,
            "allocated_bytes": Size(stock.allocated_bytes),
            "promised_bytes": Size(stock.promised_bytes),
            "free_bytes": Size(stock.free_bytes),
            "device_bytes": Size(stock.device_bytes),
            "max_size_bytes": Size(stock.max_size_bytes),
            "min_free_bytes": Size(stock.min_free_bytes),
        }
        return tuple(fields), tuple(fields.values())


def _add_entry(parser: Any) -> None:
    parser.add_argument(
        "name", metavar="NAME", help="an entry, by its name or its image's id or name"
    )
