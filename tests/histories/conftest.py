"""Layers whose groups have a history, and consumers that note what they are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from channels_redis.testing.servers import RedisServer
from tests.conftest import find_server_or_skip
from tests.histories.steps import HISTORY
from tests.proxy import Proxy


@pytest.fixture(scope="module")
def pair() -> Iterator[list[RedisServer]]:
    """Two servers for all tests of a file: the second one stands for a replica."""
    find_server_or_skip()
    with RedisServer() as first, RedisServer() as second:
        yield [first, second]


@pytest.fixture
def network(pair: list[RedisServer]) -> Iterator[Proxy]:
    """The way to the first of them, which may lead to the second one later."""
    with Proxy(pair[0].host, pair[0].port) as proxy:
        yield proxy


@pytest.fixture
def site(kind: str, network: Proxy, make_layer: Callable[..., Any]) -> Callable[..., Any]:
    """Makes layers behind the network, as ``site(**options)``."""

    def make(**options: Any) -> Any:
        defaults = {
            "hosts": [network.url],
            "history": HISTORY,
            "on_disconnect": "test.lost",
            "on_reconnect": "test.back",
        }
        return make_layer(kind, **{**defaults, **options})

    return make
