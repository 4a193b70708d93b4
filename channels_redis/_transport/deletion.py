"""Deletes the keys of one layer on one server, and no others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from redis.exceptions import ResponseError

from .._format.keyspace import Keyspace
from .commands import Commands, forbidden_command
from .packing import pack

_SCAN_COUNT = 1000


At = Callable[[bytes], Commands]
"""What sends commands about a key: in a cluster, each goes by its slot."""


async def delete_owned(commands: Commands, at: At, keyspace: Keyspace) -> None:
    """Delete all queues, groups, logs and presence of a layer."""

    async def delete(found: list[bytes]) -> None:
        await _delete_sorted_sets(at, _owned(found, keyspace))
        await delete_keys(at, _of_histories(found, keyspace))
        await delete_keys(at, _of_presence(found, keyspace))

    await _delete_found(commands, keyspace, delete)


async def delete_histories(commands: Commands, at: At, keyspace: Keyspace) -> None:
    """Delete all logs of a layer, and the positions of its groups."""

    async def delete(found: list[bytes]) -> None:
        await delete_keys(at, _of_histories(found, keyspace))

    await _delete_found(commands, keyspace, delete)


async def _delete_found(
    commands: Commands, keyspace: Keyspace, delete: Callable[[list[bytes]], Awaitable[None]]
) -> None:
    """Find keys that may be a layer's; without permission for SCAN, KEYS finds them."""
    try:
        cursor = b"0"
        while True:
            scan = "SCAN", cursor, "MATCH", keyspace.owned_keys_pattern(), "COUNT", _SCAN_COUNT
            cursor, found = await _ask(commands, *scan)
            await delete(found)
            if cursor == b"0":
                return
    except ResponseError as reply:
        if forbidden_command(reply) != "scan":
            raise
        await delete(await _ask(commands, "KEYS", keyspace.owned_keys_pattern()))


async def delete_keys(at: At, keys: list[bytes]) -> None:
    """Delete keys with one command each; without permission for UNLINK, with DEL."""
    await asyncio.gather(*[_delete(at(key), key) for key in keys])


def _owned(found: list[bytes], keyspace: Keyspace) -> list[bytes]:
    return [key for key in found if keyspace.owns(key.decode("utf-8", "replace"))]


def _of_histories(found: list[bytes], keyspace: Keyspace) -> list[bytes]:
    return [key for key in found if keyspace.owns_history(key.decode("utf-8", "replace"))]


def _of_presence(found: list[bytes], keyspace: Keyspace) -> list[bytes]:
    return [key for key in found if keyspace.owns_presence(key.decode("utf-8", "replace"))]


async def _delete_sorted_sets(at: At, keys: list[bytes]) -> None:
    # ZCOUNT refuses other types; unlike TYPE, every user of a layer may call it.
    counts = await asyncio.gather(
        *[_ask(at(key), "ZCOUNT", key, "-inf", "+inf") for key in keys], return_exceptions=True
    )
    for count in counts:
        # What is of another type belongs to somebody else; all other errors leave keys behind.
        if isinstance(count, BaseException) and not str(count).startswith("WRONGTYPE"):
            raise count
    await delete_keys(
        at, [key for key, count in zip(keys, counts, strict=True) if isinstance(count, int)]
    )


async def _delete(commands: Commands, key: bytes) -> None:
    try:
        await _ask(commands, "UNLINK", key)
    except ResponseError as reply:
        if forbidden_command(reply) != "unlink":
            raise
        await _ask(commands, "DEL", key)


async def _ask(commands: Commands, *command: bytes | str | int) -> Any:
    return await commands.call(pack(*command), True)
