"""Events, timings and log records: what those hear who ask to be told."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from channels_redis.events import GroupOverCapacity, MessagesDropped, NodeBack, NodeLost, Operation
from channels_redis.exceptions import ConnectionLost
from channels_redis.testing.servers import RedisServer
from tests.helpers import receive, wait_for

MESSAGE = {"type": "test"}
Make = Callable[..., Any]


async def test_event_callbacks_are_called_for_an_outage_and_its_end(
    make_layer: Make, kind: str, private_server: RedisServer
) -> None:
    """One event for the loss, with the reason, and one for the return, with the seconds."""
    layer = make_layer(kind, hosts=[private_server.url])
    events: list[Any] = []
    layer.on_event(events.append)
    channel = await layer.new_channel()
    waiting = asyncio.create_task(layer.receive(channel))
    await layer.send(channel, MESSAGE)
    await waiting
    waiting = asyncio.create_task(layer.receive(channel))
    await asyncio.to_thread(private_server.stop)
    await wait_for(lambda: events)
    await asyncio.to_thread(private_server.start)
    await wait_for(lambda: len(events) > 1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    lost, back = events
    assert isinstance(lost, NodeLost)
    assert lost.reason
    assert isinstance(back, NodeBack)
    assert back.outage_s > 0
    assert lost.node == back.node == f"{private_server.host}:{private_server.port}"


async def test_event_callbacks_are_called_for_drops_and_full_queues(make_layer: Make) -> None:
    """Each drop is an event, also those that only a summary of the log tells."""
    layer = make_layer("core", capacity=1)
    events: list[Any] = []
    layer.on_event(events.append)
    await layer.group_add("room", "work")
    await layer.send("work", MESSAGE)
    await layer.group_send("room", MESSAGE)
    assert events == [GroupOverCapacity("room", 1, 1)]
    buffer = layer.receive_buffer[await layer.new_channel()]
    for _ in range(3):
        buffer.put_nowait(MESSAGE)
    assert [type(event) for event in events[1:]] == [MessagesDropped] * 2
    assert {event.reason for event in events[1:]} == {"capacity"}


async def test_a_removed_callback_is_not_called_and_others_still_are(
    make_layer: Make, kind: str
) -> None:
    """The same callback may be there twice; each subscription ends by itself, once."""
    layer = make_layer(kind)
    heard: list[str] = []
    ends = [layer.on_operation(lambda operation: heard.append(operation.name)) for _ in range(2)]
    await layer.send("work", MESSAGE)
    ends[0]()
    ends[0]()
    await layer.send("work", MESSAGE)
    ends[1]()
    await layer.send("work", MESSAGE)
    assert heard == ["send"] * 3


async def test_a_hook_that_raises_has_no_other_effect(
    make_layer: Make, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What it raises is logged; the operation and the other hooks go on."""
    layer = make_layer(kind)
    heard: list[Operation] = []

    def fail(operation: Operation) -> None:
        raise RuntimeError("not mine")

    layer.on_operation(fail)
    layer.on_operation(heard.append)
    await layer.send("work", MESSAGE)
    assert [one.name for one in heard] == ["send"]
    assert "not mine" in caplog.text


