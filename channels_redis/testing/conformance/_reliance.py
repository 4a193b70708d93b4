"""What consumers and workers rely on, though the specification does not say it."""

from __future__ import annotations

import asyncio
import contextlib
import unittest
from typing import Any

from asgiref.sync import async_to_sync

from ._running import MESSAGE, Conformance, Make, numbered, on_a_loop


class Reliance(Conformance):
    """Cancelling, crowds, threads, event loops."""

    @on_a_loop
    async def test_cancelling_receive_loses_nothing(self, make: Make) -> None:
        """Consumers and workers wait for messages beside other things, again and again."""
        layer = make()
        channel = await layer.new_channel()
        got: list[Any] = []

        async def collect() -> None:
            while len(got) < 100:
                with contextlib.suppress(asyncio.TimeoutError):
                    got.append(await asyncio.wait_for(layer.receive(channel), 0.003))

        collecting = asyncio.create_task(collect())
        for number in range(100):
            await layer.send(channel, numbered(number))
            await asyncio.sleep(0.002)
        await asyncio.wait_for(collecting, 5)
        assert got == [*map(numbered, range(100))]

    @on_a_loop
    async def test_many_consumers_may_wait_at_once(self, make: Make) -> None:
        """Each gets what is sent to it, and nothing else."""
        layer = make()
        channels = [await layer.new_channel() for _ in range(100)]
        waiting = [asyncio.create_task(layer.receive(channel)) for channel in channels]
        await asyncio.sleep(0.05)
        for number, channel in enumerate(channels):
            await layer.send(channel, numbered(number))
        assert await asyncio.gather(*waiting) == [*map(numbered, range(100))]

    @on_a_loop
    async def test_a_thread_wakes_a_consumer(self, make: Make) -> None:
        """``async_to_sync(layer.group_send)`` in a view, on the layer object of the process."""
        layer = make()
        channel = await layer.new_channel()
        await layer.group_add("test-group", channel)
        waiting = asyncio.create_task(layer.receive(channel))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(async_to_sync(layer.group_send), "test-group", MESSAGE)
        assert await waiting == MESSAGE

    def test_one_event_loop_receives_what_another_sent(self) -> None:
        """Scripts and tests call ``asyncio.run()`` or ``async_to_sync`` more than once."""
        reason = self.deviations.get("test_one_event_loop_receives_what_another_sent")
        if reason is not None:
            raise unittest.SkipTest(reason)
        layer = self.new_layer()

        async def receives() -> Any:
            return await asyncio.wait_for(layer.receive("test-loops"), self.bound_s)

        for number in range(3):
            async_to_sync(layer.send)("test-loops", numbered(number))
        assert [async_to_sync(receives)() for _ in range(3)] == [*map(numbered, range(3))]
