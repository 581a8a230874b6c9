"""basecache config: are the options right, and what are there."""

from __future__ import annotations

from typing import Any

from basecache import config, errors
from basecache.cli.base import Command, Lister, parse_settings


class CheckConfig(Lister):
    """Name everything wrong or doubtful in the configuration files; leaves with 2 on an error.

    example: basecache --config-file /etc/nova/nova.conf config check
    """

    def take_action(self, parsed_args: Any) -> Any:  # noqa: ARG002
        files = self.app_args.config_file or config.default_config_files()
        findings = list(config.check(files))
        if not any(finding.severity == "error" for finding in findings):
            config.load(files, **parse_settings(self.app_args.set))
        if any(finding.severity == "error" for finding in findings):
            self.outcome = errors.ConfigError.exit_code
        return ("Severity", "Where", "What"), [
            (finding.severity, finding.where, finding.what) for finding in findings
        ]


class PrintSample(Command):
    """Print a commented configuration file of every option.

    example: basecache config sample > /etc/basecache/basecache.conf
    """

    def take_action(self, parsed_args: Any) -> None:  # noqa: ARG002
        self.app.stdout.write(config.sample())
