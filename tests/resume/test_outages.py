"""Clients whose layer has lost its server: they get what they missed, or are told so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.test import AsyncRequestFactory

from channels_redis.consumers import BroadcastMixin, ResumeMixin, broadcast
from channels_redis.testing.servers import RedisServer
from channels_redis.views import GroupEventsView
from tests.broadcast.conftest import as_default
from tests.helpers import until_connected, wait_for
from tests.resume.conftest import SIZE, Events

GROUP = "room.1"


class Room(ResumeMixin, BroadcastMixin, AsyncJsonWebsocketConsumer):
    """Tells its client of what the layer has missed."""

    async def connect(self) -> None:
        await self.accept()
        await self.join(GROUP, presence={"user": 7})

    async def layer_back(self, message: dict[str, Any]) -> None:
        await self.resume_missed(message)

    async def resume_failed(self, group: str) -> None:
        await self.send_json({"failed": group})

    @broadcast
    def room_note(cls, message: dict[str, Any]) -> dict[str, Any]:
        return {"n": message["n"]}


@pytest.fixture
def on_reconnect() -> str | None:
    """The option of the layer, which tests set as a parameter."""
    return "layer.back"


@pytest.fixture
async def layer(
    kind: str, private_server: RedisServer, make_layer: Callable[..., Any], on_reconnect: str | None
) -> AsyncIterator[Any]:
    """The layer of all consumers of a test, on a server of its own."""
    layer = make_layer(
        kind,
        hosts=[private_server.url],
        history={"room.*": {"size": SIZE}},
        presence={"room.*": {"key": "user"}},
        on_reconnect=on_reconnect,
    )
    with as_default(layer) as layer:
        yield layer


async def note(layer: Any, number: int) -> None:
    message = {"type": "room.note", "n": number}
    await until_connected(lambda: layer.group_send(GROUP, message))


@pytest.mark.parametrize("on_reconnect", [None, "layer.back"])
async def test_a_client_is_told_that_the_server_has_lost_the_log(
    layer: Any, kind: str, private_server: RedisServer, open_page: Callable[..., Any]
) -> None:
    """Its consumer stays, and what is sent later arrives; when it comes back, it can be resumed."""
    page = await open_page(Room)
    await wait_for(lambda: page.notices)
    await note(layer, 1)
    await page.has({"n": 1})
    await asyncio.to_thread(private_server.kill)
    await asyncio.to_thread(private_server.start)
    await page.has({"n": 1}, {"failed": GROUP})
    assert [one["complete"] for one in page.notices] == [True, False]
    await note(layer, 2)
    await page.has({"n": 1}, {"failed": GROUP}, {"n": 2})
    await page.leave()
    await note(layer, 3)
    again = await open_page(Room, page)
    await again.has({"n": 3})


async def test_a_client_that_comes_back_to_an_empty_server_is_told_so(
    layer: Any, private_server: RedisServer, open_page: Callable[..., Any]
) -> None:
    """What it has seen is in no log."""
    page = await open_page(Room)
    await wait_for(lambda: page.notices)
    await note(layer, 1)
    await page.has({"n": 1})
    await page.leave()
    await asyncio.to_thread(private_server.kill)
    await asyncio.to_thread(private_server.start)
    await note(layer, 2)
    again = await open_page(Room, page)
    await again.heard_last({"failed": GROUP})
    await note(layer, 3)
    await again.has({"failed": GROUP}, {"n": 3})


async def test_a_client_is_present_in_the_group_that_it_resumes(
    layer: Any, open_page: Callable[..., Any]
) -> None:
    """join() hands on what is said of the member."""
    page = await open_page(Room)
    await wait_for(lambda: page.notices)
    presence = await layer.group_presence(GROUP)
    assert "'user': 7" in repr(presence)


@pytest.mark.parametrize("on_reconnect", [None, "layer.back"])
async def test_a_browser_that_reads_events_is_told_that_the_server_has_lost_the_log(
    layer: Any, private_server: RedisServer
) -> None:
    """The layer's own message about it is no event."""
    view: Any = GroupEventsView.as_view(group=GROUP, heartbeat_s=0.1)
    source = Events(await view(AsyncRequestFactory().get("/")))
    waiting = asyncio.create_task(source.next())
    await wait_for(lambda: source.last_id)
    await note(layer, 1)
    assert await waiting == ("message", '{"type": "room.note", "n": 1}')
    await asyncio.to_thread(private_server.kill)
    await asyncio.to_thread(private_server.start)
    assert await source.next() == ("reset", f'{{"group": "{GROUP}"}}')
    await note(layer, 2)
    assert await source.next() == ("message", '{"type": "room.note", "n": 2}')
    await source.end()


@pytest.mark.parametrize("on_reconnect", [None])
async def test_a_channel_without_a_mixin_gets_only_the_messages_that_are_configured(
    layer: Any, private_server: RedisServer, open_page: Callable[..., Any]
) -> None:
    """Its consumer would have no handler for another."""
    page = await open_page(Room)
    await wait_for(lambda: page.notices)
    channel = await layer.new_channel()
    since = (await layer.group_history(GROUP, limit=0)).position
    await layer.group_add(GROUP, channel, since=since)
    await asyncio.to_thread(private_server.kill)
    await asyncio.to_thread(private_server.start)
    await page.has({"failed": GROUP})
    await note(layer, 1)
    assert (await layer.receive(channel))["type"] == "room.note"
