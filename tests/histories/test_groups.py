"""Groups with a history: what is kept, who gets it, and what is said where something is missing."""

from __future__ import annotations

import asyncio
import gc
import secrets
from collections.abc import Callable
from typing import Any
from weakref import ref

import pytest

from channels_redis.exceptions import ConfigurationError, HistoryDisabled, InvalidPosition
from channels_redis.history import History, Resumed
from tests.conftest import class_of
from tests.helpers import (
    calls_by_command,
    numbered,
    numbers,
    receive,
    receive_numbers,
    receive_until_marker,
)
from tests.histories.steps import HISTORY, ROOM, member, send
from tests.resume.site import signing_with


@pytest.fixture
def layer(kind: str, hosts: list[Any], make_layer: Callable[..., Any]) -> Any:
    return make_layer(kind, hosts=hosts, history=HISTORY)


@pytest.fixture
def other(kind: str, hosts: list[Any], make_layer: Callable[..., Any]) -> Any:
    return make_layer(kind, hosts=hosts, history=HISTORY)


async def test_what_was_sent_is_kept_in_order(layer: Any, other: Any) -> None:
    """For every process, with positions that sort."""
    await send(layer, 1, 2, 3)
    history = await other.group_history(ROOM)
    assert isinstance(history, History)
    assert (numbers(history.messages), history.complete) == ([1, 2, 3], True)
    positions = [message["__position__"] for message in history.messages]
    assert positions == sorted(positions)
    assert positions[-1] == history.position
    assert [set(message) for message in history.messages] == [{"type", "n", "__position__"}] * 3


async def test_a_member_gets_each_message_with_its_position(layer: Any, other: Any) -> None:
    """The same that the history has."""
    channel, resumed = await member(layer)
    assert resumed is None
    await send(other, 1)
    message = await receive(layer, channel)
    history = await layer.group_history(ROOM)
    assert history.messages == [message]


async def test_messages_after_a_position_can_be_had(layer: Any) -> None:
    """As many as are asked for: the newest, and then not all of them."""
    await send(layer, *range(5))
    messages = (await layer.group_history(ROOM)).messages
    since = messages[1]["__position__"]
    after = await layer.group_history(ROOM, since=since)
    assert (numbers(after.messages), after.complete) == ([2, 3, 4], True)
    few = await layer.group_history(ROOM, since=since, limit=2)
    assert (numbers(few.messages), few.complete) == ([3, 4], False)
    last = await layer.group_history(ROOM, limit=2)
    assert (numbers(last.messages), last.complete) == ([3, 4], True)
    none = await layer.group_history(ROOM, limit=0)
    assert none == History([], messages[-1]["__position__"], True)


async def test_an_empty_group_has_a_position(layer: Any) -> None:
    """Who asked before the first message gets it."""
    position = (await layer.group_history(ROOM, limit=0)).position
    await send(layer, 1)
    after = await layer.group_history(ROOM, since=position)
    assert (numbers(after.messages), after.complete) == ([1], True)


async def test_a_channel_resumes_where_another_was(layer: Any, other: Any) -> None:
    """What was missed comes first, and then what is sent now."""
    channel, _ = await member(layer)
    await send(other, 1, 2)
    seen = await receive(layer, channel)
    await layer.group_discard(ROOM, channel)
    await send(other, 3)
    again, resumed = await member(other, since=seen["__position__"])
    assert isinstance(resumed, Resumed)
    assert (resumed.complete, resumed.count) == (True, 2)
    await send(layer, 4)
    assert await receive_numbers(other, again, 3) == [2, 3, 4]


@pytest.mark.parametrize(("kind", "topology"), [("pubsub", "single")])
async def test_who_missed_nothing_resumes_without_a_command(
    layer: Any, kind: str, topology: str, server: Any
) -> None:
    """After a restart of a process all its clients come back at once."""
    await member(layer)
    await send(layer, 1)
    position = (await layer.group_history(ROOM, limit=0)).position
    await member(layer, since=position)
    channels = [await layer.new_channel() for _ in range(20)]
    before = calls_by_command(server)
    for channel in channels:
        resumed = await layer.group_add(ROOM, channel, since=position)
        assert resumed == Resumed(True, position, 0)
    after = calls_by_command(server)
    scripts = [name for name in after if name.startswith("eval")]
    assert sum(after[name] - before.get(name, 0) for name in scripts) < len(channels)
    await send(layer, 2)
    for channel in channels:
        assert await receive_numbers(layer, channel, 1) == [2]


async def test_a_late_joiner_gets_what_is_kept(layer: Any) -> None:
    """And is told nothing of what is not."""
    await send(layer, 1, 2)
    channel, resumed = await member(layer, since="start")
    assert (resumed.complete, resumed.count) == (True, 2)
    assert await receive_numbers(layer, channel, 2) == [1, 2]


