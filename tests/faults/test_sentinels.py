"""Sentinels that are down, that know no such primary, and that replace a healthy one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis.asyncio
import redis.exceptions

from channels_redis.exceptions import ConfigurationError, ConnectionLost
from channels_redis.testing.servers import SentinelSet, reserved_port
from tests.faults.ledger import BACK, EVENTS, LOST
from tests.helpers import numbered, receive, receive_until_marker, subscribers, wait_for, waiting

KINDS = ("core", "pubsub")
#: How far the layer's ear for the notice and this test's may be apart, both on one event loop,
#: and the time that what is on its way when the notice comes has for its reply.
NOTICE_S = 0.5


async def test_sentinels_that_are_down_are_passed_over(
    make_layer: Callable[..., Any], sentinel_set: SentinelSet, kind: str
) -> None:
    """Nobody is at home at the first two addresses of the list."""
    entry = sentinel_set.host_entry()
    with reserved_port() as first, reserved_port() as second:
        entry["sentinels"][:0] = [("127.0.0.1", first), ("127.0.0.1", second)]
        layer = make_layer(kind, hosts=[entry])
        channel = await layer.new_channel()
        await layer.send(channel, numbered(1))
        assert await receive(layer, channel) == numbered(1)


async def test_an_unknown_master_name_is_an_error_at_once(
    make_layer: Callable[..., Any], sentinel_set: SentinelSet, kind: str, dead_port: int
) -> None:
    """Also where the first Sentinel is down; the error names the right names."""
    entry = {**sentinel_set.host_entry(), "master_name": "mian"}
    entry["sentinels"] = [("127.0.0.1", dead_port), *entry["sentinels"]]
    layer = make_layer(kind, hosts=[entry], connect_wait_s=60)
    for call in (layer.send("work", numbered(1)), layer.receive("work")):
        with pytest.raises(ConfigurationError, match=r"'mian'.*known: \['main'\]"):
            await asyncio.wait_for(call, 20)


async def test_without_any_sentinel_calls_end_in_time_and_receivers_wait(
    make_layer: Callable[..., Any], own_sentinels: SentinelSet, caplog: pytest.LogCaptureFixture
) -> None:
    """All Sentinels go while everything works; what is connected goes on working."""
    layers = {kind: make_layer(kind, hosts=[own_sentinels.host_entry()]) for kind in KINDS}
    channels = {kind: await layer.new_channel() for kind, layer in layers.items()}
    for kind, layer in layers.items():
        await layer.send(channels[kind], numbered(0))
        assert await receive(layer, channels[kind]) == numbered(0)
    waits = {kind: waiting(layer, channels[kind]) for kind, layer in layers.items()}
    for sentinel in own_sentinels.sentinel_servers:
        sentinel.kill()
    for kind, layer in layers.items():
        await layer.send(channels[kind], numbered(1))
        assert await asyncio.wait_for(waits[kind], 10) == numbered(1)
    stranger = make_layer("core", hosts=[own_sentinels.host_entry()], connect_wait_s=0.3)
    wait = waiting(stranger, "work")
    # On a busy machine the time is up before all Sentinels have been tried.
    reason = "no Sentinel names a primary that answers|not connected"
    with pytest.raises(ConnectionLost, match=reason):
        await stranger.send("work", numbered(2))
    assert not wait.done()
    wait.cancel()
    assert "object at 0x" not in caplog.text, "nobody reads the insides of redis-py"


async def test_a_failover_is_noticed_although_a_sentinel_is_down(
    make_layer: Callable[..., Any], own_sentinels: SentinelSet
) -> None:
    """The layer listens to the next one, and both layers follow."""
    own_sentinels.sentinel_servers[0].kill()
    layers = {
        kind: make_layer(kind, hosts=[own_sentinels.host_entry()], **EVENTS) for kind in KINDS
    }
    channels = {kind: await layer.new_channel() for kind, layer in layers.items()}
    for kind, layer in layers.items():
        await layer.send(channels[kind], numbered(0))
        assert await receive(layer, channels[kind]) == numbered(0)
    waits = {kind: waiting(layer, channels[kind]) for kind, layer in layers.items()}
    primary = await asyncio.to_thread(own_sentinels.failover)
    for kind, layer in layers.items():
        assert (await asyncio.wait_for(waits[kind], 20))["type"] == LOST
        assert (await receive(layer, channels[kind], 20))["type"] == BACK
    await wait_for(lambda: subscribers(primary, channels["pubsub"]))


@pytest.mark.measured
async def test_a_planned_failover_loses_only_what_was_acknowledged_before_the_notice(
    make_layer: Callable[..., Any], own_sentinels: SentinelSet
) -> None:
    """The old primary takes messages for seconds; nobody sends it any once the notice has come."""
    options = {"hosts": [own_sentinels.host_entry()], "capacity": 100_000}
    sender, layer = make_layer("core", **options), make_layer("core", **options)
    sent: dict[int, float] = {}
    stop = False

    async def send() -> None:
        number = 0
        while not stop:
            number += 1
            began = time.monotonic()
            try:
                await sender.send("work", numbered(number))
            except redis.exceptions.ConnectionError:
                continue
            sent[number] = began
            await asyncio.sleep(0.002)

    await sender.send("work", numbered(0))
    sending = asyncio.create_task(send())
    notice = asyncio.create_task(time_of_notice(own_sentinels))
    await wait_for(lambda: len(sent) > 100)
    await asyncio.to_thread(own_sentinels.failover)
    noticed_at = await asyncio.wait_for(notice, 20)
    await wait_for(lambda: sum(began > noticed_at + NOTICE_S for began in sent.values()) > 500, 30)
    stop = True
    await sending
    arrived = {message["n"] for message in await receive_until_marker(layer, "work", sender)}
    lost = sent.keys() - arrived
    after = sum(sent[number] > noticed_at for number in lost)
    print(f"\nplanned failover: {len(lost)} of {len(sent)} lost, {after} sent after the notice")
    late = [number for number in lost if sent[number] > noticed_at + NOTICE_S]
    assert late == []


async def time_of_notice(sentinels: SentinelSet) -> float:
    """Return when the first Sentinel says that there is another primary."""
    host, port = sentinels.sentinels[0]
    async with redis.asyncio.Redis(host=host, port=port) as client, client.pubsub() as ear:
        await ear.subscribe("+switch-master")
        async for message in ear.listen():
            if message["type"] == "message":
                return time.monotonic()
    raise AssertionError("the Sentinel has gone")
