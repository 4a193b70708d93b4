"""Any number of event loops, one after the other and at once, on one layer object."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from channels_redis.testing.servers import wait_until
from tests.helpers import numbered, receive, receive_numbers
from tests.proxy import Proxy
from tests.sync.steps import holdings

THREADS = 32


@pytest.fixture(params=["asyncio", "uvloop"])
def new_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    """A function that makes an event loop of either kind."""
    if request.param == "asyncio":
        return asyncio.new_event_loop
    uvloop = pytest.importorskip("uvloop", reason="no dependency of the package")
    make: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return make


def close_in_order(loop: asyncio.AbstractEventLoop) -> None:
    """As ``asyncio.run()`` does."""
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def forgotten(task: asyncio.Task[Any]) -> asyncio.Task[Any]:
    """Keep Python from saying that a task was left waiting on a closed loop (see sync.rst)."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # not in the annotations
    return task


def possessions() -> tuple[int, int, int]:
    """Descriptors, threads, and tasks that were not freed."""
    holding = holdings()
    return *holding, sum(issubclass(type(one), asyncio.Task) for one in gc.get_objects())


# uvloop says so of every transport that is open when its loop is closed, whoever made it.
@pytest.mark.filterwarnings("ignore:unclosed resource <TCPTransport:ResourceWarning")
@pytest.mark.parametrize(
    "loops", [100, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_loops_that_are_opened_and_closed_leave_nothing(
    loops: int,
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    build: Callable[..., Any],
    proxy: Proxy,
) -> None:
    """Every other one is closed bare: no socket, task, thread or object stays, and no message
    is missed on the next loop.
    """
    layer = build(hosts=[proxy.url])

    async def work(number: int) -> None:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_send("room", numbered(number))
        assert await receive(layer, channel) == numbered(number)
        await layer.group_discard("room", channel)
        if number:
            assert await receive(layer, "work") == numbered(number - 1)
        await layer.send("work", numbered(number))

    def use(first: int, last: int) -> tuple[tuple[int, int, int], int]:
        for number in range(first, last):
            loop = new_loop()
            loop.run_until_complete(work(number))
            if number % 2:
                loop.close()
            else:
                close_in_order(loop)
        wait_until(lambda: proxy.links == [], "rid of all connections")
        return possessions(), len(gc.get_objects())

    begun, objects_begun = use(0, 10)
    ended, objects_ended = use(10, loops)
    assert ended == begun
    # A layer keeps a mailbox for an hour where a consumer may come back to it.
    assert (objects_ended - objects_begun) / (loops - 10) < 10


@pytest.mark.filterwarnings("ignore:unclosed resource <TCPTransport:ResourceWarning")
def test_a_loop_that_was_closed_bare_while_it_received_eats_nothing(
    new_loop: Callable[[], asyncio.AbstractEventLoop], build: Callable[..., Any], proxy: Proxy
) -> None:
    """Its servers see its end at once; what it had popped and nobody taken, the next receives."""
    layer = build(hosts=[proxy.url])

    async def wait() -> list[asyncio.Task[Any]]:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        waiting = []
        for name in (channel, "work"):
            await layer.send(name, {})
            await receive(layer, name)
            waiting.append(forgotten(asyncio.create_task(layer.receive(name))))
        await asyncio.sleep(0.05)
        return waiting

    for _ in range(3):
        loop = new_loop()
        waiting = loop.run_until_complete(wait())
        loop.close()
        del waiting, loop
    wait_until(lambda: proxy.links == [], "rid of all connections")
    for number in range(20):
        layer.sync.send("work", numbered(number))
    assert asyncio.run(receive_numbers(layer, "work", 20)) == list(range(20))


@pytest.mark.filterwarnings("ignore:unclosed resource <TCPTransport:ResourceWarning")
def test_a_loop_that_is_abandoned_in_mid_flight_harms_no_other(
    new_loop: Callable[[], asyncio.AbstractEventLoop], build: Callable[..., Any]
) -> None:
    """Loops are closed bare while they send and receive; another one goes on receiving all that
    is sent to it, and the portal goes on sending.
    """
    layer = build(capacity=1000)
    channels: list[str] = []
    listening = threading.Event()
    total = 200

    async def consume() -> list[int]:
        channels.append(await layer.new_channel())
        await layer.group_add("room", channels[0])
        listening.set()
        return await receive_numbers(layer, channels[0], total)

    async def rush(for_s: float) -> list[asyncio.Task[Any]]:
        channel = await layer.new_channel()
        for name in (channel, "work"):
            await layer.send(name, {})
            await receive(layer, name)
        await layer.group_add("elsewhere", channel)
        works = [layer.receive(channel), layer.receive("work")]
        works += [layer.group_send("elsewhere", {}) for _ in range(20)]
        tasks = [forgotten(asyncio.create_task(work)) for work in works]
        await asyncio.sleep(for_s)
        return tasks

    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(asyncio.run, consume())
        listening.wait()
        for number in range(total):
            layer.sync.group_send("room", numbered(number))
            if number % 20 == 0:
                loop = new_loop()
                loop.run_until_complete(rush(number * 2e-5))
                loop.close()
        assert received.result(30) == list(range(total))
    for number in range(20):
        layer.sync.send("work", numbered(number))
    assert asyncio.run(receive_numbers(layer, "work", 20)) == list(range(20))


def test_a_receiver_on_a_loop_that_stands_still_keeps_no_message_from_another(
    new_loop: Callable[[], asyncio.AbstractEventLoop], build: Callable[..., Any]
) -> None:
    """A loop that is not closed, and that nobody runs at present, has a worker that waits: so
    has one that runs, and that one gets the messages.  Run again, the first has its turn.
    """
    layer = build()

    async def wait() -> asyncio.Task[Any]:
        await layer.send("work", numbered(0))
        assert await receive(layer, "work") == numbered(0)
        waiting = asyncio.create_task(receive(layer, "work"))
        await asyncio.sleep(0.05)
        return waiting

    async def take_over() -> None:
        waiting = asyncio.create_task(receive_numbers(layer, "work", 3))
        await layer.send("warm-up", {})
        await receive(layer, "warm-up")
        for number in range(3):
            await layer.send("work", numbered(number))
        assert await waiting == [0, 1, 2]

    standing = new_loop()
    waiting = standing.run_until_complete(wait())
    asyncio.run(take_over())
    layer.sync.send("work", numbered(9))
    assert standing.run_until_complete(waiting) == numbered(9)
    close_in_order(standing)


def test_a_loop_that_stood_still_ends_at_once_though_another_took_its_queue_over(
    build: Callable[..., Any],
) -> None:
    """Its idle reader does not wait out the time for which readers stay."""
    layer = build(command_timeout_s=80)

    async def converse() -> None:
        await layer.send("work", numbered(1))
        assert await receive(layer, "work") == numbered(1)

    standing = asyncio.new_event_loop()
    standing.run_until_complete(converse())
    asyncio.run(converse())
    standing.run_until_complete(asyncio.wait_for(layer.close(), 20))
    close_in_order(standing)


def test_32_threads_send_and_receive_at_once_on_loops_of_their_own(
    build: Callable[..., Any], proxy: Proxy
) -> None:
    """Each gets what its neighbours send to it and what all send to the group, once; in the
    end there is nothing left of the loops.
    """
    layer = build(hosts=[proxy.url], capacity=1000)
    layer.sync.send("warm-up", {})
    before, links = holdings(), len(proxy.links)
    channels: dict[int, str] = {}
    everybody = threading.Barrier(THREADS, timeout=30)
    troubles: list[Any] = []

    async def talk(number: int) -> list[int]:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: troubles.append(context))
        channels[number] = await layer.new_channel()
        await layer.group_add("room", channels[number])
        await asyncio.to_thread(everybody.wait)
        for count in range(10):
            await layer.send(channels[(number + 1) % THREADS], numbered(count))
        await layer.group_send("room", numbered(100 + number))
        received = await receive_numbers(layer, channels[number], 10 + THREADS)
        await layer.group_discard("room", channels[number])
        await asyncio.to_thread(everybody.wait)
        return received

    with ThreadPoolExecutor(THREADS) as pool:
        outcomes = list(pool.map(lambda number: asyncio.run(talk(number)), range(THREADS)))
    for received in outcomes:
        assert [one for one in received if one < 100] == list(range(10))
        assert sorted(one for one in received if one >= 100) == list(range(100, 100 + THREADS))
    assert troubles == []
    wait_until(lambda: len(proxy.links) == links, "rid of the loops' connections")
    assert holdings() == before


def test_a_loop_between_two_of_its_runs_loses_nothing_to_a_receiver_elsewhere(
    build: Callable[..., Any], new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """As at the end of ``asyncio.run()``: what its reader has popped is delivered here or there."""
    layer = build()
    loop = new_loop()
    try:
        loop.run_until_complete(layer.send("work", numbered(0)))
        assert loop.run_until_complete(receive(layer, "work")) == numbered(0)
        here = loop.create_task(receive(layer, "work", 20))
        loop.run_until_complete(asyncio.sleep(0.05))
        # Popped by the reader that waits there, and read by nobody yet.
        layer.sync.send("work", numbered(1))

        async def listen_elsewhere() -> Any:
            receiving = asyncio.create_task(receive(layer, "work", 20))
            await asyncio.sleep(0.05)
            await layer.send("work", numbered(2))
            return await receiving

        there = asyncio.run(listen_elsewhere())
        heard = [there, loop.run_until_complete(here)]
        assert sorted(message["n"] for message in heard) == [1, 2]
    finally:
        loop.run_until_complete(layer.close())
        close_in_order(loop)


def test_a_consumer_that_moves_between_loops_that_stand_still_gets_all_once(
    new_loop: Callable[[], asyncio.AbstractEventLoop], build: Callable[..., Any]
) -> None:
    """Each loop that runs takes the channel and its groups over from the one that stands still,
    which brings nothing of it any more when it runs again.
    """
    layer = build()
    loops = [new_loop(), new_loop()]
    channel = loops[0].run_until_complete(layer.new_channel())
    loops[0].run_until_complete(layer.group_add("room", channel))

    async def call() -> None:
        while True:
            await layer.group_send("room", numbered(0))
            await asyncio.sleep(0.02)

    async def converse(turn: int) -> None:
        calling = asyncio.create_task(call())
        assert await receive(layer, channel) == numbered(0)
        calling.cancel()
        await asyncio.wait({calling})
        await layer.group_send("room", numbered(turn))
        await layer.send(channel, numbered(-turn))
        numbers = []
        while -turn not in numbers:
            numbers += await receive_numbers(layer, channel, 1)
        assert [number for number in numbers if number] == [turn, -turn]

    for turn in range(1, 5):
        loops[turn % 2].run_until_complete(converse(turn))
    for loop in loops:
        loop.run_until_complete(layer.close())
        close_in_order(loop)


@pytest.mark.parametrize("behind", [False, True], ids=["alone", "behind another"])
def test_a_message_for_many_wakes_who_waits_elsewhere_though_the_loop_stops_that_brought_it(
    new_loop: Callable[[], asyncio.AbstractEventLoop], build: Callable[..., Any], behind: bool
) -> None:
    """Also behind another one, who waited on that loop and was cancelled before its turn.  Who
    waits there gets it when the loop runs again.
    """
    layer = build()
    loop = new_loop()
    leaving: list[asyncio.Task[Any]] = []

    async def join() -> list[str]:
        channels = [await layer.new_channel() for _ in range(600)]
        for channel in channels:
            await layer.group_add("room", channel)
            await layer.send(channel, numbered(0))
            assert await receive(layer, channel) == numbered(0)
        return channels

    async def consume(channel: str) -> Any:
        message = await layer.receive(channel)
        if channel == channels[0]:
            for task in leaving:
                task.cancel()
            # In the next turn, in which who was cancelled leaves.
            loop.call_soon(loop.stop)
        return message

    async def wait_elsewhere(waits: threading.Event) -> Any:
        asyncio.get_running_loop().call_later(0.05, waits.set)
        return await receive(layer, channels[-1], 20)

    async def wait_on_both(pool: ThreadPoolExecutor) -> tuple[Any, Any]:
        waits = threading.Event()
        here = asyncio.gather(*[consume(channel) for channel in channels[:-1]])
        if behind:
            leaving.append(loop.create_task(layer.receive(channels[-1])))
        await asyncio.sleep(0)
        elsewhere = pool.submit(asyncio.run, wait_elsewhere(waits))
        await asyncio.to_thread(waits.wait)
        return here, elsewhere

    with ThreadPoolExecutor(1) as pool:
        channels = loop.run_until_complete(join())
        here, elsewhere = loop.run_until_complete(wait_on_both(pool))
        sending = loop.create_task(layer.group_send("room", numbered(1)))
        loop.run_forever()
        assert elsewhere.result(20) == numbered(1)
        assert loop.run_until_complete(here) == [numbered(1)] * (len(channels) - 1)
        loop.run_until_complete(sending)
    loop.run_until_complete(layer.close())
    loop.run_until_complete(loop.shutdown_default_executor())
    close_in_order(loop)
