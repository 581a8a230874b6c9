"""basecache disk: VM disks made from entries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from basecache import disks, errors
from basecache.agent import disk as disk_
from basecache.agent.shelf import EXTRACT_FORMATS
from basecache.cli.base import (
    Command,
    Lister,
    ShowOne,
    Size,
    add_usage_file,
    parse_bytes,
    usage_options,
)
from basecache.model import Disk, ImageRole


class CreateDisk(ShowOne):
    """Make a VM disk, or grow the one that is there.

    example: basecache disk create --instance 5e0b7a1c-... --image debian-12 --size 20G
    """

    makes_folders = True

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        _add_disk(parser)
        content = parser.add_mutually_exclusive_group(required=True)
        content.add_argument("--image", metavar="IMAGE", help="make it from this image")
        content.add_argument("--swap", type=int, metavar="MIB", help="make it a swap area")
        content.add_argument(
            "--ephemeral", type=int, metavar="GIB", help="make it an empty file system"
        )
        content.add_argument("--blank", action="store_true", help="make it empty; takes --size")
        parser.add_argument(
            "--role",
            choices=[str(role) for role in ImageRole],
            help="what the image is (default: by the disk's name kernel or ramdisk, else disk)",
        )
        parser.add_argument("--size", default="0", help="as 20G; 0: the image's own (default)")
        parser.add_argument(
            "--backend",
            metavar="|".join(disks.names()),
            help="how the disk is kept (default: images_type, use_cow_images)",
        )
        parser.add_argument("--os-type", help="of an ephemeral disk's instance: linux, windows")
        parser.add_argument("--guest-format", help="an ephemeral disk's file system")
        parser.add_argument(
            "--fallback-from-host",
            metavar="HOST",
            help="whose cache to copy from when the source no longer has the image",
        )
        add_usage_file(parser)
        return parser

    def take_action(self, parsed_args: Any) -> Any:
        with self.host(**usage_options(parsed_args.usage_file)) as host:
            disk = host.create_disk(
                parsed_args.instance,
                parsed_args.name,
                content=_content(parsed_args),
                size=parse_bytes(parsed_args.size),
                backend=parsed_args.backend,
            )
        return describe_disk(disk)


def _content(arguments: Any) -> disk_.Content:
    if arguments.image is not None:
        role = arguments.role
        if role is None:
            role = arguments.name if arguments.name in ("kernel", "ramdisk") else "disk"
        return disk_.FromImage(arguments.image, ImageRole(role), arguments.fallback_from_host)
    if arguments.swap is not None:
        return disk_.Swap(_positive(arguments.swap, "--swap"))
    if arguments.ephemeral is not None:
        size = _positive(arguments.ephemeral, "--ephemeral")
        return disk_.Ephemeral(size, arguments.os_type, arguments.guest_format)
    return disk_.Blank()


def _positive(number: int, option: str) -> int:
    if number <= 0:
        raise errors.UsageError(f"{option} {number} is no size", "give one above 0")
    return number


def describe_disk(disk: Disk) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """The fields of one disk."""
    fields = {
        "instance": disk.instance,
        "name": disk.name,
        "path": str(disk.path),
        "backend": disk.backend,
        "format": disk.format,
        "size_bytes": Size(disk.size_bytes),
        "allocated_bytes": Size(disk.allocated_bytes),
        "backing": str(disk.backing or ""),
    }
    return tuple(fields), tuple(fields.values())


class ListDisks(Lister):
    """List the disks in the instance folders.

    example: basecache disk list --instance 5e0b7a1c-...
    """

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        parser.add_argument("--instance", metavar="UUID", help="only this instance's")
        return parser

    def take_action(self, parsed_args: Any) -> Any:
        with self.host() as host:
            found = host.disks(parsed_args.instance)
        names = ("Instance", "Name", "Backend", "Format", "Size", "On disk", "Backing")
        return names, [
            (
                disk.instance,
                disk.name,
                disk.backend,
                disk.format,
                Size(disk.size_bytes),
                Size(disk.allocated_bytes),
                disk.backing.name if disk.backing else "",
            )
            for disk in found
        ]


class ShowDisk(ShowOne):
    """Show one disk.

    example: basecache disk show --instance 5e0b7a1c-... --name disk
    """

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        _add_disk(parser)
        return parser

    def take_action(self, parsed_args: Any) -> Any:
        with self.host() as host:
            return describe_disk(host.disk(parsed_args.instance, parsed_args.name))


class ExtractDisk(Command):
    """Write the whole content of a disk, its base's too, to a new image file.

    example: basecache disk extract --instance 5e0b7a1c-... --format qcow2 snapshot.qcow2
    """

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        _add_disk(parser)
        parser.add_argument(
            "--format",
            choices=EXTRACT_FORMATS,
            help="the image's (default: by FILE's suffix, or raw)",
        )
        parser.add_argument("target", metavar="FILE", help="a file that is not there yet")
        return parser

    def take_action(self, parsed_args: Any) -> None:
        suffix = Path(parsed_args.target).suffix.removeprefix(".")
        by_name = suffix if suffix in EXTRACT_FORMATS else "raw"
        image_format = parsed_args.format or by_name
        with self.host() as host:
            target = host.extract_disk(
                parsed_args.instance,
                parsed_args.name,
                Path(parsed_args.target),
                format=image_format,
            )
        self.app.stdout.write(f"{target} is written as {image_format}\n")


class DeleteDisk(Command):
    """Remove a disk. A machine that runs on it is not asked.

    example: basecache disk delete --instance 5e0b7a1c-... --name disk.local
    """

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        _add_disk(parser)
        return parser

    def take_action(self, parsed_args: Any) -> None:
        with self.host() as host:
            disk = host.delete_disk(parsed_args.instance, parsed_args.name)
        self.app.stdout.write(f"{disk.path} is removed\n")


def _add_disk(parser: Any) -> None:
    parser.add_argument("--instance", required=True, metavar="UUID", help="whose disk")
    parser.add_argument("--name", default="disk", help="which of its disks (default: disk)")
