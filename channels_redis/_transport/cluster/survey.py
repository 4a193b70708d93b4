"""Queries the servers of a cluster for the map of the slots, and uses the first good reply.

Servers are queried one after the other without waiting long for any, because a frozen one never
replies. A server that reports a broken cluster may have been cut off from the others, so its reply
is used only if there is no better one.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

from redis.exceptions import ConnectionError, NoPermissionError, RedisError, ResponseError

from ..._format.slots import Address, Ranges, Remap, read_ranges
from ..._runtime.tasks import ended, started
from ...exceptions import ConfigurationError
from ..wire import Loop

#: How long one server is waited for before the next is asked too.
STAGGER_S = 0.2

#: The first version with sharded Pub/Sub.
SHARDED_SINCE = (7, 0)

Ask = Callable[..., Awaitable[Any]]
"""Sends one command; returns its reply, or returns or raises an error reply."""


class Chart(NamedTuple):
    """The reply of one server."""

    ranges: Ranges
    healthy: bool
    #: Whether it has sharded Pub/Sub.
    sharded: bool


async def interview(ask: Ask, asked: Address, remap: Remap | None, *, where: str) -> Chart:
    """Return the reply of the server behind ``ask``; raise an error if it can't be used."""
    reply = await _reply(ask, "CLUSTER", "SLOTS")
    if isinstance(reply, Exception):
        if "cluster support disabled" in str(reply):
            raise ConfigurationError(
                f"hosts: the server at {asked[0]}:{asked[1]} does not belong to a cluster "
                f"({where}); remove 'cluster' from its entry."
            )
        if isinstance(reply, NoPermissionError):
            raise ConfigurationError(
                f"Redis at {where} refuses: {reply}; "
                "the documentation lists the commands, keys and channels to allow"
            )
        raise reply
    try:
        ranges = read_ranges(reply, asked, remap)
    except ConfigurationError:  # of address_remap
        raise
    except (AttributeError, TypeError, ValueError):
        raise ConnectionError(
            f"the server at {asked[0]}:{asked[1]} returned no map of the slots"
        ) from None
    if not any(one.owner for one in ranges):
        raise ConnectionError(f"the server at {asked[0]}:{asked[1]} returned an empty map")
    state = await _reply(ask, "CLUSTER", "INFO")
    # Who may not ask takes it as it comes.
    healthy = not isinstance(state, bytes) or b"cluster_state:ok" in state
    info = await _reply(ask, "INFO", "server")
    found = re.search(rb"redis_version:(\d+)\.(\d+)", info if isinstance(info, bytes) else b"")
    sharded = found is None or (int(found[1]), int(found[2])) >= SHARDED_SINCE
    return Chart(ranges, healthy, sharded)


async def _reply(ask: Ask, *words: str) -> Any:
    try:
        return await ask(*words)
    except ResponseError as reply:
        return reply


async def first_good(asking: Iterable[Callable[[], Awaitable[Chart]]], loop: Loop) -> Chart:
    """Return the first reply of a healthy cluster, or else any; raise an error if there is none."""
    waiting = deque(asking)
    answers = _Answers()
    tasks: set[asyncio.Task[None]] = set()
    try:
        while answers.good is None and (waiting or tasks):
            if waiting:
                asked = answers.take(waiting.popleft())
                tasks.add(started(asked, loop, "channels_redis chart"))
            limit_s = STAGGER_S if waiting or answers.doubtful else None
            done, tasks = await asyncio.wait(
                tasks, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED
            )
            if answers.doubtful and not done and not waiting:
                break
    finally:
        for task in tasks:
            task.cancel()
        await ended(tasks)
    return answers.best()


class _Answers:
    def __init__(self) -> None:
        self.good: Chart | None = None
        self.doubtful: Chart | None = None
        self._failure: Exception = ConnectionError("no server of the cluster is known")

    async def take(self, asking: Callable[[], Awaitable[Chart]]) -> None:
        try:
            chart = await asking()
        except (RedisError, OSError, ConfigurationError) as error:
            # A mistake in the options is reported before all others.
            if not isinstance(self._failure, ConfigurationError):
                self._failure = error
            return
        if chart.healthy:
            self.good = chart
        else:
            self.doubtful = chart

    def best(self) -> Chart:
        chart = self.good or self.doubtful
        if chart is None:
            raise self._failure
        return chart
