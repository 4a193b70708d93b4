"""What takes real seconds: busy handlers, long pauses between polls, long idleness.

All of it runs at once, in tasks that the first test starts; each test awaits its own.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import class_of
from tests.helpers import cancel, numbered, receive, receive_numbers, wait_for, waiting

BUSY_S = 15
PAUSE_S = 14
REDIS_PY_DEFAULT_TIMEOUT_S = 5
MAILBOX_END_S = 10

pytestmark = pytest.mark.asyncio(loop_scope="module")
Scenario = Callable[[Any, Any], Coroutine[Any, Any, None]]
Outcomes = dict[tuple[str, Scenario], asyncio.Task[None]]


async def busy_handler(layer: Any, sender: Any) -> None:
    channel = await layer.new_channel()
    await layer.group_add("busy", channel)
    await sender.send(channel, numbered(0))
    assert await receive(layer, channel) == numbered(0)
    for number in range(1, 2 * BUSY_S, 2):
        await sender.send(channel, numbered(number))
        await sender.group_send("busy", numbered(number + 1))
        await asyncio.sleep(1)
    expected = list(range(1, 2 * BUSY_S + 1))
    assert await receive_numbers(layer, channel, 2 * BUSY_S) == expected
    await sender.group_send("busy", numbered(99))
    assert await receive(layer, channel) == numbered(99)


async def pause_between_polls(layer: Any, sender: Any) -> None:
    channel = await layer.new_channel()
    await layer.group_add("pause", channel)
    await cancel_a_wait(layer, channel)
    await sender.send(channel, numbered(1))
    await asyncio.sleep(PAUSE_S)
    await sender.group_send("pause", numbered(2))
    assert await receive_numbers(layer, channel, 2) == [1, 2]


async def leave_for_good(layer: Any, sender: Any) -> None:
    async def consume() -> str:
        channel: str = await layer.new_channel()
        await layer.group_add("left", channel)
        await cancel_a_wait(layer, channel)
        return channel

    left = await asyncio.create_task(consume())
    await asyncio.sleep(MAILBOX_END_S - 1)
    assert await members(layer, "left")

    async def is_gone() -> bool:
        return not await members(layer, "left")

    await wait_for(is_gone)
    assert left not in layer._mailboxes.boxes


async def idle(layer: Any, sender: Any) -> None:
    channel = await layer.new_channel()
    waits = [waiting(layer, channel), waiting(layer, "idle")]
    await asyncio.sleep(REDIS_PY_DEFAULT_TIMEOUT_S + 1)
    await sender.send(channel, numbered(1))
    await sender.send("idle", numbered(2))
    assert await asyncio.gather(*waits) == [numbered(1), numbered(2)]


async def cancel_a_wait(layer: Any, channel: str) -> None:
    wait = waiting(layer, channel)
    await asyncio.sleep(0.01)
    await cancel(wait)


async def members(layer: Any, group: str) -> Any:
    """The members of a group as Redis (core) or this process (pubsub) has them."""
    if hasattr(layer, "groups"):
        return [member for joined in layer.groups.values() for member in joined]
    client = layer.connection(layer.consistent_hash(group))
    return await client.zrange(layer._group_key(group), 0, -1)


SCENARIOS: list[Scenario] = [busy_handler, pause_between_polls, leave_for_good, idle]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def outcomes(redis_url: str) -> AsyncIterator[Outcomes]:
    """All scenarios on both layers, running."""
    layers = []
    tasks: Outcomes = {}
    for kind in ("core", "pubsub"):
        for scenario in SCENARIOS:
            prefix = f"test-{secrets.token_hex(6)}"
            pair = [class_of(kind)(hosts=[redis_url], prefix=prefix) for _ in range(2)]
            layers += pair
            tasks[kind, scenario] = asyncio.create_task(scenario(*pair))
    yield tasks
    for task in tasks.values():
        await cancel(task)
    for layer in layers:
        await layer.close()


async def test_a_handler_that_runs_fifteen_seconds_loses_nothing(
    outcomes: Outcomes, kind: str
) -> None:
    """While a handler runs, nobody receives: its messages wait and it stays in its groups."""
    await outcomes[kind, busy_handler]


async def test_a_poll_that_comes_back_after_a_long_pause_has_lost_nothing(
    outcomes: Outcomes, kind: str
) -> None:
    """A cancelled ``receive()`` may be followed by the next one much later."""
    await outcomes[kind, pause_between_polls]


async def test_a_consumer_that_ends_without_leaving_is_removed_after_ten_seconds(
    outcomes: Outcomes, kind: str
) -> None:
    """Its mailbox ends 10 s after its task has ended, and its memberships with it."""
    await outcomes[kind, leave_for_good]


async def test_an_idle_receiver_outlives_the_defaults_of_redis_py(
    outcomes: Outcomes, kind: str
) -> None:
    """redis-py 8 reads for 5 s at most unless told otherwise; consumers wait for ever (422)."""
    await outcomes[kind, idle]
