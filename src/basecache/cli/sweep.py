"""basecache cache sweep: what goes, what stays, and why."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from basecache.agent.sweep import SweepReport
from basecache.cli.base import (
    Lines,
    Lister,
    Size,
    Span,
    add_usage_file,
    format_bytes,
    is_for_people,
    require_columns,
    usage_options,
)
from basecache.errors import EvidenceMissing
from basecache.model import Action, Decision, Reason

_MOST_USERS = 3


class Sweep(Lister):
    """Remove what nothing needs, and say of every file why it stays or goes.

    Leaves with 6 when evidence of use is missing (nothing is removed then), with 1 when a
    removal failed. With -f json one object is printed, see the reference.

    example: basecache cache sweep --dry-run
    """

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        parser.add_argument("--dry-run", action="store_true", help="print the plan, change nothing")
        add_usage_file(parser)
        return parser

    def run(self, parsed_args: Any) -> int:
        self._as_object = parsed_args.formatter in ("json", "yaml")
        return super().run(parsed_args)

    def take_action(self, parsed_args: Any) -> Any:
        names = ("File", "Kind", "Action", "Code", "Unused for", "On disk", "Reason", "Used by")
        require_columns(parsed_args.columns, names)
        with self.host(**usage_options(parsed_args.usage_file)) as host:
            report = host.sweep(dry_run=parsed_args.dry_run)
            instances = host.parts.store.layout.instances_path
        self._report = report
        self.outcome = exit_code(report)
        if not self._as_object:
            tell_summary(report)
        decisions: Sequence[Decision] = report.decisions
        if is_for_people(parsed_args):
            decisions = [d for d in decisions if d.code is not Reason.RECORD]
            if left_out := len(report.decisions) - len(decisions):
                print(f"not listed: {left_out} records of entries", file=sys.stderr)
        return names, [_row(decision, instances) for decision in decisions]

    def produce_output(self, parsed_args: Any, column_names: Any, data: Any) -> int:
        if not self._as_object:
            return int(super().produce_output(parsed_args, column_names, data))
        content = describe_report(self._report)
        if parsed_args.formatter == "json":
            self.app.stdout.write(json.dumps(content, indent=2) + "\n")
        else:
            import yaml  # noqa: PLC0415

            yaml.safe_dump(content, self.app.stdout, sort_keys=False)
        return 0


def exit_code(report: SweepReport) -> int:
    """6 for missing evidence, 1 for removals that failed, else 0."""
    if report.missing_evidence:
        return EvidenceMissing.exit_code
    return 1 if report.errors else 0


def tell_summary(report: SweepReport) -> None:
    """Say on stderr what the table does not."""
    for missing in report.missing_evidence:
        print(f"missing evidence: {missing}", file=sys.stderr)
    for spared in report.spared:
        print(f"spared: {spared.path}: {spared.why}", file=sys.stderr)
    for failure in report.errors:
        print(f"warning: {failure.path}: {failure.why}", file=sys.stderr)
    would = sum(d.allocated_bytes for d in report.decisions if d.action is Action.REMOVE)
    if report.dry_run:
        print(f"a sweep would free {format_bytes(would)}; nothing was changed", file=sys.stderr)
    else:
        count, freed = len(report.removed), format_bytes(report.freed_bytes)
        files = "1 file" if count == 1 else f"{count} files"
        print(f"{files} removed, {freed} freed", file=sys.stderr)


def _row(decision: Decision, instances: Path) -> tuple[Any, ...]:
    users = [name.removeprefix(f"{instances}/") for name in decision.used_by]
    more = len(users) - _MOST_USERS
    few = users if more <= 0 else [*users[:_MOST_USERS], f"and {more} more"]
    return (
        decision.path.name,
        str(decision.kind),
        str(decision.action),
        str(decision.code),
        Span(decision.age_seconds),
        Size(decision.allocated_bytes),
        decision.reason,
        Lines("\n".join(few)),
    )


def describe_report(report: SweepReport) -> dict[str, Any]:
    """The one object that ``-f json`` prints; its shape is in the reference."""
    actions = Counter(str(d.action) for d in report.decisions)
    return {
        "dry_run": report.dry_run,
        "decisions": [
            {
                "path": str(d.path),
                "kind": str(d.kind),
                "action": str(d.action),
                "code": str(d.code),
                "reason": d.reason,
                "age_seconds": d.age_seconds,
                "allocated_bytes": d.allocated_bytes,
                "used_by": list(d.used_by),
            }
            for d in report.decisions
        ],
        "missing_evidence": list(report.missing_evidence),
        "removed": [str(path) for path in report.removed],
        "spared": [{"path": str(t.path), "reason": t.why} for t in report.spared],
        "errors": [{"path": str(t.path), "error": t.why} for t in report.errors],
        "totals": {
            "files": len(report.decisions),
            **{action.value: actions[action.value] for action in Action},
            "disks_read": report.disks_read,
            "freed_bytes": report.freed_bytes,
            "removable_bytes": sum(
                d.allocated_bytes for d in report.decisions if d.action is Action.REMOVE
            ),
        },
        "images": {
            image: {
                "local": use.local,
                "remote": use.remote,
                "instances": list(use.instances),
                "popularity": report.references.popularity[image],
            }
            for image, use in sorted(report.references.images.items())
        },
    }
