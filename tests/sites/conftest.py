"""A function that opens sites on the shared server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.sites.site import GROUP, Site, running_site


@pytest.fixture
async def open_site(
    make_layer: Callable[..., Any], redis_url: str, prefix: str, tmp_path: Path
) -> AsyncIterator[Callable[..., Any]]:
    """A coroutine function ``(kind, server="uvicorn", keeps=False, **options)``: a `Site` whose
    layer has these options; it is closed after the test.
    """
    async with AsyncExitStack() as stack:

        async def open_one(
            kind: str, *, server: str = "uvicorn", keeps: bool = False, **options: Any
        ) -> Site:
            options = {"hosts": [redis_url], "prefix": prefix, **options}
            site = running_site(
                make_layer(kind, **options),
                tmp_path,
                kind=kind,
                options=options,
                server=server,
                keeps=keeps,
            )
            return await stack.enter_async_context(site)

        yield open_one


class Observer:
    """What the server and the site know of the members of the group."""

    def __init__(self, server: Any, prefix: str) -> None:
        self._server = server
        self._prefix = prefix

    async def members(self, site: Site) -> int:
        """Return how many channels are in the group."""
        counted = (await site.facts()).get("members")
        if counted is None:
            counted = self._server.command("ZCARD", f"{self._prefix}:group:{GROUP}")
        return int(counted)

    def subscriptions(self) -> int:
        """Return how many topics of channels and groups have subscribers."""
        topics = self._server.command("PUBSUB", "CHANNELS", f"{self._prefix}*")
        return sum(b"__loopback__" not in topic for topic in topics)


@pytest.fixture
def observer(server: Any, prefix: str) -> Observer:
    """The shared server, as far as the test's site is concerned."""
    return Observer(server, prefix)
