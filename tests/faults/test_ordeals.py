"""Two hundred waiting consumers on each layer, messages all the time, and a fault again and again.

Each ordeal is short here; with ``-m slow`` (as in ``tox -e soak``) it has its full length.  ``-s``
shows the figures.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from channels_redis.testing.servers import RedisServer, SentinelSet
from tests.conftest import find_server_or_skip
from tests.faults.ledger import EVENTS, Crowd, crowd
from tests.helpers import wait_for
from tests.proxy import Proxy

Fault = Callable[[], Awaitable[Any]]
Crowds = dict[str, Crowd]

KINDS = ("core", "pubsub")
#: Messages in the pop replies of one reader, which a cut can swallow as a whole.
BATCH = 128
#: Short deadlines, so that a silent server is found in about two seconds.
HASTY = {"command_timeout_s": 1.5, "connect_wait_s": 1}


@asynccontextmanager
async def crowds(
    make_layer: Callable[..., Any], host: Any, pause_s: float = 0.04, **options: Any
) -> AsyncIterator[Crowds]:
    """A crowd on each layer, checked at the end for what holds after every ordeal."""
    options = {"hosts": [host], "capacity": 10_000, **options}
    async with AsyncExitStack() as stack:
        gathered = {}
        for kind in KINDS:
            receiver, sender = make_layer(kind, **options, **EVENTS), make_layer(kind, **options)
            coming = crowd(receiver, sender, pause_s=pause_s)
            gathered[kind] = await stack.enter_async_context(coming)
        yield gathered
    for kind, people in gathered.items():
        check(kind, people)


def check(kind: str, people: Crowd) -> None:
    ledger = people.ledger
    assert people.raised == []
    assert ledger.doubled == []
    assert ledger.ghosts == []
    assert ledger.out_of_order == []
    assert ledger.unexplained == []
    if kind == "core":
        # Only what was in a pop reply that was cut off; all these consumers share one reader.
        outages = len(next(iter(ledger.back.values())))
        assert len(ledger.missing) <= BATCH * outages


async def ordeal(gathered: Crowds, fault: Fault, title: str, rounds: int = 1) -> None:
    """Run a fault some times, and wait after each until everybody has heard again."""
    delays_s: dict[str, list[float]] = {kind: [] for kind in gathered}
    for _ in range(rounds):
        for people in gathered.values():
            people.ledger.faults.append(time.monotonic())
        await fault()
        over = time.monotonic()
        for kind, people in gathered.items():
            delays_s[kind].append(await people.heard_again(over))
    for kind, people in gathered.items():
        await wait_for(people.all_is_well, timeout_s=30)
        await people.finish()
        people.report(f"{kind}, {title}", delays_s[kind])


@pytest.fixture
def lasting_server() -> Iterator[RedisServer]:
    """A server that keeps what it has acknowledged, killed or not."""
    find_server_or_skip()
    with RedisServer(config={"appendonly": "yes", "appendfsync": "everysec"}) as server:
        yield server


@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=pytest.mark.slow)])
async def test_a_server_killed_and_started_again(
    make_layer: Callable[..., Any], lasting_server: RedisServer, rounds: int
) -> None:
    """All hear again soon; core loses nothing that survived, pubsub what the outage swallowed."""

    def kill_and_start() -> None:
        lasting_server.kill()
        time.sleep(0.1)
        lasting_server.start()

    async with crowds(make_layer, lasting_server.url) as gathered:
        await ordeal(gathered, lambda: asyncio.to_thread(kill_and_start), "killed", rounds)


TWO_SECONDS = pytest.param(2.2, HASTY, id="2s")
FIFTEEN_SECONDS = pytest.param(15, {}, id="15s", marks=pytest.mark.slow)


@pytest.mark.parametrize(("frozen_s", "options"), [TWO_SECONDS, FIFTEEN_SECONDS])
async def test_a_server_that_is_frozen_for_a_while(
    make_layer: Callable[..., Any],
    private_server: RedisServer,
    frozen_s: float,
    options: dict[str, Any],
) -> None:
    """Nobody raises, and all hear again as soon as the server goes on (SIGSTOP, SIGCONT)."""

    async def freeze() -> None:
        private_server.freeze()
        await asyncio.sleep(frozen_s)
        private_server.thaw()

    async with crowds(make_layer, private_server.url, **options) as gathered:
        await ordeal(gathered, freeze, f"frozen for {frozen_s} s")


@pytest.mark.parametrize(("stalled_s", "options"), [TWO_SECONDS, FIFTEEN_SECONDS])
async def test_a_network_that_stalls_for_a_while(
    make_layer: Callable[..., Any], server: Any, stalled_s: float, options: dict[str, Any]
) -> None:
    """Connections that stay open and carry nothing are given up; nobody raises."""

    async def stall() -> None:
        proxy.stall()
        await asyncio.sleep(stalled_s)
        proxy.resume()

    with Proxy(server.host, server.port) as proxy:
        async with crowds(make_layer, proxy.url, pause_s=0.1, **options) as gathered:
            await ordeal(gathered, stall, f"stalled for {stalled_s} s")


@pytest.mark.parametrize(
    ("rounds", "pause_s"), [(4, 0.1), pytest.param(60, 1, marks=pytest.mark.slow)]
)
async def test_connections_killed_by_type(
    make_layer: Callable[..., Any], private_server: RedisServer, rounds: int, pause_s: float
) -> None:
    """``CLIENT KILL TYPE pubsub|normal``, one after the other, again and again."""
    types = iter(["pubsub", "normal"] * rounds)

    async def kill() -> None:
        private_server.command("CLIENT", "KILL", "TYPE", next(types))
        await asyncio.sleep(pause_s)

    async with crowds(make_layer, private_server.url) as gathered:
        await ordeal(gathered, kill, "connections killed", rounds)


@pytest.mark.measured
@pytest.mark.parametrize("planned", [True, False], ids=["planned", "crash"])
async def test_a_failover_of_the_sentinels(
    make_layer: Callable[..., Any], own_sentinels: SentinelSet, planned: bool
) -> None:
    """Nobody raises; all hear again once there is a primary; nothing comes twice."""

    def fail_over() -> None:
        if planned:
            own_sentinels.failover()
        else:
            old = own_sentinels.primary
            old.kill()
            own_sentinels.wait_for_new_primary(old)

    async with crowds(make_layer, own_sentinels.host_entry()) as gathered:
        title = f"failover, {'planned' if planned else 'crash'}"
        await ordeal(gathered, lambda: asyncio.to_thread(fail_over), title)
