"""``flush``, ``close`` and ``close_pools``: what ends, what stays, and that nothing hangs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis.asyncio

from channels_redis.exceptions import LayerClosed
from channels_redis.testing.servers import RedisServer
from tests.contract.steps import waiting_receive, works
from tests.helpers import bounded, receive, receive_many, wait_for

SAY = {"type": "x"}
# A flush that waits for a blocking pop takes its block time; one that does not takes milliseconds.
WELL_WITHIN_S = 1.5


async def keys_on(server_urls: list[str], prefix: str) -> set[bytes]:
    """All keys of the prefix on all shards."""
    found: set[bytes] = set()
    for url in server_urls:
        client = redis.asyncio.Redis.from_url(url)
        found |= {key async for key in client.scan_iter(f"{prefix}*")}
        await client.aclose()
    return found


async def test_core_flush_empties_every_shard(
    build_core: Any, server_urls: list[str], prefix: str
) -> None:
    """Queues and groups of this layer's prefix are gone, whoever made them."""
    layer, other = build_core(), build_core()
    for number in range(20):
        await layer.group_add(f"room{number}", await layer.new_channel())
        await other.send(f"tasks{number}", SAY)
    assert await keys_on(server_urls, prefix)
    await bounded(layer.flush(), WELL_WITHIN_S)
    assert await keys_on(server_urls, prefix) == set()


async def test_core_flush_touches_no_other_keys(
    build_core: Any, shards: list[Any], prefix: str
) -> None:
    """Data that others keep under the same prefix, in any other type or form, survives."""
    layer = build_core()
    await layer.send("tasks", SAY)
    client = shards[0]
    foreign = [f"{prefix}-cache", f"{prefix}:group:set", f"{prefix}other", f"x{prefix}tasks"]
    for key in foreign:
        await client.set(key, "precious")
    spaced = f"{prefix}not a legal name"
    await client.zadd(spaced, {"member": 1})
    await layer.flush()
    for key in (*foreign, spaced):
        assert await client.exists(key) == 1
        await client.delete(key)


async def test_core_flush_reads_no_pattern_in_the_prefix(
    build_core: Any, hosts: list[Any], prefix: str
) -> None:
    """A prefix with glob characters deletes its own keys and nobody else's."""
    neighbour = build_core(prefix=f"{prefix}ab")
    await neighbour.send("tasks", SAY)
    layer = build_core(prefix=f"{prefix}[a]*")
    await layer.send("tasks", {"type": "goes"})
    await layer.flush()
    await layer.send("tasks", {"type": "fresh"})
    assert await receive(layer, "tasks") == {"type": "fresh"}
    assert await receive(neighbour, "tasks") == SAY


async def test_pubsub_flush_resets_this_process_only(build_pubsub: Any) -> None:
    """Consumers and groups of other processes never notice."""
    layer, other = build_pubsub(), build_pubsub()
    channel = await other.new_channel()
    await other.group_add("room", channel)
    await layer.group_add("room", await layer.new_channel())
    await bounded(layer.flush(), WELL_WITHIN_S)
    await layer.group_send("room", SAY)
    assert await receive(other, channel) == SAY


async def test_pubsub_flush_deletes_the_general_queues_it_used(
    build_pubsub: Any, server_urls: list[str], prefix: str
) -> None:
    """Queues this object sent to are emptied; those that only others used stay."""
    layer, other = build_pubsub(), build_pubsub()
    for _ in range(8):
        await layer.send("mine", SAY)
    await other.send("theirs", SAY)
    await bounded(layer.flush(), WELL_WITHIN_S)
    assert await keys_on(server_urls, prefix) == {f"{prefix}theirs".encode()}


