"""Pub/Sub: subscriptions that are being made while something else happens to their channel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from channels_redis._transport.subscriptions import Topic
from channels_redis.exceptions import ConnectionLost, LayerClosed
from channels_redis.testing.servers import RedisServer
from tests.helpers import receive, receive_until_marker
from tests.proxy import Proxy

SAY = {"type": "test.say"}

Make = Callable[..., Any]


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.mark.parametrize("later", range(5))
async def test_a_flush_lets_go_on_who_is_just_subscribing(make_layer: Make, later: int) -> None:
    """Neither a new channel nor a first ``receive()`` gets an error, whenever the flush comes."""
    layer = make_layer("pubsub")
    name = await layer.new_channel()
    await layer.close()
    subscribing = asyncio.gather(layer.new_channel(), asyncio.shield(receive(layer, name)))
    await turns(later)
    await layer.flush()
    await layer.send(name, SAY)
    other = make_layer("pubsub")
    channel, message = await asyncio.wait_for(_resent(subscribing, other, name), 10)
    assert message == SAY
    await other.send(channel, SAY)
    assert await receive(layer, channel) == SAY


async def _resent(waiting: asyncio.Future[Any], sender: Any, channel: str) -> Any:
    """Send again and again until what waits has ended: one that subscribes misses some."""
    while not waiting.done():
        await sender.send(channel, SAY)
        await asyncio.wait({waiting}, timeout=0.05)
    return waiting.result()


async def test_a_flush_that_fails_ends_no_first_receive(make_layer: Make, server: Any) -> None:
    """In an outage ``flush()`` raises, and who subscribes meanwhile waits for the end of it."""
    with Proxy(server.host, server.port) as proxy:
        layer = make_layer("pubsub", hosts=[proxy.url], connect_wait_s=0.3)
        name = await layer.new_channel()
        await layer.send("work", SAY)
        await layer.close()
        proxy.refuse()
        waiting = asyncio.create_task(layer.receive(name))
        await turns(3)
        with pytest.raises(ConnectionLost):
            await layer.flush()
        assert not waiting.done()
        proxy.resume()
        assert await asyncio.wait_for(_resent(waiting, make_layer("pubsub"), name), 10) == SAY


@pytest.mark.parametrize("away", [False, True], ids=["at once", "in an outage"])
async def test_close_ends_a_first_receive_as_it_does_others(
    make_layer: Make, private_server: RedisServer, away: bool
) -> None:
    """It is the layer that was closed, and nothing is wrong with the network."""
    layer = make_layer("pubsub", hosts=[private_server.url])
    name = await layer.new_channel()
    await layer.close()
    if away:
        private_server.kill()
    waiting = asyncio.create_task(layer.receive(name))
    await turns(3)
    await layer.close()
    with pytest.raises(LayerClosed):
        await asyncio.wait_for(waiting, 10)


@pytest.mark.parametrize("victim", [0, 1], ids=["the first", "the second"])
async def test_of_two_who_join_at_once_one_may_be_cancelled(
    make_layer: Make, monkeypatch: pytest.MonkeyPatch, victim: int
) -> None:
    """In the very tick in which both have joined: what the other one was told stays true."""
    layer = make_layer("pubsub")
    channel = await layer.new_channel()
    joining = [asyncio.create_task(layer.group_add("room", channel)) for _ in range(2)]
    arrive = Topic.arrive

    def arrive_and_cancel(topic: Topic) -> None:
        arrive(topic)
        joining[victim].cancel()

    monkeypatch.setattr(Topic, "arrive", arrive_and_cancel)
    await asyncio.wait(joining)
    monkeypatch.undo()
    assert [task.cancelled() for task in joining] == [victim == 0, victim == 1]
    await layer.group_send("room", SAY)
    assert await receive_until_marker(layer, channel) == [SAY]


async def test_if_all_who_join_at_once_are_cancelled_nobody_has_joined(
    make_layer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the very tick in which they have."""
    layer = make_layer("pubsub")
    channel = await layer.new_channel()
    joining = [asyncio.create_task(layer.group_add("room", channel)) for _ in range(2)]
    arrive = Topic.arrive

    def arrive_and_cancel(topic: Topic) -> None:
        arrive(topic)
        for task in joining:
            task.cancel()

    monkeypatch.setattr(Topic, "arrive", arrive_and_cancel)
    await asyncio.wait(joining)
    monkeypatch.undo()
    assert all(task.cancelled() for task in joining)
    assert layer.groups == {}
    await layer.group_send("room", SAY)
    assert await receive_until_marker(layer, channel) == []
