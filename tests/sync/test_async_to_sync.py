"""Layers on the loops that ``async_to_sync`` makes for a single call, and where it makes none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.sync import AsyncToSync, async_to_sync, sync_to_async

from channels_redis._runtime import portal
from tests.helpers import numbered, receive, receive_numbers, wait_for
from tests.proxy import Proxy
from tests.sync.steps import holdings


@pytest.fixture(autouse=True)
def _no_executor_of_an_earlier_test() -> None:
    """What ran on the context that tests share leaves one, which asgiref 3.8 hands on when sync
    code calls back: a bug of its own, without any layer.
    """
    if hasattr(AsyncToSync.executors, "current"):
        del AsyncToSync.executors.current


@pytest.mark.parametrize(
    "calls", [300, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_calls_after_the_first_open_no_connection_and_leave_nothing(
    calls: int, build: Callable[..., Any], proxy: Proxy
) -> None:
    """File descriptors and threads stay as they are, too."""
    layer = build(hosts=[proxy.url])
    send = async_to_sync(layer.group_send)
    send("room", numbered(0))
    before = holdings()
    for number in range(calls):
        send("room", numbered(number))
    assert proxy.accepted == 1
    assert holdings() == before


def test_a_channel_that_was_made_on_one_short_loop_is_received_on_others(layer: Any) -> None:
    """A script is a consumer for a moment: it joins a group, and reads what comes."""
    channel = async_to_sync(layer.new_channel)()
    async_to_sync(layer.group_add)("room", channel)
    async_to_sync(layer.send)(channel, numbered(1))
    async_to_sync(layer.group_send)("room", numbered(2))
    assert [async_to_sync(layer.receive)(channel) for _ in "12"] == [numbered(1), numbered(2)]
    async_to_sync(layer.group_discard)("room", channel)
    async_to_sync(layer.group_send)("room", numbered(3))
    async_to_sync(layer.send)(channel, numbered(4))
    assert async_to_sync(layer.receive)(channel) == numbered(4)


def test_a_receiver_on_a_short_loop_waits_for_what_comes_later(layer: Any) -> None:
    """On a channel of its own and on a general one, beside each other."""
    channel = async_to_sync(layer.new_channel)()

    async def both() -> list[Any]:
        return await asyncio.gather(receive(layer, channel), receive(layer, "work"))

    def send() -> None:
        while layer.stats().waiting < 2:
            pass
        layer.sync.send(channel, numbered(1))
        layer.sync.send("work", numbered(2))

    sender = threading.Thread(target=send)
    sender.start()
    assert async_to_sync(both)() == [numbered(1), numbered(2)]
    sender.join()


def test_a_receiver_that_gives_up_on_a_short_loop_takes_no_message_with_it(layer: Any) -> None:
    """Neither when it is cancelled, nor when its whole loop ends while it waits."""
    channel = async_to_sync(layer.new_channel)()

    async def give_up(name: str) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(layer.receive(name), 0.05)

    async def leave_waiting(name: str) -> asyncio.Task[Any]:
        waiting = asyncio.create_task(layer.receive(name))
        await asyncio.sleep(0.05)
        return waiting  # asgiref's loop cancels it

    for name in (channel, "work"):
        async_to_sync(give_up)(name)
        async_to_sync(leave_waiting)(name)
        for number in range(5):
            layer.sync.send(name, numbered(number))
        assert async_to_sync(receive_numbers)(layer, name, 5) == list(range(5))


def test_many_threads_call_on_short_loops_at_once(build: Callable[..., Any], proxy: Proxy) -> None:
    """WSGI threads share the portal's connection."""
    layer = build(hosts=[proxy.url])

    def send(number: int) -> None:
        for _ in range(5):
            async_to_sync(layer.send)("work", numbered(number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, range(8)))
    assert proxy.accepted == 1
    received = async_to_sync(receive_numbers)(layer, "work", 40)
    assert sorted(received) == sorted([*range(8)] * 5)


async def test_in_the_thread_of_a_running_server_the_call_goes_back_to_its_loop(
    make_layer: Callable[..., Any], kind: str, proxy: Proxy
) -> None:
    """A plain view under ASGI shares the connections of the server's loop: no portal."""
    layer = make_layer(kind, hosts=[proxy.url])
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", numbered(0))
    assert await receive(layer, channel) == numbered(0)
    opened = proxy.accepted

    def view() -> dict[str, Any]:
        async_to_sync(layer.group_send)("room", numbered(1))
        async_to_sync(layer.send)(channel, numbered(2))
        message: dict[str, Any] = async_to_sync(layer.receive)(channel)
        return message

    assert await sync_to_async(view)() == numbered(1)
    assert await receive(layer, channel) == numbered(2)
    assert proxy.accepted == opened
    # On the portal's loop, leases are renewed while no other loop runs.
    loops = [loop for loop in layer._sessions.all() if not portal.portal.is_portal(loop)]
    assert loops == [asyncio.get_running_loop()]


async def test_sync_code_of_a_consumer_calls_back_with_the_blocking_face(
    make_layer: Callable[..., Any], kind: str
) -> None:
    """In ``sync_to_async``, also thread-sensitive and from several consumers at once, and in
    code that such code calls through ``async_to_sync``.
    """
    layer = make_layer(kind)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)

    async def deep() -> None:
        await sync_to_async(layer.sync.send)(channel, numbered(2))

    def work() -> None:
        layer.sync.group_send("room", numbered(1))
        async_to_sync(deep)()

    await asyncio.gather(*[sync_to_async(work, thread_sensitive=one)() for one in (True, False)])
    await asyncio.to_thread(work)
    assert sorted(await receive_numbers(layer, channel, 6)) == [1, 1, 1, 2, 2, 2]


def test_loops_of_async_to_sync_work_like_others_without_asgirefs_registry(
    monkeypatch: pytest.MonkeyPatch, build: Callable[..., Any], proxy: Proxy
) -> None:
    """Another release may have no such registry: each call has a connection then, which ends
    with its loop.
    """

    class AnotherRelease:
        pass

    monkeypatch.setattr(portal, "AsyncToSync", AnotherRelease)
    layer = build(hosts=[proxy.url])
    before = holdings()
    for number in range(5):
        async_to_sync(layer.send)("work", numbered(number))
        async_to_sync(layer.group_send)("room", numbered(number))
    assert async_to_sync(receive_numbers)(layer, "work", 5) == list(range(5))
    assert layer._sessions.all() == {}
    asyncio.run(wait_for(lambda: proxy.links == []))
    assert holdings() == before
