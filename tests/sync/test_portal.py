"""The background thread itself: it starts, ends and starts again, whoever calls meanwhile."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from channels_redis._runtime import portal as portal_module
from channels_redis._runtime.portal import Limit, Portal
from channels_redis.exceptions import ConnectionLost
from tests.helpers import SCRIPT_HEAD, numbered, receive, run_script
from tests.sync.steps import STRICT


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
        while portal._run is not None:
            pass
        assert portal.wait(answer, Limit(10)) == 42
    finally:
        over.set()
        stopping.join()


async def leave() -> None:
    raise SystemExit(1)


def leave_at_once() -> Any:
    raise SystemExit(1)


@pytest.mark.parametrize("work", [leave, leave_at_once])
def test_a_portal_that_has_ended_is_replaced_by_the_next_call(
    work: Callable[[], Any], portal: Portal, caplog: pytest.LogCaptureFixture
) -> None:
    """``SystemExit`` ends a loop.  It is not the caller's: who called is told what was lost."""
    with pytest.raises(ConnectionLost, match="ended during the call") as raised:
        portal.wait(work, Limit(10))
    assert raised.value.maybe_executed
    assert portal.wait(answer, Limit(10)) == 42
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "SystemExit" in record.getMessage()


def test_a_call_under_way_survives_that_the_loop_is_stopped(portal: Portal) -> None:
    """It gets the time that calls get at the exit, and the next one has a new loop."""

    async def stop_the_loop() -> int:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0.05)
        return 42

    assert portal.wait(stop_the_loop, Limit(10)) == 42
    assert portal.wait(answer, Limit(10)) == 42


def test_layers_send_and_receive_on_after_the_portal_has_ended(
    layer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A receiver that waits at that moment, under ``async_to_sync``, goes on; on pubsub, as soon as
    it is subscribed again.
    """
    channel = async_to_sync(layer.new_channel)()
    layer.sync.send(channel, numbered(0))
    assert async_to_sync(receive)(layer, channel) == numbered(0)
    heard: list[Any] = []
    receiver = threading.Thread(target=lambda: heard.append(async_to_sync(receive)(layer, channel)))
    receiver.start()
    while not layer.stats().waiting:
        pass
    with pytest.raises(ConnectionLost):
        portal_module.portal.wait(leave, Limit(10))
    while receiver.is_alive():
        layer.sync.send(channel, numbered(1))
        receiver.join(timeout=0.05)
    assert heard == [numbered(1)]
    assert len(caplog.records) == 1


async def test_the_exit_is_clean_after_the_portal_has_ended(
    script_arguments: tuple[str, str],
) -> None:
    """The handler that stops it finds none, and says nothing."""
    script = """
from channels_redis._runtime.portal import portal

async def leave():
    raise SystemExit(1)

layer.sync.send("work", {"n": 0})
logging.disable()
portal.submit(leave, lambda: None)
while portal._run is not None:
    pass
"""
    await run_script(SCRIPT_HEAD + script, *script_arguments, options=STRICT)


def test_a_call_to_a_hanging_portal_raises_within_a_time_limit(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something on its loop blocks: no call comes to its turn, nor the time-out of any."""
    monkeypatch.setattr(portal_module, "CHECK_S", 0.05)
    monkeypatch.setattr(portal_module, "SILENT_S", 0.2)
    over = threading.Event()

    def block() -> Any:
        over.wait(60)
        return asyncio.sleep(0)

    portal.submit(block, lambda: None)
    try:
        with pytest.raises(ConnectionLost, match="busy with something else"):
            portal.wait(answer, Limit(float("inf")))
        with pytest.raises(ConnectionLost, match="busy with something else"):
            asyncio.run(ask(portal))
    finally:
        over.set()
        monkeypatch.undo()  # A busy machine may be silent for that long.
    assert portal.wait(answer, Limit(10)) == 42


async def ask(portal: Portal) -> Any:
    return await portal.run(answer, asyncio.get_running_loop())


def test_a_call_may_take_longer_than_a_portal_may_hang(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it shows a sign of life, options alone limit a call."""
    monkeypatch.setattr(portal_module, "CHECK_S", 0.02)
    monkeypatch.setattr(portal_module, "SILENT_S", 0.2)

    async def take_long() -> int:
        await asyncio.sleep(0.6)
        return 42

    assert portal.wait(take_long, Limit(float("inf"))) == 42
