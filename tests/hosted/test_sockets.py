"""Broadcasts in the ASGI servers that people use, with real clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from channels_redis.testing.servers import reserved_port
from tests.helpers import receive
from tests.hosted.conftest import BOUND_S, HERE, Host
from tests.hosted.test_servers import when_up

SITE = "hosted_sockets:application"
UVICORN = ("uvicorn", "--port={port}", "--log-level=warning")
PROGRAMS = {
    **{
        f"uvicorn {ws} {loop}": (*UVICORN, f"--ws={ws}", f"--loop={loop}", SITE)
        for ws in ("websockets", "websockets-sansio", "wsproto")
        for loop in ("asyncio", "uvloop")
    },
    "daphne": ("daphne", "--port={port}", SITE),
    "hypercorn": ("hypercorn", "--bind=127.0.0.1:{port}", SITE),
    "granian": ("granian", "--port={port}", "--interface=asgi", SITE),
}
MESSAGES = 50
CLIENTS = 6


async def visit(port: int, number: int) -> ClientConnection:
    """Connect to an asynchronous or a synchronous consumer."""
    path = ("async", "sync")[number % 2]
    url = f"ws://127.0.0.1:{port}/{path}"
    return await connect(url, proxy=None, open_timeout=BOUND_S, ping_interval=None)


async def told(client: ClientConnection) -> list[Any]:
    """Return what a client hears up to the last message."""
    heard: list[Any] = []
    while heard[-1:] != [{"note": MESSAGES}]:
        heard.append(json.loads(await asyncio.wait_for(client.recv(), BOUND_S)))
    return heard


async def send_all(layer: Any, leaving: list[ClientConnection]) -> list[Any]:
    """Send broadcasts and notes, and let some clients go without a word meanwhile; return what
    the others are to hear.
    """
    expected: list[Any] = []
    for number in range(MESSAGES):
        name = "note" if number % 5 == 4 else "all"
        await layer.group_send("room", {"type": f"room.{name}", "n": number})
        expected.append({name: number})
        if number == MESSAGES // 2:
            for client in leaving:
                client.transport.abort()
    await layer.group_send("room", {"type": "room.note", "n": MESSAGES})
    return [*expected, {"note": MESSAGES}]


@pytest.mark.parametrize("program", list(PROGRAMS))
async def test_all_clients_hear_all_in_order_and_their_ends_are_seen(
    program: str, host: Host, tmp_path: Path, make_layer: Callable[..., Any], kind: str
) -> None:
    """Broadcasts and ordinary messages, while some clients go without a word."""
    layer = make_layer(kind)
    copyfile(HERE / "sockets.py", tmp_path / "hosted_sockets.py")
    with reserved_port() as port:
        async with host.running(*[word.format(port=port) for word in PROGRAMS[program]]):
            await asyncio.wait_for(when_up(port), BOUND_S)
            clients = [await visit(port, number) for number in range(CLIENTS)]
            # A thread that sends to who has gone that moment raises, in Channels too.
            leaving = [await visit(port, 0) for _ in range(2)]
            expected = await send_all(layer, leaving)
            for client in clients:
                assert await told(client) == expected
                await client.close()
            for _ in (*clients, *leaving):
                await receive(layer, "ends", BOUND_S)
