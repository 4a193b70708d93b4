"""A restarted PostgreSQL fails no more handlers than in Channels."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import django.db
import pytest
from asgiref.sync import sync_to_async
from channels import db as channels_db
from channels.generic.websocket import AsyncWebsocketConsumer
from django.apps import apps
from django.db.utils import ConnectionHandler

from channels_redis._broadcast import databases
from channels_redis.consumers import BroadcastMixin
from tests.broadcast.client import Client
from tests.helpers import wait_for
from tests.postgresql.server import Postgres

MEMBERS = 10

SETTINGS = pytest.mark.parametrize(
    "options",
    [{}, {"CONN_MAX_AGE": 600}, {"CONN_MAX_AGE": 600, "CONN_HEALTH_CHECKS": True}],
    ids=["new ones", "kept", "health checks"],
)


class Plain(AsyncWebsocketConsumer):
    """Asks the database as the ORM's coroutines do."""

    groups: ClassVar[list[str]] = ["asking"]

    async def ask(self, message: dict[str, Any]) -> None:
        await self.send(text_data=str(await sync_to_async(query)()))

    async def ask_carefully(self, message: dict[str, Any]) -> None:
        try:
            await self.ask(message)
        except django.db.Error:
            await self.send(text_data="error")


class Ours(BroadcastMixin, Plain):
    """The same with connections that are looked after for all together."""

    db_check_interval_s = 3600


def query() -> Any:
    with django.db.connections["default"].cursor() as cursor:
        cursor.execute("SELECT 1")
        return cursor.fetchone()[0]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    # Not pytest's own directory, into which other users can't look.
    with tempfile.TemporaryDirectory() as directory, Postgres(Path(directory)) as server:
        yield server


def close() -> None:
    django.db.connections["default"].close()


async def answered(client: Client) -> None:
    await wait_for(lambda: len(client.frames) == 2 or client.task.done(), 60)


async def failures(
    kind: type[Any], way: str, layer: Any, join: Callable[..., Any], postgres: Postgres
) -> int:
    """Have all members ask, restart the database, have them ask again one by one, and return how
    many could not.
    """
    clients = await join(kind, MEMBERS)
    await layer.group_send("asking", {"type": way})
    await wait_for(lambda: all(one.frames for one in clients), 60)
    await asyncio.to_thread(postgres.restart)
    failed = 0
    for one in clients:
        await layer.send(one.consumer.channel_name, {"type": way})
        await answered(one)
        failed += one.task.done() or one.frames[1] == "error"
    await sync_to_async(close)()
    for one in clients:
        one.task.cancel()
        await asyncio.wait({one.task})
    return failed


def use(postgres: Postgres, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the server the database of Django."""
    handler = ConnectionHandler({"default": {**postgres.options, **options}})
    monkeypatch.setattr(apps, "ready", True)
    monkeypatch.setattr(django.db, "connections", handler)
    monkeypatch.setattr(databases, "connections", handler)


@pytest.mark.parametrize("way", ["ask", "ask.carefully"])
@SETTINGS
async def test_a_restart_fails_no_more_handlers_than_in_channels(
    layer: Any,
    join: Callable[..., Any],
    postgres: Postgres,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    way: str,
) -> None:
    """Whatever is set of connections, and whether or not handlers catch what a query raises."""
    use(postgres, options, monkeypatch)
    in_channels = await failures(Plain, way, layer, join, postgres)
    assert channels_db.close_old_connections is django.db.close_old_connections
    assert await failures(Ours, way, layer, join, postgres) <= in_channels


async def ask_all(clients: list[Client], layer: Any) -> list[str]:
    """Have all members ask once, and return their answers."""
    before = [len(one.frames) for one in clients]
    await layer.group_send("asking", {"type": "ask.carefully"})
    await wait_for(
        lambda: all(len(one.frames) > asked for one, asked in zip(clients, before, strict=True)),
        60,
    )
    return [one.frames[-1] for one in clients]


@SETTINGS
@pytest.mark.parametrize("kind", [Plain, Ours])
async def test_after_a_restart_under_traffic_only_the_first_queries_may_fail(
    layer: Any,
    join: Callable[..., Any],
    postgres: Postgres,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    kind: type[Any],
) -> None:
    """As in Channels: one on each connection that the restart has ended."""
    use(postgres, options, monkeypatch)
    clients = await join(kind, MEMBERS)
    assert await ask_all(clients, layer) == ["1"] * MEMBERS
    restart = asyncio.create_task(asyncio.to_thread(postgres.restart))
    asked_meanwhile = 0
    while not restart.done():
        await ask_all(clients, layer)
        asked_meanwhile += 1
    await restart
    assert asked_meanwhile > 1
    await ask_all(clients, layer)
    for _ in range(5):
        assert await ask_all(clients, layer) == ["1"] * MEMBERS
    await sync_to_async(close)()
    for one in clients:
        one.task.cancel()
        await asyncio.wait({one.task})
