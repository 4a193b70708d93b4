"""What many faults need: a bad network, Sentinels of one's own, an ear for unseen errors."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from channels_redis.testing.servers import RedisServer, SentinelSet
from tests.conftest import find_server_or_skip
from tests.helpers import ExternalServer
from tests.proxy import Proxy


@pytest.fixture
def proxy(server: RedisServer | ExternalServer) -> Iterator[Proxy]:
    """A proxy in front of the shared server, to be cut, stalled and slowed."""
    with Proxy(server.host, server.port) as proxy:
        yield proxy


@pytest.fixture
def own_sentinels() -> Iterator[SentinelSet]:
    """A set whose primary this test may replace."""
    find_server_or_skip()
    with SentinelSet() as sentinels:
        yield sentinels


@pytest.fixture
async def loop_errors() -> AsyncIterator[list[dict[str, Any]]]:
    """What the event loop's exception handler was told: errors that nobody looked at."""
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    yield errors
    gc.collect()
    await asyncio.sleep(0)
    assert errors == []
