"""Servers, prefixes and layers for all tests.

Without ``REDIS_URL`` every server is a private one. With it, what needs no fault and no special
server runs there, under random prefixes; nothing is ever flushed.
"""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from channels_redis.testing.servers import (
    ClusterSet,
    RedisServer,
    SentinelSet,
    ServerNotFound,
    find_server,
    reserved_port,
)
from tests.helpers import ExternalServer
from tests.proxy import Proxy

RING_SIZE = 4

REDIS_URL = os.environ.get("REDIS_URL")

#: On what every contract test runs; the environment ``topologies`` in tox.ini adds the others.
TOPOLOGIES = os.environ.get("CHANNELS_REDIS_TEST_TOPOLOGIES", "single ring").split()

#: The files that take longest, in that order. With ``--dist loadfile`` they are begun first, so
#: that no worker is left alone with one of them at the end.
LONGEST = [
    "secrets/test_quoting_servers.py",
    "sites/test_bursts.py",
    "sync/test_forks.py",
    "contract/test_loops.py",
    "sync/test_dropped.py",
    "sites/test_staying.py",
    "sync/test_greenlets.py",
    "secrets/test_failing_servers.py",
    "faults/test_overload.py",
    "faults/test_ends.py",
    "broadcast/test_slow_clients.py",
    "sync/test_exit.py",
    "faults/test_forgetful_servers.py",
    "test_plugin.py",
    "faults/test_cluster.py",
    "test_scaling.py",
    "sync/test_loops.py",
    "faults/test_cancellation.py",
    "defects/test_cancelled_receive.py",
    "faults/test_model.py",
    "defects/test_competing_workers.py",
    "defects/test_loops_and_threads.py",
    "test_package.py",
    "faults/test_ordeals.py",
    "test_example.py",
    "test_benchmarks.py",
    "contract/test_cluster_networks.py",
    "habits/test_refused_commands.py",
]


def pytest_configure(config: pytest.Config) -> None:
    """Let pytest-xdist keep the order of files; its own begins with those of the most tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest."""
    here = Path(__file__).parent
    places = {here / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None, item: pytest.Item) -> Iterator[None]:
    """Free what the tests of a file have left to the garbage collector, at the end of the file.

    Some tests drop event loops, or close them in the very moment in which they connect. asyncio
    then closes the socket when it is freed, with a warning, which otherwise fails a test of
    another file.
    """
    yield
    if nextitem is None or nextitem.path != item.path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


if os.environ.get("CHANNELS_REDIS_TEST_UVLOOP"):

    def pytest_asyncio_loop_factories() -> dict[str, Callable[[], Any]]:
        """Run every test on uvloop."""
        import uvloop

        return {"uvloop": uvloop.new_event_loop}


def find_server_or_skip(*, tls: bool = False) -> str:
    """Return a server program; skip the test where this machine is known to have none."""
    try:
        return find_server(tls=tls)
    except ServerNotFound as error:
        if REDIS_URL or tls:
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="session")
def server() -> Iterator[RedisServer | ExternalServer]:
    """The server that all tests share. It is never stopped, reconfigured or flushed."""
    if REDIS_URL:
        yield ExternalServer(REDIS_URL)
        return
    with RedisServer() as private:
        yield private


@pytest.fixture(scope="session")
def redis_url(server: RedisServer | ExternalServer) -> str:
    """The URL of the shared server."""
    return server.url


@pytest.fixture(scope="session")
def ring_urls(server: RedisServer | ExternalServer) -> Iterator[list[str]]:
    """The URLs of four shared shards: servers, or databases of an external server."""
    if isinstance(server, ExternalServer):
        yield [server.database(index) for index in range(RING_SIZE)]
        return
    with ExitStack() as stack:
        yield [stack.enter_context(RedisServer()).url for _ in range(RING_SIZE)]


@pytest.fixture(scope="session")
def sentinel_set() -> Iterator[SentinelSet]:
    """A shared primary with a replica and three Sentinels; for tests that break nothing."""
    find_server_or_skip()
    with SentinelSet() as sentinels:
        yield sentinels


@pytest.fixture(scope="session")
def cluster_set() -> Iterator[ClusterSet]:
    """A shared cluster of three primaries with a replica each; for tests that break nothing."""
    find_server_or_skip()
    with ClusterSet(primaries=3, replicas=1) as cluster:
        yield cluster