async def test_a_late_joiner_gets_more_than_one_catch_up_may_have(
    kind: str, hosts: list[Any], make_layer: Callable[..., Any]
) -> None:
    """All that is kept: the beginning is never left out."""
    layer = make_layer(kind, hosts=hosts, history=HISTORY, max_catch_up=3)
    await send(layer, *range(5))
    channel, resumed = await member(layer, since="start")
    assert (resumed.complete, resumed.count) == (True, 5)
    assert await receive_numbers(layer, channel, 5) == [*range(5)]


async def test_a_message_of_a_sender_with_another_secret_can_be_resumed_from(
    layer: Any, kind: str, hosts: list[Any], make_layer: Callable[..., Any]
) -> None:
    """Of a script without Django's settings, say: the receiver signs positions."""
    with signing_with("another"):
        stranger = make_layer(kind, hosts=hosts, history=HISTORY)
    channel, _ = await member(layer)
    await send(stranger, 1, 2)
    first = await receive(layer, channel)
    after = await layer.group_history(ROOM, since=first["__position__"])
    assert (numbers(after.messages), after.complete) == ([2], True)


async def test_nothing_is_delivered_where_not_all_is_there(
    kind: str, hosts: list[Any], make_layer: Callable[..., Any]
) -> None:
    """Never partial; the position is that from which the channel gets everything."""
    layer = make_layer(kind, hosts=hosts, history={"room.*": {"size": 10}})
    position = (await layer.group_history(ROOM, limit=0)).position
    await send(layer, *range(300))
    channel, resumed = await member(layer, since=position)
    assert (resumed.complete, resumed.count) == (False, 0)
    assert resumed.position == (await layer.group_history(ROOM, limit=0)).position
    await send(layer, 300)
    assert await receive_numbers(layer, channel, 1) == [300]


async def test_no_more_is_delivered_than_the_option_allows(
    kind: str, hosts: list[Any], make_layer: Callable[..., Any]
) -> None:
    """A longer catch-up is not complete."""
    layer = make_layer(kind, hosts=hosts, history=HISTORY, max_catch_up=3)
    position = (await layer.group_history(ROOM, limit=0)).position
    await send(layer, 1, 2, 3)
    assert (await member(layer, since=position))[1].count == 3
    await send(layer, 4)
    assert not (await member(layer, since=position))[1].complete


async def test_more_than_a_mailbox_holds_is_not_complete(
    kind: str, hosts: list[Any], make_layer: Callable[..., Any]
) -> None:
    """Its oldest messages would be dropped at once."""
    layer = make_layer(kind, hosts=hosts, history=HISTORY, capacity=3)
    position = (await layer.group_history(ROOM, limit=0)).position
    await send(layer, 1, 2, 3)
    assert (await member(layer, since=position))[1].complete
    await send(layer, 4)
    assert not (await member(layer, since=position))[1].complete


async def test_exclude_is_kept_and_obeyed(layer: Any, other: Any) -> None:
    """A consumer that comes back has another name, and names those that it had."""
    position = (await layer.group_history(ROOM, limit=0)).position
    me, _ = await member(layer)
    await send(layer, 1, exclude=[me])
    await send(layer, 2)
    again, resumed = await member(other, since=position, formerly=[me])
    assert (resumed.complete, resumed.count) == (True, 1)
    assert await receive_numbers(other, again, 1) == [2]
    stranger, resumed = await member(other, since=position)
    messages = [await receive(other, stranger) for _ in range(2)]
    assert numbers(messages) == [1, 2]
    assert "__asgi_exclude__" not in messages[0]
    assert await receive_numbers(layer, me, 1) == [2]


async def test_a_position_of_another_group_is_refused(layer: Any) -> None:
    """With an error that says so, and so is what is none."""
    await send(layer, 1, group="room.2")
    position = (await layer.group_history("room.2")).position
    channel = await layer.new_channel()
    for since in (position, "nonsense", position.upper() + "x"):
        with pytest.raises(InvalidPosition):
            await layer.group_add(ROOM, channel, since=since)
        with pytest.raises(InvalidPosition):
            await layer.group_history(ROOM, since=since)


async def test_a_group_without_a_history_says_so(layer: Any) -> None:
    """And works as ever."""
    channel, _ = await member(layer, group="hall")
    with pytest.raises(HistoryDisabled, match="'hall' has no history"):
        await layer.group_history("hall")
    with pytest.raises(HistoryDisabled):
        await layer.group_add("hall", channel, since="start")
    await send(layer, 1, group="hall")
    assert await receive_until_marker(layer, channel) == [numbered(1)]


async def test_flush_deletes_logs(layer: Any) -> None:
    """A position from before is not complete afterwards, and never becomes it."""
    await send(layer, 1)
    position = (await layer.group_history(ROOM)).position
    await layer.flush()
    assert (await layer.group_history(ROOM)).messages == []
    await send(layer, 2)
    after = await layer.group_history(ROOM, since=position)
    assert (numbers(after.messages), after.complete) == ([2], False)
    assert after.position > position


