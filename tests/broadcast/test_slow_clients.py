"""One client that reads nothing costs the others nothing, and a bounded amount of memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.broadcast.client import Client
from tests.broadcast.conftest import as_default
from tests.broadcast.test_attending import Room, to_all
from tests.helpers import wait_for

AT_ONCE = 50
SIZES = [
    pytest.param(50, 1_000, id="50 clients"),
    pytest.param(1_000, 5_000, id="1,000 clients", marks=pytest.mark.slow),
]


class Gate:
    """A server whose buffer for one client is full until it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def __call__(self, message: dict[str, Any]) -> None:
        if message["type"] == "websocket.send":
            await self.opened.wait()


async def send_to_all(layer: Any, readers: list[Client], messages: int) -> None:
    """Send all messages; the readers keep up."""
    for first in range(0, messages, AT_ONCE):
        for n in range(first, first + AT_ONCE):
            await layer.group_send("room", to_all(n))
        for one in readers:
            await one.heard(first + AT_ONCE - 1)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("clients", "messages"), SIZES)
@pytest.mark.parametrize("options", [{"capacity": 100}, {"max_buffered_bytes": 100_000}], ids=str)
async def test_a_client_that_reads_nothing_delays_no_other_client(
    make_layer: Callable[..., Any],
    kind: str,
    join: Callable[..., Any],
    options: dict[str, Any],
    clients: int,
    messages: int,
) -> None:
    """The others have every message; its own wait within the bound, and what is dropped counts."""
    gate = Gate()
    with as_default(make_layer(kind, **options)) as layer:
        (stuck,) = await join(Room, 1, gate)
        readers = await join(Room, clients - 1)
        await send_to_all(layer, readers, messages)
        everything = [str(n) for n in range(messages)]
        assert all(one.frames == everything for one in readers)
        stats = layer.stats()
        assert stats.buffered <= options.get("capacity", messages)
        assert stats.buffered_bytes <= options.get("max_buffered_bytes", 10_000_000)
        assert stats.buffered + sum(stats.dropped.values()) == messages - 1
        gate.opened.set()
        await wait_for(lambda: stuck.frames[-1:] == everything[-1:], 60)
        # The oldest were dropped, but for the one that was being sent.
        assert stuck.frames == everything[:1] + everything[messages - stats.buffered :]
        await stuck.leave()
