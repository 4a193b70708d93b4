"""Deleting the keys of one layer on one node, and nobody else's."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.exceptions import NoPermissionError, ResponseError

from .._keyspace import Keyspace
from .connections import pack
from .multiplexer import Multiplexer

_SCAN_COUNT = 1000


async def delete_owned(node: Multiplexer, keyspace: Keyspace) -> None:
    """Delete all queues and groups of a layer; without the right to SCAN, found with KEYS."""
    try:
        cursor = b"0"
        while True:
            cursor, found = await _ask(
                node, "SCAN", cursor, "MATCH", keyspace.owned_keys_pattern(), "COUNT", _SCAN_COUNT
            )
            await _delete_sorted_sets(node, _owned(found, keyspace))
            if cursor == b"0":
                return
    except NoPermissionError:
        found = await _ask(node, "KEYS", keyspace.owned_keys_pattern())
        await _delete_sorted_sets(node, _owned(found, keyspace))


async def delete_keys(node: Multiplexer, keys: list[bytes]) -> None:
    """Delete keys; without the right to UNLINK, with DEL."""
    await asyncio.gather(*[_delete(node, key) for key in keys])


def _owned(found: list[bytes], keyspace: Keyspace) -> list[bytes]:
    return [key for key in found if keyspace.owns(key.decode("utf-8", "replace"))]


async def _delete_sorted_sets(node: Multiplexer, keys: list[bytes]) -> None:
    # ZCOUNT refuses other types; unlike TYPE, every user of a layer may call it.
    counts = await asyncio.gather(
        *[_ask(node, "ZCOUNT", key, "-inf", "+inf") for key in keys], return_exceptions=True
    )
    for count in counts:
        if isinstance(count, BaseException) and not isinstance(count, ResponseError):
            raise count
    await delete_keys(
        node, [key for key, count in zip(keys, counts, strict=True) if isinstance(count, int)]
    )


async def _delete(node: Multiplexer, key: bytes) -> None:
    try:
        await _ask(node, "UNLINK", key)
    except NoPermissionError:
        await _ask(node, "DEL", key)


async def _ask(node: Multiplexer, *command: bytes | str | int) -> Any:
    return await node.call(pack(*command), True)
