"""Broadcasts in consumers of packages that people build on, which override parts of Channels'.

Without ``from __future__ import annotations``, as chanx evaluates the annotations of handlers.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
from channels.layers import channel_layers
from channels.testing import WebsocketCommunicator
from django.conf import settings

from channels_redis.consumers import BroadcastMixin, broadcast

pytest.importorskip("rest_framework", reason="only in the environment servers")

if not settings.configured:
    settings.configure(
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "rest_framework"],
        SECRET_KEY="not secret",
    )


@pytest.fixture
async def layer(make_layer: Callable[..., Any], kind: str) -> AsyncIterator[Any]:
    """The layer of all consumers of a test."""
    layer = make_layer(kind)
    before = channel_layers.set("default", layer)
    yield layer
    if before is None:
        del channel_layers.backends["default"]
    else:
        channel_layers.set("default", before)


@pytest.fixture(scope="module", autouse=True)
def _apps() -> Iterator[None]:
    """Set Django up, as both packages need its apps."""
    import django

    django.setup()
    yield


@asynccontextmanager
async def clients_of(consumer: type[Any]) -> AsyncIterator[list[WebsocketCommunicator]]:
    """Connect two clients to a consumer class."""
    clients = [WebsocketCommunicator(consumer.as_asgi(), "/") for _ in range(2)]
    for client in clients:
        assert (await client.connect())[0]
    try:
        yield clients
    finally:
        for client in clients:
            await client.disconnect()


async def test_a_consumer_of_djangochannelsrestframework_answers_and_gets_broadcasts(
    layer: Any,
) -> None:
    """Its ``dispatch()`` and its actions work as before; a handler is called once for both."""
    pytest.importorskip("djangochannelsrestframework")
    from djangochannelsrestframework.consumers import AsyncAPIConsumer
    from djangochannelsrestframework.decorators import action

    calls: list[Any] = []

    class Scores(BroadcastMixin, AsyncAPIConsumer):
        groups = ("scores",)

        @action()  # type: ignore[untyped-decorator]  # not annotated
        async def double(self, number: int, **_: Any) -> tuple[dict[str, int], int]:
            return {"number": 2 * number}, 200

        @broadcast
        def score_update(cls, message: dict[str, Any]) -> dict[str, Any]:
            calls.append(message["score"])
            return {"score": message["score"]}

    async with clients_of(Scores) as clients:
        request = {"action": "double", "number": 4, "request_id": 1}
        await clients[0].send_json_to(request)
        answer = await clients[0].receive_json_from()
        assert (answer["response_status"], answer["data"]) == (200, {"number": 8})
        await layer.group_send("scores", {"type": "score.update", "score": 3})
        assert [await one.receive_json_from() for one in clients] == [{"score": 3}] * 2
        assert calls == [3]


async def test_a_consumer_of_chanx_answers_and_gets_broadcasts(layer: Any) -> None:
    """Its typed handlers work as before; a handler is called once for both."""
    pytest.importorskip("chanx")
    from chanx.channels.websocket import AsyncJsonWebsocketConsumer
    from chanx.core.decorators import ws_handler
    from chanx.messages.base import BaseMessage

    calls: list[Any] = []

    class Ping(BaseMessage):
        action: Literal["ask"] = "ask"
        payload: None = None

    class Pong(BaseMessage):
        action: Literal["answer"] = "answer"
        payload: None = None

    class Scores(BroadcastMixin, AsyncJsonWebsocketConsumer):
        groups = ["scores"]  # noqa: RUF012 (as Channels documents it)
        send_completion = False

        @ws_handler  # type: ignore[untyped-decorator]  # not annotated
        async def ask(self, _: Ping) -> Pong:
            return Pong()

        @broadcast
        def score_update(cls, message: dict[str, Any]) -> dict[str, Any]:
            calls.append(message["score"])
            return {"score": message["score"]}

    async with clients_of(Scores) as clients:
        await clients[0].send_json_to({"action": "ask"})
        assert (await clients[0].receive_json_from())["action"] == "answer"
        await layer.group_send("scores", {"type": "score.update", "score": 3})
        assert [await one.receive_json_from() for one in clients] == [{"score": 3}] * 2
        assert calls == [3]
