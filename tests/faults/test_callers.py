"""What callers of ``send`` and friends are told, and what became of their command.

What certainly did not run is sent when the connection returns; what may have run raises; nothing
is sent twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import OutOfMemoryError

from channels_redis._receiving import mailbox
from channels_redis.exceptions import ConnectionLost
from channels_redis.testing.servers import RedisServer
from tests.faults.ledger import BACK, EVENTS, LOST
from tests.helpers import (
    cancel,
    numbered,
    receive,
    receive_until_marker,
    until_connected,
    wait_for,
    waiting,
)
from tests.proxy import Proxy

UNLIKE_ANY_OTHER = {"type": "test.unlike-any-other"}
MARK = b"unlike-any-other"


async def test_a_send_whose_reply_is_lost_raises_and_arrives_once(
    make_layer: Callable[..., Any], kind: str, proxy: Proxy
) -> None:
    """The server ran it and the sender can't know: ``ConnectionLost``, and one delivery."""
    layer, sender = make_layer(kind), make_layer(kind, hosts=[proxy.url])
    channel = await layer.new_channel()
    await sender.send(channel, numbered(0))
    proxy.lose_reply_to(MARK)
    with pytest.raises(ConnectionLost) as raised:
        await sender.send(channel, UNLIKE_ANY_OTHER)
    assert raised.value.maybe_executed
    messages = await receive_until_marker(layer, channel, sender)
    assert messages == [numbered(0), UNLIKE_ANY_OTHER]


async def test_a_group_send_whose_reply_is_lost_raises_and_arrives_once(
    make_layer: Callable[..., Any], kind: str, proxy: Proxy
) -> None:
    """A group's members get the message once at most, whatever the sender is told."""
    layer, sender = make_layer(kind), make_layer(kind, hosts=[proxy.url])
    channels = [await layer.new_channel() for _ in range(3)]
    for channel in channels:
        await layer.group_add("room", channel)
    await sender.group_send("room", numbered(0))
    proxy.lose_reply_to(MARK)
    with pytest.raises(ConnectionLost):
        await sender.group_send("room", UNLIKE_ANY_OTHER)
    for channel in channels:
        messages = await receive_until_marker(layer, channel, sender)
        assert messages == [numbered(0), UNLIKE_ANY_OTHER]


async def test_a_group_send_that_reached_some_members_may_have_been_executed(
    make_layer: Callable[..., Any], private_server: RedisServer, server: Any, proxy: Proxy
) -> None:
    """One of two shards is away: its members miss the message, and to send it again would be to
    send it twice to the others.
    """
    near = f"redis://{private_server.host}:{private_server.port}"
    sender = make_layer("core", hosts=[near, proxy.url], connect_wait_s=0.3)
    group = next(f"room{n}" for n in range(100) if sender.consistent_hash(f"room{n}") == 0)
    layers: dict[int, Any] = {}
    while len(layers) < 2:
        layer = make_layer("core", hosts=[near, f"redis://{server.host}:{server.port}"])
        layers[layer.consistent_hash(f"specific.{layer.client_prefix}!")] = layer
    channels = {shard: await layer.new_channel() for shard, layer in layers.items()}
    for shard, layer in layers.items():
        await layer.group_add(group, channels[shard])
    await until_connected(lambda: sender.group_send(group, numbered(0)))
    for shard, layer in layers.items():
        assert await receive(layer, channels[shard]) == numbered(0)
    proxy.refuse()
    with pytest.raises(ConnectionLost) as raised:
        await sender.group_send(group, numbered(1))
    assert raised.value.maybe_executed
    assert await receive(layers[0], channels[0]) == numbered(1)
    assert await receive_until_marker(layers[1], channels[1]) == []


async def test_a_request_that_never_arrived_is_never_delivered_later(
    make_layer: Callable[..., Any], kind: str, proxy: Proxy
) -> None:
    """Nobody listens for longer than ``connect_wait_s``: "did not run", and it never does."""
    layer, sender = make_layer(kind), make_layer(kind, hosts=[proxy.url], connect_wait_s=0.2)
    channel = await layer.new_channel()
    proxy.refuse()
    with pytest.raises(ConnectionLost) as raised:
        await sender.send(channel, numbered(1))
    assert not raised.value.maybe_executed
    proxy.resume()
    await wait_for(lambda: sends(sender, channel, numbered(2)))
    assert await receive_until_marker(layer, channel, sender) == [numbered(2)]


