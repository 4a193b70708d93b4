"""The map of a cluster, which is asked for again and again while a server is gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator

from channels_redis._format.slots import SLOTS, Address, Range, Ranges
from channels_redis._runtime.scope import Scope
from channels_redis._transport.cluster.map import SlotMap
from channels_redis._transport.cluster.survey import Chart, first_good
from channels_redis._watch.events import Hooks, Reporter
from channels_redis._watch.outages import Health, Outage
from channels_redis.exceptions import ConfigurationError
from tests.helpers import wait_for

A, B = ("a.example.com", 1), ("b.example.com", 2)


class Answers:
    """Stands for the servers: one answer after the other, and what came of them."""

    waiting = False

    def __init__(self) -> None:
        self.ranges: Ranges = ()
        self.learnt = self.changes = 0
        logger = logging.getLogger("tests")
        report = Reporter(logger, Hooks(logger))
        health = Health("cluster", report, Outage(lambda began, outage_s: None))
        self.map = SlotMap(self, health, Scope(asyncio.get_running_loop()))

    def whom_to_ask(self) -> Iterator[Callable[[], Awaitable[Chart]]]:
        async def answer() -> Chart:
            return Chart(self.ranges, healthy=True, sharded=True)

        yield answer

    def map_changed(self) -> None:
        self.changes += 1

    def map_learnt(self) -> None:
        self.learnt += 1

    def map_refused(self, error: ConfigurationError) -> None:
        raise error

    async def say(self, *ranges: tuple[int, int, Address]) -> None:
        """Have the map asked for once more, and answer this."""
        self.ranges = tuple(Range(*one) for one in ranges)
        learnt = self.learnt
        self.map.stale()
        await wait_for(lambda: self.learnt > learnt)


async def test_an_answer_that_says_nothing_new_costs_no_look_at_the_slots() -> None:
    """What goes on at full speed beside a server that is gone does not pay for 16384 slots with
    every question about it.
    """
    answers = Answers()
    await answers.say((0, 99, A), (100, SLOTS - 1, B))
    drawn = answers.map.owners
    await answers.say((0, 99, A), (100, SLOTS - 1, B))
    assert answers.map.owners is drawn
    assert answers.changes == 1
    await answers.map.aclose()


async def test_the_map_follows_every_change() -> None:
    """Slots that moved, servers that came and went, and a redirection that was mistaken."""
    answers = Answers()
    await answers.say((0, 99, A), (100, SLOTS - 1, B))
    await answers.say((0, 100, A), (101, SLOTS - 1, B))
    assert (answers.map.owners[100], answers.changes) == (A, 2)
    assert answers.map.assign(100, B)
    await answers.say((0, 100, A), (101, SLOTS - 1, B))
    assert (answers.map.owners[100], answers.changes) == (A, 3)
    await answers.say((0, SLOTS - 1, A))
    assert (answers.map.primaries, answers.changes) == ((A,), 4)
    await answers.map.aclose()


async def test_servers_nobody_needs_are_left_properly_before_the_question_ends() -> None:
    """They close their connections, even if the question is given up just then."""
    left: list[str] = []
    slow_asked, leaving = asyncio.Event(), asyncio.Event()

    async def slow() -> Chart:
        slow_asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            leaving.set()
            for _ in range(20):
                await asyncio.sleep(0)
            left.append("slow")
        raise AssertionError("never reached")

    async def good() -> Chart:
        await slow_asked.wait()
        return Chart((Range(0, SLOTS - 1, A),), healthy=True, sharded=True)

    question = asyncio.ensure_future(first_good([slow, good], asyncio.get_running_loop()))
    await leaving.wait()
    question.cancel()
    await asyncio.wait({question})
    assert question.cancelled()
    assert left == ["slow"]
