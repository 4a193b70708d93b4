"""What a Django project may expect of any channel layer, as a class of tests to inherit.

::

    class TestMyLayer(ChannelLayerConformance):
        def new_layer(self, **options):
            return MyLayer(prefix=self.unique, **options)

The tests are plain methods, each on an event loop of its own, for pytest or any other runner.
Needs nothing but Channels, and may be read from its file where this package is not installed.
Most tests stand for a sentence of the Channels specification; those of the last part stand for
what consumers and workers rely on without its saying so.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import unittest
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar

from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull

Make = Callable[..., Any]
Test = Callable[[Any], None]

MESSAGE = {"type": "test.message", "text": "hello"}
MARKER = {"type": "test.marker"}
RICH = {
    "type": "test.rich",
    "text": "h\u00e9llo \u2713",
    "bytes": b"\x00\xff",
    "numbers": [0, -5, 2**53, 1.5],
    "nothing": None,
    "yes": True,
    "nested": {"list": [1, ["a", {}]], "empty": []},
}
#: Seconds that make sure that ``expiry=1`` has passed, also where whole seconds are counted.
EXPIRED_S = 2.2


def numbered(number: int) -> dict[str, Any]:
    """Return a message that is not like the others."""
    return {"type": "test.numbered", "number": number}


def on_a_loop(body: Callable[[Any, Make], Awaitable[None]]) -> Test:
    """Make a test of a coroutine function that gets a maker of layers; they are closed at the
    end.  A known deviation has to show, and counts as skipped.
    """

    def test(self: ChannelLayerConformance) -> None:
        reason = self.deviations.get(test.__name__)
        try:
            asyncio.run(self._bounded(body))
        except (Exception, asyncio.CancelledError) as error:
            if reason is None or isinstance(error, unittest.SkipTest):
                raise
            raise unittest.SkipTest(reason) from error
        if reason is not None:
            raise AssertionError(f"The deviation is gone: {reason}")

    # Not functools.wraps: pytest would look for a fixture that is called as the parameter.
    test.__name__, test.__doc__ = body.__name__, body.__doc__
    test.__qualname__, test.__module__ = body.__qualname__, body.__module__
    return test


async def receive(layer: Any, channel: str) -> Any:
    """Receive one message; the bound of the test ends the wait for one that never comes."""
    return await layer.receive(channel)


async def receive_until_marker(layer: Any, channel: str, sender: Any = None) -> list[Any]:
    """Return what comes before a marker that is sent now: all that was sent before."""
    await (sender or layer).send(channel, MARKER)
    messages = []
    while (message := await receive(layer, channel)) != MARKER:
        messages.append(message)
    return messages


async def refuses(call: Awaitable[Any]) -> bool:
    """Tell whether a call raises for what it was given."""
    try:
        await call
    except (TypeError, ValueError, AssertionError):
        return True
    return False


async def receives_nothing(layer: Any, channel: str) -> bool:
    """Tell whether there is nothing for a channel, which the layer may have forgotten."""
    try:
        await asyncio.wait_for(layer.receive(channel), 0.3)
    except (asyncio.TimeoutError, LookupError, RuntimeError):
        return True
    return False


class ChannelLayerConformance:
    """Inherit from it, define :meth:`new_layer`, and run it.

    ``deviations`` holds the tests that the layer is known not to pass, with the reason; such a
    test is skipped with it, and fails when it passes.  A test that does not end within
    ``bound_s`` seconds fails.
    """

    deviations: ClassVar[Mapping[str, str]] = {}
    bound_s: ClassVar[float] = 15.0

    def new_layer(self, **options: Any) -> Any:
        """Return a new layer with these of the options ``capacity``, ``channel_capacity``,
        ``expiry`` (seconds) and ``group_expiry`` (seconds).

        All layers of one test reach each other, as if each were of a process of its own, and
        none of another test: see :attr:`unique`.
        """
        raise NotImplementedError("Define new_layer(self, **options).")

    @cached_property
    def unique(self) -> str:
        """A text for this test alone: letters and digits, to make a prefix of."""
        return f"test{secrets.token_hex(6)}"

    async def _bounded(self, body: Callable[[Any, Make], Awaitable[None]]) -> None:
        layers = []

        def make(**options: Any) -> Any:
            layers.append(self.new_layer(**options))
            return layers[-1]

        try:
            await asyncio.wait_for(body(self, make), self.bound_s)
        except asyncio.TimeoutError:
            raise AssertionError(f"It did not end within {self.bound_s:g} s.") from None
        finally:
            for layer in layers:
                close = getattr(layer, "close", None) or getattr(layer, "close_pools", None)
                if close is not None:
                    await close()

    # Channels

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

    # Capacity and expiry

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

    # Groups

    @on_a_loop
    async def test_every_member_of_a_group_gets_a_copy(self, make: Make) -> None:
        """The sender too, if he is one."""
        layer = make()
        channels = [await layer.new_channel() for _ in range(5)]
        for channel in channels:
            await layer.group_add("test-group", channel)
        await layer.group_send("test-group", MESSAGE)
        for channel in channels:
            assert await receive_until_marker(layer, channel) == [MESSAGE]

    @on_a_loop
    async def test_a_group_has_members_in_all_processes(self, make: Make) -> None:
        """And any process sends to it."""
        layers = make(), make()
        members = [(layer, await layer.new_channel()) for layer in layers for _ in range(2)]
        for layer, channel in members:
            await layer.group_add("test-group", channel)
        await make().group_send("test-group", MESSAGE)
        for layer, channel in members:
            assert await receive(layer, channel) == MESSAGE

    @on_a_loop
    async def test_members_share_no_object(self, make: Make) -> None:
        """What one consumer does to his message, others don't see."""
        layer = make()
        channels = [await layer.new_channel() for _ in range(3)]
        for channel in channels:
            await layer.group_add("test-group", channel)
        await layer.group_send("test-group", {"type": "test.list", "list": []})
        for channel in channels:
            message = await receive(layer, channel)
            assert message == {"type": "test.list", "list": []}
            message["list"].append(1)
            message["new"] = 1

    @on_a_loop
    async def test_who_has_left_a_group_gets_nothing(self, make: Make) -> None:
        """And the others do; to leave a group that one is not in is no error."""
        layer = make()
        stays, leaves = await layer.new_channel(), await layer.new_channel()
        for channel in (stays, leaves):
            await layer.group_add("test-group", channel)
        await layer.group_discard("test-group", leaves)
        await layer.group_discard("test-group", leaves)
        await layer.group_send("test-group", MESSAGE)
        assert await receive(layer, stays) == MESSAGE
        assert await receive_until_marker(layer, leaves) == []

    @on_a_loop
    async def test_joining_twice_brings_one_copy(self, make: Make) -> None:
        """``group_add()`` is idempotent."""
        layer = make()
        channel = await layer.new_channel()
        for _ in range(2):
            await layer.group_add("test-group", channel)
        await layer.group_send("test-group", MESSAGE)
        assert await receive_until_marker(layer, channel) == [MESSAGE]

    @on_a_loop
    async def test_a_message_to_nobody_is_no_error(self, make: Make) -> None:
        """A group without members."""
        await make().group_send("test-nobody", MESSAGE)

    @on_a_loop
    async def test_a_full_member_is_no_error_for_the_sender(self, make: Make) -> None:
        """``group_send()`` skips it or drops for it, and the others get their copies."""
        layer = make(capacity=2)
        full, free = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("test-group", full)
        await layer.group_add("test-group", free)
        for number in range(6):
            await layer.group_send("test-group", numbered(number))
            assert await receive(layer, free) == numbered(number)

    @on_a_loop
    async def test_memberships_end_after_group_expiry(self, make: Make) -> None:
        """Of consumers that have gone without leaving."""
        layer = make(group_expiry=1, expiry=1)
        gone = await layer.new_channel()
        await layer.group_add("test-group", gone)
        await asyncio.sleep(EXPIRED_S)
        new = await layer.new_channel()
        await layer.group_add("test-group", new)
        await layer.group_send("test-group", MESSAGE)
        assert await receive(layer, new) == MESSAGE
        assert await receives_nothing(layer, gone)

    # Flushing

    @on_a_loop
    async def test_flush_forgets_messages_and_groups(self, make: Make) -> None:
        """And the layer works as before."""
        layer = make()
        channel = await layer.new_channel()
        await layer.group_add("test-group", channel)
        await layer.send(channel, numbered(1))
        await layer.flush()
        await layer.group_send("test-group", numbered(2))
        assert await receives_nothing(layer, channel)
        channel = await layer.new_channel()
        await layer.group_add("test-group", channel)
        await layer.group_send("test-group", MESSAGE)
        assert await receive(layer, channel) == MESSAGE

    # What is relied on

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


@contextlib.contextmanager
def expected(error: type[Exception]) -> Iterator[None]:
    """Fail unless the block raises ``error``."""
    try:
        yield
    except error:
        return
    raise AssertionError(f"{error.__name__} was not raised")
