"""Sending from code without an event loop, as a Django view does."""

from __future__ import annotations

from typing import Any

from benchmarks.probe.bench import MESSAGE, Bench
from benchmarks.probe.registry import Figures, scenario


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
    return call_often(bench, n, through_async_to_sync(bench.layer()))


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
    send = layer.sync.group_send if has_face else through_async_to_sync(layer)
    return call_often(bench, n, send)


def through_async_to_sync(layer: Any) -> Any:
    """Make ``group_send`` callable the way Django's own code calls it."""
    from asgiref.sync import async_to_sync

    def group_send(group: str, message: dict[str, Any]) -> None:
        async_to_sync(layer.group_send)(group, message)

    return group_send


def call_often(bench: Bench, n: int, group_send: Any) -> Figures:
    """Measure calls one after the other."""
    group_send("g", MESSAGE)
    with bench.meter as meter:
        for _ in range(n):
            group_send("g", MESSAGE)
    return meter.figures(n)
