"""A member of a group with a history whose event loop has ended, and which another loop receives.

What was sent between the two loops comes before anything live, or the member is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis.exceptions import ResponseError

from channels_redis._receiving.catching_up import CatchUps
from channels_redis._receiving.mailboxes import Mailboxes
from channels_redis._receiving.topics import TopicSession
from channels_redis.exceptions import ConnectionLost
from channels_redis.testing.servers import RedisServer
from tests.helpers import cancel, numbers, receive, receive_numbers, wait_for, waiting
from tests.histories.steps import HISTORY, ROOM, send, until_back, until_marked
from tests.proxy import Proxy

Layers = Callable[..., Any]


@pytest.fixture
def layers(make_layer_blocking: Layers) -> Layers:
    """Makes layers for several loops, as ``layers(**options)``."""

    def make(**options: Any) -> Any:
        return make_layer_blocking(
            "pubsub", **{"history": HISTORY, "on_reconnect": "test.back", **options}
        )

    return make


@pytest.fixture
def layer(layers: Layers) -> Any:
    return layers()


@pytest.fixture
def sender(layers: Layers) -> Any:
    """A layer of another process."""
    return layers()


@pytest.fixture
def standing() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that stops between two calls of ``run_until_complete()``."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


async def join(layer: Any, group: str = ROOM) -> str:
    channel: str = await layer.new_channel()
    await layer.group_add(group, channel)
    return channel


async def join_and_hear(layer: Any, *names: int) -> str:
    channel = await join(layer)
    await send(layer, *names)
    assert await receive_numbers(layer, channel, len(names)) == list(names)
    return channel


async def goes_on(layer: Any, channel: str, sender: Any) -> list[dict[str, Any]]:
    """Receive on this loop, and return all that comes until a message that is sent when the group
    is joined.
    """
    first = waiting(layer, channel)
    await wait_for(lambda: layer.groups)
    await send(sender, 99)
    await sender.close()
    messages = [await first]
    while messages[-1].get("n") != 99:
        messages.append(await receive(layer, channel))
    return messages


def send_from_elsewhere(sender: Any, *names: int, group: str = ROOM) -> None:
    async def go() -> None:
        await send(sender, *names, group=group)
        await sender.close()

    asyncio.run(go())


def test_what_was_sent_between_two_loops_comes_before_anything_live(
    layer: Any, sender: Any
) -> None:
    """The first loop has ended."""
    channel = asyncio.run(join_and_hear(layer, 1, 2))
    send_from_elsewhere(sender, 3, 4)
    assert numbers(asyncio.run(goes_on(layer, channel, sender))) == [3, 4, 99]


def test_what_a_stopped_loop_has_not_read_comes_once(
    layer: Any, sender: Any, standing: asyncio.AbstractEventLoop
) -> None:
    """It lies in the socket of that loop, which runs again later."""
    channel = standing.run_until_complete(join_and_hear(layer, 1))
    send_from_elsewhere(sender, 2, 3)
    assert numbers(asyncio.run(goes_on(layer, channel, sender))) == [2, 3, 99]
    send_from_elsewhere(sender, 4)
    messages = standing.run_until_complete(goes_on(layer, channel, sender))
    assert numbers(messages) == [4, 99]
    assert standing.run_until_complete(until_marked(layer, channel)) == []
    standing.run_until_complete(layer.close())


def test_what_a_loop_reads_while_it_closes_comes_once(
    layer: Any, sender: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the loop that goes on after it."""
    publish, forget_home = TopicSession._published, Mailboxes.forget_home
    late: list[tuple[bytes, bytes]] = []

    def withhold(_: TopicSession, topic: bytes, payload: bytes, mark: bytes = b"") -> None:
        late.append((topic, payload))

    def forget_home_and_publish(boxes: Mailboxes, home: Any) -> None:
        forget_home(boxes, home)
        while late:
            publish(home, *late.pop())

    async def join_and_close() -> str:
        channel = await join(layer)
        await send(layer, 1)
        await wait_for(lambda: late)
        return channel

    monkeypatch.setattr(TopicSession, "_published", withhold)
    monkeypatch.setattr(Mailboxes, "forget_home", forget_home_and_publish)
    channel = asyncio.run(join_and_close())
    assert not late
    monkeypatch.undo()
    assert numbers(asyncio.run(goes_on(layer, channel, sender))) == [1, 99]


def test_members_that_are_taken_over_later_get_what_they_missed(layer: Any, sender: Any) -> None:
    """Each of its own, although the group is subscribed by then."""

    async def join_both() -> list[str]:
        return [await join(layer), await join(layer)]

    async def take_over(channels: list[str]) -> list[list[int]]:
        messages = numbers(await goes_on(layer, channels[0], sender))
        second = waiting(layer, channels[1])
        return [messages, [(await second)["n"], *await receive_numbers(layer, channels[1], 2)]]

    channels = asyncio.run(join_both())
    send_from_elsewhere(sender, 1, 2)
    assert asyncio.run(take_over(channels)) == [[1, 2, 99], [1, 2, 99]]


