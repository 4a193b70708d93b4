"""A fleet in the middle of an upgrade: one process of 4.3.0 and one of this release."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.mixed.fleet import Process, RemoteLayer, start_process


@pytest.fixture(scope="session")
def old_python() -> str:
    """An interpreter with channels-redis 4.3.0: CHANNELS_REDIS_OLD_PYTHON, or one made here."""
    named = os.environ.get("CHANNELS_REDIS_OLD_PYTHON")
    if named:
        return named
    from benchmarks.environments import installed_old_python  # Only where one has to be made.

    return str(installed_old_python())


@dataclass(frozen=True)
class Fleet:
    """The two processes."""

    old: Process
    new: Process


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def fleet(old_python: str) -> AsyncIterator[Fleet]:
    """Both processes, which serve all tests; each test has layers of its own in them."""
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(start_process(old_python))
        new = await stack.enter_async_context(start_process())
        yield Fleet(old, new)


@dataclass(frozen=True)
class Direction:
    """Who sends and who receives."""

    sender: Process
    receiver: Process

    async def layers(
        self, kind: str, options: dict[str, Any], **of_receiver: Any
    ) -> tuple[RemoteLayer, RemoteLayer]:
        """A sending and a receiving layer; the receiver's options may differ."""
        sender = await self.sender.layer(kind, **options)
        return sender, await self.receiver.layer(kind, **{**options, **of_receiver})


@pytest.fixture(params=["old to new", "new to old"])
def direction(request: pytest.FixtureRequest, fleet: Fleet) -> Direction:
    if request.param == "old to new":
        return Direction(fleet.old, fleet.new)
    return Direction(fleet.new, fleet.old)


@pytest.fixture
def options(redis_url: str, prefix: str) -> dict[str, Any]:
    """What both sides' CONFIG say."""
    return {"hosts": [redis_url], "prefix": prefix}


@pytest.fixture
def ring_options(ring_urls: list[str], prefix: str) -> dict[str, Any]:
    """The same for two hosts."""
    return {"hosts": ring_urls[:2], "prefix": prefix}
