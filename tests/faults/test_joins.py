"""Pub/Sub: subscriptions that are being made while something else happens to their channel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from channels_redis._transport.subscriptions import Topic
from channels_redis.exceptions import ConnectionLost, LayerClosed
from channels_redis.testing.servers import RedisServer
from tests.helpers import receive, receive_until_marker, until_connected, wait_for
from tests.proxy import Proxy

SAY = {"type": "test.say"}

Make = Callable[..., Any]


#: In which order a confirmation, and what happens in the same tick, are seen.
MOMENTS = ["just before", "just after"]


class Confirmation:
    """Does something once, in the tick in which the server's confirmation of a topic is read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def at(self, moment: str, do: Callable[[], object]) -> None:
        """Do it just before or just after those who wait are told."""
        arrive = Topic.arrive

        def arrive_and_do(topic: Topic) -> None:
            self._patch.undo()
            if moment == "just before":
                do()
            arrive(topic)
            if moment == "just after":
                do()

        self._patch.setattr(Topic, "arrive", arrive_and_do)


@pytest.fixture
def confirmation(monkeypatch: pytest.MonkeyPatch) -> Confirmation:
    """The next one that is read."""
    return Confirmation(monkeypatch)


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.mark.parametrize("moment", ["dialling", *MOMENTS])
async def test_a_flush_does_not_stop_a_subscription_in_progress(
    make_layer: Make, confirmation: Confirmation, moment: str
) -> None:
    """Neither a new channel nor a first ``receive()`` gets an error, whenever the flush comes."""
    layer = make_layer("pubsub")
    name = await layer.new_channel()
    await layer.close()
    flushing: list[asyncio.Task[None]] = []
    if moment != "dialling":
        confirmation.at(moment, lambda: flushing.append(asyncio.create_task(layer.flush())))
    subscribing = asyncio.gather(layer.new_channel(), receive(layer, name))
    if moment == "dialling":
        await turns(3)
        flushing.append(asyncio.create_task(layer.flush()))
    await wait_for(lambda: flushing)
    await asyncio.gather(*flushing)
    await layer.send(name, SAY)
    other = make_layer("pubsub")
    channel, message = await asyncio.wait_for(_resent(subscribing, other, name), 10)
    assert message == SAY
    # What was made before the flush is forgotten by it, and subscribed again when it is received.
    waiting = asyncio.create_task(layer.receive(channel))
    assert await asyncio.wait_for(_resent(waiting, other, channel), 10) == SAY


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
        name = await until_connected(layer.new_channel)
        await until_connected(lambda: layer.send("work", SAY))
        await layer.close()
        proxy.refuse()
        waiting = asyncio.create_task(layer.receive(name))
        await turns(3)
        with pytest.raises(ConnectionLost):
            await layer.flush()
        assert not waiting.done()
        proxy.resume()
        assert await asyncio.wait_for(_resent(waiting, make_layer("pubsub"), name), 10) == SAY


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind_of_end", ["close", "failed flush"])
async def test_a_first_receive_gets_messages_after_the_end_of_its_session(
    make_layer: Make, confirmation: Confirmation, kind_of_end: str, moment: str
) -> None:
    """It comes with the confirmation, which is the old session's, and may be lost with that."""
    layer, other = make_layer("pubsub"), make_layer("pubsub")
    name = await layer.new_channel()
    await layer.close()
    # A flush that fails ends the session as well, and means nobody who receives.
    end = layer.close if kind_of_end == "close" else layer._sessions.aclose
    ending: list[asyncio.Task[None]] = []
    confirmation.at(moment, lambda: ending.append(asyncio.create_task(end())))
    waiting = asyncio.create_task(layer.receive(name))
    await wait_for(lambda: ending)
    await asyncio.gather(*ending)
    if kind_of_end == "close":
        with pytest.raises(LayerClosed):
            await asyncio.wait_for(waiting, 10)
        waiting = asyncio.create_task(layer.receive(name))
    assert await asyncio.wait_for(_resent(waiting, other, name), 10) == SAY


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
    make_layer: Make, confirmation: Confirmation, victim: int
) -> None:
    """In the very tick in which both have joined: what the other one was told stays true."""
    layer = make_layer("pubsub")
    channel = await layer.new_channel()
    joining = [asyncio.create_task(layer.group_add("room", channel)) for _ in range(2)]
    confirmation.at("just after", joining[victim].cancel)
    await asyncio.wait(joining)
    assert [task.cancelled() for task in joining] == [victim == 0, victim == 1]
    await layer.group_send("room", SAY)
    assert await receive_until_marker(layer, channel) == [SAY]


async def test_if_all_concurrent_joins_are_cancelled_the_channel_is_not_a_member(
    make_layer: Make, confirmation: Confirmation
) -> None:
    """Also in the very tick in which they have."""
    layer = make_layer("pubsub")
    channel = await layer.new_channel()
    joining = [asyncio.create_task(layer.group_add("room", channel)) for _ in range(2)]
    confirmation.at("just after", lambda: [task.cancel() for task in joining])
    await asyncio.wait(joining)
    assert all(task.cancelled() for task in joining)
    assert layer.groups == {}
    await layer.group_send("room", SAY)
    assert await receive_until_marker(layer, channel) == []


async def test_a_join_that_failed_ends_no_older_membership(make_layer: Make, server: Any) -> None:
    """The loop's connections had ended, and what it was in is being joined again."""
    with Proxy(server.host, server.port) as proxy:
        layer = make_layer("pubsub", hosts=[proxy.url], connect_wait_s=0.3)
        other = make_layer("pubsub")
        channel = await until_connected(layer.new_channel)
        await layer.group_add("room", channel)
        await layer._sessions.aclose()
        proxy.refuse()
        waiting = asyncio.create_task(layer.receive(channel))
        with pytest.raises(ConnectionLost):
            await layer.group_add("room", channel)
        proxy.resume()
        await wait_for(lambda: list(layer.groups.values()) == [{channel}])
        await other.group_send("room", SAY)
        assert await asyncio.wait_for(waiting, 10) == SAY


async def test_a_cancelled_first_receive_does_not_affect_other_receivers_of_the_channel(
    make_layer: Make, server: Any
) -> None:
    """Not from a ``group_add()`` that waits for the server as well, and has it in the end."""
    with Proxy(server.host, server.port) as proxy:
        layer = make_layer("pubsub", hosts=[proxy.url], connect_wait_s=20)
        channel = await layer.new_channel()
        await layer._sessions.aclose()
        proxy.refuse()
        receiving = asyncio.create_task(layer.receive(channel))
        joining = asyncio.create_task(layer.group_add("room", channel))
        await turns(3)
        receiving.cancel()
        await asyncio.wait({receiving})
        proxy.resume()
        await asyncio.wait_for(joining, 20)
        assert list(layer.groups.values()) == [{channel}]
