"""One layer object, many event loops, threads and processes."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from asgiref.sync import async_to_sync

from tests.conftest import class_of
from tests.helpers import numbered, receive, receive_numbers, script_environment, waiting
from tests.proxy import Proxy


def test_sending_from_sync_code_opens_no_connection_after_the_first_call(
    kind: str, proxy: Proxy, prefix: str
) -> None:
    """``async_to_sync(group_send)`` costs no connection of its own (125, 266, C959)."""
    layer = class_of(kind)(hosts=[proxy.url], prefix=prefix)
    async_to_sync(layer.group_send)("room", numbered(0))
    async_to_sync(layer.send)("work", numbered(0))
    opened = proxy.accepted
    for number in range(10):
        async_to_sync(layer.group_send)("room", numbered(number))
        async_to_sync(layer.send)("work", numbered(number))
    assert proxy.accepted == opened
    async_to_sync(layer.close)()


def test_any_number_of_loops_and_threads_receive_on_one_layer(
    kind: str, redis_url: str, prefix: str
) -> None:
    """Each thread has its loop and its consumers, and all get their messages (C1435, 367)."""
    layer = class_of(kind)(hosts=[redis_url], prefix=prefix)
    everybody_waits = threading.Barrier(4, timeout=20)

    async def consume() -> list[int]:
        channel = await layer.new_channel()
        wait = waiting(layer, channel)
        await asyncio.to_thread(everybody_waits.wait)
        for number in range(20):
            await layer.send(channel, numbered(number))
        return [(await wait)["n"], *await receive_numbers(layer, channel, 19)]

    with ThreadPoolExecutor(4) as threads:
        loops = [threads.submit(asyncio.run, consume()) for _ in range(4)]
        assert [loop.result(30) for loop in loops] == [list(range(20))] * 4
    asyncio.run(layer.close())


async def test_hundreds_of_sends_at_once_all_arrive(
    make_layer: Callable[..., Any], kind: str
) -> None:
    """Concurrency has no limit of its own; order is not promised."""
    layer, sender = (make_layer(kind, capacity=2000) for _ in range(2))
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    direct = [sender.send(channel, numbered(number)) for number in range(300)]
    groups = [sender.group_send("room", numbered(300 + number)) for number in range(300)]
    await asyncio.gather(*direct, *groups)
    assert sorted(await receive_numbers(layer, channel, 600)) == list(range(600))


async def test_new_channels_of_several_prefixes_are_all_read(
    make_layer: Callable[..., Any], kind: str
) -> None:
    """``new_channel("a")`` and ``new_channel("b")`` in one process do not wait for each other."""
    layer, sender = make_layer(kind), make_layer(kind)
    first, *others = [await layer.new_channel(name) for name in ("a", "b", "c")]
    wait = waiting(layer, first)
    for number, channel in enumerate(others):
        await sender.send(channel, numbered(number))
        assert await receive(layer, channel) == numbered(number)
    await sender.send(first, numbered(9))
    assert await asyncio.wait_for(wait, 10) == numbered(9)


FORKING = r"""
import asyncio, json, os, sys
from asgiref.sync import async_to_sync
from django.utils.module_loading import import_string

MESSAGES = 20
layer = import_string(sys.argv[1])(**json.loads(sys.argv[2]))

async def greet():
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "hello"})
    assert (await layer.receive(channel))["type"] == "hello"

def say(text):
    os.write(1, json.dumps(text).encode() + b"\n")

async def serve():
    channel = await layer.new_channel()
    say(channel)
    say([(await layer.receive(channel))["n"] for _ in range(MESSAGES)])

async_to_sync(layer.send)("work", {"type": "from sync code"})
asyncio.run(greet())
children = [pid for pid in (os.fork(), os.fork()) if pid]
asyncio.run(serve())
for pid in children:
    os.waitpid(pid, 0)
"""


async def test_processes_that_were_forked_after_use_do_not_steal_from_each_other(
    make_layer: Callable[..., Any], kind: str, redis_url: str, prefix: str
) -> None:
    """A child has a client prefix and connections of its own: each gets all of its messages."""
    path = f"{class_of(kind).__module__}.{class_of(kind).__qualname__}"
    options = json.dumps({"hosts": [redis_url], "prefix": prefix})
    script = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", FORKING, path, options),
        stdout=asyncio.subprocess.PIPE,
        env=script_environment(),
    )
    assert script.stdout is not None
    sender = make_layer(kind)
    try:
        channels = [json.loads(await script.stdout.readline()) for _ in range(4)]
        assert len({channel.split("!")[0] for channel in channels}) == 4
        for number in range(20):
            for channel in channels:
                await sender.send(channel, numbered(number))
        received = [json.loads(await script.stdout.readline()) for _ in range(4)]
        assert received == [list(range(20))] * 4
        assert await script.wait() == 0
    finally:
        if script.returncode is None:
            script.kill()
        await script.wait()


def test_what_one_loop_left_unread_the_next_one_receives(
    kind: str, redis_url: str, prefix: str
) -> None:
    """A general channel's messages outlive the loop that sent them."""
    layer = class_of(kind)(hosts=[redis_url], prefix=prefix)
    for number in range(3):
        asyncio.run(layer.send("work", numbered(number)))
    assert asyncio.run(receive_numbers(layer, "work", 2)) == [0, 1]
    assert asyncio.run(receive(layer, "work")) == numbered(2)
    asyncio.run(layer.close())
