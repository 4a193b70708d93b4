"""The recording layer and the unreliable one, with which projects test their consumers."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer, channel_layers, get_channel_layer
from django.conf import settings
from django.test.utils import override_settings

from channels_redis.testing.recording import RecordingChannelLayer, recording
from channels_redis.testing.resilience import UnreliableChannelLayer
from tests.helpers import numbered, receive, receive_until_marker

if not settings.configured:
    settings.configure()

MEMORY = {"BACKEND": "channels.layers.InMemoryChannelLayer"}


# Recording


@pytest.fixture
def recorder(make_layer: Any, kind: str) -> RecordingChannelLayer:
    return RecordingChannelLayer(make_layer(kind))


async def test_what_is_recorded_is_sent_as_ever(recorder: Any) -> None:
    """The layer does its work, and is asked for all that the recorder does not know."""
    channel = await recorder.new_channel()
    await recorder.group_add("room", channel)
    await recorder.send(channel, numbered(1))
    await recorder.group_send("room", numbered(2))
    await asyncio.to_thread(recorder.sync.send, channel, numbered(3))
    await asyncio.to_thread(recorder.sync.group_send, "room", numbered(4), timeout_s=10)
    assert [await receive(recorder, channel) for _ in range(4)] == [*map(numbered, range(1, 5))]
    assert [(one.to, one.is_group, one.message["n"]) for one in recorder.sent] == [
        (channel, False, 1),
        ("room", True, 2),
        (channel, False, 3),
        ("room", True, 4),
    ]
    assert "groups" in recorder.extensions


async def test_assertions_return_what_they_found(recorder: Any) -> None:
    """By the whole message, by some keys of it, or just by where it went."""
    await recorder.group_send("room", {"type": "a", "n": 1})
    await recorder.group_send("room", {"type": "a", "n": 2})
    await recorder.send("work", {"type": "b"})
    assert len(recorder.assert_group_sent("room")) == 2
    assert recorder.assert_group_sent("room", n=2) == [{"type": "a", "n": 2}]
    assert recorder.assert_group_sent("room", {"type": "a", "n": 1}) == [{"type": "a", "n": 1}]
    assert recorder.assert_sent("work", type="b") == [{"type": "b"}]
    recorder.clear()
    recorder.assert_nothing_sent()


async def test_a_failed_assertion_shows_what_was_sent(recorder: Any) -> None:
    """To another group, to a channel of that name, with another value or without the key."""
    await recorder.group_send("room", {"type": "a"}, exclude=(name for name in ["shunned"]))
    for wrong in [
        lambda: recorder.assert_group_sent("other"),
        lambda: recorder.assert_sent("room"),
        lambda: recorder.assert_group_sent("room", type="b"),
        lambda: recorder.assert_group_sent("room", missing=None),
        lambda: recorder.assert_group_sent("room", {"type": "a", "more": 1}),
        recorder.assert_nothing_sent,
    ]:
        with pytest.raises(AssertionError, match="to group room, without shunned: {'type': 'a'}"):
            wrong()


async def test_what_was_not_sent_is_not_recorded(recorder: Any) -> None:
    """A call that raises has sent nothing."""
    with pytest.raises(AssertionError):
        await recorder.group_send("room", "no dict")
    recorder.assert_nothing_sent()


async def test_a_record_does_not_change_with_the_senders_dict() -> None:
    """It is what it was when it was sent; also on a layer of other people's."""
    recorder = RecordingChannelLayer(InMemoryChannelLayer())
    message: dict[str, Any] = {"type": "a", "list": [1]}
    await recorder.group_send("room", message)
    message["list"].append(2)
    assert recorder.assert_group_sent("room") == [{"type": "a", "list": [1]}]


@pytest.fixture
def memory_settings() -> Iterator[None]:
    with override_settings(CHANNEL_LAYERS={"default": MEMORY, "second": MEMORY}):
        yield


