"""Steps that many of these tests take."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import msgpack

from tests.helpers import receive

RANDOM_PREFIX_BYTES = 12


def numbered(number: int) -> dict[str, Any]:
    return {"type": "test.numbered", "n": number}


def numbers(messages: list[dict[str, Any]]) -> list[int]:
    return [message["n"] for message in messages]


async def receive_numbers(layer: Any, channel: str, count: int) -> list[int]:
    """The numbers of the next ``count`` messages."""
    return numbers([await receive(layer, channel) for _ in range(count)])


def waiting(layer: Any, channel: str) -> asyncio.Task[dict[str, Any]]:
    """A task that waits in ``receive()``."""
    return asyncio.create_task(layer.receive(channel), name=f"receive {channel}")


async def cancel(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end, whichever way it goes."""
    task.cancel()
    await asyncio.wait({task})


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
