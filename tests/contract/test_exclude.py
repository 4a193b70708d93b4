"""``group_send(..., exclude=[...])``: to all of a group but some, usually but the sender."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from channels_redis._format.keyspace import EXCLUDE_KEY
from channels_redis.exceptions import InvalidMessage, InvalidName
from channels_redis.serializers import JSONSerializer, registry
from tests.contract.steps import ALSO_BEHIND_SENTINEL, new_members
from tests.helpers import receive, receive_until_marker

MESSAGE = {"type": "chat.message", "text": "hello"}


@ALSO_BEHIND_SENTINEL
async def test_excluded_members_get_nothing_and_the_others_their_copy(build: Any) -> None:
    """In the sender's process and in others; nobody sees a key of the layer's own."""
    here, there = build(), build()
    mine, friend = await new_members(here, 2)
    other, shunned = await new_members(there, 2)
    await here.group_send("room", MESSAGE, exclude=[mine, shunned])
    # What a process got for one member it has got for all; a marker may come before that.
    for layer, channel in [(here, friend), (there, other)]:
        assert await receive(layer, channel) == MESSAGE
    for layer, channel in [(here, friend), (there, other), (here, mine), (there, shunned)]:
        assert await receive_until_marker(layer, channel, sender=here) == []


async def test_exclude_takes_any_collection_of_names(layer: Any) -> None:
    """A generator is read once; strangers and nobody at all are no error."""
    one, two = await new_members(layer, 2)
    await layer.group_send("room", MESSAGE, exclude=(name for name in [one]))
    await layer.group_send("room", MESSAGE, exclude={one, await layer.new_channel()})
    await layer.group_send("room", MESSAGE, exclude=())
    assert [await receive(layer, two) for _ in range(3)] == [MESSAGE] * 3
    assert await receive(layer, one) == MESSAGE
    for channel in one, two:
        assert await receive_until_marker(layer, channel) == []


@pytest.mark.parametrize(
    "exclude", ["specific.x!y", b"specific", None, 5, [5], ["not a name"]], ids=repr
)
async def test_what_is_no_list_of_names_is_refused(layer: Any, exclude: Any) -> None:
    """Above all a bare name, whose letters would exclude nobody."""
    with pytest.raises(InvalidName):
        await layer.group_send("room", MESSAGE, exclude=exclude)


async def test_messages_that_are_not_for_a_consumer_take_no_room(build: Any) -> None:
    """Who talks a lot to others does not push out what he has to read himself."""
    layer = build(capacity=3)
    talks, listens = await new_members(layer, 2)
    await layer.send(talks, {"type": "first"})
    for _ in range(10):
        await layer.group_send("room", MESSAGE, exclude=[talks])
        assert await receive(layer, listens) == MESSAGE
    assert await receive_until_marker(layer, talks) == [{"type": "first"}]


async def test_text_that_looks_like_the_key_is_only_text(layer: Any) -> None:
    """Nobody can shut others out by what he writes."""
    (channel,) = await new_members(layer, 1)
    message = {"type": "x", "text": EXCLUDE_KEY, "nested": {EXCLUDE_KEY: [channel]}}
    await layer.group_send("room", message)
    assert await receive(layer, channel) == message
    with pytest.raises(InvalidMessage, match=EXCLUDE_KEY):
        await layer.group_send("room", {"type": "x", EXCLUDE_KEY: [channel]})


class Reversed(JSONSerializer):
    """A format whose bytes show no key."""

    def as_bytes(self, message: Any) -> bytes:
        return super().as_bytes(message)[::-1]

    def from_bytes(self, message: bytes) -> Any:
        return super().from_bytes(message[::-1])


@pytest.mark.parametrize(
    "options",
    [
        {"serializer_format": "json"},
        {"serializer_format": "reversed"},
        {"symmetric_encryption_keys": ["a key"]},
        {"serializer_format": "json", "random_prefix_length": 0},
    ],
    ids=str,
)
async def test_every_format_and_encryption_obeys(
    build: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a format of the user's, in whose bytes the layer can't look."""
    monkeypatch.setitem(registry._classes, "reversed", Reversed)
    layer = build(**options)
    mine, other = await new_members(layer, 2)
    await layer.group_send("room", MESSAGE, exclude=[mine])
    assert await receive(layer, other) == MESSAGE
    assert await receive_until_marker(layer, mine) == []


async def test_a_subclass_that_serializes_itself_obeys(layer_class: Any, build: Any) -> None:
    """Overridden ``serialize()`` and ``deserialize()`` carry the list and don't know it."""
    layer = build()

    class Own(layer_class):  # type: ignore[misc]  # a class that is known at run time
        def serialize(self, message: Any) -> bytes:
            return super().serialize(message)[::-1]

        def deserialize(self, message: bytes) -> Any:
            return super().deserialize(message[::-1])

    own = Own(hosts=layer.hosts, prefix=layer.prefix)
    mine, other = await new_members(own, 2)
    await own.group_send("room", MESSAGE, exclude=[mine])
    assert await receive(own, other) == MESSAGE
    assert await receive_until_marker(own, mine) == []
    await own.close()


async def test_the_blocking_face_excludes_too(layer: Any) -> None:
    """A view that answers one of its clients tells the others."""
    mine, other = await new_members(layer, 2)
    await asyncio.to_thread(layer.sync.group_send, "room", MESSAGE, exclude=[mine])
    assert await receive(layer, other) == MESSAGE
    assert await receive_until_marker(layer, mine) == []


async def test_excluded_workers_of_a_group_get_nothing(build_core: Any) -> None:
    """A general channel is excluded by its name like any other."""
    layer = build_core()
    await layer.group_add("room", "tasks")
    await layer.group_send("room", MESSAGE, exclude=["tasks"])
    await layer.group_send("room", {"type": "second"})
    assert await receive(layer, "tasks") == {"type": "second"}
