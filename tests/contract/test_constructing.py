"""Constructing a layer: options, defaults, attributes, and all that works outside a loop."""

from __future__ import annotations

import asyncio
import copy
import json
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from channels.layers import ChannelLayerManager

from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from tests.helpers import receive

CLASSES = {"core": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}
DEFAULTS = {
    "prefix": "asgi",
    "expiry": 60,
    "group_expiry": 86400,
    "capacity": 100,
    "ring_size": 1,
}
EVERY_OPTION: dict[str, Any] = {
    "hosts": ["redis://localhost:6379"],
    "prefix": "site",
    "expiry": 30,
    "group_expiry": 600,
    "capacity": 7,
    "channel_capacity": {"a.*": 1},
    "symmetric_encryption_keys": ["key"],
    "random_prefix_length": 4,
    "serializer_format": "json",
    "on_disconnect": "redis.disconnect",
    "on_reconnect": "redis.reconnect",
}


@pytest.fixture
def cls(kind: str) -> Any:
    """The class of this test's layer kind."""
    return CLASSES[kind]


def test_core_takes_its_options_by_position() -> None:
    """The order of the first release still holds for core."""
    pattern = re.compile("b.*")
    layer = RedisChannelLayer(
        ["redis://h:1"], "site", 30, 600, 7, {pattern: 2}, ["key"], 16, "json"
    )
    assert layer.hosts == [{"address": "redis://h:1"}]
    assert (layer.prefix, layer.expiry, layer.group_expiry) == ("site", 30, 600)
    assert (layer.capacity, layer.channel_capacity) == (7, [(pattern, 2)])
    assert layer.serialize({"type": "x"})[16:].startswith(b"gAAAA")


def test_a_layer_has_its_documented_defaults(cls: Any) -> None:
    """No option is needed, and each default can be read."""
    layer = cls()
    assert {name: getattr(layer, name) for name in DEFAULTS} == DEFAULTS
    assert json.loads(json.dumps(layer.hosts)) == [{"address": "redis://localhost:6379"}]
    assert layer.channel_capacity == []


def test_messages_are_msgpack_by_default() -> None:
    """12 random bytes on core and none on pubsub, then msgpack."""
    assert RedisChannelLayer().serialize({"type": "x"})[12:] == b"\x81\xa4type\xa1x"
    assert RedisPubSubChannelLayer().serialize({"type": "x"}) == b"\x81\xa4type\xa1x"


def test_a_layer_takes_every_option_of_both(cls: Any) -> None:
    """Switching BACKEND leaves CONFIG as it is, in both directions."""
    layer = cls(**EVERY_OPTION)
    same = ("prefix", "expiry", "group_expiry", "capacity")
    assert {name: getattr(layer, name) for name in same} == {
        name: EVERY_OPTION[name] for name in same
    }
    assert layer.hosts == [{"address": "redis://localhost:6379"}]
    assert layer.get_capacity("a.b") == 1


def test_ring_size_counts_the_hosts(cls: Any) -> None:
    """Each entry of ``hosts`` is one shard."""
    assert cls(hosts=[("h", 1), ("h", 2), "redis://h:3"]).ring_size == 3


def test_client_prefix_is_fresh_hex_for_each_layer() -> None:
    """32 hexadecimal digits that no other process has."""
    one, other = RedisChannelLayer(), RedisChannelLayer()
    assert re.fullmatch("[0-9a-f]{32}", one.client_prefix)
    assert one.client_prefix != other.client_prefix


def test_extensions_are_groups_and_flush_at_least(cls: Any) -> None:
    """Channels and its users look here before they use groups."""
    extensions = cls().extensions
    assert extensions[:2] == ["groups", "flush"]


@pytest.mark.parametrize(
    ("misspelt", "right"),
    [("prefx", "prefix"), ("channel_capacities", "channel_capacity"), ("host", "hosts")],
)
def test_an_unknown_option_names_the_nearest_known_one(cls: Any, misspelt: str, right: str) -> None:
    """A typing error in CONFIG is found at construction, with the right name beside it."""
    with pytest.raises(TypeError, match=rf"{misspelt}(.|\n)*\b{right}\b"):
        cls(**{misspelt: 1})


