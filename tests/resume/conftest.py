"""Layers with history, and clients that come back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.broadcast.client import Client
from tests.broadcast.conftest import as_default
from tests.helpers import bounded, wait_for
from tests.resume.memory import MemoryLayer

#: As many messages as a log keeps at least, and more than it keeps at most: a stream of Redis is
#: trimmed by whole nodes of 100 entries.
SIZE, MANY = 20, 150


class Page(Client):
    """A client that keeps positions as resume.js does, for ``?resume=`` of the next."""

    def __init__(self, kind: type[Any], before: Page | None = None, query: str = "") -> None:
        self.positions: dict[str, str] = dict(before.positions) if before else {}
        self.formerly: list[str] = list(before.formerly) if before else []
        self.notices: list[dict[str, Any]] = []
        self.texts: list[Any] = []
        super().__init__(kind)
        places = [f"{group}:{position}" for group, position in self.positions.items()]
        fields = {"resume": places, "formerly": self.formerly}
        self.scope["query_string"] = (query or urlencode(fields, doseq=True)).encode()

    async def _send(self, message: dict[str, Any]) -> None:
        await super()._send(message)
        if message["type"] != "websocket.send" or not message.get("text"):
            return
        frame = json.loads(message["text"])
        group, _, position = frame.pop("__position__", "").partition(":")
        if group:
            self.positions[group] = position
        if "__resume__" in frame:
            self.notices.append(frame["__resume__"])
            self.formerly.append(frame["__resume__"].get("channel", ""))
        else:
            self.texts.append(frame)

    async def heard_last(self, text: Any) -> None:
        """Wait until this is the last frame of the application."""
        await wait_for(lambda: self.texts[-1:] == [text] or self.task.done())

    async def has(self, *texts: Any) -> None:
        """Wait for exactly these frames of the application."""
        await self.heard_last(texts[-1])
        assert self.texts == list(texts)


class Events:
    """A browser's EventSource: the events of a response, and the last position."""

    def __init__(self, response: Any) -> None:
        self._parts: Any = aiter(response)
        self.last_id: str | None = None
        self.heartbeats = 0
        self._fields: dict[str, Any] = {}

    async def next(self) -> tuple[str, str]:
        """Return the type and the data of the next event; raises ``StopAsyncIteration``."""
        while True:
            text = (await bounded(anext(self._parts))).decode()
            assert text.endswith("\n\n")
            fields = [line.partition(": ")[::2] for line in text.split("\n") if line]
            self.heartbeats += text == ":\n\n"
            named = dict(fields)
            self.last_id = named.get("id", self.last_id)
            data = [value for name, value in fields if name == "data"]
            if data:
                return named.get("event", "message"), "\n".join(data)

    async def take(self, count: int) -> list[str]:
        """Return the data of so many events."""
        return [(await self.next())[1] for _ in range(count)]

    async def end(self) -> None:
        await self._parts.aclose()


async def members(layer: Any, group: str) -> int:
    """Return how many channels of this process are in a group."""
    if not hasattr(layer, "groups"):  # core
        return int(await layer.group_size(group))
    topic = group if isinstance(layer, MemoryLayer) else f"{layer.prefix}__group__{group}"
    return len(layer.groups.get(topic, ()))


@pytest.fixture(params=["memory", "core", "pubsub"])
async def layer(
    request: pytest.FixtureRequest, make_layer: Callable[..., Any]
) -> AsyncIterator[Any]:
    """The layer of all consumers of a test."""
    if request.param == "memory":
        layer: Any = MemoryLayer(SIZE)
    else:
        layer = make_layer(request.param, history={"room.*": {"size": SIZE, "ttl": 300}})
    with as_default(layer) as layer:
        yield layer


@pytest.fixture
async def open_page() -> AsyncIterator[Callable[..., Any]]:
    """A coroutine function ``(kind, before=None, query="")`` that returns an accepted client."""
    pages: list[Page] = []

    async def open_page(kind: type[Any], before: Page | None = None, query: str = "") -> Page:
        page = Page(kind, before, query)
        pages.append(page)
        await page.accepted()
        return page

    yield open_page
    for page in pages:
        page.task.cancel()
    await asyncio.gather(*(page.task for page in pages), return_exceptions=True)
