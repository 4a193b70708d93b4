"""The end comes at once: tasks are cancelled before they began, loops stop as messages come.

Python runs nothing of a coroutine that is cancelled before it has begun, no ``finally`` either.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from channels_redis._transport.reader import QueueReader
from channels_redis._transport.replies import Replies
from channels_redis.core import RedisChannelLayer
from channels_redis.testing.servers import ClusterSet
from tests.helpers import numbered, receive, wait_for

#: Tasks that live as long as they are needed, by a word of their names.
LONG_LIVED = ("reader", "multiplexer", "subscriber", "map of")


async def with_new_tasks_cancelled(operation: Coroutine[Any, Any, Any]) -> Any:
    """Run an operation, and cancel the first task of each kind before it has begun."""
    kinds = set(LONG_LIVED)
    known = asyncio.all_tasks()
    running = asyncio.create_task(operation)
    while not running.done():
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - known:
            known.add(task)
            kind = next((one for one in kinds if one in task.get_name()), None)
            if kind is not None and task.get_name().startswith("channels_redis"):
                kinds.discard(kind)
                task.cancel()
    assert kinds < set(LONG_LIVED), "nothing was cancelled"
    return await running


@pytest.mark.parametrize("place", ["single", "cluster"])
async def test_receivers_get_messages_although_tasks_were_cancelled_before_their_first_step(
    make_layer: Callable[..., Any], kind: str, place: str, request: pytest.FixtureRequest
) -> None:
    """As ``asyncio.run()`` does at its end, while consumers still leave their groups."""
    hosts = None
    if place == "cluster":
        hosts = [request.getfixturevalue("cluster_set").host_entry()]
    layer = make_layer(kind, **({"hosts": hosts} if hosts else {}))

    async def consume() -> Any:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_send("room", numbered(1))
        return await receive(layer, channel, timeout_s=5)

    assert await with_new_tasks_cancelled(consume()) == numbered(1)
    assert await consume() == numbered(1)


@pytest.mark.parametrize("channel", ["specific", "general"])
async def test_a_receiver_gets_messages_after_a_flush_in_the_iteration_of_its_first_receive(
    make_layer: Callable[..., Any], kind: str, channel: str
) -> None:
    """The reader is stopped before it has begun, and another one takes its place."""
    layer = make_layer(kind)
    name = await layer.new_channel() if channel == "specific" else "work"
    waiting = asyncio.ensure_future(layer.receive(name))
    flushing = asyncio.ensure_future(layer.flush())
    await flushing
    await layer.send(name, numbered(1))
    assert await asyncio.wait_for(waiting, 5) == numbered(1)


async def test_a_close_in_the_tick_in_which_a_server_left_leaves_nothing(
    make_layer: Callable[..., Any], cluster_set: ClusterSet, prefix: str
) -> None:
    """Of a cluster; whoever closes the layer closes that server's connection."""
    before = asyncio.all_tasks()
    layer = make_layer("core", hosts=[{**cluster_set.host_entry(), "client_name": prefix}])
    for number in range(12):
        await layer.send(f"work{number}", numbered(number))
    cluster = layer._sessions.get().backend(0)
    await wait_for(lambda: cluster.map._task.task is None)
    gone, *others = cluster.map.primaries
    cluster.map.primaries = tuple(others)
    cluster.map_changed()
    assert gone not in cluster._servers
    await layer.close()
    assert asyncio.all_tasks() == before

    def connected() -> bool:
        lists = [one.command("CLIENT", "LIST").decode() for one in cluster_set.primaries]
        return any(f"name={prefix}" in clients for clients in lists)

    await wait_for(lambda: not connected())


@pytest.fixture
def receiver_gone(monkeypatch: pytest.MonkeyPatch) -> dict[str, asyncio.Task[Any]]:
    """The task under the key ``"gone"`` is cancelled in the moment in which its message arrives."""
    tasks: dict[str, asyncio.Task[Any]] = {}
    deliver = QueueReader._hold_for_receivers

    def deliver_and_cancel(self: QueueReader, messages: Any) -> None:
        deliver(self, messages)
        if "gone" in tasks:
            tasks.pop("gone").cancel()

    monkeypatch.setattr(QueueReader, "_hold_for_receivers", deliver_and_cancel)
    return tasks


@pytest.mark.parametrize("end", ["before the task began", "before the connection stands"])
def test_what_goes_back_to_its_queue_as_the_loop_ends_gets_there(
    redis_url: str,
    prefix: str,
    layer_class: Callable[..., Any],
    receiver_gone: dict[str, asyncio.Task[Any]],
    end: str,
) -> None:
    """A worker's last act takes a while, or it has never sent anything before."""
    layer, sender = (layer_class(hosts=[redis_url], prefix=prefix) for _ in range(2))

    async def work() -> None:
        receiver_gone["gone"] = waiting = asyncio.ensure_future(layer.receive("work"))
        await asyncio.sleep(0.1)
        await sender.send("work", numbered(1))
        await asyncio.wait({waiting})
        assert waiting.cancelled()
        if end == "before the task began":
            time.sleep(0.2)
            return
        while not any("put back" in task.get_name() for task in asyncio.all_tasks()):
            await asyncio.sleep(0)

    async def work_again() -> Any:
        try:
            return await receive(layer, "work", timeout_s=5)
        finally:
            await layer.close()

    asyncio.run(work())
    assert asyncio.run(work_again()) == numbered(1)
    assert layer.stats().dropped == {}


@pytest.fixture
def stop_at_message(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A function after which the event loop stops so many turns after its next message came."""
    stop_after: list[int] = []
    data_received = Replies.data_received

    def stop(loop: asyncio.AbstractEventLoop, turns: int) -> None:
        if turns:
            loop.call_soon(stop, loop, turns - 1)
        else:
            loop.stop()

    def data_received_and_stop(self: Replies, data: bytes) -> None:
        data_received(self, data)
        if stop_after and b"specific" in data:
            stop(asyncio.get_running_loop(), stop_after.pop())

    monkeypatch.setattr(Replies, "data_received", data_received_and_stop)
    return stop_after.append


@pytest.mark.parametrize("turns", [0, 1, 2])
def test_a_message_that_arrived_as_its_loop_was_closed_bare_is_not_lost(
    redis_url: str, prefix: str, stop_at_message: Callable[[int], None], turns: int
) -> None:
    """Another loop of the process receives it."""
    pytest.importorskip("hiredis")
    layer, sender = (RedisChannelLayer(hosts=[redis_url], prefix=prefix) for _ in range(2))
    channel = asyncio.run(layer.new_channel())

    def send() -> None:
        stop_at_message(turns)
        sender.sync.send(channel, numbered(1))

    async def receive_and_close() -> Any:
        try:
            return await receive(layer, channel, timeout_s=5)
        finally:
            await layer.close()

    loop = asyncio.new_event_loop()
    abandoned = loop.create_task(layer.receive(channel))
    abandoned._log_destroy_pending = False  # type: ignore[attr-defined]  # see sync.rst
    loop.call_later(0.1, threading.Thread(target=send).start)
    loop.run_forever()
    loop.close()
    assert asyncio.run(receive_and_close()) == numbered(1)
    sender.sync.close()
