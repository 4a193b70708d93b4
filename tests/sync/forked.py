"""A process that uses a layer, forks in one of several ways, and goes on: see test_forks.

    python -c "from tests.sync.forked import main; main()" WAY

``FORKED_LAYER`` and ``FORKED_OPTIONS`` describe the layer.  It is a global of this module, which
``gunicorn --preload``, a fork server and Celery's prefork pool import before they fork.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from django.utils.module_loading import import_string

from tests.sync.steps import CHILDREN, GROUP, LAST, WAYS

layer = import_string(os.environ["FORKED_LAYER"])(**json.loads(os.environ["FORKED_OPTIONS"]))
imported_in = os.getpid()
layer.sync.send("warm-up", {"n": 0})


def say(**facts: Any) -> None:
    """Print a line at once: lines of several processes must not mix."""
    os.write(1, json.dumps({"pid": os.getpid(), **facts}).encode() + b"\n")


async def consume(waits: Callable[[], object] = lambda: None) -> None:
    """Tell one's channel, then all that comes there until the last message."""
    channel = await layer.new_channel()
    await layer.group_add(GROUP, channel)
    await layer.send(channel, {"n": 0})
    assert (await layer.receive(channel))["n"] == 0
    waits()
    say(channel=channel, inherited=imported_in != os.getpid())
    received: list[Any] = []
    while LAST not in received:
        received.append((await layer.receive(channel))["n"])
    say(channel=channel, received=received)


def serve(number: int) -> None:
    """What a worker process does: blocking calls, then a loop of its own."""
    layer.sync.send("started", {"n": number})
    asyncio.run(consume())


def by_os_fork() -> None:
    children = []
    for number in range(CHILDREN):
        child = os.fork()
        if not child:
            serve(number)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * CHILDREN


def by_processes(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([__name__])
    children = [context.Process(target=serve, args=(number,)) for number in range(CHILDREN)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * CHILDREN


def by_a_prefork_pool() -> None:
    with multiprocessing.get_context("fork").Pool(CHILDREN) as pool:
        pool.map(serve, range(CHILDREN), chunksize=1)


def main() -> None:
    """Fork while a consumer of this process waits on a loop in a thread."""
    ways: list[Callable[[], None]] = [
        by_os_fork,
        lambda: by_processes("fork"),
        lambda: by_processes("forkserver"),
        by_a_prefork_pool,
    ]
    receiving = threading.Event()
    consumer = threading.Thread(target=asyncio.run, args=(consume(receiving.set),))
    consumer.start()
    receiving.wait()
    ways[WAYS.index(sys.argv[1])]()
    layer.sync.group_send(GROUP, {"n": "from the parent"})
    layer.sync.group_send(GROUP, {"n": LAST})
    consumer.join()
    say(reconnects=layer.stats().reconnects)
