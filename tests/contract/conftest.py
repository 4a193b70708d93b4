"""Layers of the test's kind on the test's topology.

A contract test that asks for ``layer`` or ``build`` runs for both kinds on every topology, so a
promise is written once. A new topology is one more value of the fixture ``topology``.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis.asyncio


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
    path = f"{layer_class.__module__}.{layer_class.__name__}"
    return path, json.dumps({"hosts": hosts, "prefix": prefix})


@pytest.fixture
async def shards(hosts: list[Any]) -> AsyncIterator[list[Any]]:
    """A plain client for each shard."""
    clients = [redis.asyncio.Redis.from_url(url) for url in hosts]
    yield clients
    for client in clients:
        await client.aclose()
