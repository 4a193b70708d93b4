"""How consumers with the mixin are shown messages: as Channels shows them, and in whose task."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from channels.exceptions import StopConsumer
from channels.generic.websocket import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    JsonWebsocketConsumer,
)
from channels.layers import channel_layers

from channels_redis.consumers import BroadcastMixin, broadcast
from channels_redis.testing.recording import recording
from tests.broadcast.client import Client
from tests.helpers import wait_for


class Room(BroadcastMixin, AsyncWebsocketConsumer):
    """Sends broadcasts, notes and echoes."""

    groups: ClassVar[list[str]] = ["room"]

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    @broadcast
    def room_all(cls, message: dict[str, Any]) -> str:
        return str(message["n"])

    async def room_note(self, message: dict[str, Any]) -> None:
        await self.send(text_data=str(message["n"]))

    async def room_work(self, message: dict[str, Any]) -> None:
        await self.gate.wait()
        await self.send(text_data=str(message["n"]))

    async def room_stop(self, message: dict[str, Any]) -> None:
        raise StopConsumer

    async def room_fail(self, message: dict[str, Any]) -> None:
        raise LookupError("of the test")

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data=f"echo {text_data}")

    async def disconnect(self, code: int) -> None:
        await self.send(text_data="disconnected")


def note(n: int) -> dict[str, Any]:
    return {"type": "room.note", "n": n}


def to_all(n: int) -> dict[str, Any]:
    return {"type": "room.all", "n": n}


async def heard(client: Client, *frames: str) -> None:
    """Wait for the last frame, and compare all."""
    await wait_for(lambda: frames[-1] in client.frames or client.task.done())
    assert client.frames == list(frames)


# Order


async def test_a_consumer_at_work_is_not_overtaken(layer: Any, join: Callable[..., Any]) -> None:
    """What comes while a handler runs is shown after it, in order; others do not wait."""
    busy, idle = await join(Room, 2)
    await layer.send(busy.consumer.channel_name, {"type": "room.work", "n": 1})
    await layer.group_send("room", to_all(2))
    await layer.group_send("room", note(3))
    await layer.group_send("room", to_all(4))
    await heard(idle, "2", "3", "4")
    assert busy.frames == []
    busy.consumer.gate.set()
    await heard(busy, "1", "2", "3", "4")


async def test_direct_and_group_messages_keep_their_order(
    layer: Any, join: Callable[..., Any]
) -> None:
    """More members than one portion, and messages of all kinds that follow each other."""
    clients = await join(Room, 250)
    last = clients[-1].consumer.channel_name
    await asyncio.gather(
        *(layer.group_send("room", to_all(n)) for n in (1, 2)),
    )
    await layer.send(last, note(3))
    await layer.group_send("room", to_all(4))
    await layer.group_send("room", note(5))
    await wait_for(lambda: all("5" in one.frames for one in clients))
    for one in clients[:-1]:
        assert sorted(one.frames[:2]) == ["1", "2"]
        assert one.frames[2:] == ["4", "5"]
    # Different servers may carry a direct message and a group's, but here it is one.
    assert sorted(clients[-1].frames) == ["1", "2", "3", "4", "5"]
    assert clients[-1].frames[-2:] == ["4", "5"]


async def test_a_slow_send_holds_up_its_own_consumer_only(
    layer: Any, join: Callable[..., Any]
) -> None:
    """The send() goes on in the consumer's task, and what comes next waits for it."""
    gate = asyncio.Event()

    async def slow(message: dict[str, Any]) -> None:
        if message.get("text") == "1":
            await gate.wait()

    (stuck,) = await join(Room, 1, slow)
    (free,) = await join(Room)
    for n in (1, 2):
        await layer.group_send("room", to_all(n))
    await layer.group_send("room", note(3))
    await heard(free, "1", "2", "3")
    assert stuck.frames == []
    gate.set()
    await heard(stuck, "1", "2", "3")


async def test_messages_of_the_client_and_of_the_channel_are_dispatched(
    layer: Any, join: Callable[..., Any]
) -> None:
    """Frames of the client are handled between messages of the channel."""
    (client,) = await join(Room)
    client.say("a")
    await heard(client, "echo a")
    await layer.group_send("room", to_all(1))
    await heard(client, "echo a", "1")
    client.say("b")
    await heard(client, "echo a", "1", "echo b")


# The consumer's own task and context


