"""The commands ``doctor`` and ``queues``, used by ``manage.py`` and ``python -m channels_redis``.

Prints one finding after the other, and returns an exit status for scripts.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field

from .._config.hosts import describe_host
from .._layer.base import BaseRedisLayer
from ..exceptions import COMMAND_ERRORS
from .census import Count, count_shard
from .config import Setup, examine, examine_for_deployment
from .findings import Finding, Level, worst
from .judge import Wishes, judge_shard
from .probe import look_at_shard
from .trouble import first_line

Style = Callable[[str], str]

#: Default number of lines of ``queues`` for each kind and layer.
SHOWN = 20


@dataclass(frozen=True)
class Output:
    """Where lines are written, and how the name of a level is coloured."""

    write: Callable[[str], object]
    styles: Mapping[Level, Style] = field(default_factory=dict)

    def show(self, finding: Finding) -> None:
        """Write a finding and its advice."""
        word = self.styles.get(finding.level, str)(finding.level.name)
        self.write(f"{word} {finding.where}: {finding.text} [{finding.id}]")
        if finding.advice and finding.level is not Level.OK:
            self.write(f"    {finding.advice}")


def add_commands(
    parser: argparse.ArgumentParser, add_target: Callable[[argparse.ArgumentParser], None]
) -> None:
    """Add the commands to a parser.  ``add_target`` adds the options that select layers."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="doctor | queues")
    text = "Connect to every server and report what works and what does not."
    doctor = commands.add_parser("doctor", help=text, description=text)
    doctor.add_argument(
        "--fail-level",
        choices=["WARNING", "ERROR"],
        default="ERROR",
        help="exit with status 1 if there are findings of this level or above (default: ERROR)",
    )
    text = "List queues by depth, and groups by size."
    queues = commands.add_parser("queues", help=text, description=text)
    queues.add_argument(
        "--limit", type=int, default=SHOWN, help=f"lines of each kind (default: {SHOWN})"
    )
    for command in (doctor, queues):
        add_target(command)


def run(
    action: str,
    setups: list[Setup],
    output: Output,
    *,
    fail_level: str = "ERROR",
    limit: int = SHOWN,
) -> int:
    """Run an action; return the exit status."""
    if action == "queues":
        return asyncio.run(_queues(setups, output, limit))
    return asyncio.run(_doctor(setups, output, Level[fail_level]))


async def _doctor(setups: list[Setup], output: Output, fail_level: Level) -> int:
    findings = examine(setups) + examine_for_deployment(setups)
    for finding in findings:
        output.show(finding)
    for setup in setups:
        async for finding in _look_at(setup):
            findings.append(finding)
            output.show(finding)
    errors, warnings = (
        sum(finding.level is level for finding in findings)
        for level in (Level.ERROR, Level.WARNING)
    )
    output.write(f"{errors} errors, {warnings} warnings.")
    return int(worst(findings) >= fail_level)


async def _look_at(setup: Setup) -> AsyncIterator[Finding]:
    layer = setup.layer
    if layer is None:
        return
    wishes = Wishes(setup.is_pubsub, layer.prefix, layer.max_message_bytes)
    for index in range(layer.ring_size):
        for server in await look_at_shard(layer, index):
            for finding in judge_shard(server, wishes):
                yield finding.without(setup.secrets)


async def _queues(setups: list[Setup], output: Output, limit: int) -> int:
    status = 0
    for setup in setups:
        for refusal in setup.refusals:
            status = 1
            output.show(refusal.without(setup.secrets))
        if setup.layer is not None and not await _count(setup, setup.layer, output, limit):
            status = 1
    return status


async def _count(setup: Setup, layer: BaseRedisLayer, output: Output, limit: int) -> bool:
    """Write the queues and groups of each shard; return whether all shards replied."""
    complete = True
    for index in range(layer.ring_size):
        try:
            counts = await count_shard(layer, index, is_pubsub=setup.is_pubsub)
        except (*COMMAND_ERRORS, OSError) as error:
            complete = False
            reason = setup.secrets.text(first_line(error))
            output.write(f"{setup.alias}: {reason}; run the doctor for details.")
            continue
        shard = describe_host(layer.hosts[index])
        for line in _lines(setup.alias, shard, counts, limit):
            output.write(setup.secrets.text(line))
    return complete


def _lines(alias: str, shard: str, counts: list[Count], limit: int) -> Iterator[str]:
    """Yield lines that a shell can split into words: kind, number, unit, name."""
    queues = [one for one in counts if not one.is_group]
    groups = [one for one in counts if one.is_group]
    for kind, some in (("queue", queues), ("group", groups)):
        for one in some[:limit]:
            unit = "messages" if kind == "queue" else "loops" if one.is_topic else "members"
            yield f"{kind} {one.number} {unit} {one.name} ({alias}, {shard})"
        if len(some) > limit:
            rest = sum(one.number for one in some[limit:])
            yield f"{len(some) - limit} more {kind}s with {rest} in total ({alias}, {shard})"
    if not counts:
        yield f"nothing on {shard} ({alias})"
