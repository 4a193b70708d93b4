"""What only core promises: Redis as a store, raw access to it, and use without a loop."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio
from asgiref.sync import async_to_sync

from channels_redis.core import RedisChannelLayer
from tests.contract.steps import works
from tests.helpers import SCRIPT_HEAD, bounded, receive, run_script, wait_for

SAY = {"type": "x"}


@pytest.fixture
def kind() -> str:
    """This module is about core alone."""
    return "core"


async def test_messages_outlive_the_loop_that_sent_them(build: Any) -> None:
    """Each call on a loop of its own: what one sent the next receives."""
    layer = build()

    def on_separate_loops() -> list[Any]:
        channel = asyncio.run(layer.new_channel())
        asyncio.run(layer.send(channel, SAY))
        asyncio.run(layer.send("tasks", SAY))
        return [asyncio.run(layer.receive(name)) for name in (channel, "tasks")]

    assert await bounded(asyncio.to_thread(on_separate_loops)) == [SAY, SAY]


async def test_async_to_sync_sends_and_receives(build: Any) -> None:
    """Sync code: ``async_to_sync(send)``, then ``async_to_sync(receive)``."""
    layer = build()

    def sync_code() -> list[Any]:
        channel = async_to_sync(layer.new_channel)()
        async_to_sync(layer.group_add)("room", channel)
        async_to_sync(layer.send)(channel, SAY)
        first = async_to_sync(layer.receive)(channel)
        async_to_sync(layer.group_send)("room", {"type": "group"})
        return [first, async_to_sync(layer.receive)(channel)]

    assert await bounded(asyncio.to_thread(sync_code)) == [SAY, {"type": "group"}]


async def test_what_a_loop_popped_stays_for_the_next(build: Any) -> None:
    """A loop ends while a sibling's message sits in its buffer: the next loop reads it."""
    layer = build()

    def on_two_loops() -> Any:
        async def read_one_of_two() -> str:
            one, other = await layer.new_channel(), await layer.new_channel()
            await layer.send(other, {"type": "other"})
            await layer.send(one, SAY)
            assert await layer.receive(one) == SAY
            return str(other)

        return asyncio.run(layer.receive(asyncio.run(read_one_of_two())))

    assert await bounded(asyncio.to_thread(on_two_loops)) == {"type": "other"}


async def test_a_message_of_another_process_is_received(
    layer: Any, script_arguments: tuple[str, str]
) -> None:
    """A management command sends to a consumer and ends: the message arrives."""
    channel = await layer.new_channel()
    script = SCRIPT_HEAD + (
        "async_to_sync(layer.send)(sys.argv[3], {'type': 'command'})\n"
        "async_to_sync(layer.group_send)('room', {'type': 'group'})\n"
    )
    await layer.group_add("room", channel)
    await run_script(script, *script_arguments, channel)
    assert await receive(layer, channel) == {"type": "command"}
    assert await receive(layer, channel) == {"type": "group"}


async def test_connection_gives_a_live_client(layer: Any) -> None:
    """A plain call, a ``redis.asyncio.Redis`` of this loop, replies in bytes; for a cluster, a
    ``RedisCluster``.
    """
    assert not inspect.iscoroutinefunction(layer.connection)
    for index in range(layer.ring_size):
        client = layer.connection(index)
        whole = isinstance(client, redis.asyncio.RedisCluster)
        assert whole or isinstance(client, redis.asyncio.Redis)
        # Older redis-py have to be told which server of a cluster is meant.
        meant = {"target_nodes": redis.asyncio.RedisCluster.RANDOM} if whole else {}
        assert await client.execute_command("ECHO", "hello", **meant) == b"hello"


async def test_connection_refuses_a_bad_index(layer: Any) -> None:
    """Below 0 or beyond the ring: ``ValueError``."""
    for index in (-1, layer.ring_size, 1000):
        with pytest.raises(ValueError, match=str(index)):
            layer.connection(index)


async def test_connection_serves_each_loop(build: Any) -> None:
    """A client made on one loop does not stand in the way of another."""
    layer = build()
    assert await layer.connection(0).ping()

    async def ping() -> bool:
        return bool(await layer.connection(0).ping())

    assert await bounded(asyncio.to_thread(asyncio.run, ping()))
    assert await layer.connection(0).ping()


