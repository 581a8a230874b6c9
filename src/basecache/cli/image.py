"""basecache image: what the image source offers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from basecache import errors
from basecache.cli.base import Lister, ShowOne, Size
from basecache.sources import ImageQuery


class ListImages(Lister):
    """List the images that the source offers.

    example: basecache image list --status active --property os_type=linux --limit 20
    """

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        parser.add_argument("--limit", type=int, help="at most so many images")
        parser.add_argument("--marker", metavar="ID", help="start after this image")
        parser.add_argument("--name", help="only images of this name")
        parser.add_argument("--status", help="only images of this status, e.g. active")
        parser.add_argument("--server", metavar="UUID", help="only images made from this server")
        parser.add_argument("--type", choices=["snapshot", "base"], help="only such images")
        parser.add_argument("--min-ram", type=int, metavar="MIB", help="minimum RAM asked for")
        parser.add_argument("--min-disk", type=int, metavar="GIB", help="minimum disk asked for")
        parser.add_argument("--changes-since", metavar="TIME", help="changed since, ISO 8601")
        parser.add_argument(
            "--property",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="only images with this property; may be given again",
        )
        return parser

    def take_action(self, parsed_args: Any) -> Any:
        if parsed_args.limit is not None and parsed_args.limit < 0:
            raise errors.UsageError(f"--limit {parsed_args.limit} is below 0")
        require_time(parsed_args.changes_since)
        query = ImageQuery(
            name=parsed_args.name,
            status=parsed_args.status,
            server=parsed_args.server,
            type=parsed_args.type,
            min_ram_mib=parsed_args.min_ram,
            min_disk_gib=parsed_args.min_disk,
            changes_since=parsed_args.changes_since,
            properties=parse_properties(parsed_args.property),
            limit=parsed_args.limit,
            marker=parsed_args.marker,
        )
        with self.host() as host:
            images = host.images(query)
        names = ("ID", "Name", "Status", "Server", "Format", "Size", "Digest")
        return names, [
            (
                image.id,
                image.name or "",
                image.status,
                image.properties.get("instance_uuid") or "",
                image.disk_format or "",
                Size(image.size_bytes),
                image.digest.algorithm if image.digest else "",
            )
            for image in images
        ]


class ShowImage(ShowOne):
    """Show what the source says of one image.

    example: basecache image show debian-12
    """

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        parser.add_argument("image", metavar="IMAGE", help="an id, a name, or a URL")
        return parser

    def take_action(self, parsed_args: Any) -> Any:
        with self.host() as host:
            image = host.image(parsed_args.image)
        fields = {
            "id": image.id,
            "name": image.name or "",
            "status": image.status,
            "disk_format": image.disk_format or "",
            "container_format": image.container_format or "",
            "size_bytes": Size(image.size_bytes),
            "virtual_size_bytes": Size(image.virtual_size_bytes),
            "digest": str(image.digest) if image.digest else "",
            "min_disk_gib": image.min_disk_gib,
            "min_ram_mib": image.min_ram_mib,
            "visibility": image.visibility or "",
            "created_at": image.created_at or "",
            "updated_at": image.updated_at or "",
            "properties": dict(image.properties),
        }
        return tuple(fields), tuple(fields.values())


def require_time(text: str | None) -> None:
    """UsageError when a text is no ISO 8601 time."""
    try:
        if text is not None:
            datetime.fromisoformat(text)
    except ValueError:
        raise errors.UsageError(
            f"--changes-since {text!r} is no time", "give one as 2030-01-31T12:00:00Z"
        ) from None


def parse_properties(texts: list[str]) -> dict[str, str]:
    """``KEY=VALUE`` arguments; UsageError for one that is none."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise errors.UsageError(f"--property {text!r} is not KEY=VALUE")
        found[key] = value
    return found
