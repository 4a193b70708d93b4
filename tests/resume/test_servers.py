"""Real servers: processes that are restarted under their clients, and responses that are left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import django
import pytest

from tests.conftest import class_of
from tests.helpers import bounded, wait_for
from tests.resume.site import (
    PATIENCE_S,
    SECRET_KEY,
    Visitor,
    Web,
    all_joined,
    options_for,
    running,
    signing_with,
)

GROUP = "room.1"


@pytest.fixture
async def layer(kind: str, redis_url: str, prefix: str) -> AsyncIterator[Any]:
    """What sends to the site, with its secret key, as positions are signed."""
    with signing_with(SECRET_KEY):
        layer = class_of(kind)(**options_for(redis_url, prefix))
    yield layer
    await layer.close()


async def members(server: Any, prefix: str, kind: str) -> int:
    """Return how many processes (pubsub) or channels (core) are in the group."""
    if kind == "core":
        return int(server.command("ZCARD", f"{prefix}:group:{GROUP}"))
    return int(server.command("PUBSUB", "NUMSUB", f"{prefix}__group__{GROUP}")[1])


async def talk(layer: Any, ended: asyncio.Event) -> int:
    """Send numbered notes until the event; return how many."""
    count = 0
    while not ended.is_set():
        await layer.group_send(GROUP, {"type": "room.note", "n": count})
        count += 1
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(ended.wait(), 0.03)
    return count


@pytest.mark.parametrize(
    "count", [30, pytest.param(500, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
async def test_a_rolling_restart_loses_and_doubles_no_message(
    layer: Any, kind: str, redis_url: str, prefix: str, tmp_path: Path, count: int
) -> None:
    """Of three processes, under 30 messages a second: each client has all, in order, and never had
    to load its state again.
    """
    visitors: list[Visitor] = []
    async with running(3, kind, options_for(redis_url, prefix), tmp_path) as webs:
        try:
            visitors += [Visitor(webs) for _ in range(count)]
            await all_joined(visitors)
            ended = asyncio.Event()
            talking = asyncio.create_task(talk(layer, ended))
            for web in webs:
                await web.restart()
            ended.set()
            sent = await talking
            await wait_for(lambda: all(one.numbers[-1:] == [sent - 1] for one in visitors), 60)
            assert all(one.numbers == list(range(sent)) for one in visitors)
            assert sum(one.joined for one in visitors) >= 2 * len(visitors)
            assert sum(one.reloads for one in visitors) == 0
        finally:
            await asyncio.gather(*[one.leave() for one in visitors])
    assert "Traceback" not in "".join(web.log for web in webs)


class Source:
    """An EventSource over a bare connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.id = ""

    @classmethod
    async def open(cls, web: Web, last_id: str = "") -> Source:
        reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
        named = f"Last-Event-ID: {last_id}\r\n" if last_id else ""
        request = f"GET /events HTTP/1.1\r\nHost: test\r\nAccept-Encoding: gzip\r\n{named}\r\n"
        writer.write(request.encode())
        source = cls(reader, writer)
        head = await bounded(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        assert head.startswith(b"HTTP/1.1 200 OK"), head
        assert b"text/event-stream" in head
        return source

    async def until(self, start: str) -> str:
        """Return the rest of the next line that begins so; chunks have lines of their own."""
        while True:
            line = (await bounded(self._reader.readuntil(b"\n"), PATIENCE_S)).decode().strip()
            if line.startswith("id: "):
                self.id = line.removeprefix("id: ")
            if line.startswith(start):
                return line.removeprefix(start)

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


@pytest.mark.skipif(django.VERSION < (5, 0), reason="Django 4.2 does not hear that a client goes")
@pytest.mark.parametrize(("kind", "program"), [("core", "uvicorn"), ("pubsub", "daphne")])
async def test_a_browser_that_goes_leaves_its_group_and_comes_back_for_the_rest(
    layer: Any,
    server: Any,
    kind: str,
    redis_url: str,
    prefix: str,
    program: str,
    tmp_path: Path,
) -> None:
    """Events come at once, also through GZipMiddleware, and nothing stays behind."""
    async with running(1, kind, options_for(redis_url, prefix), tmp_path, program) as [web]:
        source = await Source.open(web)
        await source.until("id: ")
        await layer.group_send(GROUP, {"type": "room.note", "n": 1})
        assert await source.until("data: ") == '{"type": "room.note", "n": 1}'
        assert await members(server, prefix, kind) == 1
        await source.close()
        await wait_for(lambda: nobody_is_there(server, prefix, kind), PATIENCE_S)
        await layer.group_send(GROUP, {"type": "room.note", "n": 2})
        again = await Source.open(web, source.id)
        assert await again.until("data: ") == '{"type": "room.note", "n": 2}'
        await again.close()
    # Under daphne, Django complains that the client has gone.
    assert web.log.count("Traceback") == web.log.count("RequestAborted()\n")


async def nobody_is_there(server: Any, prefix: str, kind: str) -> bool:
    return await members(server, prefix, kind) == 0
