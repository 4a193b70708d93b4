"""A server that is there and refuses: receivers wait it out, whatever the refusal is called."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import redis
import redis.exceptions
from channels.exceptions import ChannelFull

from channels_redis.exceptions import ConnectionLost
from channels_redis.testing.servers import ErrorReply, RedisServer
from tests.conftest import find_server_or_skip
from tests.faults.ledger import BACK, EVENTS, LOST
from tests.helpers import numbered, receive, until_connected, wait_for, waiting
from tests.proxy import Proxy

ALLOWED = [">secret", "on", "+@all", "~*", "&*"]
LOOP_FOR_EVER = "while true do end"
QUICK = {"command_timeout_s": 1, "connect_wait_s": 0.3}


class Trouble:
    """Something that goes wrong with a server, and its end."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server

    def begin(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        raise NotImplementedError


class Demoted(Trouble):
    """Writes are refused with READONLY; who is blocked is told UNBLOCKED."""

    def begin(self) -> None:
        self.server.command("REPLICAOF", "127.0.0.1", 1)

    def end(self) -> None:
        self.server.command("REPLICAOF", "NO", "ONE")


class WithoutItsMaster(Demoted):
    """Everything is refused with MASTERDOWN."""

    def begin(self) -> None:
        self.server.command("CONFIG", "SET", "replica-serve-stale-data", "no")
        super().begin()


class OutOfMemory(Trouble):
    """Writes are refused with OOM."""

    def begin(self) -> None:
        self.server.command("CONFIG", "SET", "maxmemory", 1)

    def end(self) -> None:
        self.server.command("CONFIG", "SET", "maxmemory", 0)


class WithoutReplicas(Trouble):
    """Writes are refused with NOREPLICAS."""

    def begin(self) -> None:
        self.server.command("CONFIG", "SET", "min-replicas-to-write", 1)

    def end(self) -> None:
        self.server.command("CONFIG", "SET", "min-replicas-to-write", 0)


class UserDeleted(Trouble):
    """The user's connections are cut, and new ones refused with WRONGPASS."""

    def begin(self) -> None:
        self.server.command("ACL", "DELUSER", "app")

    def end(self) -> None:
        self.server.command("ACL", "SETUSER", "app", *ALLOWED)


class RightsWithdrawn(Trouble):
    """Commands are refused with NOPERM."""

    def begin(self) -> None:
        self.server.command("ACL", "SETUSER", "app", "-@all", "resetchannels", "resetkeys")

    def end(self) -> None:
        self.server.command("ACL", "SETUSER", "app", *ALLOWED)


class RestartedWithAnotherPassword(Trouble):
    """A server comes back and asks for a password that nobody gave: NOAUTH, then WRONGPASS."""

    def begin(self) -> None:
        self.server.restart()

    def end(self) -> None:
        self.server.command("ACL", "SETUSER", "app", *ALLOWED)


class Paused(Trouble):
    """``CLIENT PAUSE``: all commands wait."""

    def begin(self) -> None:
        self.server.command("CLIENT", "PAUSE", 1500, "ALL")

    def end(self) -> None:
        self.server.command("PING")


class Busy(Trouble):
    """Somebody's script runs for ever: BUSY."""

    def begin(self) -> None:
        self.server.command("CONFIG", "SET", "busy-reply-threshold", 1)
        self.thread = threading.Thread(target=self._run_for_ever)
        self.thread.start()

    def end(self) -> None:
        self.server.command("SCRIPT", "KILL")
        self.thread.join()

    def _run_for_ever(self) -> None:
        with pytest.raises(ErrorReply):
            self.server.command("EVAL", LOOP_FOR_EVER, 0)


class TooManyClients(Trouble):
    """Connections are cut, and new ones refused: max number of clients reached."""

    def begin(self) -> None:
        self.only = redis.Redis(host=self.server.host, port=self.server.port, protocol=2)
        self.only.config_set("maxclients", 1)
        self.only.execute_command("CLIENT", "KILL", "USER", "app")

    def end(self) -> None:
        self.only.config_set("maxclients", 1000)
        self.only.close()


TROUBLES = [
    Demoted,
    WithoutItsMaster,
    OutOfMemory,
    WithoutReplicas,
    UserDeleted,
    RightsWithdrawn,
    RestartedWithAnotherPassword,
    Paused,
    Busy,
    TooManyClients,
]


@pytest.mark.parametrize("trouble_class", TROUBLES, ids=lambda trouble: trouble.__name__)
async def test_receivers_wait_until_a_trouble_is_over(
    make_layer: Callable[..., Any],
    private_server: RedisServer,
    trouble_class: type[Trouble],
    loop_errors: list[dict[str, Any]],
) -> None:
    """Nobody who waits raises, on either layer, and everybody receives afterwards."""
    server = private_server
    server.command("ACL", "SETUSER", "app", *ALLOWED)
    url = f"redis://app:secret@{server.host}:{server.port}"
    layers = {kind: make_layer(kind, hosts=[url], **QUICK) for kind in ("core", "pubsub")}
    waits: dict[tuple[str, str], asyncio.Task[Any]] = {}
    for kind, layer in layers.items():
        for channel in (await until_connected(layer.new_channel), f"work.{kind}"):
            await until_connected(partial(layer.send, channel, numbered(0)))
            assert await receive(layer, channel) == numbered(0)
            waits[kind, channel] = waiting(layer, channel)
    await asyncio.sleep(0)
    trouble = trouble_class(server)
    await asyncio.to_thread(trouble.begin)
    outcomes = await asyncio.gather(
        *(layers[kind].send(channel, numbered(1)) for kind, channel in waits),
        return_exceptions=True,
    )
    await asyncio.sleep(0.2)
    assert not any(wait.done() and wait.exception() for wait in waits.values())
    await asyncio.to_thread(trouble.end)
    for (kind, channel), wait in waits.items():
        await send_until(layers[kind], channel, wait)
    unexpected = [one for one in outcomes if type(one) not in EXPECTED]
    assert unexpected == []


EXPECTED: set[type[Any]] = {
    type(None),
    ConnectionLost,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.NoPermissionError,
}


async def send_until(layer: Any, channel: str, wait: asyncio.Task[Any]) -> None:
    """Send, again and again, until the one who waits has received."""

    async def arrived() -> bool:
        try:
            await layer.send(channel, numbered(2))
        except (redis.exceptions.RedisError, ChannelFull):
            return False
        return wait.done()

    await wait_for(arrived)
    assert wait.result() in (numbered(1), numbered(2))


async def test_receivers_wait_while_a_server_loads_its_data(
    make_layer: Callable[..., Any], kind: str
) -> None:
    """LOADING is an outage like others: what was there before comes out afterwards."""
    slow_to_load = {"key-load-delay": "2000", "loading-process-events-interval-bytes": "1024"}
    find_server_or_skip()
    with RedisServer(config={"save": "3600 1000000", **slow_to_load}) as server:
        fill = "for i = 1, 400 do redis.call('SET', 'other' .. i, string.rep('x', 1000)) end"
        server.command("EVAL", fill, 0)
        layer = make_layer(kind, hosts=[server.url], connect_wait_s=10)
        await layer.send("work", numbered(0))
        assert await receive(layer, "work") == numbered(0)
        waits = [waiting(layer, "work"), waiting(layer, await layer.new_channel())]
        starting = asyncio.create_task(asyncio.to_thread(server.restart))
        await wait_for(lambda: is_loading(server))
        await layer.send("work", numbered(1))
        assert await asyncio.wait_for(waits[0], 10) == numbered(1)
        assert not waits[1].done()
        waits[1].cancel()
        await starting


def is_loading(server: RedisServer) -> bool:
    try:
        server.command("GET", "anything")
    except ErrorReply as reply:
        return str(reply).startswith("LOADING")
    except (OSError, RuntimeError):
        return False
    return False


async def test_a_subscriber_that_is_cut_off_for_being_slow_comes_back(
    make_layer: Callable[..., Any], private_server: RedisServer
) -> None:
    """The server's output buffer limit costs the messages in it, and no consumer."""
    private_server.command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 65536 0 0")
    layer = make_layer("pubsub", hosts=[private_server.url], **EVENTS)
    sender = make_layer("pubsub", hosts=[private_server.url])
    channel = await layer.new_channel()
    wait = waiting(layer, channel)
    # In one script, so that all is in the server's buffer before the socket takes any; and in
    # small pieces, as Valkey counts large ones elsewhere.
    flood = "for i = 1, 1000 do redis.call('PUBLISH', KEYS[1], ARGV[1]) end"
    private_server.command("EVAL", flood, 1, channel, "x" * 1000)
    assert (await asyncio.wait_for(wait, 10))["type"] == LOST
    assert (await receive(layer, channel))["type"] == BACK
    await sender.send(channel, numbered(1))
    assert await receive(layer, channel) == numbered(1)


async def test_a_server_that_closes_idle_connections_is_not_noticed(
    make_layer: Callable[..., Any], kind: str, private_server: RedisServer
) -> None:
    """The server option ``timeout``: the next send finds a connection, and no error."""
    private_server.command("CONFIG", "SET", "timeout", 1)
    layer = make_layer(kind, hosts=[private_server.url])
    channel = await layer.new_channel()
    await layer.send(channel, numbered(0))
    assert await receive(layer, channel) == numbered(0)
    # What the server closes and the client has not yet heard of is nobody's to know.
    multiplexer = layer._sessions.get().commands(0, "")
    await wait_for(lambda: not multiplexer.connected)
    await layer.send(channel, numbered(1))
    assert await receive(layer, channel) == numbered(1)


@pytest.mark.parametrize("trouble_class", [OutOfMemory, Demoted], ids=lambda one: one.__name__)
async def test_a_message_without_a_receiver_is_kept_until_it_can_be_put_back(
    make_layer: Callable[..., Any],
    kind: str,
    private_server: RedisServer,
    trouble_class: type[Trouble],
) -> None:
    """Popped by a worker that was cancelled, and refused by the server: another gets it later."""
    layer = make_layer(kind, hosts=[private_server.url], **QUICK)
    other = make_layer(kind, hosts=[private_server.url], **QUICK)
    await until_connected(lambda: layer.send("work", numbered(0)))
    assert await receive(layer, "work") == numbered(0)
    wait = waiting(layer, "work")
    await asyncio.sleep(0.05)
    wait.cancel()
    await until_connected(lambda: other.send("work", numbered(1)))
    trouble = trouble_class(private_server)
    await asyncio.to_thread(trouble.begin)
    await asyncio.sleep(0.6)
    await asyncio.to_thread(trouble.end)
    assert await receive(other, "work") == numbered(1)


async def test_a_message_without_a_receiver_is_put_back_after_a_long_outage(
    make_layer: Callable[..., Any], kind: str, proxy: Proxy
) -> None:
    """Its reader, which would have ended by now, stays for as long as senders wait."""
    layer = make_layer(kind, hosts=[proxy.url], command_timeout_s=1, connect_wait_s=20)
    other = make_layer(kind)
    await layer.send("work", numbered(0))
    assert await receive(layer, "work") == numbered(0)
    wait = waiting(layer, "work")
    await asyncio.sleep(0.05)
    wait.cancel()
    await other.send("work", numbered(1))
    await wait_for(lambda: layer.stats().received == 2)
    proxy.refuse()
    # Longer than a reader stays for which there is nothing to do, and takes for its farewell.
    await asyncio.sleep(3)
    proxy.resume()
    assert await receive(other, "work") == numbered(1)
