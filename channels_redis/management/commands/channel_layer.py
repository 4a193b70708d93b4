"""``manage.py channel_layer doctor`` and ``manage.py channel_layer queues``."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from channels_redis.doctor.command import add_commands, run
from channels_redis.doctor.config import read_settings
from channels_redis.doctor.findings import Level
from channels_redis.doctor.output import JSONOutput, Output


class Command(BaseCommand):  # type: ignore[misc]  # Django has no annotations
    """Checks the channel layers of ``CHANNEL_LAYERS`` and their servers."""

    help = "Checks the Redis channel layers and their servers, and lists queues and groups."
    # The command reports errors in the settings itself.
    requires_system_checks: list[str] = []  # noqa: RUF012 (Django's declaration)

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the commands to the parser."""
        add_commands(parser, self._add_target)

    @staticmethod
    def _add_target(parser: Any) -> None:
        parser.add_argument(
            "--alias", action="append", help="only this layer of CHANNEL_LAYERS; may be repeated"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run a command; ``CommandError`` if its status is not 0."""
        configured = getattr(settings, "CHANNEL_LAYERS", {})
        aliases = options.get("alias") or list(configured)
        for alias in aliases:
            if alias not in configured:
                raise CommandError(f"CHANNEL_LAYERS has no layer {alias!r}.", returncode=2)
        setups = read_settings({alias: configured[alias] for alias in aliases})
        if not setups:
            raise CommandError("CHANNEL_LAYERS has no layer of channels_redis.", returncode=2)
        wanted = {name: options[name] for name in ("fail_level", "limit") if name in options}
        output = JSONOutput(self.stdout.write) if options["json"] else self._output()
        status = run(options["action"], setups, output, **wanted)
        if status:
            raise CommandError("There are problems; see above.", returncode=status)

    def _output(self) -> Output:
        style: Any = self.style  # Its attributes are made from a palette.
        styles = {
            Level.OK: style.SUCCESS,
            Level.NOTE: style.NOTICE,
            Level.WARNING: style.WARNING,
            Level.ERROR: style.ERROR,
        }
        return Output(self.stdout.write, styles)