def test_nobody_gets_what_it_missed_in_a_group_that_it_has_left(layer: Any, sender: Any) -> None:
    """It was left by the second loop, and joined anew."""

    async def leave_and_join(channel: str) -> list[dict[str, Any]]:
        await layer.group_discard(ROOM, channel)
        await layer.group_add(ROOM, channel)
        return await goes_on(layer, channel, sender)

    channel = asyncio.run(join(layer))
    send_from_elsewhere(sender, 1)
    assert numbers(asyncio.run(leave_and_join(channel))) == [99]


def test_who_resumes_gets_what_comes_after_its_own_position(layer: Any, sender: Any) -> None:
    """Not once more from where the first loop has stopped."""

    async def join_and_note() -> tuple[str, str]:
        channel = await join(layer)
        await send(layer, 1)
        return channel, (await receive(layer, channel))["__position__"]

    async def resume(channel: str, position: str) -> list[dict[str, Any]]:
        resumed = await layer.group_add(ROOM, channel, since=position)
        assert (resumed.complete, resumed.count) == (True, 2)
        return await goes_on(layer, channel, sender)

    channel, position = asyncio.run(join_and_note())
    send_from_elsewhere(sender, 2, 3)
    assert numbers(asyncio.run(resume(channel, position))) == [2, 3, 99]


def test_a_loop_that_is_taken_over_while_it_makes_up_loses_nothing(
    layer: Any, sender: Any, standing: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third loop goes on from where the first has stopped."""

    async def receive_in_vain(channel: str) -> None:
        reading = asyncio.Event()

        async def read_log(*_: Any) -> Any:
            reading.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(CatchUps, "_missed_since", read_log)
        first = waiting(layer, channel)
        await asyncio.wait_for(reading.wait(), 20)
        await cancel(first)

    channel = asyncio.run(join_and_hear(layer, 1))
    send_from_elsewhere(sender, 2, 3)
    standing.run_until_complete(receive_in_vain(channel))
    monkeypatch.undo()
    send_from_elsewhere(sender, 4)
    assert numbers(asyncio.run(goes_on(layer, channel, sender))) == [2, 3, 4, 99]
    standing.run_until_complete(layer.close())


@pytest.mark.parametrize("refused", [False, True])
def test_who_misses_too_much_between_two_loops_is_told_before_anything_live(
    layers: Layers, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the catch-up is longer than its limit, or the server refuses to read the log."""
    layer, sender = layers(max_catch_up=10), layers()
    channel = asyncio.run(join_and_hear(layer, 1))
    send_from_elsewhere(sender, *range(2, 4 if refused else 20))
    if refused:

        async def read_log(*_: Any) -> Any:
            raise ResponseError("NOPERM")

        monkeypatch.setattr(TopicSession, "read_log", read_log)
    told, live = asyncio.run(goes_on(layer, channel, sender))
    assert (told["type"], told["may_have_missed"], told["missed"]) == ("test.back", True, [ROOM])
    assert live["n"] == 99


@pytest.fixture
def network(private_server: RedisServer) -> Iterator[Proxy]:
    with Proxy(private_server.host, private_server.port) as proxy:
        yield proxy


def test_a_group_is_joined_again_when_its_server_is_back(
    layers: Layers,
    network: Proxy,
    private_server: RedisServer,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server of the channel's own name was there, so it was taken over in the outage. The
    message that this is over comes after what was missed.
    """
    layer = layers(hosts=[redis_url, network.url], connect_wait_s=0.2)
    rooms = (f"room.{number}" for number in range(100))
    room = next(one for one in rooms if layer.consistent_hash(layer._keys.group_topic(one)))
    begin, failures = CatchUps.begin, list[Exception]()

    async def noting_begin(catch_ups: CatchUps, log: Any) -> Any:
        try:
            return await begin(catch_ups, log)
        except ConnectionLost as error:
            failures.append(error)
            raise

    async def first_loop() -> str:
        while layer.consistent_hash(channel := await layer.new_channel()):
            pass
        await layer.group_add(room, channel)
        await send(layer, 1, group=room)
        assert await receive_numbers(layer, channel, 1) == [1]
        return channel

    async def second_loop(channel: str) -> tuple[list[int], dict[str, Any], list[int]]:
        first = waiting(layer, channel)
        await wait_for(lambda: failures)
        network.resume()
        seen = [(await first)["n"]]
        others, back = await until_back(layer, channel)
        await send(layer, 3, group=room)
        return seen + others, back, await receive_numbers(layer, channel, 1)

    monkeypatch.setattr(CatchUps, "begin", noting_begin)
    channel = asyncio.run(first_loop())
    network.refuse()
    send_from_elsewhere(layers(hosts=[redis_url, private_server.url]), 2, group=room)
    seen, back, live = asyncio.run(second_loop(channel))
    assert (seen, live) == ([2], [3])
    assert (back["may_have_missed"], back["missed"]) == (False, [])
