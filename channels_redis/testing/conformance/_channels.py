"""What is expected of channels."""

from __future__ import annotations

import asyncio
from typing import Any

from channels.exceptions import ChannelFull

from ._running import (
    EXPIRED_S,
    MESSAGE,
    RICH,
    Conformance,
    Make,
    expected,
    numbered,
    on_a_loop,
    receive,
    refuses,
)


class Channels(Conformance):
    """Sending and receiving."""

    @on_a_loop
    async def test_a_message_arrives_as_it_was_sent(self, make: Make) -> None:
        """Text, bytes, numbers, ``None``, booleans, lists and dicts."""
        layer = make()
        channel = await layer.new_channel()
        await layer.send(channel, RICH)
        assert await receive(layer, channel) == RICH

    @on_a_loop
    async def test_a_message_may_come_before_or_after_receive(self, make: Make) -> None:
        """It waits for its receiver, and a receiver for it."""
        layer = make()
        channel = await layer.new_channel()
        await layer.send(channel, numbered(1))
        assert await receive(layer, channel) == numbered(1)
        waiting = asyncio.create_task(layer.receive(channel))
        await asyncio.sleep(0.05)
        await layer.send(channel, numbered(2))
        assert await waiting == numbered(2)

    @on_a_loop
    async def test_messages_of_a_channel_keep_their_order(self, make: Make) -> None:
        """First in, first out, for one sender."""
        layer = make()
        channel = await layer.new_channel()
        for number in range(50):
            await layer.send(channel, numbered(number))
        assert [await receive(layer, channel) for _ in range(50)] == [*map(numbered, range(50))]

    @on_a_loop
    async def test_another_process_can_send(self, make: Make) -> None:
        """A name from ``new_channel()`` is an address for everybody."""
        here, there = make(), make()
        channel = await here.new_channel()
        await there.send(channel, MESSAGE)
        assert await receive(here, channel) == MESSAGE

    @on_a_loop
    async def test_each_new_channel_is_another(self, make: Make) -> None:
        """Names are valid, and never given twice."""
        layers = make(), make()
        names = [await layer.new_channel() for layer in layers for _ in range(20)]
        assert len(set(names)) == 40
        assert all(isinstance(name, str) and len(name) < 100 for name in names)

    @on_a_loop
    async def test_each_message_to_workers_is_received_once(self, make: Make) -> None:
        """Several processes that receive on one general channel share its messages."""
        sender, workers = make(), [make(), make()]
        got: list[Any] = []

        async def work(worker: Any) -> None:
            while True:
                got.append(await worker.receive("test-work"))

        tasks = [asyncio.create_task(work(worker)) for worker in workers]
        await asyncio.sleep(0.3)
        for number in range(20):
            await sender.send("test-work", numbered(number))
        for _ in range(250):
            if len(got) < 20:
                await asyncio.sleep(0.02)
        # A second copy would come as fast as the first.
        await asyncio.sleep(0.3)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert sorted(message["number"] for message in got) == [*range(20)]

    @on_a_loop
    async def test_work_waits_for_its_worker(self, make: Make) -> None:
        """A message to a general channel may be sent before any process receives on it."""
        layer = make()
        await layer.send("test-later", MESSAGE)
        assert await receive(layer, "test-later") == MESSAGE

    @on_a_loop
    async def test_a_senders_dict_stays_his_own(self, make: Make) -> None:
        """Neither sending nor a receiver changes it; what he does later to it is not sent."""
        layer = make()
        channel = await layer.new_channel()
        message = {"type": "test.list", "list": [1]}
        await layer.send(channel, message)
        assert message == {"type": "test.list", "list": [1]}
        message["list"] = [2]
        received = await receive(layer, channel)
        assert received == {"type": "test.list", "list": [1]}
        received["list"].append(3)
        assert message["list"] == [2]

    @on_a_loop
    async def test_wrong_names_are_refused(self, make: Make) -> None:
        """Of channels and groups: other signs, too long, no text."""
        layer = make()
        channel = await layer.new_channel()
        for name in ["not a name", "sl/ash", "x" * 200, "", None, 5]:
            assert await refuses(layer.send(name, MESSAGE)), f"send to {name!r}"
            assert await refuses(layer.receive(name)), f"receive on {name!r}"
            assert await refuses(layer.group_add(name, channel)), f"group_add to {name!r}"
            assert await refuses(layer.group_send(name, MESSAGE)), f"group_send to {name!r}"

    @on_a_loop
    async def test_a_message_that_is_no_dict_is_refused(self, make: Make) -> None:
        """By ``send()`` to a consumer and by ``group_send()``."""
        layer = make()
        channel = await layer.new_channel()
        for message in [["a", "list"], 5, None]:
            assert await refuses(layer.send(channel, message))
            assert await refuses(layer.group_send("test-group", message))


class Bounds(Conformance):
    """Capacity and expiry."""

    @on_a_loop
    async def test_a_full_channel_of_workers_is_an_error_for_its_sender(self, make: Make) -> None:
        """``ChannelFull`` at ``capacity`` messages that nobody has read."""
        layer = make(capacity=3)
        for number in range(3):
            await layer.send("test-full", numbered(number))
        with expected(ChannelFull):
            await layer.send("test-full", numbered(3))
        assert await receive(layer, "test-full") == numbered(0)

    @on_a_loop
    async def test_a_full_channel_of_a_consumer_is_an_error_for_its_sender(
        self, make: Make
    ) -> None:
        """The same for a channel of ``new_channel()``."""
        layer = make(capacity=3)
        channel = await layer.new_channel()
        for number in range(3):
            await layer.send(channel, numbered(number))
        with expected(ChannelFull):
            await layer.send(channel, numbered(3))

    @on_a_loop
    async def test_capacity_can_be_set_for_some_channels(self, make: Make) -> None:
        """``channel_capacity`` by glob."""
        layer = make(capacity=10, channel_capacity={"test-small*": 1})
        await layer.send("test-small-one", MESSAGE)
        with expected(ChannelFull):
            await layer.send("test-small-one", MESSAGE)
        for _ in range(5):
            await layer.send("test-large", MESSAGE)

    @on_a_loop
    async def test_an_expired_message_is_not_received(self, make: Make) -> None:
        """One that nobody has read for ``expiry`` seconds."""
        layer = make(expiry=1)
        await layer.send("test-old", numbered(1))
        await asyncio.sleep(EXPIRED_S)
        await layer.send("test-old", numbered(2))
        assert await receive(layer, "test-old") == numbered(2)