async def test_send_sees_the_task_and_the_context_of_its_consumer(
    layer: Any, join: Callable[..., Any]
) -> None:
    """As in Channels; what a send() sets, the consumer's handlers see."""
    user: contextvars.ContextVar[Any] = contextvars.ContextVar("user", default="nobody")
    seen: list[tuple[Any, Any]] = []

    class Seeing(Room):
        async def connect(self) -> None:
            user.set(self.channel_name)
            await super().connect()

        async def send(self, *args: Any, **kwargs: Any) -> None:
            seen.append((asyncio.current_task(), user.get()))
            user.set(f"{self.channel_name} who has sent")
            await super().send(*args, **kwargs)

        async def room_note(self, message: dict[str, Any]) -> None:
            seen.append((asyncio.current_task(), user.get()))

    clients = await join(Seeing, 2)
    await layer.group_send("room", to_all(1))
    await wait_for(lambda: len(seen) == 2)
    expected = [(one.task, one.consumer.channel_name) for one in clients]
    assert sorted(seen, key=str) == sorted(expected, key=str)
    seen.clear()
    await layer.group_send("room", note(2))
    await wait_for(lambda: len(seen) == 2)
    expected = [(one.task, f"{one.consumer.channel_name} who has sent") for one in clients]
    assert sorted(seen, key=str) == sorted(expected, key=str)


async def test_a_timeout_in_send_cancels_the_send(layer: Any, join: Callable[..., Any]) -> None:
    """asyncio.wait_for() in middleware works where the send() was begun elsewhere."""
    ended: list[str] = []

    async def never(message: dict[str, Any]) -> None:
        if message["type"] == "websocket.send" and message["text"] == "1":
            try:
                await asyncio.wait_for(asyncio.Event().wait(), 0.01)
            except asyncio.TimeoutError:
                ended.append("in time")

    (client,) = await join(Room, 1, never)
    await layer.group_send("room", to_all(1))
    await layer.group_send("room", to_all(2))
    await heard(client, "1", "2")
    assert ended == ["in time"]


async def test_a_cancelled_consumer_cancels_its_send(layer: Any, join: Callable[..., Any]) -> None:
    """As when it had begun in the consumer's task; at once, and a moment later."""
    for moments in (0, 5):
        waiting = asyncio.Event()
        told: list[str] = []

        async def stuck(
            message: dict[str, Any],
            waiting: asyncio.Event = waiting,
            told: list[str] = told,
            moments: int = moments,
        ) -> None:
            if message["type"] == "websocket.send":
                if not moments:
                    # Before the consumer's task has had its turn.
                    asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)  # type: ignore[union-attr]  # a task runs this
                waiting.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    told.append("cancelled")
                    raise

        (client,) = await join(Room, 1, stuck)
        await layer.group_send("room", to_all(1))
        await waiting.wait()
        for _ in range(moments):
            await asyncio.sleep(0)
        client.task.cancel()
        await asyncio.wait({client.task})
        assert client.task.cancelled()
        assert told == ["cancelled"]


# Ends


async def test_a_send_that_raises_ends_its_consumer_alone(
    layer: Any, join: Callable[..., Any]
) -> None:
    """Its own task raises; the others have the message."""

    async def broken(message: dict[str, Any]) -> None:
        if message["type"] == "websocket.send":
            raise LookupError("of the test")

    first, last = (await join(Room))[0], None
    (ill,) = await join(Room, 1, broken)
    (last,) = await join(Room)
    await layer.group_send("room", to_all(1))
    await heard(first, "1")
    await heard(last, "1")
    with pytest.raises(LookupError, match="of the test"):
        await asyncio.wait_for(ill.task, 30)
    await layer.group_send("room", to_all(2))
    await heard(first, "1", "2")


async def test_a_client_that_has_gone_is_told_of_first(
    layer: Any, join: Callable[..., Any]
) -> None:
    """A server's send() raises before the disconnect that it has queued was seen."""

    class Gone(Room):
        async def disconnect(self, code: int) -> None:
            self.code = code

    clients: list[Client] = []

    async def gone(message: dict[str, Any]) -> None:
        if message["type"] == "websocket.send":
            clients[0].hang_up()
            raise OSError("ClientDisconnected")

    clients += await join(Gone, 1, gone)
    await layer.group_send("room", to_all(1))
    await asyncio.wait_for(clients[0].task, 30)
    assert clients[0].consumer.code == 1001


async def test_the_end_of_a_client_is_shown_before_a_broadcast(
    layer: Any, join: Callable[..., Any]
) -> None:
    """What the server has queued comes first, as in Channels."""
    (client,) = await join(Room)
    (other,) = await join(Room)
    client.hang_up()
    await layer.group_send("room", to_all(1))
    await heard(other, "1")
    await asyncio.wait_for(client.task, 30)
    assert client.frames == ["disconnected"]


