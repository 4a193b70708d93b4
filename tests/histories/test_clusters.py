"""Groups with a history whose slots move, and whose servers fail over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from channels_redis.testing.servers import ClusterSet
from tests.conftest import find_server_or_skip
from tests.helpers import numbers, receive, until_connected
from tests.histories.steps import HISTORY, ROOM, member, position_of, send


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterSet]:
    """Three primaries, whose slots move in these tests."""
    find_server_or_skip()
    with ClusterSet(primaries=3, replicas=0) as servers:
        yield servers


@pytest.fixture
def site(kind: str, cluster: ClusterSet, make_layer: Callable[..., Any]) -> Callable[..., Any]:
    """Makes layers on the cluster."""
    hosts = [cluster.host_entry()]
    return lambda: make_layer(kind, hosts=hosts, history=HISTORY, on_reconnect="test.back")


async def collect(layer: Any, channel: str, last: int) -> list[int]:
    """Return the numbers that a channel gets, up to the last one."""
    seen: list[int] = []
    while seen[-1:] != [last]:
        message = await receive(layer, channel, 30)
        if message["type"] == "test.back":
            assert message["missed"] == []
        else:
            seen.append(message["n"])
    return seen


async def test_a_slot_that_moves_loses_nothing(
    site: Callable[..., Any], cluster: ClusterSet
) -> None:
    """Its log moves with it, and members catch up at the new server."""
    layer, sender = site(), site()
    channel, _ = await member(layer)
    position = await position_of(layer)
    slot = cluster_slot(layer)
    await send(sender, *range(10))
    target = next(one for one in cluster.primaries if one is not cluster.owner_of(slot))
    cluster.move_slot(slot, target)
    for number in range(10, 20):
        await until_connected(partial(send, sender, number))
    assert await collect(layer, channel, 19) == [*range(20)]
    again, resumed = await member(sender, since=position)
    assert (resumed.complete, resumed.count) == (True, 20)
    assert await collect(sender, again, 19) == [*range(20)]


async def test_a_slot_that_is_on_its_way_during_a_catch_up(
    site: Callable[..., Any], cluster: ClusterSet
) -> None:
    """What is read and written meanwhile is found where it is."""
    layer, sender = site(), site()
    position = await position_of(layer)
    slot = cluster_slot(layer)
    await send(sender, 1, 2)
    source = cluster.owner_of(slot)
    target = next(one for one in cluster.primaries if one is not source)
    cluster.begin_move(slot, target)
    cluster.move_keys(slot, source, target)
    channel, resumed = await member(layer, since=position)
    assert (resumed.complete, resumed.count) == (True, 2)
    await send(sender, 3)
    cluster.end_move(slot, target)
    await send(sender, 4)
    assert await collect(layer, channel, 4) == [1, 2, 3, 4]
    assert numbers((await sender.group_history(ROOM)).messages) == [1, 2, 3, 4]


def cluster_slot(layer: Any) -> int:
    """Return the slot of the group."""
    from channels_redis._format.slots import slot_of

    return slot_of(layer._log(ROOM).key)