async def test_recording_stands_in_for_a_configured_layer(memory_settings: None) -> None:
    """``get_channel_layer()`` of the code under test finds it, until the block ends."""
    before = channel_layers["second"]
    with recording("second") as recorder:
        await get_channel_layer("second").send("work", {"type": "a"})
        await get_channel_layer().send("work", {"type": "b"})
    assert recorder.assert_sent("work") == [{"type": "a"}]
    assert channel_layers["second"] is before


# Unreliable


async def collect(seed: int | None, **options: Any) -> tuple[Any, list[int]]:
    layer = UnreliableChannelLayer(InMemoryChannelLayer(capacity=300), seed=seed, **options)
    channel = await layer.new_channel()
    for number in range(200):
        await layer.send(channel, numbered(number))
    await layer.send(channel, {"type": "end"})
    got = []
    while layer.dropped + len(got) < 201:
        # The last one may be dropped, and then nothing comes after it.
        with contextlib.suppress(asyncio.TimeoutError):
            got.append(await asyncio.wait_for(layer.receive(channel), 0.5))
    return layer, [message.get("n", 200) for message in got]


async def test_a_share_of_messages_is_dropped_the_same_in_each_run() -> None:
    """A test that fails with a seed fails again with it."""
    layer, got = await collect(seed=6, drop=0.3)
    assert 30 <= layer.dropped <= 90
    assert layer.dropped + len(got) == 201
    assert (await collect(seed=6, drop=0.3))[1] == got
    assert (await collect(seed=7, drop=0.3))[1] != got


async def test_a_share_of_messages_is_late_and_none_overtakes() -> None:
    """The order of a channel is kept, and nothing is lost."""
    layer, got = await collect(seed=1, delay=0.1, delay_s=0.01)
    assert 5 <= layer.delayed <= 40
    assert got == [*range(201)]


async def test_shares_of_none_and_all_are_exact() -> None:
    """Nothing asked for, nothing done; everything asked for, everything done."""
    layer, got = await collect(seed=None)
    assert (layer.dropped, layer.delayed, got) == (0, 0, [*range(201)])
    layer = UnreliableChannelLayer(InMemoryChannelLayer(), drop=1)
    await layer.send("work", {"type": "a"})
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(layer.receive("work"), 0.05)
    assert layer.dropped == 1


async def test_a_delayed_message_survives_a_cancelled_receive(make_layer: Any, kind: str) -> None:
    """Delays lose nothing, on our layers either."""
    layer = UnreliableChannelLayer(make_layer(kind), delay=1, delay_s=0.3)
    channel = await layer.new_channel()
    await layer.send(channel, numbered(1))
    while not layer.delayed:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(layer.receive(channel), 0.05)
    assert await receive(layer, channel) == numbered(1)


async def test_it_can_stand_in_the_settings(redis_url: str, prefix: str, layer_class: Any) -> None:
    """As a backend around another, which it asks for everything else."""
    inner = {
        "BACKEND": f"{layer_class.__module__}.{layer_class.__name__}",
        "CONFIG": {"hosts": [redis_url], "prefix": prefix},
    }
    outer = {
        "BACKEND": "channels_redis.testing.resilience.UnreliableChannelLayer",
        "CONFIG": {"layer": inner, "drop": 0.0},
    }
    with override_settings(CHANNEL_LAYERS={"default": outer}):
        layer = get_channel_layer()
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_send("room", numbered(1), exclude=["another"])
        assert await receive_until_marker(layer, channel) == [numbered(1)]
        await layer.close()


@pytest.mark.parametrize("wrong", [{"drop": -0.1}, {"drop": 2}, {"delay": 50}, {"delay_s": -1}])
def test_wrong_shares_are_refused(wrong: Any) -> None:
    """A share of 50 was meant to be 0.5."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        UnreliableChannelLayer(InMemoryChannelLayer(), **wrong)


@pytest.mark.parametrize("wrapper", [RecordingChannelLayer, UnreliableChannelLayer])
def test_wrappers_can_be_asked_before_they_are_whole(wrapper: Any) -> None:
    """``copy`` asks an empty object for its methods, which once led round in circles."""
    with pytest.raises(AttributeError):
        _ = copy.copy(wrapper.__new__(wrapper)).no_such_thing
