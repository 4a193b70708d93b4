"""The Pub/Sub layer: subscriptions are there when it says so, and idle ones cost nothing."""

from __future__ import annotations

import asyncio
import copy
import selectors
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from channels_redis.exceptions import ConnectionLost
from channels_redis.pubsub import RedisPubSubChannelLayer
from tests.helpers import cancel, numbered, receive, waiting
from tests.proxy import Proxy


async def test_a_message_sent_right_after_new_channel_arrives(
    make_layer: Callable[..., Any], proxy: Proxy
) -> None:
    """``new_channel()`` returns when the server has confirmed the subscription."""
    layer, sender = make_layer("pubsub", hosts=[proxy.url]), make_layer("pubsub")
    proxy.delay_s = 0.02
    for number in range(5):
        channel = await layer.new_channel()
        await sender.send(channel, numbered(number))
        assert await receive(layer, channel) == numbered(number)


async def test_a_message_sent_right_after_group_add_arrives(
    make_layer: Callable[..., Any], proxy: Proxy
) -> None:
    """``group_add()`` returns when the server has confirmed the subscription, for every joiner."""
    layer, sender = make_layer("pubsub", hosts=[proxy.url]), make_layer("pubsub")
    proxy.delay_s = 0.02
    channels = [await layer.new_channel() for _ in range(3)]

    async def join_and_hear_oneself(number: int) -> None:
        await layer.group_add("room", channels[number])
        await sender.group_send("room", numbered(number))
        while await receive(layer, channels[number]) != numbered(number):
            pass

    await asyncio.gather(*(join_and_hear_oneself(number) for number in range(3)))


async def test_joining_again_while_the_last_member_leaves_loses_nothing(
    make_layer: Callable[..., Any], proxy: Proxy
) -> None:
    """A join during a pending UNSUBSCRIBE waits for a subscription of its own."""
    layer, sender = make_layer("pubsub", hosts=[proxy.url]), make_layer("pubsub")
    channel = await layer.new_channel()
    proxy.delay_s = 0.01
    await layer.group_add("room", channel)
    for number in range(5):
        leaving = asyncio.create_task(layer.group_discard("room", channel))
        await asyncio.sleep(0)
        await layer.group_add("room", channel)
        await leaving
        await layer.group_add("room", channel)
        await sender.group_send("room", numbered(number))
        assert await receive(layer, channel) == numbered(number)


async def test_a_flush_strands_no_waiting_receiver(make_layer: Callable[..., Any]) -> None:
    """Whoever waits in ``receive()`` during ``flush()`` goes on and gets the next message."""
    layer, sender = make_layer("pubsub"), make_layer("pubsub")
    channel = await layer.new_channel()
    waits = [waiting(layer, channel), waiting(layer, "work")]
    await asyncio.sleep(0.05)
    await layer.flush()
    await sender.send(channel, numbered(1))
    await sender.send("work", numbered(2))
    assert await asyncio.wait_for(asyncio.gather(*waits), 10) == [numbered(1), numbered(2)]


async def test_sending_goes_on_while_a_subscriber_can_not_connect(
    make_layer: Callable[..., Any], proxy: Proxy
) -> None:
    """A stalled connect of the subscriber holds up no ``send`` and no ``group_send``."""
    layer, reader = make_layer("pubsub", hosts=[proxy.url]), make_layer("pubsub")
    channel = await reader.new_channel()
    await reader.group_add("room", channel)
    await layer.send(channel, numbered(0))
    proxy.stall_new()
    joining = asyncio.create_task(layer.new_channel())
    await asyncio.sleep(0.05)
    await asyncio.wait_for(layer.send(channel, numbered(1)), 2)
    await asyncio.wait_for(layer.group_send("room", numbered(2)), 2)
    assert not joining.done()
    assert [await receive(reader, channel) for _ in range(3)] == [numbered(n) for n in range(3)]
    proxy.resume()
    await cancel(joining)


async def test_sending_to_one_host_goes_on_while_another_is_stalled(
    make_layer: Callable[..., Any], proxy: Proxy, redis_url: str
) -> None:
    """The hosts of a ring are independent: one that answers nobody delays only its own."""
    layer = make_layer("pubsub", hosts=[proxy.url, redis_url])
    reader = make_layer("pubsub", hosts=[redis_url])
    channels = [await reader.new_channel() for _ in range(40)]
    proxy.stall()
    sends = [asyncio.create_task(layer.send(channel, numbered(1))) for channel in channels]
    try:
        hears = [asyncio.create_task(receive(reader, channel)) for channel in channels]
        heard, _ = await asyncio.wait(hears, timeout=1.5)
        assert 5 < len(heard) < 35, "half of the channels are on the host that works"
    finally:
        for task in sends + hears:
            await cancel(task)


class CountingSelector(selectors.DefaultSelector):
    """Counts how often the event loop was woken."""

    turns = 0

    def select(self, timeout: float | None = None) -> Any:
        self.turns += 1
        return super().select(timeout)


def test_an_idle_subscriber_sleeps_until_something_comes(redis_url: str, prefix: str) -> None:
    """Nobody polls: the loop of an idle process is hardly ever woken."""
    selector = CountingSelector()
    loop = asyncio.SelectorEventLoop(selector)

    async def be_idle() -> int:
        layer = RedisPubSubChannelLayer(hosts=[redis_url], prefix=prefix)
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        wait = waiting(layer, channel)
        await asyncio.sleep(0.1)
        before = selector.turns
        await asyncio.sleep(1)
        turns = selector.turns - before
        await cancel(wait)
        await layer.close()
        return turns

    try:
        turns = loop.run_until_complete(be_idle())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
    assert turns < 8


def test_everything_that_is_looked_at_works_outside_a_loop(redis_url: str, prefix: str) -> None:
    """Attributes, ``hasattr``, ``repr`` and copies need no running event loop."""
    layer = RedisPubSubChannelLayer(hosts=[redis_url], prefix=prefix)
    assert {"groups", "flush"} <= set(layer.extensions)
    assert not hasattr(layer, "no_such_thing")
    assert layer.prefix == copy.copy(layer).prefix == prefix
    assert len(layer.channels) == len(layer.groups) == 0
    assert repr(layer) and str(layer)


async def test_a_join_over_another_loop_whose_tasks_are_cancelled_raises_and_is_not_cancelled(
    make_layer: Callable[..., Any], proxy: Proxy
) -> None:
    """The end of the loop that receives a channel cancels its tasks, and nobody elsewhere."""
    layer = make_layer("pubsub", hosts=[proxy.url], connect_wait_s=30)

    async def cancel_all() -> None:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    with RunningLoop() as elsewhere:
        channel = await elsewhere.run(layer.new_channel())
        proxy.stall()
        joining = asyncio.create_task(layer.group_add("room", channel))
        while not joining.done():
            await elsewhere.run(cancel_all())
            await asyncio.sleep(0.01)
        assert not joining.cancelled()
        assert isinstance(joining.exception(), ConnectionLost)
        proxy.resume()
        await elsewhere.run(layer.close())


class RunningLoop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    async def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Await something there."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def __enter__(self) -> RunningLoop:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