def test_construction_connects_to_nothing(cls: Any) -> None:
    """Layers are built at import time, where no server need be there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        layer = cls(hosts=[listener.getsockname()[:2]])
        copy.copy(layer), repr(layer), str(layer), layer.extensions
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_construction_starts_no_thread(cls: Any) -> None:
    """A layer that is thrown away unused leaves nothing behind."""
    before = threading.active_count()
    cls(**EVERY_OPTION)
    assert threading.active_count() == before


@pytest.mark.parametrize("inside_a_loop", [False, True], ids=["outside a loop", "inside a loop"])
def test_reading_a_layer_needs_no_loop(cls: Any, inside_a_loop: bool) -> None:
    """``hasattr``, ``repr``, ``copy`` and the attributes work anywhere."""

    def read() -> None:
        layer = cls(hosts=[("h", 1)])
        assert not hasattr(layer, "no_such_attribute")
        assert hasattr(layer, "group_send")
        assert type(layer).__name__ in repr(layer)
        assert copy.copy(layer).hosts == layer.hosts
        with pytest.raises(AttributeError, match="no_such_attribute"):
            _ = layer.no_such_attribute

    async def read_inside() -> None:
        read()

    asyncio.run(read_inside()) if inside_a_loop else read()


async def test_a_copy_is_a_process_of_its_own(kind: str, make_layer: Any, prefix: str) -> None:
    """A copied layer, also of one in use, works and reads none of the original's messages."""
    layer = make_layer(kind)
    channel = await layer.new_channel()
    twin = copy.copy(layer)
    twins = await twin.new_channel()
    for name in (channel, twins):
        await twin.send(name, {"to": name})
    assert await receive(twin, twins) == {"to": twins}
    assert await receive(layer, channel) == {"to": channel}
    await twin.close()


def test_a_deep_copy_is_a_layer_of_its_own(cls: Any) -> None:
    """Test tools copy settings and what hangs on them."""
    layer = cls(hosts=[("h", 1)])
    assert copy.deepcopy(layer).hosts == layer.hosts


def test_one_layer_serves_many_threads_each_with_its_loop(kind: str, make_layer: Any) -> None:
    """One object, eight threads, a loop each: all receive what was sent to them."""
    layer = make_layer(kind)

    async def talk(number: int) -> None:
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "x", "number": number})
        assert await receive(layer, channel) == {"type": "x", "number": number}

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(asyncio.run, talk(number)) for number in range(8)]:
            done.result()


def test_the_options_are_not_modified(cls: Any) -> None:
    """Settings are shared between layers and reloads."""
    config = copy.deepcopy(EVERY_OPTION)
    config["hosts"] = [{"address": "redis://h:1", "socket_timeout": 3}, {"host": "h", "port": 2}]
    before = copy.deepcopy(config)
    layer = cls(**config)
    repr(layer), layer.serialize({"type": "x"})
    assert config == before


def test_channels_builds_the_layer_from_settings(
    cls: Any, kind: str, redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``CHANNEL_LAYERS`` names the class, and its CONFIG arrives."""
    settings = {
        "default": {
            "BACKEND": f"{cls.__module__}.{cls.__name__}",
            "CONFIG": {"hosts": [redis_url], "prefix": prefix},
        }
    }
    monkeypatch.setattr(ChannelLayerManager, "configs", settings)
    layer = ChannelLayerManager()["default"]
    assert type(layer) is cls
    assert (layer.hosts, layer.prefix) == ([{"address": redis_url}], prefix)


def test_capacity_patterns_are_compiled_in_order(cls: Any) -> None:
    """Globs and compiled patterns are matched in the order given; the first match wins."""
    layer = cls(
        channel_capacity={
            "http.request": 200,
            "http.response!*": 10,
            re.compile(r"^websocket.send\!.+"): 20,
            "http.*": 5,
        }
    )
    assert [
        layer.get_capacity(name)
        for name in ("http.request", "http.response!abc", "websocket.send!x", "http.x", "other")
    ] == [200, 10, 20, 5, 100]
