"""Layers and event loops that come and go: what nobody holds any more lets everything go."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from channels_redis._groups import leases
from channels_redis._runtime.portal import portal
from channels_redis._transport import reader
from channels_redis.testing.servers import wait_until
from tests.conftest import class_of
from tests.helpers import numbered, receive, run_script, wait_for
from tests.proxy import Proxy
from tests.sync.steps import STRICT


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is freed here was freed without the garbage collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def own_tasks() -> list[asyncio.Task[Any]]:
    """Return the tasks of all layers on this loop."""
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("channels_redis")]


async def all_wait(layer: Any, count: int) -> None:
    """Wait until so many receivers wait."""
    await wait_for(lambda: layer.stats().waiting == count)


async def use(layer: Any, name: str = "work") -> str:
    """Use everything that a layer has: queues, topics, groups, workers; return a channel."""
    channel: str = await layer.new_channel()
    await layer.group_add(name, channel)
    await layer.group_send(name, numbered(1))
    await layer.send(name, numbered(2))
    assert await receive(layer, channel) == numbered(1)
    assert await receive(layer, name) == numbered(2)
    return channel


@pytest.mark.usefixtures("no_collector")
async def test_a_layer_without_references_closes_its_connections_and_tasks(
    kind: str, proxy: Proxy, prefix: str
) -> None:
    """At once, though its consumers were never closed, and its loop runs on."""
    before = own_tasks()
    layer = class_of(kind)(hosts=[proxy.url], prefix=prefix)
    await use(layer)
    assert proxy.links
    freed = weakref.ref(layer)
    del layer
    assert freed() is None
    await wait_for(lambda: proxy.links == [] and own_tasks() == before)


@pytest.mark.usefixtures("no_collector")
def test_a_layer_without_references_closes_its_state_on_the_portal(
    kind: str, proxy: Proxy, prefix: str
) -> None:
    """Blocking calls, and a consumer for a moment under ``async_to_sync``."""
    layer = class_of(kind)(hosts=[proxy.url], prefix=prefix)
    layer.sync.send("work", numbered(0))
    assert async_to_sync(receive)(layer, "work") == numbered(0)
    async_to_sync(use)(layer)
    freed = weakref.ref(layer)
    del layer
    # asgiref's executor keeps the last call for a while.
    gc.collect()
    assert freed() is None
    asyncio.run(wait_for(lambda: proxy.links == []))


@pytest.mark.parametrize("closes_pools", [False, True], ids=["dropped", "close_pools()"])
async def test_thirty_layers_that_came_and_went_left_no_connection(
    kind: str, proxy: Proxy, prefix: str, closes_pools: bool
) -> None:
    """Each was used once, in the way of 4.3.0."""
    layers = []
    for number in range(30):
        layer = class_of(kind)(hosts=[proxy.url], prefix=prefix)
        await layer.send("work", numbered(number))
        if closes_pools and hasattr(layer, "close_pools"):
            await layer.close_pools()
            layers.append(layer)
        del layer
    await wait_for(lambda: proxy.links == [])


async def test_those_who_wait_keep_their_layer(
    make_layer: Callable[..., Any], kind: str, proxy: Proxy, prefix: str
) -> None:
    """Though nobody holds them either: on a channel of their own, and on a general one."""
    layer, sender = class_of(kind)(hosts=[proxy.url], prefix=prefix), make_layer(kind)
    channel = await layer.new_channel()
    got: list[Any] = []

    async def consume(layer: Any, channel: str) -> None:
        got.append(await layer.receive(channel))

    consumers = [asyncio.create_task(consume(layer, one)) for one in (channel, "work")]
    await all_wait(layer, 2)
    del layer, consumers
    gc.collect()
    await sender.send(channel, numbered(1))
    await sender.send("work", numbered(1))
    await wait_for(lambda: got == [numbered(1)] * 2)
    await wait_for(lambda: proxy.links == [])


async def test_a_hook_that_holds_its_layer_keeps_it_no_longer_than_others_do(
    kind: str, proxy: Proxy, prefix: str
) -> None:
    """The two hold each other, so the collector has to come."""
    layer = class_of(kind)(hosts=[proxy.url], prefix=prefix)
    layer.on_event(lambda event, layer=layer: layer.stats())
    await use(layer)
    del layer
    gc.collect()
    await wait_for(lambda: proxy.links == [])


async def test_unread_messages_of_a_dropped_layer_are_put_back(
    monkeypatch: pytest.MonkeyPatch,
    make_layer: Callable[..., Any],
    kind: str,
    proxy: Proxy,
    prefix: str,
) -> None:
    """A worker that gave up in the moment when its message came."""
    monkeypatch.setattr(reader, "HOLD_S", 60)
    layer, other = class_of(kind)(hosts=[proxy.url], prefix=prefix), make_layer(kind)
    worker: Any = asyncio.create_task(layer.receive("work"))
    await all_wait(layer, 1)
    local = layer._queues["work"]
    deliver = local.deliver

    def deliver_too_late(*delivery: Any) -> None:
        deliver(*delivery)
        worker.cancel()

    local.deliver = deliver_too_late
    await other.send("work", numbered(1))
    await asyncio.gather(worker, return_exceptions=True)
    assert layer.stats().buffered == 1
    worker = None  # whose error holds the frames that it came through
    del layer
    gc.collect()
    assert await receive(other, "work") == numbered(1)


def test_a_dropped_layer_closes_its_sockets_on_a_stopped_loop(
    kind: str, proxy: Proxy, prefix: str
) -> None:
    """Servers see the end of its connections, and the loop still works when it runs again."""
    layer = class_of(kind)(hosts=[proxy.url], prefix=prefix)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(use(layer))
    assert proxy.links
    del layer
    gc.collect()
    asyncio.run(wait_for(lambda: proxy.links == []))

    async def all_ended() -> None:
        await wait_for(lambda: own_tasks() == [])

    loop.run_until_complete(all_ended())
    loop.close()


async def test_close_pools_leaves_alone_what_receivers_need(
    make_layer: Callable[..., Any], proxy: Proxy
) -> None:
    """And closes the rest: on core, the connection for commands."""
    layer = make_layer("core", hosts=[proxy.url])
    channel = await layer.new_channel()
    waiting = asyncio.create_task(layer.receive(channel))
    await layer.send("work", numbered(0))
    await wait_for(lambda: len(proxy.links) == 2)
    for _ in range(3):
        await layer.close_pools()
    await wait_for(lambda: len(proxy.links) == 1)
    await layer.send(channel, numbered(1))
    assert await asyncio.wait_for(waiting, 10) == numbered(1)


async def test_close_pools_interrupts_no_call(make_layer: Callable[..., Any], proxy: Proxy) -> None:
    """Those that are on their way, on this loop and on others."""
    layer = make_layer("core", hosts=[proxy.url])
    await layer.close_pools()
    sends = [asyncio.create_task(layer.send("work", numbered(number))) for number in range(50)]
    await asyncio.sleep(0)
    await layer.close_pools()
    await asyncio.gather(*sends)
    await layer.close_pools()
    await wait_for(lambda: proxy.links == [])


def test_close_pools_under_async_to_sync_closes_the_portals_connections(
    build: Callable[..., Any], proxy: Proxy, kind: str
) -> None:
    """Those of this layer, and no others."""
    if kind == "pubsub":
        pytest.skip("4.3.0 has close_pools() on core")
    layer, other = build(hosts=[proxy.url]), build(hosts=[proxy.url])
    for one in (layer, other):
        async_to_sync(one.send)("work", numbered(0))
    assert len(proxy.links) == 2
    async_to_sync(layer.close_pools)()
    asyncio.run(wait_for(lambda: len(proxy.links) == 1))
    async_to_sync(layer.send)("work", numbered(1))


def new_loop(of: str) -> asyncio.AbstractEventLoop:
    if of == "asyncio":
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = pytest.importorskip(of).new_event_loop()
    return loop


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("of", ["asyncio", "uvloop"])
def test_loops_that_are_dropped_unclosed_let_their_connections_go(
    build: Callable[..., Any], proxy: Proxy, of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of threads that used a layer, which lives on, as do its memberships."""
    # The portal's session, which would renew their lease, opens no connection meanwhile.
    monkeypatch.setattr(leases, "BLOCKED_S", 3600)
    if of == "uvloop":
        pytest.importorskip("uvloop")  # here, as a thread cannot skip a test
    layer = build(hosts=[proxy.url])

    def run(name: str) -> None:
        new_loop(of).run_until_complete(use(layer, name))

    threads = [threading.Thread(target=run, args=[f"work-{number}"]) for number in range(10)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()

    def are_gone() -> bool:
        gc.collect()
        # uvloop's loops are never freed.
        left = [loop for loop in layer._sessions.all() if not portal.is_portal(loop)]
        return proxy.links == [] and (of == "uvloop" or left == [])

    wait_until(are_gone, "rid of the loops of ended threads")
    asyncio.run(use(layer))


# Python itself tells of sockets whose loop was dropped unclosed.
DROPPING_LOOPS = ("-W", "ignore:unclosed:ResourceWarning")

DROPPED = """
import asyncio, gc, json, logging, sys, threading
from asgiref.sync import async_to_sync
from django.utils.module_loading import import_string

# How slow a step was is the machine's affair.
logging.getLogger("asyncio").setLevel(logging.ERROR)

def make():
    return import_string(sys.argv[1])(**json.loads(sys.argv[2]))

async def use(layer):
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.send("tasks", {"type": "x"})
    assert await layer.receive("tasks") == {"type": "x"}
    await layer.group_send("room", {"type": "x"})
    assert await layer.receive(channel) == {"type": "x"}
"""

SCRIPTS = {
    "layers dropped on a loop that goes on": """
async def main():
    for _ in range(10):
        await use(make())
    await asyncio.sleep(0.5)
    await use(make())

asyncio.run(main())
""",
    "layers dropped under async_to_sync": """
for _ in range(10):
    async_to_sync(use)(make())
""",
    "layers dropped after blocking calls": """
for _ in range(10):
    make().sync.send("tasks", {})
""",
    "loops dropped unclosed": """
layer = make()
for _ in range(10):
    thread = threading.Thread(
        target=lambda: asyncio.new_event_loop().run_until_complete(use(layer))
    )
    thread.start()
    thread.join()
    gc.collect()
""",
    "loops and layers dropped together": """
for _ in range(10):
    asyncio.new_event_loop().run_until_complete(use(make()))
gc.collect()
""",
    "settings overridden": """
from django.conf import settings
from django.test import override_settings
settings.configure()
import django
django.setup()
from channels.layers import get_channel_layer

CONFIG = json.loads(sys.argv[2])
for number in range(10):
    backend = {"BACKEND": sys.argv[1], "CONFIG": {**CONFIG, "expiry": 60 + number}}
    with override_settings(CHANNEL_LAYERS={"default": backend}):
        async_to_sync(use)(get_channel_layer())
""",
}


@pytest.mark.parametrize("what", SCRIPTS)
async def test_nothing_is_printed(script_arguments: tuple[str, str], what: str) -> None:
    """Every warning is an error here."""
    options = (*STRICT, *(DROPPING_LOOPS if what.startswith("loops") else ()))
    await run_script(DROPPED + SCRIPTS[what], *script_arguments, options=options)