@pytest.mark.parametrize(
    "history",
    [
        5,
        ["room.*"],
        {7: {}},
        {"room.*": 100},
        {"room.*": {"length": 5}},
        {"room.*": {"size": 0}},
        {"room.*": {"ttl": -1}},
    ],
)
def test_a_wrong_option_is_refused(kind: str, make_layer_blocking: Any, history: Any) -> None:
    """When the layer is constructed."""
    with pytest.raises(ConfigurationError, match="history"):
        make_layer_blocking(kind, history=history)


def test_braces_in_the_prefix_are_refused_on_a_cluster(kind: str, make_layer_blocking: Any) -> None:
    """The log would be in another slot than its group; without a history they are allowed."""
    cluster = [{"address": "redis://127.0.0.1:1", "cluster": True}]
    with pytest.raises(ConfigurationError, match="braces"):
        make_layer_blocking(kind, hosts=cluster, prefix="{a}", history=HISTORY)
    make_layer_blocking(kind, hosts=cluster, prefix="{a}")


def test_blocking_callers_have_it_too(kind: str, make_layer_blocking: Any) -> None:
    """With the same results."""
    layer = make_layer_blocking(kind, history=HISTORY)
    layer.sync.group_send(ROOM, numbered(1))
    history = layer.sync.group_history(ROOM, since="start", limit=5)
    assert (numbers(history.messages), history.complete) == ([1], True)


@pytest.mark.parametrize("binding", ["off", "require"])
async def test_what_is_kept_is_encrypted(
    kind: str, hosts: list[Any], make_layer: Callable[..., Any], binding: str
) -> None:
    """And bound to its place, if other messages are."""
    layer = make_layer(
        kind,
        hosts=hosts,
        history=HISTORY,
        symmetric_encryption_keys=["secret"],
        encryption_binding=binding,
    )
    position = (await layer.group_history(ROOM, limit=0)).position
    await send(layer, 1, 2)
    channel, _ = await member(layer, since=position)
    assert await receive_numbers(layer, channel, 2) == [1, 2]
    assert numbers((await layer.group_history(ROOM)).messages) == [1, 2]


async def test_the_order_is_that_of_the_log(layer: Any, other: Any) -> None:
    """For each member, however many send at once."""
    members = [await member(layer), await member(layer), await member(other)]
    senders = [layer, other]
    await asyncio.gather(*[send(senders[n % 2], n) for n in range(60)])
    kept = await layer.group_history(ROOM)
    for (channel, _), owner in zip(members, [layer, layer, other], strict=True):
        assert await receive_numbers(owner, channel, 60) == numbers(kept.messages)
        assert await receive_until_marker(owner, channel) == []


async def test_who_excludes_all_members_of_a_process_leaves_no_hole_there(
    layer: Any, other: Any
) -> None:
    """The process knows from the log that there was nothing for them."""
    excluded, _ = await member(layer)
    await send(other, 1)
    await send(other, 2, exclude=[excluded])
    await send(other, 3)
    assert await receive_numbers(layer, excluded, 2) == [1, 3]


async def test_a_message_that_is_sent_on_is_a_new_one(layer: Any, other: Any) -> None:
    """With the place of its new group, or with none."""
    channel, _ = await member(layer)
    hall, _ = await member(layer, group="hall")
    await send(other, 1)
    message = await receive(layer, channel)
    await layer.group_send(ROOM, message)
    again = await receive(layer, channel)
    assert again["n"] == 1
    assert again["__position__"] > message["__position__"]
    await layer.group_send("hall", message)
    assert (await receive(layer, hall))["n"] == 1
    await layer.send(channel, message)
    assert (await receive(layer, channel))["n"] == 1


async def test_a_process_without_the_option_reads_all_messages(
    kind: str, layer: Any, hosts: list[Any], make_layer: Callable[..., Any]
) -> None:
    """As every process of this release does."""
    plain = make_layer(kind, hosts=hosts)
    channel = await plain.new_channel()
    await plain.group_add(ROOM, channel)
    await send(layer, 1, 2)
    assert await receive_numbers(plain, channel, 2) == [1, 2]


async def test_a_layer_with_a_history_is_freed_with_its_last_reference(
    kind: str, hosts: list[Any]
) -> None:
    """As all layers, without the garbage collector."""
    layer = class_of(kind)(hosts=hosts, prefix=secrets.token_hex(8), history=HISTORY)
    await member(layer)
    await send(layer, 1)
    await layer.close()
    gone = ref(layer)
    gc.disable()
    try:
        del layer
        assert gone() is None
    finally:
        gc.enable()


async def test_a_new_member_gets_nothing_of_before_it_has_joined(layer: Any, other: Any) -> None:
    """Also where the members here were excluded, so that this process has not heard of it."""
    first, _ = await member(layer)
    await send(other, 1)
    await send(other, 2, 3, exclude=[first])
    second, _ = await member(layer)
    await send(other, 4)
    assert await receive_numbers(layer, second, 1) == [4]
    assert await receive_numbers(layer, first, 2) == [1, 4]