async def test_flush_leaves_groups(layer: Any) -> None:
    """After ``flush`` this process is in no group."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    waiting = await waiting_receive(layer, channel)
    await layer.flush()
    witness = await layer.new_channel()
    await layer.group_add("room", witness)
    await layer.group_send("room", {"type": "group"})
    assert await receive(layer, witness) == {"type": "group"}
    await layer.send(channel, SAY)
    assert await bounded(waiting) == SAY


async def test_flush_forgets_what_was_buffered(layer: Any) -> None:
    """What came before ``flush`` and was not read is gone; what comes after it arrives."""
    channel, witness = await layer.new_channel(), await layer.new_channel()
    for member in (channel, witness):
        await layer.group_add("room", member)
    await layer.group_send("room", {"type": "before"})
    assert await receive(layer, witness) == {"type": "before"}
    await layer.send("tasks", {"type": "before"})
    await layer.flush()
    for name in (channel, "tasks"):
        waiting = asyncio.create_task(layer.receive(name))

        async def answered(name: str = name, waiting: asyncio.Task[Any] = waiting) -> bool:
            await layer.send(name, {"type": "after"})
            return waiting.done()

        await wait_for(answered)
        assert await waiting == {"type": "after"}


async def test_the_layer_works_right_after_flush(layer: Any) -> None:
    """Flush, use, flush, use: the same object, at once."""
    for _ in range(5):
        await bounded(layer.flush(), WELL_WITHIN_S)
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_send("room", SAY)
        assert await receive(layer, channel) == SAY


async def test_waiting_receivers_survive_flush(layer: Any) -> None:
    """A ``receive()`` that waits while another task flushes gets the next message."""
    channel = await layer.new_channel()
    waiting = [await waiting_receive(layer, name) for name in (channel, "tasks")]
    await bounded(layer.flush(), WELL_WITHIN_S)
    for name in (channel, "tasks"):
        await layer.send(name, SAY)
    assert await bounded(asyncio.gather(*waiting)) == [SAY, SAY]


async def test_flush_of_an_unused_layer_is_nothing(build: Any) -> None:
    """Test suites flush in their set-up."""
    await bounded(build().flush(), WELL_WITHIN_S)


async def test_close_ends_well_within_a_block_time(build: Any) -> None:
    """``close`` waits for no blocking pop, and may be called twice and unused."""
    layer = build()
    await bounded(layer.close(), WELL_WITHIN_S)
    channel = await layer.new_channel()
    waiting = await waiting_receive(layer, channel)
    await bounded(layer.close(), WELL_WITHIN_S)
    await bounded(layer.close(), WELL_WITHIN_S)
    with pytest.raises(LayerClosed):
        await bounded(waiting)


async def test_close_wakes_every_waiting_receiver(build: Any) -> None:
    """Each gets an error that says why, none hangs."""
    layer = build()
    names = [await layer.new_channel() for _ in range(3)] + ["tasks", "tasks"]
    waiting = [await waiting_receive(layer, name) for name in names[:-1]]
    waiting.append(asyncio.create_task(layer.receive("tasks")))
    await asyncio.sleep(0)
    await bounded(layer.close(), WELL_WITHIN_S)
    results = await bounded(asyncio.gather(*waiting, return_exceptions=True))
    assert [type(result) for result in results] == [LayerClosed] * 5


async def test_close_leaves_no_task(build: Any) -> None:
    """All that the layer started has ended when ``close`` returns."""
    before = asyncio.all_tasks()
    layer = build()
    await works(layer)
    assert asyncio.all_tasks() - before
    await layer.close()
    assert asyncio.all_tasks() - before == set()


async def test_close_leaves_no_connection(
    build: Any, with_keywords: Any, server_urls: list[str], prefix: str
) -> None:
    """The servers see every connection of the layer end."""
    clients = [redis.asyncio.Redis.from_url(url) for url in server_urls]

    async def connections() -> int:
        entries = [entry for client in clients for entry in await client.client_list()]
        return sum(entry["name"] == prefix for entry in entries)

    layer = build(hosts=with_keywords(client_name=prefix))
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.send(channel, SAY)
    assert await receive(layer, channel) == SAY
    assert await connections() > 0
    await layer.close()

    async def all_gone() -> bool:
        return await connections() == 0

    await wait_for(all_gone)
    for client in clients:
        await client.aclose()


async def test_a_closed_layer_works_again_when_used(build: Any) -> None:
    """``close`` gives everything back; the next use takes it anew."""
    layer = build()
    for _ in range(3):
        await works(layer)
        await layer.close()


async def test_close_does_not_wait_for_a_server_that_is_gone(
    kind: str, private_server: RedisServer, make_layer: Any
) -> None:
    """Nothing is left to be said to it: no wait for a connection, and receivers are woken."""
    layer = make_layer(kind, hosts=[private_server.url], connect_wait_s=60)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    waiting = [await waiting_receive(layer, name) for name in (channel, "tasks")]
    private_server.kill()
    await bounded(layer.close())
    results = await bounded(asyncio.gather(*waiting, return_exceptions=True))
    assert [type(result) for result in results] == [LayerClosed] * 2


async def test_a_close_that_was_cancelled_is_finished_by_the_next(
    kind: str, private_server: RedisServer, make_layer: Any
) -> None:
    """Given up half-way at a server that does not answer, it leaves nothing that can't be ended."""
    before = asyncio.all_tasks()
    layer = make_layer(kind, hosts=[private_server.url])
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    waiting = [await waiting_receive(layer, name) for name in (channel, "tasks")]
    private_server.freeze()
    closing = asyncio.create_task(layer.close())
    for _ in range(5):
        await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({closing})
    private_server.thaw()
    await bounded(layer.close())
    await bounded(asyncio.gather(*waiting, return_exceptions=True))
    assert asyncio.all_tasks() - before == set()


async def test_core_close_pools_after_every_send(build_core: Any) -> None:
    """Old code calls ``close_pools`` after each send: it costs a running receiver nothing."""
    layer = build_core()
    channel = await layer.new_channel()
    waiting = await waiting_receive(layer, channel)
    for _ in range(10):
        await layer.send(channel, SAY)
        await bounded(layer.close_pools(), WELL_WITHIN_S)
    assert await bounded(waiting) == SAY
    assert await receive_many(layer, channel, 9) == [SAY] * 9


async def test_core_close_pools_is_idempotent_and_needs_no_use(build_core: Any) -> None:
    """Unused, twice, and used again."""
    layer = build_core()
    for _ in range(2):
        await bounded(layer.close_pools(), WELL_WITHIN_S)
    await layer.send("tasks", SAY)
    for _ in range(2):
        await bounded(layer.close_pools(), WELL_WITHIN_S)
    assert await receive(layer, "tasks") == SAY


async def test_core_close_pools_harms_no_other_loop(build_core: Any) -> None:
    """A receiver on another loop of the process goes on while this one closes its pools."""
    layer = build_core()
    here = asyncio.get_running_loop()
    ready: asyncio.Future[str] = here.create_future()

    async def receive_elsewhere() -> Any:
        channel = await layer.new_channel()
        waiting = await waiting_receive(layer, channel)
        here.call_soon_threadsafe(ready.set_result, channel)
        return await bounded(waiting)

    elsewhere = asyncio.create_task(asyncio.to_thread(asyncio.run, receive_elsewhere()))
    channel = await bounded(ready)
    await layer.close_pools()
    await layer.send(channel, SAY)
    assert await bounded(elsewhere) == SAY


async def test_core_wait_received_returns(build_core: Any) -> None:
    """``wait_received`` is there for old test suites, idle or after traffic."""
    layer = build_core()
    await bounded(layer.wait_received())
    channel = await layer.new_channel()
    await layer.send(channel, SAY)
    assert await receive(layer, channel) == SAY
    await bounded(layer.wait_received())