def test_a_hook_that_always_fails_floods_no_log(
    layer_class: type[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """One traceback in a minute, and all events for the others."""
    layer = layer_class()
    heard: list[Any] = []
    layer.on_event(lambda event: 1 / 0)
    layer.on_event(heard.append)
    for _ in range(100):
        layer._report(MessagesDropped("work", "expired"))
    assert len(heard) == 100
    assert len(caplog.records) == 1
    assert "ZeroDivisionError" in caplog.text


def test_thousands_of_groups_over_capacity_flood_no_log(
    layer_class: type[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """One record for each group in a minute, and a thousand for all of them."""
    caplog.set_level(logging.INFO)
    layer = layer_class()
    for _ in range(3):
        for number in range(1500):
            layer._report(GroupOverCapacity(f"room{number}", 1, 2))
    assert len({record.getMessage() for record in caplog.records}) == len(caplog.records) == 1000


def test_what_is_no_callback_is_refused_at_once(layer_class: type[Any]) -> None:
    """Not at the first outage, three weeks later."""
    with pytest.raises(TypeError, match="callable"):
        layer_class().on_event("print")


async def test_operations_are_timed_with_how_they_ended(
    make_layer: Make, kind: str, dead_port: int
) -> None:
    """Names, seconds, and the class of the error that a caller got."""
    layer = make_layer(kind)
    operations: list[Operation] = []
    layer.on_operation(operations.append)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", MESSAGE)
    await layer.send(channel, MESSAGE)
    await layer.group_discard("room", channel)
    await receive(layer, channel)
    names = [operation.name for operation in operations]
    assert names == ["group_add", "group_send", "send", "group_discard"]
    assert all(operation.duration_s > 0 for operation in operations)
    assert all(operation.error is None for operation in operations)
    nowhere = make_layer(kind, hosts=[("127.0.0.1", dead_port)], connect_wait_s=0.1)
    nowhere.on_operation(operations.append)
    with pytest.raises(ConnectionLost):
        await nowhere.send("work", MESSAGE)
    assert operations[-1].error == "channels_redis.exceptions.ConnectionLost"
    assert operations[-1].duration_s >= 0.1


def test_blocking_calls_are_timed_too(make_layer_blocking: Make, kind: str) -> None:
    """Views that use ``layer.sync`` are part of the picture."""
    layer = make_layer_blocking(kind)
    operations: list[Operation] = []
    layer.on_operation(operations.append)
    layer.sync.send("work", MESSAGE)
    assert [operation.name for operation in operations] == ["send"]


def test_a_copy_has_no_subscribers(layer_class: type[Any]) -> None:
    """Who subscribed to a layer meant that one."""
    layer = layer_class()
    events: list[Any] = []
    layer.on_event(events.append)
    twin = copy.deepcopy(layer)
    twin._dropped("channel", "capacity")
    assert events == []
    layer._dropped("channel", "capacity")
    assert len(events) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_keeps_the_subscribers(layer_class: type[Any]) -> None:
    """A server that forks after Django's ``ready()`` is watched in its workers."""
    layer = layer_class()
    events: list[Any] = []
    layer.on_event(events.append)
    child = os.fork()
    if not child:
        layer._dropped("channel", "capacity")
        os._exit(len(events))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


async def test_log_records_carry_their_facts(
    make_layer: Make, private_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A structured log needs no parsing of texts: ``event`` names it, the rest are its facts."""
    layer = make_layer("core", hosts=[private_server.url], capacity=1)
    caplog.set_level(logging.INFO, "channels_redis")
    await layer.group_add("room", "work")
    await layer.send("work", MESSAGE)
    await layer.group_send("room", MESSAGE)
    layer._dropped("some", "capacity")
    waiting = asyncio.create_task(layer.receive(await layer.new_channel()))
    await wait_for(lambda: layer.stats().waiting and layer._sessions.get().receiving)
    await layer.send("other", MESSAGE)
    await asyncio.to_thread(private_server.stop)
    await wait_for(lambda: layer.stats().outage_s)
    await asyncio.to_thread(private_server.start)
    await wait_for(lambda: layer.stats().reconnects)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    records: dict[str, Any] = {vars(record)["event"]: record for record in caplog.records}
    full = records["group_over_capacity"]
    assert (full.group, full.full, full.members) == ("room", 1, 1)
    dropped = records["messages_dropped"]
    assert (dropped.count, dropped.reasons) == (1, {"capacity": 1})
    node = f"{private_server.host}:{private_server.port}"
    assert records["node_lost"].node == records["node_back"].node == node
    assert records["node_lost"].reason
    assert records["node_back"].outage_s > 0


async def test_a_callback_of_a_dropped_message_is_called_without_a_lock(
    make_layer: Make,
) -> None:
    """It may wait for a thread that uses the layer."""
    layer = make_layer("core", capacity=1)
    buffer = layer.receive_buffer[await layer.new_channel()]
    buffer.put_nowait({"n": 0})
    with ThreadPoolExecutor(1) as pool:
        seen: list[int] = []
        layer.on_event(lambda event: seen.append(pool.submit(layer.stats).result(5).buffered))
        buffer.put_nowait({"n": 1})
    assert seen == [1]