async def test_members_of_a_group_can_be_read(layer: Any, prefix: str) -> None:
    """``connection(consistent_hash(group))`` and ``_group_key``: names, counts and join times."""
    channels = {await layer.new_channel() for _ in range(3)}
    for channel in channels:
        await layer.group_add("room", channel)
    key = layer._group_key("room")
    assert key == f"{prefix}:group:room".encode()
    client = layer.connection(layer.consistent_hash("room"))
    members = await client.zrange(key, 0, -1, withscores=True)
    seconds, _ = await client.time()
    assert {member.decode() for member, _ in members} == channels
    assert all(seconds - 10 < score < seconds + 2 for _, score in members)
    await layer.group_discard("room", channels.pop())
    assert await client.zcard(key) == 2


async def test_joining_again_refreshes_the_time_stamp(layer: Any) -> None:
    """A member that keeps joining is not expired from its group."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    client, key = layer.connection(layer.consistent_hash("room")), layer._group_key("room")
    await client.zadd(key, {channel: 1000.0})
    await layer.group_add("room", channel)
    assert await client.zscore(key, channel) > 1_000_000
    assert await client.zcard(key) == 1


async def test_a_member_that_joined_too_long_ago_is_dropped(build: Any) -> None:
    """After ``group_expiry`` seconds a channel is no member any more."""
    layer = build(group_expiry=100)
    stays, goes = await layer.new_channel(), await layer.new_channel()
    for channel in (stays, goes):
        await layer.group_add("room", channel)
    client, key = layer.connection(layer.consistent_hash("room")), layer._group_key("room")
    seconds, _ = await client.time()
    await client.zadd(key, {goes: seconds - 200})
    await layer.group_send("room", {"type": "group"})
    assert await receive(layer, stays) == {"type": "group"}
    await layer.send(goes, SAY)
    assert await receive(layer, goes) == SAY
    assert await client.zrange(key, 0, -1) == [stays.encode()]


async def test_an_expired_message_is_not_delivered(layer: Any, prefix: str) -> None:
    """What lay longer than ``expiry`` is dropped quietly when its reader comes."""
    channel = await layer.new_channel()
    for name, queue in ((channel, channel.partition("!")[0] + "!"), ("tasks", "tasks")):
        await layer.send(name, {"type": "old"})
        for index in range(layer.ring_size):
            client = layer.connection(index)
            for member in await client.zrange(f"{prefix}{queue}", 0, -1):
                await client.zadd(f"{prefix}{queue}", {member: 1000.0})
        await layer.send(name, {"type": "fresh"})
        assert await receive(layer, name) == {"type": "fresh"}


async def test_an_expiry_with_a_fraction_works(build: Any) -> None:
    """Seconds need not be whole."""
    await works(build(expiry=2.5, group_expiry=60.5))


async def test_two_new_channel_prefixes_in_one_process(layer: Any) -> None:
    """Each non-local name has a reader of its own."""
    channels = [await layer.new_channel(name) for name in ("one", "two", "three")]
    waiting = [asyncio.create_task(layer.receive(channel)) for channel in channels]
    await asyncio.sleep(0)
    for channel in reversed(channels):
        await layer.send(channel, {"to": channel})
    got = await bounded(asyncio.gather(*waiting))
    assert got == [{"to": channel} for channel in channels]


def test_receive_buffers_work_without_a_loop() -> None:
    """Test suites look into ``receive_buffer`` from sync code."""
    layer = RedisChannelLayer(capacity=3)
    queue = layer.receive_buffer["channel"]
    for number in range(5):
        queue.put_nowait({"number": number})
    assert (queue.full(), queue.qsize()) == (True, 3)
    assert [queue.get_nowait()["number"] for _ in range(3)] == [2, 3, 4]
    with pytest.raises(asyncio.QueueEmpty):
        queue.get_nowait()
    assert "channel" in dict(layer.receive_buffer.items())
    layer.receive_buffer.pop("channel", None)
    assert layer.receive_buffer.pop("channel", None) is None
    assert dict(layer.receive_buffer.items()) == {}


def test_a_receive_buffer_that_is_not_there_can_not_be_popped() -> None:
    """Without a default it is a ``KeyError``, as with any mapping."""
    with pytest.raises(KeyError, match="channel"):
        RedisChannelLayer().receive_buffer.pop("channel")


async def test_a_receiver_keeps_waiting_while_its_receive_buffer_is_popped(layer: Any) -> None:
    """Projects pop the buffers of consumers that leave, whose last ``receive()`` still waits."""
    channel = await layer.new_channel()
    waiting = asyncio.create_task(layer.receive(channel))
    await wait_for(lambda: channel in layer.receive_buffer)
    layer.receive_buffer.pop(channel, None)
    await layer.send(channel, SAY)
    assert await bounded(waiting) == SAY


async def test_what_is_put_into_a_receive_buffer_is_received(layer: Any) -> None:
    """``put_nowait`` is a way to hand a message to a waiting consumer."""
    channel = await layer.new_channel()
    waiting = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0)
    layer.receive_buffer[channel].put_nowait({"type": "put"})
    assert await bounded(waiting) == {"type": "put"}


async def test_a_receiver_goes_on_though_its_buffer_is_forgotten(layer: Any) -> None:
    """Whoever waits on a buffer that is popped gets what comes next."""
    channel = await layer.new_channel()
    waiting = asyncio.create_task(layer.receive(channel))
    await wait_for(lambda: layer.stats().waiting == 1)
    layer.receive_buffer.pop(channel)
    await layer.send(channel, SAY)
    assert await bounded(waiting) == SAY


async def test_a_siblings_message_sits_in_its_receive_buffer(layer: Any) -> None:
    """What was popped for a channel that nobody reads yet can be seen and taken."""
    one, other = await layer.new_channel(), await layer.new_channel()
    await layer.send(other, {"type": "other"})
    await layer.send(one, SAY)
    assert await receive(layer, one) == SAY
    await wait_for(lambda: layer.receive_buffer[other].qsize() == 1)
    assert layer.receive_buffer[other].get_nowait() == {"type": "other"}


@pytest.fixture
async def pools_of_subclass(
    servers_by_url: None, build: Any, hosts: list[Any], prefix: str, request: pytest.FixtureRequest
) -> AsyncIterator[Any]:
    """Whether all connections that a layer opened on its servers carry the given name."""
    clients = [redis.asyncio.Redis.from_url(url, client_name="watcher") for url in hosts]

    async def names() -> dict[str, str]:
        found = {}
        for number, client in enumerate(clients):
            for entry in await client.client_list():
                found[f"{number}:{entry['id']}"] = entry["name"]
        return found

    before = await names()

    async def new_names() -> set[str]:
        fresh = {name for entry, name in (await names()).items() if entry not in before}
        return fresh - {"watcher"}

    yield new_names
    for client in clients:
        await client.aclose()


async def use_everything(layer: Any) -> None:
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", SAY)
    assert await receive(layer, channel) == SAY
    for _ in range(layer.ring_size):
        await layer.send("tasks", SAY)
        assert await receive(layer, "tasks") == SAY


@pytest.mark.usefixtures("servers_by_url")
async def test_an_overridden_create_pool_is_obeyed(
    hosts: list[Any], prefix: str, pools_of_subclass: Any
) -> None:
    """Every connection of the layer comes from the pool that the subclass made."""

    class Named(RedisChannelLayer):
        def create_pool(self, index: int) -> Any:
            return redis.asyncio.ConnectionPool.from_url(hosts[index], client_name=prefix)

    layer = Named(hosts=hosts, prefix=prefix)
    await use_everything(layer)
    assert await pools_of_subclass() == {prefix}
    await layer.close()


@pytest.mark.usefixtures("servers_by_url")
async def test_an_overridden_connection_is_obeyed(
    hosts: list[Any], prefix: str, pools_of_subclass: Any
) -> None:
    """Every connection of the layer is one of the client that the subclass gave."""
    clients: dict[int, Any] = {}

    class Named(RedisChannelLayer):
        def connection(self, index: int) -> Any:
            if index not in clients:
                clients[index] = redis.asyncio.Redis.from_url(hosts[index], client_name=prefix)
            return clients[index]

    layer = Named(hosts=hosts, prefix=prefix)
    await use_everything(layer)
    assert await pools_of_subclass() == {prefix}
    await layer.close()
    for client in clients.values():
        await client.aclose()
        await client.connection_pool.disconnect()


def test_json_is_readable_on_the_wire() -> None:
    """``serializer_format="json"`` behind the random bytes."""
    data = RedisChannelLayer(serializer_format="json").serialize({"type": "x"})
    assert json.loads(data[12:]) == {"type": "x"}