async def test_stop_consumer_and_failures_end_as_in_channels(
    any_layer: Any, join: Callable[..., Any]
) -> None:
    """StopConsumer is a quiet end; what else a handler raises is the task's."""
    stopped, failed, unknown, client = await join(Room, 4)
    await any_layer.send(stopped.consumer.channel_name, {"type": "room.stop"})
    await any_layer.send(failed.consumer.channel_name, {"type": "room.fail"})
    await any_layer.send(unknown.consumer.channel_name, {"type": "room.unknown"})
    await asyncio.wait_for(stopped.task, 30)
    with pytest.raises(LookupError):
        await asyncio.wait_for(failed.task, 30)
    with pytest.raises(ValueError, match="No handler for message type"):
        await asyncio.wait_for(unknown.task, 30)
    await client.leave()
    assert client.frames == ["disconnected"]


async def test_the_end_of_a_consumer_leaves_nothing(layer: Any, join: Callable[..., Any]) -> None:
    """No sink, no waiter, no task."""
    clients = await join(Room, 3)
    await layer.group_send("room", to_all(1))
    await wait_for(lambda: all(one.frames for one in clients))
    clients[0].task.cancel()
    await asyncio.wait({clients[0].task})
    for one in clients[1:]:
        await one.leave()
    assert layer._mailboxes.sinks == 0
    assert layer.stats().waiting == 0
    tasks = [one for one in asyncio.all_tasks() if "Queue.get" in repr(one.get_coro())]
    assert tasks == []


async def test_closing_the_layer_ends_consumers_as_in_channels(
    layer: Any, join: Callable[..., Any]
) -> None:
    """receive() would have raised LayerClosed, and so does the consumer."""
    from channels_redis.exceptions import LayerClosed

    (client,) = await join(Room)
    await layer.close()
    with pytest.raises(LayerClosed):
        await asyncio.wait_for(client.task, 30)


async def test_a_consumer_goes_on_after_a_flush(layer: Any, join: Callable[..., Any]) -> None:
    """It hears direct messages, and groups that it joins again."""
    (client,) = await join(Room)
    await layer.flush()
    name = client.consumer.channel_name
    await layer.send(name, note(1))
    await heard(client, "1")
    await layer.group_add("room", name)
    await layer.group_send("room", to_all(2))
    await heard(client, "1", "2")


async def test_a_consumer_opens_its_mailbox_again(layer: Any, join: Callable[..., Any]) -> None:
    """Where the layer has ended it, it is received on anew, and nothing stays of the first one."""
    (client,) = await join(Room)
    name = client.consumer.channel_name
    layer._mailboxes.discard(layer._mailboxes.boxes[name])
    await wait_for(lambda: name in layer._mailboxes.boxes)
    await layer.send(name, note(1))
    await heard(client, "1")
    await layer.send(name, to_all(2))
    await heard(client, "1", "2")
    await client.leave()
    assert layer._mailboxes.sinks == 0


async def test_deliveries_to_idle_consumers_are_counted(
    layer: Any, join: Callable[..., Any]
) -> None:
    """The statistics do not tell how a message was delivered."""
    clients = await join(Room, 3)
    before = layer.stats().delivered
    await layer.group_send("room", to_all(1))
    await wait_for(lambda: all(one.frames for one in clients))
    assert layer.stats().delivered == before + 3
    assert layer.stats().buffered == 0


# Classes with ways of their own


class Dispatching(Room):
    """Has a dispatch() of its own."""

    made: ClassVar[list[Any]] = []

    def __init__(self) -> None:
        super().__init__()
        self.dispatched: list[str] = []

    @broadcast
    def room_all(cls, message: dict[str, Any]) -> str:
        cls.made.append(message)
        return str(message["n"])

    async def dispatch(self, message: dict[str, Any]) -> None:
        self.dispatched.append(message["type"])
        await super().dispatch(message)


async def test_dispatch_of_the_class_sees_every_message(
    any_layer: Any, join: Callable[..., Any]
) -> None:
    """Broadcasts too; on our layers the handler is still called once."""
    Dispatching.made.clear()
    clients = await join(Dispatching, 3)
    await any_layer.group_send("room", to_all(1))
    await any_layer.group_send("room", note(2))
    for one in clients:
        await heard(one, "1", "2")
        assert one.consumer.dispatched == ["websocket.connect", "room.all", "room.note"]
    assert len(Dispatching.made) == (1 if hasattr(any_layer, "stats") else 3)


