"""Behind Sentinels: failovers are outages, and connections end with their loops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import redis.exceptions

from channels_redis.testing.servers import SentinelSet, command
from tests.conftest import class_of
from tests.helpers import numbered, receive, subscribers, wait_for, waiting

KINDS = ("core", "pubsub")


def connections(sentinels: SentinelSet) -> int:
    """How many clients are connected to the Sentinels and to the primary, but for Sentinels."""
    addresses = [*sentinels.sentinels, sentinels.primary.address]
    lists = [command(address, "CLIENT", "LIST", "TYPE", "NORMAL") for address in addresses]
    clients = [client for listed in lists for client in listed.splitlines()]
    return sum(b" name=sentinel-" not in client for client in clients)


def test_sentinel_connections_end_with_their_loop(
    sentinel_set: SentinelSet, kind: str, prefix: str
) -> None:
    """However many short-lived loops use a layer, the number of connections does not grow."""
    layer = class_of(kind)(hosts=[sentinel_set.host_entry()], prefix=prefix)

    async def use(number: int) -> None:
        channel = await layer.new_channel()
        await layer.send(channel, numbered(number))
        assert await receive(layer, channel) == numbered(number)

    asyncio.run(use(0))
    settled = connections(sentinel_set)
    for number in range(60):
        asyncio.run(use(number))
    asyncio.run(wait_for(lambda: connections(sentinel_set) <= settled))
    asyncio.run(layer.close())


async def test_a_failover_reaches_no_consumer_as_an_error(
    make_layer: Callable[..., Any], own_sentinels: SentinelSet
) -> None:
    """Receivers of both layers go on: UNBLOCKED and READONLY are not seen (80)."""
    layers = {kind: make_layer(kind, hosts=[own_sentinels.host_entry()]) for kind in KINDS}
    channels = {kind: await layer.new_channel() for kind, layer in layers.items()}
    waits = [waiting(layers[kind], channel) for kind, channel in channels.items()]
    waits.append(waiting(layers["core"], "work"))
    await layers["core"].send("other", numbered(0))
    primary = await asyncio.to_thread(own_sentinels.failover)
    assert not any(wait.done() for wait in waits)
    await wait_for(lambda: subscribers(primary, channels["pubsub"]), timeout_s=20)
    await send_when_possible(layers["core"], channels["core"], numbered(1))
    await send_when_possible(layers["pubsub"], channels["pubsub"], numbered(2))
    await send_when_possible(layers["pubsub"], "work", numbered(3))
    received = await asyncio.wait_for(asyncio.gather(*waits), 20)
    assert received == [numbered(1), numbered(2), numbered(3)]


async def send_when_possible(layer: Any, channel: str, message: dict[str, Any]) -> None:
    """Send again after errors, as a caller may who can bear doubles."""

    async def sent() -> bool:
        try:
            await layer.send(channel, message)
        except redis.exceptions.ConnectionError:
            return False
        return True

    await wait_for(sent, timeout_s=20)