async def sends(layer: Any, channel: str, message: dict[str, Any]) -> bool:
    try:
        await layer.send(channel, message)
    except ConnectionLost as error:
        assert not error.maybe_executed
        return False
    return True


async def test_what_was_not_sent_waits_for_the_connection_and_keeps_its_order(
    make_layer: Callable[..., Any], kind: str, proxy: Proxy
) -> None:
    """A short outage is a delay for senders, and nothing else."""
    layer, sender = make_layer(kind), make_layer(kind, hosts=[proxy.url], connect_wait_s=10)
    channel = await layer.new_channel()
    proxy.refuse()
    sending = [asyncio.create_task(sender.send(channel, numbered(n))) for n in range(50)]
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in sending)
    proxy.resume()
    await asyncio.gather(*sending)
    messages = await receive_until_marker(layer, channel, sender)
    assert messages == [numbered(n) for n in range(50)]


async def test_a_burst_that_is_cut_is_told_apart_message_by_message(
    make_layer: Callable[..., Any], kind: str, proxy: Proxy
) -> None:
    """Of many sends at once each is delivered, certainly not, or raises "may have run"."""
    layer = make_layer(kind, capacity=10_000)
    sender = make_layer(kind, hosts=[proxy.url], capacity=10_000)
    channel = await layer.new_channel()
    await sender.send(channel, numbered(-1))
    proxy.delay_s = 0.02
    outcomes: dict[int, str] = {}

    async def send(number: int) -> None:
        try:
            await sender.send(channel, numbered(number))
            outcomes[number] = "sent"
        except ConnectionLost as error:
            outcomes[number] = "unknown" if error.maybe_executed else "not sent"

    async def burst(numbers: range) -> None:
        for number in numbers:
            await send(number)

    bursts = asyncio.gather(*(burst(range(first, 1000, 50)) for first in range(50)))
    for _ in range(3):
        await asyncio.sleep(0.1)
        proxy.cut()
    await bursts
    arrived = [message["n"] for message in await receive_until_marker(layer, channel, sender)]
    assert len(set(arrived)) == len(arrived), "something came twice"
    told = {word: {n for n, told in outcomes.items() if told == word} for word in outcomes.values()}
    assert told.get("sent", set()) <= set(arrived)
    assert not told.get("not sent", set()) & set(arrived)
    assert told["unknown"], "no cut has hit anything"


@pytest.mark.parametrize("operation", ["group_add", "group_discard"])
async def test_what_may_run_twice_without_harm_is_repeated(
    make_layer: Callable[..., Any], operation: str, proxy: Proxy
) -> None:
    """Joining and leaving a group survive a lost reply."""
    layer, other = make_layer("core", hosts=[proxy.url]), make_layer("core")
    channel = await layer.new_channel()
    await layer.group_add("hall", channel)
    proxy.lose_reply_to(b"room-unlike-any-other")
    await getattr(layer, operation)("room-unlike-any-other", channel)
    await other.group_send("room-unlike-any-other", numbered(1))
    expected = [numbered(1)] if operation == "group_add" else []
    assert await receive_until_marker(layer, channel, other) == expected


async def test_a_server_that_forgets_its_scripts_is_not_noticed(
    make_layer: Callable[..., Any], kind: str, private_server: RedisServer
) -> None:
    """``SCRIPT FLUSH`` in the midst of sending, receiving and joining: no error, no loss."""
    layer = make_layer(kind, hosts=[private_server.url], capacity=10_000, **EVENTS)
    sender = make_layer(kind, hosts=[private_server.url], capacity=10_000)
    channel = await layer.new_channel()
    for number in range(200):
        if number % 10 == 0:
            private_server.command("SCRIPT", "FLUSH")
            await layer.group_add(f"room{number}", channel)
        await sender.send("work", numbered(number))
        await sender.group_send(f"room{number - number % 10}", numbered(number))
        assert await receive(layer, "work") == numbered(number)
        assert await receive(layer, channel) == numbered(number)


async def test_a_server_restarted_between_two_sends_is_not_noticed(
    make_layer: Callable[..., Any], kind: str, private_server: RedisServer
) -> None:
    """A dead connection is found before it is written to, and nobody is told."""
    sender = make_layer(kind, hosts=[private_server.url])
    for number in range(3):
        await sender.send("work", numbered(number))
        await asyncio.to_thread(private_server.restart)
        await sender.send("work", numbered(number))


