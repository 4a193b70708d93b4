"""What a group with a history has after faults: everything, or an honest no.

Each test is a race or a fault at which something like this has failed somewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from channels_redis._receiving.catching_up import CatchUps
from channels_redis._session import SessionEnded
from channels_redis._transport import logs
from channels_redis.exceptions import ConnectionLost
from channels_redis.testing.servers import RedisServer
from tests.helpers import bounded, cancel, numbered, numbers, receive, receive_numbers, wait_for
from tests.histories.steps import (
    ROOM,
    dump,
    keys_of,
    member,
    position_of,
    restore,
    send,
    until_back,
    until_marked,
)
from tests.proxy import Proxy

Site = Callable[..., Any]


@pytest.fixture
def direct(kind: str, pair: list[RedisServer], make_layer: Callable[..., Any], site: Site) -> Any:
    """A layer of the same site that no fault of the network reaches."""
    return site(hosts=[pair[0].url])


def fail_over(network: Proxy, pair: list[RedisServer], keys: list[str], at: dict[str, Any]) -> None:
    """Have everybody connect to the second server, which has what the first one had earlier."""
    restore(pair[1], {key: at.get(key) for key in keys})
    network.redirect(pair[1].host, pair[1].port)
    network.cut()


@pytest.mark.parametrize("kind", ["pubsub"], indirect=True)
async def test_what_is_missed_in_an_outage_comes_before_anything_live(
    site: Site, direct: Any, network: Proxy
) -> None:
    """To every member, in order, before the message that the outage is over, which says so."""
    layer = site()
    channels = [(await member(layer))[0] for _ in range(3)]
    await send(direct, 1, 2)
    network.refuse()
    await send(direct, 3, 4, 5)
    network.resume()
    for channel in channels:
        seen, back = await until_back(layer, channel)
        assert seen == [1, 2, 3, 4, 5]
        assert (back["may_have_missed"], back["missed"], back["groups"]) == (False, [], [ROOM])
    await send(direct, 6)
    assert await receive_numbers(layer, channels[0], 1) == [6]


@pytest.mark.parametrize("kind", ["pubsub"], indirect=True)
async def test_a_member_of_other_groups_may_have_missed_their_messages(
    site: Site, network: Proxy
) -> None:
    """Of those nothing is known; ``missed`` is about groups with a history."""
    layer = site()
    channel, _ = await member(layer)
    await layer.group_add("hall", channel)
    stranger, _ = await member(layer, group="hall")
    network.cut()
    _, back = await until_back(layer, channel)
    assert (back["may_have_missed"], back["missed"]) == (True, [])
    _, back = await until_back(layer, stranger)
    assert back["may_have_missed"] is True
    assert "missed" not in back


@pytest.mark.parametrize("kind", ["pubsub"], indirect=True)
@pytest.mark.parametrize("options", [{"history": {"room.*": {"size": 10}}}, {"max_catch_up": 150}])
async def test_who_missed_too_much_is_told(
    site: Site, direct: Any, network: Proxy, options: dict[str, Any]
) -> None:
    """Where the log was too short, or the catch-up longer than its limit: nothing of it comes."""
    layer = site(**options)
    sender = site(hosts=direct.hosts, **options)
    channel, _ = await member(layer)
    network.refuse()
    await send(sender, *range(300))
    network.resume()
    seen, back = await until_back(layer, channel)
    assert (seen, back["may_have_missed"], back["missed"]) == ([], True, [ROOM])
    # Once, whether before or at the end of the outage.
    await wait_for(lambda: layer.stats().outage_s == 0)
    assert await until_marked(layer, channel) == []
    await send(sender, 300)
    assert await receive_numbers(layer, channel, 1) == [300]


@pytest.mark.parametrize("kind", ["pubsub"], indirect=True)
async def test_a_failover_to_a_replica_that_lags_is_noticed(
    site: Site, direct: Any, network: Proxy, pair: list[RedisServer]
) -> None:
    """By who has seen what it lacks; and by all who come later, although the log fits together."""
    layer, late = site(), site()
    channel, _ = await member(layer)
    keys = keys_of(layer)
    await send(direct, 1, 2)
    early = await position_of(direct)
    replica = dump(pair[0], keys)
    await send(direct, 3, 4)
    assert await receive_numbers(layer, channel, 4) == [1, 2, 3, 4]
    fail_over(network, pair, keys, replica)
    seen, back = await until_back(layer, channel)
    assert (seen, back["missed"]) == ([], [ROOM])
    await send(late, 5)
    _, resumed = await member(late, since=early)
    assert not resumed.complete


async def test_offsets_that_are_given_again_are_told_apart(
    site: Site, pair: list[RedisServer], network: Proxy
) -> None:
    """By their marks: a position of before the failover is not one of after it."""
    layer = site()
    keys = keys_of(layer)
    await send(layer, 1, 2)
    replica = dump(pair[0], keys)
    await send(layer, 3, 4)
    history = await layer.group_history(ROOM)
    fail_over(network, pair, keys, replica)
    stranger = site()  # It knows nothing of 3 and 4.
    await send(stranger, 5, 6)
    for message in history.messages[2:]:
        _, resumed = await member(stranger, since=message["__position__"])
        assert not resumed.complete
    # Now everybody knows.
    _, resumed = await member(site(), since=history.messages[0]["__position__"])
    assert not resumed.complete


async def test_a_sender_writes_a_break_where_its_own_message_is_lost(
    site: Site, pair: list[RedisServer], network: Proxy
) -> None:
    """Before the next one, so that nobody resumes over it."""
    layer = site()
    keys = keys_of(layer)
    await send(layer, 1)
    early = await position_of(layer)
    replica = dump(pair[0], keys)
    await send(layer, 2)
    fail_over(network, pair, keys, replica)
    await wait_for(lambda: not layer.stats().in_flight)
    await send(layer, 3)
    history = await layer.group_history(ROOM, since=early)
    assert (numbers(history.messages), history.complete) == ([3], False)
    assert (await layer.group_history(ROOM)).complete is False


@pytest.mark.parametrize("kind", ["pubsub"], indirect=True)
async def test_a_dump_that_is_restored_under_a_live_subscription_is_noticed(
    site: Site, direct: Any, pair: list[RedisServer]
) -> None:
    """With the next message, although no connection was lost."""
    layer = site()
    channel, _ = await member(layer)
    await send(direct, 1)
    dumped = dump(pair[0], keys_of(layer))
    await send(direct, 2)
    assert await receive_numbers(layer, channel, 2) == [1, 2]
    restore(pair[0], dumped)
    await send(site(), 3)
    seen, back = await until_back(layer, channel)
    assert back["missed"] == [ROOM]
    await send(direct, 4)
    messages = seen + numbers(await until_marked(layer, channel))
    assert messages[-1] == 4


@pytest.mark.parametrize("lost", ["log", "position"])
async def test_each_key_may_be_deleted_alone(
    site: Site, pair: list[RedisServer], lost: str
) -> None:
    """What the other one proves is still true, and nothing else is said."""
    layer = site()
    log, position_key = keys_of(layer)
    await send(layer, 1, 2)
    first = (await layer.group_history(ROOM)).messages[0]["__position__"]
    last = await position_of(layer)
    pair[0].command("DEL", log if lost == "log" else position_key)
    assert (await layer.group_history(ROOM, since=last)).complete
    after = await layer.group_history(ROOM, since=first)
    assert (numbers(after.messages), after.complete) == (
        ([], False) if lost == "log" else ([2], True)
    )
    await send(layer, 3)
    after = await layer.group_history(ROOM, since=last)
    assert (numbers(after.messages), after.complete) == ([3], True)
    assert (await layer.group_history(ROOM, since=first)).complete is (lost == "position")


@pytest.mark.parametrize("restored", ["log", "position"])
async def test_each_key_may_be_restored_alone(
    site: Site, pair: list[RedisServer], restored: str
) -> None:
    """Then they do not fit together, and no catch-up over that is complete."""
    layer, stranger = site(), site()
    log, position_key = keys_of(layer)
    await send(layer, 1)
    first = await position_of(layer)
    dumped = dump(pair[0], [log if restored == "log" else position_key])
    await send(layer, 2)
    restore(pair[0], dumped)
    await send(stranger, 3)
    assert not (await layer.group_history(ROOM, since=first)).complete


@pytest.mark.parametrize("kind", ["pubsub"], indirect=True)
async def test_what_a_process_without_the_option_sends_breaks_the_log(
    site: Site, direct: Any
) -> None:
    """Who listens has it, and is not told of anything; who resumes over it is told."""
    layer, plain = site(), site(history=None)
    channel, _ = await member(layer)
    await send(direct, 1)
    early = await position_of(direct)
    await send(plain, 2)
    await wait_for(lambda: is_broken(direct, early))
    await send(direct, 3)
    assert numbers(await until_marked(layer, channel)) == [1, 2, 3]
    _, resumed = await member(direct, since=early)
    assert not resumed.complete


async def is_broken(layer: Any, since: str) -> bool:
    return not (await layer.group_history(ROOM, since=since)).complete


@pytest.mark.parametrize("kind", ["pubsub"], indirect=True)
async def test_nothing_is_lost_or_doubled_between_the_log_and_the_subscription(
    site: Site, direct: Any
) -> None:
    """Channels resume while messages are sent all the time."""
    layer = site()
    position = await position_of(layer)
    sending = asyncio.create_task(send(direct, *range(10_000)))
    try:
        for _ in range(20):
            channel, resumed = await member(layer, since=position)
            assert resumed.complete
            first = await receive_numbers(layer, channel, resumed.count + 5)
            assert first == list(range(first[0], first[0] + len(first)))
            position = (await layer.group_history(ROOM, limit=0)).position
    finally:
        await cancel(sending)


@pytest.mark.parametrize("kind", ["core", "pubsub"], indirect=True)
async def test_a_message_that_is_sent_after_the_call_has_returned_is_received(
    site: Site, direct: Any
) -> None:
    """As without a history: the subscription is awaited."""
    layer = site()
    for number in range(10):
        channel, _ = await member(layer, since="start")
        await send(direct, number)
        assert (await receive_numbers(layer, channel, number + 1))[-1] == number


async def test_a_message_is_logged_once_where_the_reply_was_lost(
    site: Site, direct: Any, network: Proxy
) -> None:
    """The layer calls the script again, which finds the message by its mark."""
    layer = site()
    channel, _ = await member(direct)
    await send(layer, 1)
    network.lose_reply_to(b"second message")
    await layer.group_send(ROOM, {**numbered(2), "text": "second message"})
    assert numbers((await direct.group_history(ROOM)).messages) == [1, 2]
    assert numbers(await until_marked(direct, channel)) == [1, 2]


async def test_who_can_not_know_is_told_that_it_may_have_been_sent(
    site: Site, direct: Any, network: Proxy
) -> None:
    """Where the server stays away after the reply was lost."""
    layer = site(connect_wait_s=0.5)
    await send(layer, 1)
    network.lose_reply_to(b"second message")
    sending = asyncio.create_task(layer.group_send(ROOM, {**numbered(2), "text": "second message"}))
    await wait_for(lambda: has_logged(direct, 2))
    network.refuse()
    try:
        await sending
    except ConnectionLost as error:
        assert error.maybe_executed
    network.resume()
    assert numbers((await direct.group_history(ROOM)).messages) == [1, 2]


async def has_logged(layer: Any, number: int) -> bool:
    return number in numbers((await layer.group_history(ROOM)).messages)


@pytest.mark.parametrize("kind", ["pubsub"], indirect=True)
async def test_a_process_that_was_frozen_gets_what_it_missed(
    site: Site, direct: Any, network: Proxy
) -> None:
    """Its connections have died meanwhile, and it did not notice."""
    layer = site()
    channel, _ = await member(layer)
    await send(direct, 1)
    network.stall()
    await send(direct, *range(2, 50))
    network.cut()
    network.resume()
    seen, back = await until_back(layer, channel)
    assert (seen, back["missed"]) == ([*range(1, 50)], [])


@pytest.mark.parametrize("kind", ["pubsub"], indirect=True)
async def test_a_second_outage_during_a_catch_up_loses_nothing(
    site: Site, direct: Any, network: Proxy
) -> None:
    """However often the connections are cut."""
    layer = site()
    channel, _ = await member(layer)
    for number in range(40):
        await send(direct, number)
        if number % 3 == 0:
            network.cut()
            await asyncio.sleep(0)
    await send(direct, 40)
    seen: list[int] = []
    while seen[-1:] != [40]:
        seen += [n["n"] for n in [await layer.receive(channel)] if "n" in n]
    assert seen == [*range(41)]


async def test_an_emptied_server_is_noticed(
    site: Site, direct: Any, pair: list[RedisServer]
) -> None:
    """With the next message; a position of before is never complete again."""
    layer = site()
    channel, _ = await member(layer)
    await send(direct, 1)
    position = await position_of(direct)
    assert await receive_numbers(layer, channel, 1) == [1]
    for key in keys_of(layer):
        pair[0].command("DEL", key)
    await send(direct, 2)
    _, back = await until_back(layer, channel)
    assert back["missed"] == [ROOM]
    _, resumed = await member(direct, since=position)
    assert not resumed.complete


@pytest.mark.parametrize("damaged", ["log", "both"])
async def test_what_somebody_else_wrote_into_a_log_is_noticed(
    site: Site, direct: Any, network: Proxy, pair: list[RedisServer], damaged: str
) -> None:
    """An entry that is none, also with such a position: members are told, and hear what follows."""
    layer = site()
    channel, _ = await member(layer)
    await send(direct, 1)
    position = await position_of(direct)
    assert await receive_numbers(layer, channel, 1) == [1]
    log, position_key = keys_of(layer)
    newest = int(pair[0].command("XREVRANGE", log, "+", "-", "COUNT", 1)[0][0].split(b"-")[0])
    pair[0].command("XADD", log, f"{newest + 1}-1", "other", "field")
    if damaged == "both":
        pair[0].command("SET", position_key, "no position")
    assert await told_and_next(layer, direct, channel, network) == [ROOM]
    assert not (await direct.group_history(ROOM, since=position)).complete


async def test_an_error_while_a_log_is_read_does_not_silence_a_group(
    site: Site, direct: Any, network: Proxy, monkeypatch: Any, caplog: Any
) -> None:
    """Whatever it is: it is logged once, and the members are told."""

    async def past(*_: object) -> None:
        raise RuntimeError("An error that nobody has expected.")

    layer = site()
    channel, _ = await member(layer)
    await send(direct, 1)
    assert await receive_numbers(layer, channel, 1) == [1]
    monkeypatch.setattr(logs, "past", past)
    for _ in range(2):
        assert await told_and_next(layer, direct, channel, network) == [ROOM]
    assert caplog.text.count("could not be read") == 1


async def told_and_next(layer: Any, direct: Any, channel: str, network: Proxy) -> list[str]:
    """Have a layer read its log; return the groups of which it says that messages were missed, once
    the next message was received.
    """
    missed: list[str] = []
    if "PubSub" in type(layer).__name__:
        network.cut()
        missed += (await until_back(layer, channel))[1]["missed"]
    # On core, this is a hole.
    await send(direct, 2, exclude=[channel])
    await send(direct, 3)
    while (message := await receive(layer, channel)).get("n") != 3:
        missed += message.get("missed", [])
    return missed


@pytest.mark.parametrize("kind", ["core"], indirect=True)
@pytest.mark.parametrize("during", ["later", "read_log"])
async def test_a_hole_is_filled_where_the_loop_that_heard_it_has_ended(
    site: Site, direct: Any, monkeypatch: Any, during: str
) -> None:
    """Before it has read the log, or while it does: another loop of the process reads it."""
    layer = site(expiry=4)
    channel, _ = await member(layer)
    await send(direct, 1)
    assert await receive_numbers(layer, channel, 1) == [1]
    ended = asyncio.Event()

    def read_log(*_: object) -> None:
        ended.set()
        monkeypatch.undo()
        raise SessionEnded("The loop has ended.")

    def later(*_: object) -> None:
        ended.set()
        monkeypatch.undo()

    monkeypatch.setattr(layer._queued, during, {"later": later, "read_log": read_log}[during])
    await send(direct, 2)
    await send(direct, 3, exclude=[channel])
    await send(direct, 4)
    assert await receive_numbers(layer, channel, 2) == [2, 4]
    assert ended.is_set()


@pytest.mark.parametrize("kind", ["pubsub"], indirect=True)
@pytest.mark.parametrize("others", ["nobody", "member", "same channel"])
async def test_who_was_cancelled_while_it_resumed_can_resume_again(
    site: Site, direct: Any, monkeypatch: Any, others: str
) -> None:
    """At the worst moment: the caller ends in the tick in which the group was joined."""
    layer = site()
    await send(direct, 1)
    channel = await layer.new_channel()
    if others == "member":
        await member(layer)

    async def end(*_: object) -> None:
        monkeypatch.undo()
        if others == "same channel":
            await layer.group_add(ROOM, channel)
        raise asyncio.CancelledError

    monkeypatch.setattr(CatchUps, "resume", end)
    with pytest.raises(asyncio.CancelledError):
        await layer.group_add(ROOM, channel, since="start")
    resumed = await bounded(layer.group_add(ROOM, channel, since="start"))
    assert (resumed.complete, resumed.count) == (True, 1)
    await send(direct, 2)
    assert numbers(await until_marked(layer, channel)) == [1, 2]


@pytest.mark.parametrize("kind", ["pubsub"], indirect=True)
async def test_one_break_is_enough_for_all_processes_that_have_heard_a_message(
    site: Site, direct: Any, monkeypatch: Any
) -> None:
    """Who hears the break of another process writes none."""
    monkeypatch.setattr("channels_redis._receiving.catching_up._BREAK_SPREAD_S", 0)
    first, second, plain = site(), site(), site(history=None)
    channel, _ = await member(first)
    await member(second)
    waits = [asyncio.Event(), asyncio.Event()]
    written: list[Any] = []
    for layer, wait in zip((first, second), waits, strict=True):
        catch_ups = layer._sessions.get().catch_ups
        now = catch_ups._break_now

        async def break_now(group: Any, now: Any = now, wait: Any = wait) -> None:
            await wait.wait()
            if group.unlogged:
                written.append(group)
            await now(group)

        monkeypatch.setattr(catch_ups, "_break_now", break_now)
    early = await position_of(direct)
    await send(plain, 1)
    groups = [next(iter(one._sessions.get().catch_ups.groups.values())) for one in (first, second)]
    await wait_for(lambda: all(group.unlogged for group in groups))
    waits[0].set()
    await wait_for(lambda: not groups[1].unlogged)
    waits[1].set()
    await wait_for(lambda: not any(group.breaking for group in groups))
    assert written == [groups[0]]
    assert await is_broken(direct, early)
    assert numbers(await until_marked(first, channel)) == [1]
