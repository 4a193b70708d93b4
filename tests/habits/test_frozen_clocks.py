"""freezegun and time-machine in users' tests stop the clock; messages go on arriving."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import freezegun
import pytest
import time_machine

from channels_redis._runtime import clock
from tests.helpers import MARKER, receive

Freeze = Callable[[str], AbstractContextManager[Any]]

PAST, FUTURE = "2012-01-14 03:21:34", "2087-05-06 07:08:09"
FREEZERS: dict[str, Any] = {
    "freezegun": freezegun.freeze_time,
    "freezegun real_asyncio": lambda when: freezegun.freeze_time(when, real_asyncio=True),
    "time-machine": lambda when: time_machine.travel(when, tick=False),
}


@pytest.fixture(params=list(FREEZERS))
def freeze(request: pytest.FixtureRequest) -> Freeze:
    """A function that freezes time in one of the ways that users know."""
    freezer: Freeze = FREEZERS[request.param]
    return freezer


@pytest.fixture(params=[PAST, FUTURE])
def when(request: pytest.FixtureRequest) -> str:
    """A time to freeze at."""
    return str(request.param)


async def arrival(waiting: asyncio.Future[Any]) -> Any:
    """Return what a receive() brings; by a real clock, as the loop's fires no time-outs."""
    deadline = clock.monotonic() + 10
    while not waiting.done() and clock.monotonic() < deadline:
        await asyncio.sleep(0)
    return waiting.result() if waiting.done() else "nothing came"


def test_the_clocks_go_on(freeze: Freeze, when: str) -> None:
    """Both clocks of the layers are those of the server, whatever a test makes of time."""
    before, before_unix = clock.monotonic(), clock.unix_time()
    with freeze(when):
        assert before < clock.monotonic() < before + 60
        assert before_unix - 1 < clock.unix_time() < before_unix + 60


@pytest.mark.parametrize("target", ["channel", "group"])
async def test_messages_arrive_where_time_is_frozen_before(
    make_layer: Any, kind: str, freeze: Freeze, when: str, target: str
) -> None:
    """Everything happens while time stands still: connecting, joining, sending, receiving."""
    layer, message = make_layer(kind), {"type": MARKER}
    with freeze(when):
        channel = await layer.new_channel()
        waiting = asyncio.ensure_future(layer.receive(channel))
        if target == "group":
            await layer.group_add("g", channel)
            await layer.group_send("g", message)
        else:
            await layer.send(channel, message)
        assert await arrival(waiting) == message


@pytest.mark.parametrize("target", ["channel", "general", "group"])
async def test_messages_arrive_where_time_is_frozen_while_consumers_wait(
    make_layer: Any, kind: str, freeze: Freeze, when: str, target: str
) -> None:
    """A consumer that waits hears what is sent while time stands still, and after that."""
    layer, sender, message = make_layer(kind), make_layer(kind), {"type": MARKER}
    channel = "general" if target == "general" else await layer.new_channel()
    waiting = asyncio.ensure_future(layer.receive(channel))
    if target == "group":
        await layer.group_add("g", channel)
    else:
        await sender.send(channel, message)
        assert await arrival(waiting) == message
        waiting = asyncio.ensure_future(layer.receive(channel))

    async def send() -> None:
        await (
            sender.group_send("g", message) if target == "group" else sender.send(channel, message)
        )

    for _ in range(2):
        with freeze(when):
            await send()
            assert await arrival(waiting) == message
            waiting = asyncio.ensure_future(layer.receive(channel))
            await asyncio.sleep(0)
        await send()
        assert await asyncio.wait_for(waiting, 10) == message
        waiting = asyncio.ensure_future(layer.receive(channel))
    waiting.cancel()


async def test_what_is_sent_in_another_time_is_not_expired(
    make_layer: Any, kind: str, freeze: Freeze, when: str
) -> None:
    """What waits in a queue is as old as it is, for a reader in the present too."""
    layer, message = make_layer(kind), {"type": MARKER}
    with freeze(when):
        await layer.send("general", message)
    assert await receive(layer, "general") == message


def test_the_blocking_face_works_where_time_stands(
    redis_url: str, prefix: str, layer_class: Any, freeze: Freeze, when: str
) -> None:
    """``layer.sync`` sends while time stands still, and later."""
    layer, message = layer_class(hosts=[redis_url], prefix=prefix), {"type": MARKER}
    for _ in range(2):
        with freeze(when):
            layer.sync.send("general", message)
        layer.sync.send("general", message)

    async def receive_all() -> list[Any]:
        received = [await receive(layer, "general") for _ in range(4)]
        await layer.close()
        return received

    assert asyncio.run(receive_all()) == [message] * 4
    layer.sync.close()


IMPORTED_LATER = """
import asyncio
{enter}
from channels_redis.{kind} import RedisC as Layer

async def main():
    layer = Layer(hosts=[{url!r}], prefix={prefix!r})
    channel = await layer.new_channel()
    waiting = asyncio.ensure_future(layer.receive(channel))
    await layer.send(channel, {{"type": "x"}})
    print((await waiting)["type"])
    await layer.close()

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "enter",
    [
        f"import freezegun; freezegun.freeze_time({PAST!r}).start()",
        f"import time_machine; time_machine.travel({PAST!r}, tick=False).start()",
    ],
)
def test_messages_arrive_where_time_is_frozen_before_the_import(
    redis_url: str, prefix: str, layer_class: Any, enter: str
) -> None:
    """A package that is imported where time stands still works."""
    code = IMPORTED_LATER.replace("RedisC", layer_class.__name__).format(
        enter=enter, kind=layer_class.__module__.rpartition(".")[2], url=redis_url, prefix=prefix
    )
    # What other packages write on stderr about frozen dates is not looked at.
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=60, check=False
    )
    assert done.stdout == "x\n"
