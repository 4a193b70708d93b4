"""What tests of several folders need: to wait for conditions, to send and receive, to look into a
server, and to run scripts.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgpack
import pytest

import channels_redis
from channels_redis.exceptions import ConnectionLost

T = TypeVar("T")

MARKER = "test.marker"

# Far above any honest delay: a broken promise ends here, a slow machine does not.
BOUND_S = 15.0
SCRIPT_BOUND_S = 50.0

#: A message with all kinds of values.
RICH = {
    "type": "chat.message",
    "text": "héllo ✓",
    "big": 2**62,
    "negative": -5,
    "float": 1.5,
    "none": None,
    "yes": True,
    "list": [1, "a", [2]],
    "nested": {"k": {"x": []}},
    "bytes": b"\x00\xffraw",
}

RANDOM_PREFIX_BYTES = 12

# The first lines of scripts that use a layer: ``layer`` is what ``script_arguments`` describe.
# A loop in debug mode warns of every slow step; how slow they are is the machine's affair.
SCRIPT_HEAD = """
import asyncio, json, logging, sys
logging.getLogger("asyncio").setLevel(logging.ERROR)
from asgiref.sync import async_to_sync
from django.utils.module_loading import import_string

def make(**options):
    return import_string(sys.argv[1])(**{**json.loads(sys.argv[2]), **options})

layer = make()
"""


async def wait_for(condition: Callable[[], Any], timeout_s: float = 30) -> Any:
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


async def until_connected(call: Callable[[], Awaitable[T]], timeout_s: float = 30) -> T:
    """Return what a call returns, once it raises no :class:`ConnectionLost`.

    A layer of little patience (``connect_wait_s``) may need several tries for its first
    connections, on a busy machine.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return await call()
        except ConnectionLost as error:
            if error.maybe_executed or time.monotonic() > deadline:
                raise


def _source(condition: Callable[[], Any]) -> str:
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):
        return repr(condition)


async def bounded(awaitable: Awaitable[T], bound_s: float = BOUND_S) -> T:
    """The result of ``awaitable``, or a failure that says it hung."""
    return await asyncio.wait_for(awaitable, bound_s)


# Messages


def numbered(number: int) -> dict[str, Any]:
    """Return a message with a number."""
    return {"type": "test.numbered", "n": number}


def numbers(messages: list[dict[str, Any]]) -> list[int]:
    """Return the numbers of such messages."""
    return [message["n"] for message in messages]


async def receive(layer: Any, channel: str, timeout_s: float = 10) -> dict[str, Any]:
    """Receive one message, or fail when none comes within ``timeout_s`` seconds."""
    message: dict[str, Any] = await asyncio.wait_for(layer.receive(channel), timeout_s)
    return message


async def receive_many(layer: Any, channel: str, count: int) -> list[Any]:
    """Receive so many messages."""
    return [await receive(layer, channel) for _ in range(count)]


async def receive_numbers(layer: Any, channel: str, count: int) -> list[int]:
    """Receive so many numbered messages; return their numbers."""
    return numbers(await receive_many(layer, channel, count))


def waiting(layer: Any, channel: str) -> asyncio.Task[dict[str, Any]]:
    """A task that waits in ``receive()``."""
    return asyncio.create_task(layer.receive(channel), name=f"receive {channel}")


async def cancel(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end, whichever way it goes."""
    task.cancel()
    await asyncio.wait({task})


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


# Servers


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


def server_time_s(server: Any) -> float:
    seconds, microseconds = server.command("TIME")
    return int(seconds) + int(microseconds) / 1e6


def subscribers(server: Any, channel: str) -> int:
    """How many connections of the server are subscribed to ``channel``."""
    return int(server.command("PUBSUB", "NUMSUB", channel)[1])


def calls_by_command(server: Any) -> dict[str, int]:
    """How often a server was asked for each command; those of scripts count as well."""
    stats = server.info("commandstats")
    return {
        name.removeprefix("cmdstat_"): int(facts.split(",")[0].removeprefix("calls="))
        for name, facts in stats.items()
    }


def queue_key(prefix: str, channel: str) -> str:
    """The key of the queue that holds the messages of ``channel``, as all releases name it."""
    local = channel.find("!")
    return prefix + (channel if local < 0 else channel[: local + 1])


def member(message: Any, *, channel: str | None = None) -> bytes:
    """A member of a queue, as an unencrypted sender of any release makes it."""
    address = {"__asgi_channel__": channel} if channel else {}
    return member_of_bytes(msgpack.packb({**message, **address}))


def member_of_bytes(payload: bytes) -> bytes:
    return secrets.token_bytes(RANDOM_PREFIX_BYTES) + payload


def put_frame(kind: str, server: Any, prefix: str, channel: str, frame: bytes) -> None:
    """Put a frame where a layer listens for a channel, past all layers."""
    if kind == "core" or not channel.startswith(prefix):
        server.command("ZADD", queue_key(prefix, channel), server_time_s(server), frame)
    else:
        server.command("PUBLISH", channel, frame)


# Scripts


def script_arguments_for(layer_class: type[Any], hosts: list[Any], prefix: str) -> tuple[str, str]:
    """Return the dotted path and the JSON options with which a script makes a layer."""
    path = f"{layer_class.__module__}.{layer_class.__name__}"
    return path, json.dumps({"hosts": hosts, "prefix": prefix})


async def run_script(
    source: str, *arguments: str, options: tuple[str, ...] = (), may_warn: bool = False
) -> str:
    """Run ``source`` in a fresh interpreter; its output, once it ended well and without a word
    on standard error.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *options,
        "-c",
        source,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=script_environment(),
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), SCRIPT_BOUND_S)
    except asyncio.TimeoutError:
        process.kill()
        _, err = await process.communicate()
        pytest.fail(f"the script hung; standard error:\n{err.decode()}")
    assert process.returncode == 0, f"exit status {process.returncode}:\n{err.decode()}"
    assert may_warn or err == b"", f"the script wrote to standard error:\n{err.decode()}"
    return out.decode()


def script_environment() -> dict[str, str]:
    """This process's environment, with the package under test on the path."""
    root = str(Path(channels_redis.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": root, "PYTHONWARNINGS": ""}


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
