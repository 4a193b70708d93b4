"""Consumers on our layers, and on Channels' own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer, channel_layers
from django.conf import settings

from tests.broadcast.client import Client, Sending

if not settings.configured:
    settings.configure()


@contextmanager
def as_default(layer: Any) -> Iterator[Any]:
    """Have all consumers use a layer."""
    before = channel_layers.set("default", layer)
    yield layer
    if before is not None:
        channel_layers.set("default", before)
    else:
        del channel_layers.backends["default"]


@pytest.fixture
async def layer(make_layer: Callable[..., Any], kind: str) -> AsyncIterator[Any]:
    """The layer of all consumers of a test."""
    with as_default(make_layer(kind)) as layer:
        yield layer


@pytest.fixture(params=["core", "pubsub", "memory"])
async def any_layer(
    make_layer: Callable[..., Any], request: pytest.FixtureRequest
) -> AsyncIterator[Any]:
    """The same; one of the layers is not ours."""
    kind = request.param
    with as_default(InMemoryChannelLayer() if kind == "memory" else make_layer(kind)) as layer:
        yield layer


@pytest.fixture
async def join() -> AsyncIterator[Callable[..., Any]]:
    """A coroutine function ``(kind, count=1, sending=None)`` that returns accepted clients."""
    clients: list[Client] = []

    async def join(kind: type[Any], count: int = 1, sending: Sending | None = None) -> list[Client]:
        new = [Client(kind, sending) for _ in range(count)]
        clients.extend(new)
        for one in new:
            await one.accepted()
        return new

    yield join
    for client in clients:
        client.task.cancel()
    await asyncio.gather(*(client.task for client in clients), return_exceptions=True)
