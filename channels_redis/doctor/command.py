"""The commands ``doctor`` and ``queues``, used by ``manage.py`` and ``python -m channels_redis``.

Prints one finding after the other, or all as JSON, and returns an exit status for scripts.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from .._config.hosts import describe_host
from .._layer.base import BaseRedisLayer
from ..exceptions import COMMAND_ERRORS
from .census import count_shard
from .config import Setup, examine, examine_for_deployment
from .findings import Finding, Level, worst
from .judge import Wishes, judge_shard
from .output import SHOWN, Output
from .probe import look_at_shard
from .trouble import first_line


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
    text = "List queues by depth, groups by size, and processes with their leases."
    queues = commands.add_parser("queues", help=text, description=text)
    queues.add_argument(
        "--limit",
        type=int,
        help=f"queues, groups and processes of each server (default: {SHOWN}; all with --json)",
    )
    for command in (doctor, queues):
        command.add_argument("--json", action="store_true", help="write one JSON document")
        add_target(command)


def run(
    action: str,
    setups: list[Setup],
    output: Output,
    *,
    fail_level: str = "ERROR",
    limit: int | None = None,
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
    output.end_findings(errors, warnings)
    return int(worst(findings) >= fail_level)


async def _look_at(setup: Setup) -> AsyncIterator[Finding]:
    layer = setup.layer
    if layer is None:
        return
    wishes = Wishes(
        setup.is_pubsub,
        layer.prefix,
        layer.max_message_bytes,
        has_histories=bool(layer.history),
        has_presence=bool(layer.presence),
    )
    for index in range(layer.ring_size):
        for server in await look_at_shard(layer, index):
            for finding in judge_shard(server, wishes):
                yield finding.without(setup.secrets)


async def _queues(setups: list[Setup], output: Output, limit: int | None) -> int:
    status = 0
    for setup in setups:
        for refusal in setup.refusals:
            status = 1
            output.show(refusal.without(setup.secrets))
        if setup.layer is not None and not await _count(setup, setup.layer, output, limit):
            status = 1
    output.end_counts()
    return status


async def _count(setup: Setup, layer: BaseRedisLayer, output: Output, limit: int | None) -> bool:
    """Write what is stored on each shard; return whether all shards replied."""
    complete, clean = True, setup.secrets.text
    for index in range(layer.ring_size):
        try:
            census = await count_shard(layer, index, is_pubsub=setup.is_pubsub)
        except (*COMMAND_ERRORS, OSError) as error:
            complete = False
            output.show_failure(setup.alias, clean(first_line(error)))
            continue
        census.counts = [replace(one, name=clean(one.name)) for one in census.counts]
        output.show_census(setup.alias, clean(describe_host(layer.hosts[index])), census, limit)
    return complete
