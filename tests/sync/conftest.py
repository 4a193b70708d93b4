"""Layers for code that has no event loop: opened by nobody, and closed after the test."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from channels_redis.testing.servers import RedisServer
from tests.conftest import class_of
from tests.helpers import ExternalServer
from tests.proxy import Proxy


@pytest.fixture
def build(kind: str, redis_url: str, prefix: str) -> Iterator[Callable[..., Any]]:
    """A function ``(**options)`` that makes a layer of the test's kind."""
    layers = []

    def make(**options: Any) -> Any:
        layer = class_of(kind)(**{"hosts": [redis_url], "prefix": prefix, **options})
        layers.append(layer)
        return layer

    yield make
    for layer in layers:
        layer.sync.close()


@pytest.fixture
def layer(build: Callable[..., Any]) -> Any:
    """One layer with default options."""
    return build()


@pytest.fixture
def proxy(server: RedisServer | ExternalServer) -> Iterator[Proxy]:
    """A proxy in front of the shared server, which counts connections."""
    with Proxy(server.host, server.port) as proxy:
        yield proxy


@pytest.fixture
def script_arguments(kind: str, redis_url: str, prefix: str) -> tuple[str, str]:
    """The dotted path and the JSON options with which a script makes the test's layer."""
    layer = class_of(kind)
    path = f"{layer.__module__}.{layer.__name__}"
    return path, json.dumps({"hosts": [redis_url], "prefix": prefix})
