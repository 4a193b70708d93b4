"""The background thread itself: it starts, ends and starts again, whoever calls meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from channels_redis._portal import Limit, Portal


@pytest.fixture
def portal() -> Iterator[Portal]:
    """A portal of the test's own."""
    portal = Portal()
    yield portal
    portal.stop()


async def answer() -> int:
    return 42


def test_a_call_is_served_while_the_loop_before_is_still_ending(portal: Portal) -> None:
    """Forks and the exit stop a portal, while other threads go on calling."""
    begun, over = threading.Event(), threading.Event()

    def long_step() -> asyncio.Future[None]:
        begun.set()
        over.wait(20)
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    portal.submit(long_step, lambda: None)
    begun.wait()
    stopping = threading.Thread(target=portal.stop)
    stopping.start()
    try:
        while portal._loop is not None:
            pass
        assert portal.wait(answer, Limit(10)) == 42
    finally:
        over.set()
        stopping.join()