async def test_a_connection_that_ends_in_the_tick_of_a_send_is_not_noticed(
    make_layer: Callable[..., Any], kind: str
) -> None:
    """Closed already, though the task that reads has not seen it: nothing was written to it."""
    layer = make_layer(kind)
    await layer.send("work", numbered(0))
    layer._sessions.get().commands(0, "")._wire.abort()
    await layer.send("work", numbered(1))
    assert await receive_until_marker(layer, "work") == [numbered(0), numbered(1)]


async def test_the_end_of_an_outage_is_reported_without_a_send(
    make_layer: Callable[..., Any], kind: str, proxy: Proxy
) -> None:
    """A send was lost, and no other follows: consumers hear of the end all the same."""
    layer = make_layer(kind, hosts=[proxy.url], **EVENTS)
    channel = await layer.new_channel()
    await layer.send(channel, numbered(0))
    assert await receive(layer, channel) == numbered(0)
    wait = waiting(layer, channel)
    await asyncio.sleep(0)
    proxy.drop_replies()
    sending = asyncio.create_task(layer.send("work", UNLIKE_ANY_OTHER))
    await wait_for(lambda: any(link.has_sent(MARK) for link in proxy.links))
    proxy.cut()
    with pytest.raises(ConnectionLost):
        await sending
    proxy.resume()
    assert (await asyncio.wait_for(wait, 10))["type"] == LOST
    assert (await receive(layer, channel))["type"] == BACK


@pytest.mark.parametrize("waits_on", ["a general channel", "a channel of its own"])
async def test_the_end_of_an_outage_is_reported_without_a_waiting_receiver(
    make_layer: Callable[..., Any],
    kind: str,
    proxy: Proxy,
    waits_on: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who noticed the loss has gone before the end: the process is idle, and not in an outage."""
    monkeypatch.setattr(mailbox, "GONE_S", 0.1)
    layer = make_layer(kind, hosts=[proxy.url], command_timeout_s=1, expiry=0.4)

    async def consume() -> None:
        channel = await layer.new_channel() if waits_on == "a channel of its own" else "work"
        await layer.send(channel, numbered(0))
        assert await receive(layer, channel) == numbered(0)
        await layer.receive(channel)

    consumer = asyncio.create_task(consume())
    await wait_for(lambda: layer.stats().delivered and layer.stats().waiting)
    proxy.refuse()
    await wait_for(lambda: layer.stats().outage_s)
    await cancel(consumer)
    await wait_for(lambda: not [task for task in asyncio.all_tasks() if is_listening(task)])
    proxy.resume()
    await wait_for(lambda: not layer.stats().outage_s)


def is_listening(task: asyncio.Task[Any]) -> bool:
    """Whether a task is one of a layer's that wait for messages."""
    return any(word in task.get_name() for word in ("redis reader", "redis subscriber"))


async def test_a_server_whose_memory_is_full_refuses_what_would_need_more(
    make_layer: Callable[..., Any], private_server: RedisServer
) -> None:
    """The sender is told, and what lies there already is received."""
    layer = make_layer("core", hosts=[private_server.url])
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.send("work", numbered(0))
    private_server.command("CONFIG", "SET", "maxmemory", 1)
    for sending in (
        layer.send("work", numbered(1)),
        layer.send(channel, numbered(1)),
        layer.group_send("room", numbered(1)),
    ):
        with pytest.raises(OutOfMemoryError):
            await sending
    assert await receive(layer, "work") == numbered(0)
    private_server.command("CONFIG", "SET", "maxmemory", 0)
    await layer.send("work", numbered(2))
    assert await receive(layer, "work") == numbered(2)


async def test_more_than_the_window_holds_is_refused_too_by_a_server_that_never_worked(
    make_layer: Callable[..., Any], private_server: RedisServer
) -> None:
    """Whatever the first replies are, those behind them are written and have theirs."""
    private_server.command("CONFIG", "SET", "maxmemory", 1)
    layer = make_layer("core", hosts=[private_server.url], max_message_bytes=10_000_000)
    large = {"text": "x" * 3_000_000}
    sends = [layer.send(f"work{number}", large) for number in range(6)]
    outcomes = await asyncio.wait_for(asyncio.gather(*sends, return_exceptions=True), 20)
    assert {type(outcome) for outcome in outcomes} == {OutOfMemoryError}
