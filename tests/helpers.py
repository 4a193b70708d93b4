"""What many tests need: waiting for conditions, markers, and a face for a server from outside."""

from __future__ import annotations

import asyncio
import inspect
import secrets
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

MARKER = "test.marker"


async def wait_for(condition: Callable[[], Any], timeout_s: float = 10) -> Any:
    """Return the first true value of ``condition``, a plain or a coroutine function.

    Fails with the source of the condition when ``timeout_s`` seconds have passed.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"Not true within {timeout_s} s: {_source(condition)}")
        await asyncio.sleep(0.005)


def _source(condition: Callable[[], Any]) -> str:
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):
        return repr(condition)


async def receive(layer: Any, channel: str, timeout_s: float = 10) -> dict[str, Any]:
    """Receive one message, or fail when none comes within ``timeout_s`` seconds."""
    message: dict[str, Any] = await asyncio.wait_for(layer.receive(channel), timeout_s)
    return message


async def receive_until_marker(layer: Any, channel: str, sender: Any = None) -> list[Any]:
    """Send a marker to ``channel`` and return what is received before it.

    An empty list proves that nothing else was on its way. ``sender`` is the layer that sends
    the marker; it must be the one whose messages are looked for, as only then is order certain.
    """
    marker = secrets.token_hex(8)
    await (sender or layer).send(channel, {"type": MARKER, "marker": marker})
    messages: list[Any] = []
    while True:
        message = await receive(layer, channel)
        if message.get("marker") == marker:
            return messages
        messages.append(message)


async def close_listener(listener: asyncio.Server) -> None:
    """Close a listener of this loop once what it has accepted is served.

    asyncio loses a connection that is accepted in the turn in which its listener is closed: it
    stays open, and is reported in whichever test runs when Python finds it.
    """
    for listening in listener.sockets:
        asyncio.get_running_loop().remove_reader(listening.fileno())
    for _ in range(5):
        await asyncio.sleep(0)
    listener.close()


def is_older(server: Any, version: tuple[int, ...]) -> bool:
    """Tell whether a server is older than a version of Redis; Valkey counts as Redis 7.2."""
    info = server.info("server") if hasattr(server, "info") else server.command("INFO", "server")
    return tuple(map(int, info["redis_version"].split("."))) < version


def complaints(errors: str) -> str:
    """What was printed, but for the slow steps that a loop in debug mode warns of: how slow they
    are is the machine's affair.
    """
    lines = errors.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("Executing "))


class ExternalServer:
    """The server that ``REDIS_URL`` names; it may hold other people's data."""

    def __init__(self, url: str) -> None:
        self.url = url
        parts = urlsplit(url)
        self.host = parts.hostname or "localhost"
        self.port = parts.port or 6379

    def command(self, *words: Any) -> Any:
        """Run one command on a connection of its own."""
        import redis

        with redis.Redis.from_url(self.url) as client:
            return client.execute_command(*words)

    def database(self, index: int) -> str:
        """Return the URL of another database of this server."""
        return urlsplit(self.url)._replace(path=f"/{index}").geturl()
