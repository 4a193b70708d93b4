"""Loops that are blocked by synchronous code, while others of the same layer receive."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from channels_redis._transport.wire import Wire
from channels_redis.testing.servers import wait_until
from tests.helpers import numbered
from tests.sync.test_standing_loops import Running

#: How long a loop is blocked, at most; the tests end it sooner.
BLOCKED_S = 30


@pytest.fixture
def build(kind: str, build: Callable[..., Any], hosts: list[Any]) -> Callable[..., Any]:
    """Layers on the topologies of the contract."""
    return lambda **options: build(hosts=hosts, **options)


@pytest.fixture
def home() -> Iterator[Running]:
    """A loop on which somebody receives first."""
    running = Running()
    yield running
    running.end()


@pytest.fixture
def second() -> Iterator[Running]:
    """Another one."""
    running = Running()
    yield running
    running.end()


@contextmanager
def blocked(one: Running) -> Iterator[None]:
    """Block a loop by synchronous code: it counts as running all the while."""
    begun, enough = threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        enough.wait(BLOCKED_S)

    one.loop.call_soon_threadsafe(block)
    begun.wait()
    try:
        yield
        assert one.loop.is_running()
    finally:
        enough.set()


def consumer(layer: Any, running: Running, got: list[int]) -> str:
    """Return a channel that a consumer receives on a loop, and that is in the group ``room``."""
    channel: str = running.do(layer.new_channel())
    running.do(layer.group_add("room", channel))
    hear(layer, running, channel, got)
    return channel


def hear(layer: Any, running: Running, channel: str, got: list[int]) -> None:
    """Receive on a loop, and hear a first message there."""

    async def receive() -> None:
        while True:
            got.append((await layer.receive(channel))["n"])

    running.start(receive())
    layer.sync.send(channel, numbered(0))
    wait_until(lambda: got == [0], "heard", timeout_s=10)


def send_until_heard(layer: Any, send: Callable[[int], None], got: list[int]) -> int:
    """Send numbers until one has come that was sent here; return the last one."""
    for number in range(1, 1000):
        send(number)
        try:
            wait_until(lambda: max(got) > 0, "heard", timeout_s=0.05)
        except TimeoutError:
            continue
        return number
    raise AssertionError("nothing was heard")


@pytest.mark.parametrize("to", ["channel", "channel, unreadable", "group", "general channel"])
def test_a_second_loop_receives_while_the_first_one_is_blocked(
    build: Callable[..., Any],
    kind: str,
    home: Running,
    second: Running,
    to: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing comes twice; on core, nothing is lost either, nor in a queue."""
    if to == "channel, unreadable":
        # As over TLS: what was just being popped comes when the blocked loop goes on.
        monkeypatch.setattr(Wire, "take_over", lambda wire: None)
    layer, sender = build(), build()
    here: list[int] = []
    there: list[int] = []
    consumer(layer, home, here)
    channel = consumer(layer, second, there)
    if to == "general channel":
        there = []
        hear(layer, second, "work", there)
    send: dict[str, Callable[[int], None]] = {
        "channel": lambda number: sender.sync.send(channel, numbered(number)),
        "channel, unreadable": lambda number: sender.sync.send(channel, numbered(number)),
        "group": lambda number: sender.sync.group_send("room", numbered(number)),
        "general channel": lambda number: sender.sync.send("work", numbered(number)),
    }
    with blocked(home):
        last = send_until_heard(layer, send[to], there)
        send[to](last + 1)
        wait_until(lambda: last + 1 in there, "heard", timeout_s=10)
    # The loop that was blocked goes on, and with it all that lay there.
    send[to](last + 2)
    wait_until(lambda: last + 2 in there, "heard", timeout_s=10)
    everything = list(range(last + 3))
    if kind == "core" or to == "general channel":
        wait_until(lambda: len(there) >= len(everything), "heard", timeout_s=10)
        assert sorted(there) == everything
    else:
        assert sorted(set(there)) == sorted(there)
    if to == "group":
        wait_until(lambda: last + 2 in here, "heard", timeout_s=10)
        assert sorted(set(here)) == sorted(here)


def test_a_loop_that_was_blocked_reads_again_where_the_other_one_is_blocked(
    build: Callable[..., Any], home: Running, second: Running
) -> None:
    """And nothing comes twice."""
    layer, sender = build(), build()
    here: list[int] = []
    there: list[int] = []
    first, other = consumer(layer, home, here), consumer(layer, second, there)
    with blocked(home):
        send_until_heard(layer, lambda number: sender.sync.send(other, numbered(number)), there)
    with blocked(second):
        send_until_heard(layer, lambda number: sender.sync.send(first, numbered(number)), here)
    assert sorted(set(here + there)) == sorted({*here, *there})


def test_no_loop_is_asked_where_there_is_only_one(build: Callable[..., Any], home: Running) -> None:
    """Only loops for which another one reads have a timer for it."""
    layer = build()
    consumer(layer, home, [])

    async def timers() -> int:
        scheduled: Any = asyncio.get_running_loop()
        return sum("SilenceWatch" in repr(timer) for timer in getattr(scheduled, "_scheduled", ()))

    assert home.do(timers()) == 0
