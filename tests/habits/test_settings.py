"""Settings as people write them: from the environment, from examples, from other packages."""

from __future__ import annotations

import asyncio
import collections
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from channels_redis.exceptions import ConfigurationError, ConnectionLost
from tests.helpers import MARKER, receive, wait_for

SECRET = "s3cret"


@pytest.mark.parametrize("hosts", [[None], [""], [(None, 6379)], [{"address": ""}]], ids=str)
async def test_a_missing_variable_is_an_error_at_first_use(layer_class: Any, hosts: Any) -> None:
    """Made at import, printed, asked for its options; each operation says what is missing."""
    layer = layer_class(hosts=hosts)
    assert "<no address>" in repr(layer)
    for operation in (
        layer.send("general", {"type": MARKER}),
        layer.receive("general"),
        layer.group_send("group", {"type": MARKER}),
        layer.flush(),
    ):
        with pytest.raises(ConfigurationError, match="environment variable"):
            await operation
    with pytest.raises(ConfigurationError, match="environment variable"):
        layer.connection(0)
    await layer.close()


def test_a_pool_of_the_users_needs_no_address(layer_class: Any, redis_url: str) -> None:
    """Who overrides create_pool() knows the servers himself."""
    from channels_redis.utils import create_pool, decode_hosts

    class Own(layer_class):  # type: ignore[misc]  # the base is a fixture's value
        def create_pool(self, index: int) -> Any:
            return create_pool(decode_hosts([redis_url])[0])

    layer = Own(hosts=[None])
    layer.sync.send("habits", {"type": MARKER})
    layer.sync.flush()
    layer.sync.close()


PROJECT = """
import os, sys
from django.conf import settings
from django.core.management import execute_from_command_line
settings.configure(
    INSTALLED_APPS=["django.contrib.staticfiles", "channels_redis"],
    STATIC_URL="static/",
    STATIC_ROOT=sys.argv[1],
    CHANNEL_LAYERS={"default": {"BACKEND": "channels_redis.core.RedisChannelLayer",
                                "CONFIG": {"hosts": [os.environ.get("REDIS_URL_UNSET")]}}},
)
from channels.layers import get_channel_layer
print(get_channel_layer())
execute_from_command_line(["manage.py", *sys.argv[2:]])
"""


