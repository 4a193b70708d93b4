"""Gathers the facts about servers for the doctor.  Does not judge them.

Writes only one key and one topic under the layer's prefix; the key expires.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import statistics
import time
from collections.abc import Sequence
from typing import Any

from redis.exceptions import AuthenticationError, RedisError, ResponseError

from .._config.hosts import describe_host
from .._config.pools import close_pool
from .._config.secrets import causes_of
from .._layer.base import BaseRedisLayer
from .._runtime.loops import running_loop
from .._runtime.scope import Scope
from .._transport.wire import Wire
from .endpoints import Endpoint, endpoints_of
from .facts import SentinelFacts, ServerFacts, ShardFacts
from .primaries import pools_of
from .rights import ANY, HISTORIES, PRESENCES, PROBE, QUEUES, TOPICS

_PINGS = 5
# Errors that show that client and server use the same protocol.
_REFUSALS = (AuthenticationError, ResponseError)


async def look_at_shard(layer: BaseRedisLayer, index: int) -> list[ShardFacts]:
    """Return the facts about each server of one entry of ``hosts``.  Failures are facts too, and
    raise nothing.
    """
    return [await _look_at(layer, index, pool) for pool in await pools_of(layer, index)]


async def _look_at(layer: BaseRedisLayer, index: int, pool: Any) -> ShardFacts:
    endpoint, *sentinels = endpoints_of(pool)
    try:
        seen = [
            _look_at_sentinel(pool, client, one, layer.connect_wait_s)
            for client, one in zip(_sentinel_clients(pool), sentinels, strict=True)
        ]
        sentinel_facts = tuple(await asyncio.gather(*seen))
        server = await _look_at_server(layer, pool, endpoint)
    finally:
        await close_pool(pool)
    return ShardFacts(
        where=describe_host(layer.hosts[index]),
        endpoint=endpoint,
        asks_for_cluster=bool(layer.hosts[index].get("cluster")),
        master_name=str(layer.hosts[index].get("master_name", "")),
        sentinels=sentinel_facts,
        server=server,
    )


def _sentinel_clients(pool: Any) -> Sequence[Any]:
    return getattr(getattr(pool, "sentinel_manager", None), "sentinels", ())


async def _look_at_sentinel(
    pool: Any, client: Any, endpoint: Endpoint, limit_s: float
) -> SentinelFacts:
    try:
        wire = await Wire.open(client.connection_pool, Scope(running_loop()), limit_s)
    except Exception as error:  # noqa: BLE001 (it is a fact, and judged elsewhere)
        return SentinelFacts(endpoint, error)
    try:
        name = pool.service_name
        address = _or_raise(await wire.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name))
        masters = _or_raise(await wire.ask("SENTINEL", "MASTERS"))
    except (RedisError, OSError) as error:
        return SentinelFacts(endpoint, error)
    finally:
        await wire.close()
    primary = (address[0].decode(), int(address[1])) if address else None
    names = [_as_dict(master).get("name", "?") for master in masters]
    return SentinelFacts(endpoint, None, primary, tuple(names))


async def _look_at_server(layer: BaseRedisLayer, pool: Any, endpoint: Endpoint) -> ServerFacts:
    try:
        wire = await Wire.open(pool, Scope(running_loop()), layer.connect_wait_s)
    except Exception as error:  # noqa: BLE001 (it is a fact, and judged elsewhere)
        return await _no_conversation(layer, endpoint, error)
    try:
        return await _interview(layer, endpoint, wire)
    except (RedisError, OSError) as error:
        return await _no_conversation(layer, endpoint, error)
    finally:
        await wire.close()


async def _no_conversation(
    layer: BaseRedisLayer, endpoint: Endpoint, error: BaseException
) -> ServerFacts:
    understood = any(isinstance(cause, _REFUSALS) for cause in causes_of(error))
    if understood or not endpoint.port or endpoint.by_sentinels:
        return ServerFacts(error)
    return ServerFacts(error, await _speaks_otherwise(endpoint, layer.connect_wait_s))


async def _interview(layer: BaseRedisLayer, endpoint: Endpoint, wire: Wire) -> ServerFacts:
    latencies, greeting = [], None
    for _ in range(_PINGS):
        asked = time.perf_counter()
        greeting = await wire.ask("PING")
        latencies.append(time.perf_counter() - asked)
    if isinstance(greeting, AuthenticationError):
        raise greeting
    limits = await wire.ask("CONFIG", "GET", "client-output-buffer-limit")
    user = await wire.ask("ACL", "WHOAMI")
    return ServerFacts(
        latency_s=statistics.median(latencies),
        clock_ahead_s=await _clock_ahead(wire),
        info=_parse_info(await wire.ask("INFO")),
        output_limits=_as_dict(limits).get("client-output-buffer-limit"),
        user=user.decode() if isinstance(user, bytes) else endpoint.username,
        replies=await _try_commands(layer, wire),
    )


async def _clock_ahead(wire: Wire) -> float | None:
    before = time.time()
    reply = await wire.ask("TIME")
    if not isinstance(reply, list):
        return None
    here = (before + time.time()) / 2
    return int(reply[0]) + int(reply[1]) / 1e6 - here


async def _try_commands(layer: BaseRedisLayer, wire: Wire) -> dict[str, Any]:
    """Run each command that the layer may need on the doctor's own key and topic."""
    probe = layer._keys.new_probe()
    replies = {}
    options = (*(HISTORIES if layer.history else ()), *(PRESENCES if layer.presence else ()))
    for need in (*ANY, *QUEUES, *TOPICS, *options):
        words = [probe if word == PROBE else word for word in need.words]
        replies[need.command] = await wire.ask(*words)
    return replies


def _or_raise(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply


def _as_dict(reply: Any) -> dict[str, str]:
    """Return a flat list of names and values as a dict; empty for an error."""
    if not isinstance(reply, list):
        return {}
    words = [_text(word) for word in reply]
    return dict(zip(words[::2], words[1::2], strict=False))


def _text(word: Any) -> str:
    return word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word)


def _parse_info(reply: Any) -> dict[str, str]:
    lines = _text(reply).splitlines() if isinstance(reply, bytes) else []
    return dict(line.split(":", 1) for line in lines if ":" in line and line[0] != "#")


async def _speaks_otherwise(endpoint: Endpoint, limit_s: float) -> bool:
    """Return whether a server uses TLS although none is configured, or the other way round."""
    try:
        answers = _answers_plainly(endpoint) if endpoint.tls else _shakes_hands(endpoint)
        return await asyncio.wait_for(answers, limit_s)
    except ssl.SSLError as error:
        # A server that requires a client certificate uses TLS too; others have another version.
        return "CERTIFICATE" in str(error).upper()
    except (OSError, asyncio.TimeoutError):
        return False


async def _answers_plainly(endpoint: Endpoint) -> bool:
    reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    try:
        writer.write(b"PING\r\n")
        return await reader.read(1) in (b"+", b"-")
    finally:
        await _hang_up(writer)


async def _shakes_hands(endpoint: Endpoint) -> bool:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _, writer = await asyncio.open_connection(endpoint.host, endpoint.port, ssl=context)
    await _hang_up(writer)
    return True


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    # Without TLS's farewell, for which the server may let one wait.
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
