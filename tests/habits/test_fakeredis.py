"""Connections that are no streams of redis-py's own: those of ``fakeredis`` in users' tests."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import fakeredis
import fakeredis.aioredis
import pytest
from asgiref.sync import async_to_sync

from channels_redis.exceptions import ConnectionLost
from tests.conftest import class_of
from tests.helpers import receive, receive_until_marker, wait_for

pytest.importorskip("lupa", reason="fakeredis runs no scripts without lupa")

SAY = {"type": "x"}


def by_class(kind: str, server: Any, **options: Any) -> Any:
    """A layer that is told the class of its connections, as the documentation says."""
    entry = {
        "connection_class": fakeredis.aioredis.FakeAsyncRedisConnection,
        "server": server,
    }
    return class_of(kind)(hosts=[entry], **options)


def by_old_name(kind: str, server: Any, **options: Any) -> Any:
    """The name that examples have, which is a function by now."""
    entry = {"connection_class": fakeredis.aioredis.FakeConnection, "server": server}
    return class_of(kind)(hosts=[entry], **options)


def by_pool(kind: str, server: Any, **options: Any) -> Any:
    """A subclass whose pools are those of fakeredis' clients."""

    class Faked(class_of(kind)):  # type: ignore[misc]  # the base is a function's value
        def create_pool(self, index: int) -> Any:
            return fakeredis.aioredis.FakeRedis(server=server).connection_pool

    return Faked(**options)


WAYS = {"class": by_class, "old name": by_old_name, "pool": by_pool}


@pytest.fixture(params=list(WAYS))
def fake(request: pytest.FixtureRequest, kind: str) -> Any:
    """A function that makes layers on one fake server, and that server."""
    server, layers = fakeredis.FakeServer(), []

    def make(**options: Any) -> Any:
        layers.append(WAYS[request.param](kind, server, **options))
        return layers[-1]

    make.server = server  # type: ignore[attr-defined]  # for the tests that end it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield make


@contextlib.asynccontextmanager
async def closing(*layers: Any) -> Any:
    yield
    for layer in layers:
        await layer.close()


async def test_consumers_groups_and_workers_get_their_messages(fake: Callable[..., Any]) -> None:
    """Between two layers, in order, while receivers wait and before they do."""
    here, there = fake(), fake()
    async with closing(here, there):
        channel = await here.new_channel()
        waiting = asyncio.ensure_future(here.receive(channel))
        await there.send(channel, SAY)
        assert await asyncio.wait_for(waiting, 10) == SAY
        await here.group_add("room", channel)
        for number in range(50):
            await there.group_send("room", {"type": "x", "number": number})
        got = await receive_until_marker(here, channel, there)
        assert [message["number"] for message in got] == list(range(50))
        await here.group_discard("room", channel)
        await there.group_send("room", SAY)
        assert await receive_until_marker(here, channel, there) == []
        await there.send("tasks", SAY)
        assert await receive(here, "tasks") == SAY


async def test_a_worker_waits_for_its_message(fake: Callable[..., Any]) -> None:
    """Longer than a blocking pop, which the fake server ends as a real one does."""
    here, there = fake(command_timeout_s=2), fake()
    async with closing(here, there):
        waiting = asyncio.ensure_future(here.receive("tasks"))
        await asyncio.sleep(1.5)
        await there.send("tasks", SAY)
        assert await asyncio.wait_for(waiting, 10) == SAY


async def test_flush_forgets_and_close_ends(fake: Callable[..., Any]) -> None:
    """What fixtures of tests do; no task stays behind."""
    layer = fake()
    await layer.send("tasks", {"type": "old"})
    await layer.flush()
    await layer.send("tasks", SAY)
    assert await receive(layer, "tasks") == SAY
    await layer.close()
    assert not [task for task in asyncio.all_tasks() if "channels_redis" in task.get_name()]


async def test_a_fake_server_that_is_away_is_an_outage(fake: Callable[..., Any]) -> None:
    """``server.connected = False`` in a test: an error in time, and all works afterwards."""
    layer = fake(connect_wait_s=0.3)
    async with closing(layer):
        await layer.send("tasks", SAY)
        fake.server.connected = False  # type: ignore[attr-defined]  # see the fixture
        with pytest.raises(ConnectionLost):
            await layer.send("tasks", SAY)
        fake.server.connected = True  # type: ignore[attr-defined]  # see the fixture

        async def works() -> bool:
            with contextlib.suppress(ConnectionLost):
                await layer.send("other", SAY)
                return True
            return False

        await wait_for(works)


def test_code_without_an_event_loop_sends_too(fake: Callable[..., Any]) -> None:
    """By ``layer.sync`` and ``async_to_sync``, as views under test do."""
    layer = fake()
    layer.sync.send("tasks", {"type": "one"})
    async_to_sync(layer.send)("tasks", {"type": "two"})

    async def both() -> list[str]:
        async with closing(layer):
            return [(await receive(layer, "tasks"))["type"] for _ in range(2)]

    assert asyncio.run(both()) == ["one", "two"]
    layer.sync.close()
