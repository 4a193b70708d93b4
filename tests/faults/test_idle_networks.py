"""Networks that forget idle connections, and tell both ends or neither."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from channels_redis._transport import multiplexer, probe
from channels_redis.testing.servers import RedisServer
from tests.helpers import numbered, receive, until_connected, wait_for, waiting
from tests.proxy import Proxy

#: After so long the networks of these tests forget a connection.
FORGOTTEN_S = 0.3


@pytest.fixture(autouse=True)
def _soon_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of idleness is a tenth here."""
    monkeypatch.setattr(probe, "IDLE_S", 0.1)
    monkeypatch.setattr(multiplexer, "IDLE_S", 0.1)


async def all_forgotten(proxy: Proxy) -> None:
    """Wait until the network passes nothing on any of the connections that there are."""
    await wait_for(lambda: all(not link._flowing.is_set() for link in proxy.links))


def calls_on(layer: Any, channel: str) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Return what can be the first call after an idle time."""
    return {
        "send": lambda: layer.send(channel, numbered(1)),
        "send to workers": lambda: layer.send("work", numbered(1)),
        "group_send": lambda: layer.group_send("room", numbered(1)),
        "group_add": lambda: layer.group_add("room", channel),
        "group_discard": lambda: layer.group_discard("room", channel),
    }


@pytest.mark.parametrize("call", calls_on(None, ""))
async def test_the_first_call_after_an_idle_time_does_its_work_though_its_connection_was_forgotten(
    make_layer: Callable[..., Any], kind: str, proxy: Proxy, call: str
) -> None:
    """Well before ``command_timeout_s``, as another connection is there at once."""
    layer, receiver = make_layer(kind, hosts=[proxy.url]), make_layer(kind)
    channel = await receiver.new_channel()
    if kind == "pubsub" and call.startswith("group_"):
        channel = await layer.new_channel()
    await layer.send(channel, numbered(0))
    await layer.send("work", numbered(0))
    for link in proxy.links:
        if not link.has_sent(b"SUBSCRIBE"):  # A subscriber is never idle for long.
            link.stall()
    accepted, started = proxy.accepted, time.monotonic()
    await asyncio.sleep(2 * probe.IDLE_S)
    await calls_on(layer, channel)[call]()
    assert time.monotonic() - started < layer.command_timeout_s / 2
    # One that shows that the server is there, and the one that stays; or a subscriber's own.
    by_subscriber = kind == "pubsub" and call in ("group_add", "group_discard")
    assert proxy.accepted - accepted == (0 if by_subscriber else 2)


async def test_a_message_sent_after_an_idle_time_arrives_once(
    make_layer: Callable[..., Any], kind: str, proxy: Proxy
) -> None:
    """Time after time, over a network that forgets connections in between."""
    proxy.forget_after_s = FORGOTTEN_S
    layer = make_layer(kind, hosts=[proxy.url], connect_wait_s=20)
    receiver = make_layer(kind)
    channel = await receiver.new_channel()
    for number in range(4):
        wait = waiting(receiver, channel)
        await layer.send(channel, numbered(number))
        assert await asyncio.wait_for(wait, 10) == numbered(number)
        await all_forgotten(proxy)
    assert layer.stats().reconnects == 0


async def test_a_connection_that_ended_while_it_was_idle_costs_no_call(
    make_layer: Callable[..., Any], kind: str, proxy: Proxy
) -> None:
    """Though the loop was busy when the news came, and has not read them."""
    layer, receiver = make_layer(kind, hosts=[proxy.url]), make_layer(kind)
    channel = await receiver.new_channel()
    for number in range(4):
        wait = waiting(receiver, channel)
        await layer.send(channel, numbered(number))
        assert await asyncio.wait_for(wait, 10) == numbered(number)
        await asyncio.sleep(2 * probe.IDLE_S)
        proxy.cut()
    assert layer.stats().reconnects == 0


async def test_a_server_that_is_silent_for_a_while_costs_no_call_and_no_connection(
    make_layer: Callable[..., Any], kind: str, proxy: Proxy
) -> None:
    """Its old connection is kept, and what waits goes out there when it answers."""
    layer, receiver = make_layer(kind, hosts=[proxy.url], connect_wait_s=0.2), make_layer(kind)
    channel = await receiver.new_channel()
    await until_connected(lambda: layer.send(channel, numbered(0)))
    await asyncio.sleep(2 * probe.IDLE_S)
    [used] = proxy.links
    proxy.stall()
    sending = asyncio.create_task(layer.send(channel, numbered(1)))
    await wait_for(lambda: len(proxy.links) == 2)
    await asyncio.sleep(5 * layer.connect_wait_s)
    assert not sending.done()
    proxy.resume()
    await sending
    assert [await receive(receiver, channel) for _ in "12"] == [numbered(0), numbered(1)]
    await wait_for(lambda: len(proxy.links) == 1)
    assert proxy.links == [used]


async def test_a_server_that_forbids_ping_is_alive(
    make_layer: Callable[..., Any], kind: str, private_server: RedisServer
) -> None:
    """Whatever it answers."""
    private_server.command("ACL", "SETUSER", "default", "-ping")
    layer = make_layer(kind, hosts=[private_server.url])
    for number in range(3):
        await layer.send("work", numbered(number))
        await asyncio.sleep(2 * probe.IDLE_S)
        assert await receive(layer, "work") == numbered(number)
    assert layer.stats().reconnects == 0


def pings(server: RedisServer) -> int:
    """Return how often a server was sent PING."""
    calls: str = server.info("commandstats")["cmdstat_ping"].split(",")[0]
    return int(calls.removeprefix("calls="))


async def test_busy_connections_are_not_asked(
    make_layer: Callable[..., Any], kind: str, private_server: RedisServer
) -> None:
    """No PING goes out while there are replies."""
    layer = make_layer(kind, hosts=[private_server.url])
    asked = pings(private_server)
    pauses, before = 0, time.monotonic()
    until = before + 5 * probe.IDLE_S
    while before < until:
        await layer.group_send("nobody", numbered(0))
        # The machine may be busy with others.
        now = time.monotonic()
        pauses += now - before > probe.IDLE_S
        before = now
    assert pings(private_server) - asked <= pauses


@pytest.mark.parametrize("interval", [None, 1], ids=["unset", "1 s"])
async def test_health_check_interval_keeps_idle_connections_from_being_closed(
    make_layer: Callable[..., Any],
    kind: str,
    proxy: Proxy,
    interval: int | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Those for commands, readers and subscribers, on a link that ends them after 2 s."""
    host = {"host": proxy.host, "port": proxy.port}
    if interval is not None:
        host["health_check_interval"] = interval
    proxy.end_after_s = 2
    layer, sender = make_layer(kind, hosts=[host]), make_layer(kind)
    channel = await layer.new_channel()
    await layer.send("work", numbered(0))
    waits = [waiting(layer, channel), waiting(layer, "more-work")]
    if interval is None:
        await wait_for(lambda: proxy.accepted > 3)  # The link is as bad as it should be.
        for wait in waits:  # What is published while a subscriber is away does not come.
            wait.cancel()
        await asyncio.wait(waits)
        return
    await wait_for(lambda: len(proxy.links) == 3)
    await asyncio.sleep(3 * proxy.end_after_s)
    lost = [record for record in caplog.records if record.message.startswith("Lost Redis")]
    assert (proxy.accepted, lost) == (3, [])
    await sender.send(channel, numbered(1))
    await sender.send("more-work", numbered(1))
    assert await asyncio.gather(*waits) == [numbered(1)] * 2
