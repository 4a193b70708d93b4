"""Django's connections are as healthy as in Channels, and looked after for all together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import django.db
import pytest
from asgiref.sync import sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.apps import apps
from django.db.utils import ConnectionHandler

from channels_redis._broadcast import databases
from channels_redis.consumers import BroadcastMixin
from tests.broadcast.client import Client
from tests.helpers import wait_for


class Asking(BroadcastMixin, AsyncWebsocketConsumer):
    """Asks the database, or fails."""

    groups: ClassVar[list[str]] = ["asking"]
    db_check_interval_s = 3600

    async def ask(self, message: dict[str, Any]) -> None:
        answer = await sync_to_async(query)(message.get("sql", "SELECT 1"))
        await self.send(text_data=str(answer))

    async def ask_carefully(self, message: dict[str, Any]) -> None:
        try:
            await self.ask({"sql": "SELECT nothing"})
        except django.db.Error:
            await self.send(text_data="error")

    async def rest(self, message: dict[str, Any]) -> None:
        await self.send(text_data="rested")

    async def fail(self, message: dict[str, Any]) -> None:
        raise LookupError("of the test")


def query(sql: str) -> Any:
    with django.db.connections["default"].cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


class Looks:
    """How often connections were looked at, and the one that is used."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1
        django.db.close_old_connections()

    async def connection(self) -> Any:
        return await sync_to_async(lambda: django.db.connections["default"])()


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Looks]:
    """A database in a file, with connections that may be kept."""
    options = {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "db", "CONN_MAX_AGE": 600}
    handler = ConnectionHandler({"default": options})
    found = Looks()
    # There are no apps here, and Django warns of queries while they are loaded.
    monkeypatch.setattr(apps, "ready", True)
    monkeypatch.setattr(django.db, "connections", handler)
    monkeypatch.setattr(databases, "connections", handler)
    monkeypatch.setattr(databases, "close_old_connections", found)
    yield found


async def ask(layer: Any, clients: list[Client], kind: str, times: int = 1) -> None:
    """Send to all, and wait until all have answered."""
    wanted = [len(one.frames) + times for one in clients]
    for _ in range(times):
        await layer.group_send("asking", {"type": kind})
    await wait_for(
        lambda: (
            any(one.task.done() for one in clients)
            or [len(one.frames) for one in clients] == wanted
        )
    )
    assert [one.task.result() for one in clients if one.task.done()] == []


async def test_one_look_serves_all_consumers(
    layer: Any, join: Callable[..., Any], looks: Looks
) -> None:
    """Not one for each message and member."""
    clients = await join(Asking, 10)
    await ask(layer, clients, "ask", times=10)
    assert looks.count == 1
    connection = await looks.connection()
    assert connection.connection is not None
    await sync_to_async(connection.close)()


async def test_looks_are_repeated(layer: Any, join: Callable[..., Any], looks: Looks) -> None:
    """When the interval has passed; at an interval of 0 before each message."""

    class Eager(Asking):
        db_check_interval_s = 0

    clients = await join(Eager)
    before = looks.count
    await ask(layer, clients, "rest", times=3)
    assert looks.count == before + 3


async def test_a_handler_that_failed_has_connections_looked_at(
    layer: Any, join: Callable[..., Any], looks: Looks
) -> None:
    """Before the next message of anybody."""
    clients = await join(Asking, 2)
    before = looks.count
    await layer.send(clients[0].consumer.channel_name, {"type": "fail"})
    await asyncio.wait({clients[0].task})
    await ask(layer, clients[1:], "rest", times=2)
    assert looks.count == before + 1
    with pytest.raises(LookupError):
        clients[0].task.result()


async def test_a_connection_with_errors_is_looked_at(
    layer: Any, join: Callable[..., Any], looks: Looks
) -> None:
    """Also where the handler has caught what the query raised."""
    clients = await join(Asking)
    await ask(layer, clients, "ask")
    before = looks.count
    await ask(layer, clients, "ask.carefully")
    assert (await looks.connection()).errors_occurred
    await ask(layer, clients, "rest")
    assert looks.count == before + 1
    assert not (await looks.connection()).errors_occurred
    await sync_to_async((await looks.connection()).close)()


async def test_a_connection_that_is_too_old_is_closed(
    layer: Any, join: Callable[..., Any], looks: Looks
) -> None:
    """CONN_MAX_AGE is obeyed with each message, 0 too, which is Django's default."""
    connection = await looks.connection()
    connection.settings_dict["CONN_MAX_AGE"] = 0
    clients = await join(Asking)
    await ask(layer, clients, "ask")
    assert connection.connection is not None
    await ask(layer, clients, "rest")
    assert connection.connection is None
    before = looks.count
    await ask(layer, clients, "rest", times=5)
    assert looks.count == before


async def test_health_is_checked_with_each_message(
    layer: Any, join: Callable[..., Any], looks: Looks
) -> None:
    """CONN_HEALTH_CHECKS tests a connection with the first query after each message."""
    connection = await looks.connection()
    connection.settings_dict["CONN_HEALTH_CHECKS"] = True
    clients = await join(Asking)
    await ask(layer, clients, "ask")
    checks: list[bool] = []

    def is_usable() -> bool:
        checks.append(True)
        return True

    connection.is_usable = is_usable
    await ask(layer, clients, "ask", times=3)
    assert len(checks) == 3
    await sync_to_async(connection.close)()
