"""The names that projects import from the package, and what each must still be."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

import channels.exceptions
import pytest
import redis.asyncio

from tests.helpers import run_script, wait_for

IMPORTED_NAMES = [
    *(
        ("core", name)
        for name in (
            "RedisChannelLayer",
            "ChannelFull",
            "BoundedQueue",
            "ChannelLock",
            "RedisLoopLayer",
        )
    ),
    *(
        ("pubsub", name)
        for name in (
            "RedisPubSubChannelLayer",
            "RedisPubSubLoopLayer",
            "RedisSingleShardConnection",
        )
    ),
    *(
        ("serializers", name)
        for name in (
            "registry",
            "SerializersRegistry",
            "BaseMessageSerializer",
            "JSONSerializer",
            "MsgPackSerializer",
            "MissingSerializer",
            "SerializerDoesNotExist",
        )
    ),
    *(
        ("utils", name)
        for name in (
            "decode_hosts",
            "create_pool",
            "_consistent_hash",
            "_close_redis",
            "_wrap_close",
        )
    ),
]


def named(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"channels_redis.{module}"), name)


@pytest.mark.parametrize(("module", "name"), IMPORTED_NAMES)
def test_a_name_that_projects_import_is_where_it_was(module: str, name: str) -> None:
    """Every import line written for 4.3.0 still works."""
    assert callable(named(module, name)) or name == "registry"


def test_channel_full_is_the_class_of_channels_itself() -> None:
    """``except channels.exceptions.ChannelFull`` catches what the layers raise."""
    assert named("core", "ChannelFull") is channels.exceptions.ChannelFull


def test_a_missing_serializer_is_a_key_error() -> None:
    """Code that catches ``KeyError`` from the registry goes on working."""
    assert issubclass(named("serializers", "SerializerDoesNotExist"), KeyError)


def test_the_registry_is_one_of_its_class() -> None:
    """``registry`` is the shared instance of ``SerializersRegistry``."""
    registry = named("serializers", "registry")
    assert isinstance(registry, named("serializers", "SerializersRegistry"))


def test_a_bounded_queue_drops_its_oldest() -> None:
    """``BoundedQueue`` of ``core`` never refuses and never grows."""
    queue = named("core", "BoundedQueue")(2)
    for number in range(4):
        queue.put_nowait(number)
    assert (queue.qsize(), queue.full()) == (2, True)
    assert [queue.get_nowait(), queue.get_nowait()] == [2, 3]


async def test_the_bare_package_knows_its_version_and_imports_no_redis() -> None:
    """``import channels_redis`` is free: no client library, no layer."""
    script = (
        "import sys, channels_redis\n"
        "assert channels_redis.__version__\n"
        "print([name for name in ('redis', 'channels', 'asyncio') if name in sys.modules])"
    )
    assert await run_script(script) == "[]\n"


async def test_importing_and_constructing_layers_starts_no_thread() -> None:
    """Both layers may be imported and built at the import time of a settings module."""
    script = (
        "import threading\n"
        "from channels_redis.core import RedisChannelLayer\n"
        "from channels_redis.pubsub import RedisPubSubChannelLayer\n"
        "RedisChannelLayer(), RedisPubSubChannelLayer()\n"
        "print(threading.active_count())"
    )
    assert await run_script(script, options=("-X", "dev", "-W", "error")) == "1\n"


async def test_close_redis_closes_a_client_and_its_pool(redis_url: str, prefix: str) -> None:
    """``_close_redis`` leaves no connection of the client open on the server."""
    watcher = redis.asyncio.Redis.from_url(redis_url)
    client = redis.asyncio.Redis.from_url(redis_url, client_name=prefix)

    async def is_connected() -> bool:
        return prefix in {entry["name"] for entry in await watcher.client_list()}

    await client.ping()
    assert await is_connected()
    await named("utils", "_close_redis")(client)

    async def is_gone() -> bool:
        return not await is_connected()

    await wait_for(is_gone)
    await watcher.aclose()


async def test_create_pool_makes_a_pool_from_a_decoded_host(redis_url: str) -> None:
    """``create_pool`` takes what ``decode_hosts`` gives."""
    (host,) = named("utils", "decode_hosts")([redis_url])
    client = redis.asyncio.Redis(connection_pool=named("utils", "create_pool")(host))
    assert await client.ping()
    await named("utils", "_close_redis")(client)


async def test_no_event_loop_is_patched(kind: str, make_layer: Any) -> None:
    """A loop on which a layer worked has the ``close`` it came with."""
    layer = make_layer(kind)
    await layer.send(await layer.new_channel(), {"type": "x"})
    assert "close" not in vars(asyncio.get_running_loop())
