"""Servers that allow little: restricted users, renamed commands, keys that must be declared."""

from __future__ import annotations

import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from channels_redis.testing.servers import RedisServer, wait_until
from tests.helpers import numbered, receive, receive_until_marker, waiting

# What the manual of 4.3.0 tells administrators to allow.
CORE_COMMANDS = [
    *("bzpopmin", "del", "eval", "expire", "keys", "zadd", "zcount", "zpopmin", "zrange", "zrem"),
    "zremrangebyscore",
]
PUBSUB_COMMANDS = ["publish", "subscribe", "unsubscribe"]
PASSWORD = "restricted-pw"


@pytest.fixture
def restricted(private_server: RedisServer, prefix: str) -> Callable[[list[str]], str]:
    """A function ``(commands)`` that makes a user with these rights only; returns the URL."""

    def make(commands: list[str]) -> str:
        rights = [f"+{command}" for command in commands]
        private_server.command(
            *("ACL", "SETUSER", "app", "reset", "on", f">{PASSWORD}"),
            *(f"~{prefix}*", f"&{prefix}*", *rights),
        )
        return f"redis://app:{PASSWORD}@{private_server.host}:{private_server.port}"

    return make


async def test_core_works_with_the_commands_that_were_always_documented(
    make_layer: Callable[..., Any],
    restricted: Callable[[list[str]], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """EVALSHA, SCAN, UNLINK, TIME and PING are used where allowed only (290, 396)."""
    url = restricted(CORE_COMMANDS)
    with caplog.at_level(logging.INFO, "channels_redis"):
        layer, sender = (make_layer("core", hosts=[url]) for _ in range(2))
        channel = await layer.new_channel()
        wait = waiting(layer, channel)
        await sender.send(channel, numbered(1))
        assert await wait == numbered(1)
        await layer.group_add("room", channel)
        await layer.group_add("room", "work")
        await sender.group_send("room", numbered(2))
        assert await receive(layer, channel) == numbered(2)
        assert await receive(layer, "work") == numbered(2)
        await layer.group_discard("room", channel)
        await sender.group_send("room", numbered(3))
        assert await receive_until_marker(layer, channel, sender) == []
        await layer.flush()
        assert await receive_until_marker(layer, "work", sender) == []
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) <= 2, "one per layer, about TIME"
    assert all("TIME" in warning for warning in warnings)


async def test_pubsub_works_with_the_commands_that_were_always_documented(
    make_layer: Callable[..., Any], restricted: Callable[[list[str]], str]
) -> None:
    """Consumers and groups need PUBLISH, SUBSCRIBE and UNSUBSCRIBE alone (290, 396)."""
    url = restricted(PUBSUB_COMMANDS)
    layer, sender = (make_layer("pubsub", hosts=[url]) for _ in range(2))
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await sender.send(channel, numbered(1))
    await sender.group_send("room", numbered(2))
    assert [await receive(layer, channel) for _ in range(2)] == [numbered(1), numbered(2)]
    await layer.group_discard("room", channel)
    await sender.group_send("room", numbered(3))
    assert await receive_until_marker(layer, channel, sender) == []
    await layer.flush()


async def test_pubsub_workers_need_the_commands_of_core_besides(
    make_layer: Callable[..., Any], restricted: Callable[[list[str]], str]
) -> None:
    """General channels of the Pub/Sub layer travel through queues."""
    url = restricted(PUBSUB_COMMANDS + CORE_COMMANDS)
    layer, sender = (make_layer("pubsub", hosts=[url]) for _ in range(2))
    wait = waiting(layer, "work")
    await sender.send("work", numbered(1))
    assert await wait == numbered(1)
    await sender.send("work", numbered(2))
    await sender.flush()
    assert await receive_until_marker(layer, "work") == []


@pytest.fixture(scope="module")
def cluster_node() -> Iterator[RedisServer]:
    """A cluster of one node, which refuses commands whose keys are in different slots."""
    config = {"cluster-enabled": "yes"}
    with RedisServer(config=config) as server:
        server.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: b"cluster_state:ok" in server.command("CLUSTER", "INFO"), "ready")
        yield server


async def use_everything(make_layer: Callable[..., Any], kind: str, host: Any) -> None:
    """Consumers of three processes and a worker, direct and in a group, and a flush."""
    layers = [make_layer(kind, hosts=[host]) for _ in range(3)]
    channels = [await layer.new_channel() for layer in layers]
    for number, (layer, channel) in enumerate(zip(layers, channels, strict=True)):
        await layer.group_add("room", channel)
        await layers[0].send(channel, numbered(number))
        assert await receive(layer, channel) == numbered(number)
    wait = waiting(layers[0], "work")
    await layers[1].send("work", numbered(7))
    assert await wait == numbered(7)
    await layers[0].group_send("room", numbered(8))
    for layer, channel in zip(layers, channels, strict=True):
        assert await receive(layer, channel) == numbered(8)
    await layers[0].group_discard("room", channels[0])
    await layers[0].flush()


async def test_no_command_mixes_keys_of_several_slots(
    make_layer: Callable[..., Any], kind: str, cluster_node: RedisServer
) -> None:
    """Everything works where a command may touch one slot only (379, 381, 420)."""
    await use_everything(make_layer, kind, {"cluster": True, "address": cluster_node.url})


class Monitor:
    """Watches all commands of a server, those of scripts included."""

    def __init__(self, server: RedisServer) -> None:
        self.commands: list[tuple[bool, list[str]]] = []
        """For each command whether a script ran it, and its words."""
        self._server = server
        self._socket = socket.create_connection(server.address)
        self._lines = self._socket.makefile("r", encoding="utf-8", errors="replace")
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Monitor:
        self._socket.sendall(b"MONITOR\r\n")
        assert self._lines.readline() == "+OK\n"
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.command("ECHO", "end of watch")
        self._thread.join(10)
        self._lines.close()
        self._socket.close()

    def _watch(self) -> None:
        for line in self._lines:
            words = re.findall(r'"((?:[^"\\]|\\.)*)"', line)
            if words == ["ECHO", "end of watch"]:
                return
            self.commands.append((" lua] " in line, words))


async def test_scripts_touch_no_key_that_they_do_not_declare(
    make_layer: Callable[..., Any], private_server: RedisServer, prefix: str
) -> None:
    """Serverless offers route by KEYS: every key of a script is among them (379, 381, 420)."""
    with Monitor(private_server) as monitor:
        await use_everything(make_layer, "core", private_server.url)
    declared: set[str] = set()
    touched = 0
    for by_script, words in monitor.commands:
        if words[0].upper() in ("EVAL", "EVALSHA"):
            declared = set(words[3 : 3 + int(words[2])])
        elif by_script:
            keys = {word for word in words[1:] if word.startswith(prefix)}
            assert keys <= declared, words
            touched += len(keys)
    assert touched > 10