def manage(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROJECT, str(directory), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_an_image_is_built_without_its_variables(tmp_path: Path) -> None:
    """``collectstatic`` passes, ``check`` says what is missing."""
    built = manage(tmp_path, "collectstatic", "--noinput")
    assert (built.returncode, built.stderr) == (0, "")
    checked = manage(tmp_path, "check")
    assert checked.returncode == 1
    assert "channels_redis.E003" in checked.stderr


async def test_hosts_split_from_a_variable_are_taken(make_layer: Any, redis_url: str) -> None:
    """White space, line ends and quotation marks are what shells and files leave."""
    text = f' "{redis_url}" , {redis_url}\n'
    layer = make_layer("core", hosts=text.split(","))
    assert [host["address"] for host in layer.hosts] == [redis_url] * 2
    await layer.send("general", {"type": MARKER})
    assert await receive(layer, "general") == {"type": MARKER}


def test_whole_numbers_may_be_floats(layer_class: Any) -> None:
    """As YAML files and divisions give them; others are refused."""
    layer = layer_class(capacity=1500.0, channel_capacity={"a": 20.0}, random_prefix_length=12.0)
    assert (layer.capacity, layer.get_capacity("a")) == (1500, 20)
    assert type(layer.capacity) is type(layer.random_prefix_length) is int
    for wrong in (1500.5, float("nan"), float("inf"), "1500", True):
        with pytest.raises(ConfigurationError, match="capacity"):
            layer_class(capacity=wrong)


@pytest.mark.parametrize(
    "keys",
    [
        {"one", "two"},
        frozenset({"one"}),
        collections.deque(["one"]),
        collections.UserList(["one", b"two"]),
        {"a": "one"}.values(),
    ],
    ids=lambda keys: type(keys).__name__,
)
def test_keys_come_in_any_collection(layer_class: Any, keys: Any) -> None:
    """What one key encrypts, the same keys decrypt, whatever holds them."""
    one, other = (layer_class(symmetric_encryption_keys=keys) for _ in range(2))
    packed = one.serialize({"type": MARKER})
    assert MARKER.encode() not in packed
    assert other.deserialize(packed) == {"type": MARKER}


BESIDE: list[tuple[dict[str, Any], str]] = [
    ({"max_connections": 5}, "{'address': 'redis://localhost:6379', 'max_connections': 5}"),
    ({"retry_on_timeout": True}, "'retry_on_timeout': True}"),
    ({"ssl": True}, "'ssl': True}"),
    ({"password": SECRET}, "'password': '...'}"),
    ({"password": 1234}, "'password': '...'}"),
    ({"db": 2, "hosts": [("h", 7)]}, "{'host': 'h', 'port': 7, 'db': 2}"),
    (
        {"socket_timeout": 2.5, "hosts": [f"rediss://:{SECRET}@h"]},
        "{'address': 'rediss://h:6379', ",
    ),
    ({"connection_class": object, "hosts": 5}, "'connection_class': '...'}"),
    ({"url": f"redis://:{SECRET}@h"}, "{'address': '...'}"),
    ({"host": "h"}, "{'host': '...'}"),
    ({"master_name": "m", "hosts": [None]}, "{'master_name': '...'}"),
    ({"health_check_interval": 3, "hosts": ["unix:///r"]}, "{'address': 'unix:///r', 'health"),
]


@pytest.mark.parametrize(("config", "entry"), BESIDE, ids=str)
def test_the_error_for_a_connection_keyword_beside_hosts_shows_where_it_belongs(
    layer_class: Any, config: dict[str, Any], entry: str
) -> None:
    """The error has the entry of hosts written out, without a secret."""
    wanted = rf"in an entry of hosts, such as \"hosts\": \[.*{re.escape(entry)}"
    with pytest.raises(ConfigurationError, match=wanted) as caught:
        layer_class(**config)
    assert SECRET not in str(caught.value)
    assert "1234" not in str(caught.value)


@pytest.mark.parametrize("form", ["keyword", "URL"])
async def test_socket_timeout_bounds_ordinary_commands(
    make_layer: Any, kind: str, private_server: Any, form: str
) -> None:
    """A server that falls silent is given up after that time, not after command_timeout_s."""
    url = private_server.url
    by_keyword = {"address": url, "socket_timeout": 0.5}
    entry = by_keyword if form == "keyword" else f"{url}?socket_timeout=0.5"
    layer = make_layer(kind, hosts=[entry], command_timeout_s=3600)
    await layer.send("general", {"type": MARKER})
    private_server.freeze()
    try:
        with pytest.raises(ConnectionLost, match="no reply"):
            await asyncio.wait_for(layer.send("general", {"type": MARKER}), 60)
    finally:
        private_server.thaw()


async def test_socket_timeout_ends_no_wait_for_messages(
    make_layer: Any, kind: str, private_server: Any
) -> None:
    """A blocked reader and a subscriber stay on their connections, however short it is."""
    layer = make_layer(kind, hosts=[{"address": private_server.url, "socket_timeout": 0.2}])
    channel = await layer.new_channel()
    waiting = [asyncio.ensure_future(layer.receive(name)) for name in (channel, "general")]

    def connections() -> set[bytes]:
        listed: bytes = private_server.command("CLIENT", "LIST")
        wanted = (b"cmd=bzpopmin", b"cmd=subscribe")
        lines = listed.splitlines()
        return {line.split()[0] for line in lines if any(one in line for one in wanted)}

    await wait_for(lambda: len(connections()) == 2)
    before = connections()
    await asyncio.sleep(1)
    assert connections() == before
    for name, task in zip((channel, "general"), waiting, strict=True):
        await layer.send(name, {"type": MARKER})
        assert await asyncio.wait_for(task, 10) == {"type": MARKER}
    assert layer.stats().reconnects == 0
