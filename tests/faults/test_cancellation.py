"""Cancelled at any await, a call leaves the layer as good as new: nothing lost, doubled or leaked.

Each test runs its operation again and again, and stops it a step later each time, until it runs
through without a stop; so no await is missed, also none that is added one day.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from functools import partial
from typing import Any

import pytest

from channels_redis.exceptions import ConnectionLost, LayerClosed
from channels_redis.testing.servers import RedisServer
from tests.conftest import find_server_or_skip
from tests.faults.gate import Gate, gated_layer
from tests.helpers import numbered, receive, receive_until_marker, subscribers, wait_for

#: More awaits than any operation has.
MANY = 100
#: Above any honest delay; a call that was cancelled ends at once.
BOUND_S = 8.0

serial = itertools.count()


class Stage:
    """A layer behind a gate, perhaps with a consumer that waits on it, and another process."""

    def __init__(self, kind: str, layer: Any, other: Any, gate: Gate, server: Any) -> None:
        self.kind = kind
        self.layer = layer
        self.other = other
        self.gate = gate
        self.server = server
        self.jobs, self.room, self.hall = "jobs", "room", "hall"
        self.there = ""
        self.here = ""
        self.heard: list[Any] = []
        self._consumer: asyncio.Task[None] | None = None

    async def prepare(self, warm: bool) -> None:
        """Make a channel of the other process; where the layer shall be warm, also its own."""
        self.there = await self.other.new_channel()
        await self.other.group_add(self.room, self.there)
        if warm:
            self.here = await self.layer.new_channel()
            await self.layer.group_add(self.hall, self.here)
            await self.layer.send(self.there, numbered(0))
            assert await receive(self.other, self.there) == numbered(0)
            self._consumer = asyncio.create_task(self._consume())
            await self.other.send(self.here, numbered(0))
            await wait_for(lambda: self.heard)

    async def _consume(self) -> None:
        with contextlib.suppress(LayerClosed):
            while True:
                self.heard.append(await self.layer.receive(self.here))

    async def works(self) -> None:
        """Prove that the layer sends, receives and groups, on old channels and new."""
        # A flush of the core layer is everybody's.
        await self.other.group_add(self.room, self.there)
        new = await self.layer.new_channel()
        await self.layer.group_add(self.room, new)
        await self.other.group_send(self.room, numbered(97))
        await self.layer.send(new, numbered(98))
        assert [await receive(self.layer, new) for _ in range(2)] == [numbered(97), numbered(98)]
        assert numbered(97) in await receive_until_marker(self.other, self.there)
        if self._consumer is None:
            return
        if self._consumer.done():
            # Closed; whoever comes back to a channel of his own hears again.
            await asyncio.wait_for(self._consumer, BOUND_S)
            self._consumer = asyncio.create_task(self._consume())
        if self.kind == "pubsub":
            await wait_for(lambda: subscribers(self.server, self.here))
        await self.other.send(self.here, numbered(99))
        await wait_for(lambda: numbered(99) in self.heard)
        assert len(self.heard) == len({str(message) for message in self.heard})

    async def end(self) -> None:
        await self.layer.close()
        await self.other.close()
        if self._consumer is not None:
            await asyncio.wait_for(self._consumer, BOUND_S)


def tasks_of_layers() -> list[asyncio.Task[Any]]:
    return [one for one in asyncio.all_tasks() if one.get_name().startswith("channels_redis")]


def cancel_tasks_of_layers() -> None:
    for task in tasks_of_layers():
        task.cancel()


class Operation:
    """What is cancelled, and what must hold afterwards."""

    needs_warmth = False
    #: Whether it goes on for ever if it is not cancelled.
    endless = False

    async def before(self, stage: Stage) -> None:
        """Prepare what ``run`` will find."""

    async def run(self, stage: Stage) -> Any:
        raise NotImplementedError

    async def check(self, stage: Stage, done: Any) -> None:
        """Look at the results; ``done`` is what ``run`` returned if it was too fast to cancel."""


class Send(Operation):
    async def run(self, stage: Stage) -> None:
        await stage.layer.send(stage.there, numbered(1))

    async def check(self, stage: Stage, done: Any) -> None:
        arrived = await receive_until_marker(stage.other, stage.there)
        assert arrived in ([], [numbered(1)])


class SendToWorkers(Operation):
    async def run(self, stage: Stage) -> None:
        await stage.layer.send(stage.jobs, numbered(1))

    async def check(self, stage: Stage, done: Any) -> None:
        arrived = await receive_until_marker(stage.other, stage.jobs)
        assert arrived in ([], [numbered(1)])


class GroupSend(Operation):
    async def run(self, stage: Stage) -> None:
        await stage.layer.group_send(stage.room, numbered(1))

    async def check(self, stage: Stage, done: Any) -> None:
        arrived = await receive_until_marker(stage.other, stage.there)
        assert arrived in ([], [numbered(1)])


class NewChannel(Operation):
    async def run(self, stage: Stage) -> None:
        await stage.layer.new_channel()


class ReceiveJob(Operation):
    async def before(self, stage: Stage) -> None:
        await stage.other.send(stage.jobs, numbered(1))

    async def run(self, stage: Stage) -> Any:
        return await stage.layer.receive(stage.jobs)

    async def check(self, stage: Stage, done: Any) -> None:
        arrived = [done] if done else []
        arrived += await receive_until_marker(stage.layer, stage.jobs, stage.other)
        assert arrived == [numbered(1)]


class ReceiveTwice(Operation):
    """Two wait on one channel; the one who is cancelled leaves all to the other."""

    needs_warmth = True
    endless = True

    async def run(self, stage: Stage) -> Any:
        return await stage.layer.receive(stage.here)

    async def check(self, stage: Stage, done: Any) -> None:
        await stage.other.send(stage.here, numbered(1))
        await wait_for(lambda: numbered(1) in stage.heard)


class GroupAdd(Operation):
    needs_warmth = True

    async def run(self, stage: Stage) -> Any:
        await stage.layer.group_add(stage.room, stage.here)
        return "joined"

    async def check(self, stage: Stage, done: Any) -> None:
        before = len(stage.heard)
        await stage.other.group_send(stage.room, numbered(1))
        await stage.other.send(stage.here, numbered(2))
        await wait_for(lambda: numbered(2) in stage.heard)
        joined = stage.heard[before:] == [numbered(1), numbered(2)]
        assert joined or stage.heard[before:] == [numbered(2)]
        if done:
            assert joined
        elif stage.kind == "pubsub":
            assert not joined, "a cancelled join was not undone"
        await stage.layer.group_add(stage.room, stage.here)
        await stage.other.group_send(stage.room, numbered(3))
        await stage.other.send(stage.here, numbered(4))
        await wait_for(lambda: numbered(4) in stage.heard)
        assert stage.heard[-2:] == [numbered(3), numbered(4)]


class GroupDiscard(Operation):
    needs_warmth = True

    async def run(self, stage: Stage) -> Any:
        await stage.layer.group_discard(stage.hall, stage.here)

    async def check(self, stage: Stage, done: Any) -> None:
        await stage.layer.group_discard(stage.hall, stage.here)
        await stage.other.group_send(stage.hall, numbered(1))
        await stage.other.send(stage.here, numbered(2))
        await wait_for(lambda: numbered(2) in stage.heard)
        assert numbered(1) not in stage.heard


class Flush(Operation):
    async def run(self, stage: Stage) -> Any:
        await stage.layer.flush()


class Close(Operation):
    async def run(self, stage: Stage) -> Any:
        await stage.layer.close()


OPERATIONS = [
    Send,
    SendToWorkers,
    GroupSend,
    NewChannel,
    ReceiveJob,
    ReceiveTwice,
    GroupAdd,
    GroupDiscard,
    Flush,
    Close,
]
operations = pytest.mark.parametrize(
    "operation", [one() for one in OPERATIONS], ids=lambda one: type(one).__name__
)


@pytest.fixture(scope="module")
def quiet_server() -> Iterator[RedisServer]:
    """A server with few keys, as ``flush`` looks at all of them."""
    find_server_or_skip()
    with RedisServer() as server:
        yield server


@pytest.fixture
async def stages(
    make_layer: Callable[..., Any],
    kind: str,
    quiet_server: RedisServer,
    prefix: str,
    loop_errors: Any,
) -> AsyncIterator[Callable[..., Any]]:
    """A function ``(warm)`` that gives a fresh stage as a context manager.

    Without a gate connections are as they are: what they read takes the short way.
    """

    @contextlib.asynccontextmanager
    async def raise_curtain(warm: bool, *, gated: bool = True) -> AsyncIterator[Stage]:
        gate = Gate()
        options = {"prefix": f"{prefix}-{next(serial)}-", "connect_wait_s": BOUND_S}
        other = make_layer(kind, hosts=[quiet_server.url], **options)
        layer = make_layer(kind, hosts=[quiet_server.url], **options)
        if gated:
            layer = gated_layer(kind, gate, quiet_server.host, quiet_server.port, **options)
        stage = Stage(kind, layer, other, gate, quiet_server)
        await stage.prepare(warm)
        yield stage
        await stage.works()
        await stage.end()
        assert tasks_of_layers() == []

    yield raise_curtain


async def end_of(task: asyncio.Task[Any]) -> Any:
    """Wait for the end of a cancelled task; return its result if it was too fast."""
    await asyncio.wait({task}, timeout=BOUND_S)
    assert task.done(), "a cancelled call goes on"
    return None if task.cancelled() else task.result()


async def stand_still(stage: Stage, operation: Operation, stop_at: int) -> asyncio.Task[Any]:
    """Start an operation, and return when a connection stands still or the operation has ended."""
    await operation.before(stage)
    stage.gate.arm(stop_at)
    task = asyncio.create_task(operation.run(stage))
    stopped = await stage.gate.reached_before(task, 0.2 if operation.endless else BOUND_S)
    assert stopped or operation.endless or task.done(), "the call hangs"
    return task


async def at_every_stop(operation: Operation, attempt: Callable[[bool, int], Any]) -> None:
    """Attempt the operation on cold and on warm layers, each time with a later stop, until
    ``attempt`` says that there was none.
    """
    for warm in [True] if operation.needs_warmth else [False, True]:
        for stop_at in range(1, MANY):
            if not await attempt(warm, stop_at):
                break
        else:
            raise AssertionError("there was no end of the awaits")


@operations
async def test_cancelled_while_a_connection_stands_still(
    stages: Callable[[bool], Any], operation: Operation
) -> None:
    """Whatever redis-py was about to do when its caller was cancelled."""

    async def attempt(warm: bool, stop_at: int) -> bool:
        async with stages(warm) as stage:
            task = await stand_still(stage, operation, stop_at)
            task.cancel()
            done = await end_of(task)
            stage.gate.release()
            await operation.check(stage, done)
        return stage.gate.stopped_at is not None

    await at_every_stop(operation, attempt)


@operations
async def test_the_tasks_of_the_layer_are_cancelled_by_somebody_else(
    stages: Callable[[bool], Any], operation: Operation
) -> None:
    """As ``asyncio.run`` does at its end: calls under way end, one way or the other, or go on."""

    async def attempt(warm: bool, stop_at: int) -> bool:
        async with stages(warm) as stage:
            task = await stand_still(stage, operation, stop_at)
            cancel_tasks_of_layers()
            stage.gate.release()
            if operation.endless:
                await asyncio.sleep(0)
                task.cancel()
            with contextlib.suppress(ConnectionLost, LayerClosed):
                await operation.check(stage, await end_of(task))
        return stage.gate.stopped_at is not None

    await at_every_stop(operation, attempt)


@operations
@pytest.mark.parametrize("late", [False, True], ids=["at-once", "with-the-answer"])
async def test_cancelled_at_each_await_of_its_own(
    stages: Callable[..., Any], operation: Operation, late: bool
) -> None:
    """When it begins to wait, or in the very moment in which it could go on."""

    async def attempt(warm: bool, stop_at: int) -> bool:
        async with stages(warm, gated=False) as stage:
            await operation.before(stage)
            journey = Journey(operation.run(stage), stop_at, late)
            task = asyncio.create_task(journey.travel())
            if operation.endless:
                await asyncio.sleep(0.02)
                task.cancel()
            await operation.check(stage, await end_of(task))
        return journey.stopped

    await at_every_stop(operation, attempt)


class Journey:
    """A coroutine that is cancelled when it waits for the ``stop_at``-th time."""

    def __init__(self, way: Coroutine[Any, Any, Any], stop_at: int, late: bool) -> None:
        self.stopped = False
        self._way = way
        self._stop_at = stop_at
        self._late = late

    async def travel(self) -> Any:
        return await self._steps()

    @types.coroutine
    def _steps(self) -> Generator[Any, Any, Any]:
        steps = itertools.count(1)
        answer: Callable[[], Any] = lambda: self._way.send(None)  # noqa: E731 (changes below)
        while True:
            try:
                waits_for = answer()
            except StopIteration as end:
                return end.value
            if next(steps) == self._stop_at:
                self.stopped = True
                self._cancel(waits_for)
            try:
                value = yield waits_for
                answer = partial(self._way.send, value)
            except BaseException as error:
                answer = partial(self._way.throw, error)

    def _cancel(self, waits_for: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._late and isinstance(waits_for, asyncio.Future):
            waits_for.add_done_callback(lambda _: task.cancel())
        else:
            task.cancel()