async def test_dispatch_of_a_sync_class_sees_every_message(
    any_layer: Any, join: Callable[..., Any]
) -> None:
    """In its thread, as in Channels."""

    class Sync(BroadcastMixin, JsonWebsocketConsumer):
        groups: ClassVar[list[str]] = ["room"]
        dispatched: ClassVar[list[Any]] = []

        @broadcast
        def room_all(cls, message: dict[str, Any]) -> str:
            return str(message["n"])

        def dispatch(self, message: dict[str, Any]) -> Any:
            self.dispatched.append(message["type"])
            return super().dispatch(message)

    (client,) = await join(Sync)
    await any_layer.group_send("room", to_all(1))
    await heard(client, "1")
    assert Sync.dispatched == ["websocket.connect", "room.all"]


async def test_call_of_the_class_is_called(any_layer: Any, join: Callable[..., Any]) -> None:
    """A class may wrap its whole life."""

    class Calling(Room):
        called: ClassVar[list[str]] = []

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            self.called.append(scope["type"])
            await super().__call__(scope, receive, send)

    (client,) = await join(Calling)
    await any_layer.group_send("room", to_all(1))
    await any_layer.group_send("room", note(2))
    await heard(client, "1", "2")
    assert Calling.called == ["websocket"]


async def test_send_of_the_class_is_called(layer: Any, join: Callable[..., Any]) -> None:
    """Whether it is a coroutine function, or blocks in its thread."""
    threads: list[Any] = []

    class Loud(Room):
        async def send(self, text_data: Any = None, bytes_data: Any = None, **kw: Any) -> None:
            await super().send(text_data=f"{text_data}!")

    class SyncLoud(BroadcastMixin, JsonWebsocketConsumer):
        groups: ClassVar[list[str]] = ["room"]

        @broadcast
        def room_all(cls, message: dict[str, Any]) -> str:
            return str(message["n"])

        def send(self, text_data: Any = None, bytes_data: Any = None, close: Any = False) -> None:
            threads.append(threading.current_thread())
            super().send(text_data=f"{text_data}?")

    (loud,), (sync,) = await join(Loud), await join(SyncLoud)
    await layer.group_send("room", to_all(1))
    await heard(loud, "1!")
    await heard(sync, "1?")
    assert threading.main_thread() not in threads


async def test_a_sync_consumer_needs_no_thread_for_a_broadcast(
    layer: Any, join: Callable[..., Any]
) -> None:
    """Its clients are served while the only thread for synchronous code is busy."""
    busy = threading.Event()

    class Sync(BroadcastMixin, JsonWebsocketConsumer):
        groups: ClassVar[list[str]] = ["room"]

        @broadcast
        def room_all(cls, message: dict[str, Any]) -> dict[str, Any]:
            return {"n": message["n"]}

        def room_block(self, message: dict[str, Any]) -> None:
            blocking.set()
            busy.wait(60)

    blocking = threading.Event()
    first, second = await join(Sync, 2)
    try:
        await layer.send(first.consumer.channel_name, {"type": "room.block"})
        await wait_for(blocking.is_set)
        await layer.group_send("room", to_all(1))
        await wait_for(lambda: second.contents == [{"n": 1}])
        assert first.contents == []
    finally:
        busy.set()
    await wait_for(lambda: first.contents == [{"n": 1}])


async def test_a_receive_that_somebody_overrides_is_called(
    layer: Any, join: Callable[..., Any]
) -> None:
    """Of a wrapped layer, a subclass, or a patched object."""
    received: list[Any] = []
    original = layer.receive

    async def receive(channel: str) -> Any:
        message = await original(channel)
        received.append(message["type"])
        return message

    layer.receive = receive
    (client,) = await join(Room)
    await layer.group_send("room", to_all(1))
    await heard(client, "1")
    assert received == ["room.all"]


async def test_a_recording_layer_works(layer: Any, join: Callable[..., Any]) -> None:
    """The layer of the testing tools is one of ours inside."""
    with recording() as recorder:
        (client,) = await join(Room)
        await recorder.group_send("room", to_all(1))
        await heard(client, "1")
        client.task.cancel()
        await asyncio.wait({client.task})
    recorder.assert_group_sent("room", type="room.all")


async def test_messages_of_the_client_are_dispatched_without_a_layer(
    join: Callable[..., Any],
) -> None:
    """A consumer may have no channel layer at all."""

    class Alone(BroadcastMixin, AsyncJsonWebsocketConsumer):
        channel_layer_alias = "nothing"

        async def receive_json(self, content: Any, **kwargs: Any) -> None:
            await self.send_json(content)

    assert "nothing" not in channel_layers.backends
    (client,) = await join(Alone)
    client.say("[1]")
    await heard(client, "[1]")
