"""Layers of the test's kind on the test's topology.

A contract test that asks for ``layer`` or ``build`` runs for both kinds on every topology, so a
promise is written once. A new topology is one more value of the fixture ``topology``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis.asyncio

from tests.helpers import script_arguments_for


@pytest.fixture
def build(make_layer: Callable[..., Any], kind: str, hosts: list[Any]) -> Callable[..., Any]:
    """A function ``(**options)`` that makes a layer; each call stands for one more process."""

    def make(**options: Any) -> Any:
        return make_layer(kind, **{"hosts": hosts, **options})

    return make


@pytest.fixture
def layer(build: Callable[..., Any]) -> Any:
    """One layer with default options."""
    return build()


@pytest.fixture
def build_core(make_layer: Callable[..., Any], hosts: list[Any]) -> Callable[..., Any]:
    """As ``build``, for what only core promises."""
    return lambda **options: make_layer("core", **{"hosts": hosts, **options})


@pytest.fixture
def build_pubsub(make_layer: Callable[..., Any], hosts: list[Any]) -> Callable[..., Any]:
    """As ``build``, for what only pubsub promises."""
    return lambda **options: make_layer("pubsub", **{"hosts": hosts, **options})


@pytest.fixture
def script_arguments(layer_class: type[Any], hosts: list[Any], prefix: str) -> tuple[str, str]:
    """The dotted path and the JSON options with which a script makes the test's layer."""
    return script_arguments_for(layer_class, hosts, prefix)


@pytest.fixture
def server_urls(topology: str, hosts: list[Any], request: pytest.FixtureRequest) -> list[str]:
    """The URL of every server that has keys."""
    if topology == "sentinel":
        return [request.getfixturevalue("sentinel_set").primary.url]
    if topology == "cluster":
        return [server.url for server in request.getfixturevalue("cluster_set").primaries]
    return hosts


@pytest.fixture
async def shards(topology: str, server_urls: list[str]) -> AsyncIterator[list[Any]]:
    """A plain client for each shard."""
    make: Any = redis.asyncio.Redis.from_url
    if topology == "cluster":
        make, server_urls = redis.asyncio.RedisCluster.from_url, server_urls[:1]
    clients = [make(url) for url in server_urls]
    yield clients
    for client in clients:
        await client.aclose()


@pytest.fixture
def with_keywords(hosts: list[Any]) -> Callable[..., list[Any]]:
    """A function ``(**keywords)`` that returns the option ``hosts`` with keywords in each entry."""

    def give(**keywords: Any) -> list[Any]:
        dicts = [{"address": host} if isinstance(host, str) else host for host in hosts]
        return [{**host, **keywords} for host in dicts]

    return give


@pytest.fixture
def not_in_a_cluster(topology: str) -> None:
    """What 4.3.0 put on the wire was put there without a cluster."""
    if topology == "cluster":
        pytest.skip("channels_redis 4.3.0 knows no cluster")


@pytest.fixture
def servers_by_url(topology: str) -> None:
    """For tests whose subclasses connect by URL."""
    if topology not in ("single", "ring"):
        pytest.skip("the subclass of this test connects by URL")