@pytest.fixture
def own_sentinels() -> Iterator[SentinelSet]:
    """A set whose primary this test may replace."""
    find_server_or_skip()
    with SentinelSet() as sentinels:
        yield sentinels


@pytest.fixture(scope="session")
def unix_server() -> Iterator[RedisServer]:
    """A shared server with a Unix socket."""
    find_server_or_skip()
    with RedisServer(unix_socket=True) as private:
        yield private


@pytest.fixture
def proxy(server: RedisServer | ExternalServer) -> Iterator[Proxy]:
    """A proxy in front of the shared server, to be cut, stalled and slowed."""
    with Proxy(server.host, server.port) as proxy:
        yield proxy


@pytest.fixture
def private_server() -> Iterator[RedisServer]:
    """A server of this test's own, to be stopped, killed, frozen and reconfigured."""
    find_server_or_skip()
    with RedisServer() as private:
        yield private


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port of 127.0.0.1 at which nobody is, nor will be before the test ends."""
    with reserved_port() as port:
        yield port


@pytest.fixture(scope="session")
def tls_server() -> Iterator[RedisServer]:
    """A shared server with a TLS port and a self-signed certificate."""
    with RedisServer(binary=find_server_or_skip(tls=True), tls=True) as private:
        yield private


@pytest.fixture(params=TOPOLOGIES)
def topology(request: pytest.FixtureRequest) -> str:
    """What servers the test's layers have: ``single``, ``ring``, ``sentinel`` or ``cluster``."""
    name: str = request.param
    return name


@pytest.fixture
def hosts(topology: str, request: pytest.FixtureRequest) -> list[Any]:
    """The option ``hosts`` for the topology."""
    if topology == "single":
        return [request.getfixturevalue("redis_url")]
    if topology == "ring":
        return list(request.getfixturevalue("ring_urls"))
    if topology == "sentinel":
        return [request.getfixturevalue("sentinel_set").host_entry()]
    if topology == "cluster":
        return [request.getfixturevalue("cluster_set").host_entry()]
    raise ValueError(f"There is no topology {topology!r}.")


@pytest.fixture
def prefix() -> str:
    """A prefix that no other test has."""
    return f"test-{secrets.token_hex(6)}"


@pytest.fixture(params=["core", "pubsub"])
def kind(request: pytest.FixtureRequest) -> str:
    """``core`` or ``pubsub``: which of the two layers the test is about."""
    name: str = request.param
    return name


def class_of(kind: str) -> type[Any]:
    """Return the layer class of a kind."""
    if kind == "core":
        from channels_redis.core import RedisChannelLayer

        return RedisChannelLayer
    from channels_redis.pubsub import RedisPubSubChannelLayer

    return RedisPubSubChannelLayer


@pytest.fixture
def layer_class(kind: str) -> type[Any]:
    """The layer class of the kind."""
    return class_of(kind)


class Layers:
    """Makes layers, and knows them all: ``layers(kind, **options)``."""

    def __init__(self, url: str, prefix: str) -> None:
        self._defaults = {"hosts": [url], "prefix": prefix}
        self.made: list[Any] = []

    def __call__(self, kind: str, **options: Any) -> Any:
        layer = class_of(kind)(**{**self._defaults, **options})
        self.made.append(layer)
        return layer


@pytest.fixture
async def make_layer(redis_url: str, prefix: str) -> AsyncIterator[Callable[..., Any]]:
    """A function ``(kind, **options)`` that makes layers, which are closed after the test.

    Unless said otherwise they share the test's prefix and live on the shared server.
    """
    layers = Layers(redis_url, prefix)
    yield layers
    for layer in layers.made:
        await layer.close()


@pytest.fixture
def make_layer_blocking(redis_url: str, prefix: str) -> Iterator[Callable[..., Any]]:
    """The same for code without an event loop."""
    layers = Layers(redis_url, prefix)
    yield layers
    for layer in layers.made:
        layer.sync.close()


@pytest.fixture
async def loop_errors() -> AsyncIterator[list[dict[str, Any]]]:
    """What the event loop's exception handler was told: errors that nobody looked at."""
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    yield errors
    gc.collect()
    await asyncio.sleep(0)
    assert errors == []
