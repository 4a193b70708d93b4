"""Sending from code without an event loop, as a Django view does."""

from __future__ import annotations

from typing import Any

import redis
from asgiref.sync import async_to_sync

from benchmarks.probe.bench import MESSAGE, Bench
from benchmarks.probe.raw import PAYLOAD
from benchmarks.probe.registry import Figures, bound, scenario


@scenario(
    "sync",
    n=200,
    quick_n=60,
    headline="us_per_op",
    notes=("new_connections",),
    any_loop=False,
)
def sync(bench: Bench, n: int) -> Figures:
    """``async_to_sync(group_send)`` from plain code, to a group without members."""
    return call_often(bench, n, through_async_to_sync(bench.layer().group_send))


@scenario(
    "sync_face",
    n=200,
    quick_n=60,
    headline="us_per_op",
    notes=("new_connections",),
    any_loop=False,
)
def sync_face(bench: Bench, n: int) -> Figures:
    """``layer.sync.group_send`` where the layer has it, else ``async_to_sync``."""
    layer: Any = bench.layer()
    # Asking 4.3.0's pubsub layer for an attribute needs an event loop, so it is not asked.
    has_face = "sync" in dir(layer)
    send = layer.sync.group_send if has_face else through_async_to_sync(layer.group_send)
    return call_often(bench, n, send)


@bound("sync")
def nothing_through_async_to_sync(bench: Bench, n: int) -> Figures:
    """``async_to_sync`` of a coroutine that does nothing at all."""

    async def nothing(group: str, message: dict[str, Any]) -> None:
        pass

    return call_often(bench, n, through_async_to_sync(nothing))


@bound("sync_face")
def publish_with_a_blocking_client(bench: Bench, n: int) -> Figures:
    """One round trip of redis-py's blocking client."""
    with redis.Redis.from_url(bench.url) as client:
        return call_often(bench, n, lambda *_: client.publish(f"{bench.prefix}g", PAYLOAD))


def through_async_to_sync(coroutine: Any) -> Any:
    """Make a coroutine function callable the way Django's own code does it, each time anew."""

    def call(group: str, message: dict[str, Any]) -> None:
        async_to_sync(coroutine)(group, message)

    return call


def call_often(bench: Bench, n: int, group_send: Any) -> Figures:
    """Measure calls one after the other."""
    group_send("g", MESSAGE)
    with bench.meter as meter:
        for _ in range(n):
            group_send("g", MESSAGE)
    return meter.figures(n)
