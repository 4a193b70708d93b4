"""Which names are taken for what: a general channel, one of a process, or none at all."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from channels_redis.exceptions import InvalidName
from tests.helpers import bounded, numbered, receive, receive_until_marker

HEX = "0123456789abcdef" * 2
# Channels' own patterns take these, or would on one layer only.
NEVER_NAMES = [
    "a\n",
    "٣",
    "a٣",
    "ü",
    "a!ü",
    "a!٣",
    "a!b\n",
    "a\x00",
    " a",
    "a b",
    "\ud800",
    "x" * 100,
]


@pytest.mark.parametrize("name", NEVER_NAMES, ids=ascii)
async def test_other_than_ascii_names_are_refused(
    make_layer: Callable[..., Any], kind: str, name: str
) -> None:
    """The same in every method of both layers; flush() would not delete them."""
    layer = make_layer(kind)
    calls = [
        layer.send(name, numbered(1)),
        layer.receive(name),
        layer.group_add("room", name),
        layer.group_add(name, "channel"),
        layer.group_discard("room", name),
        layer.group_discard(name, "channel"),
        layer.group_send(name, numbered(1)),
        layer.group_send("room", numbered(1), exclude=[name]),
        layer.new_channel(name),
    ]
    for call in calls:
        with pytest.raises(InvalidName):
            await bounded(call)


class Nameless:
    """Has no text of its own."""

    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "name", [None, 5, [], {}, b"a", ["a"], Nameless()], ids=lambda one: type(one).__name__
)
async def test_what_is_no_text_is_no_name(
    make_layer: Callable[..., Any], kind: str, name: Any
) -> None:
    """The same error, whatever it is."""
    layer = make_layer(kind)
    for call in (layer.send(name, {}), layer.receive(name), layer.new_channel(name)):
        with pytest.raises(InvalidName):
            await bounded(call)


@pytest.mark.parametrize(
    "middle",
    [
        "\x00",
        " ",
        "two words",
        "x" * 68,
        "y" * 5_000_000,
        "\ud800",
        "ü",
        "٣",
        "a\n",
        "!",
        "a!b",
        "*",
    ],
    ids=lambda text: ascii(text[:70]),
)
async def test_what_only_begins_and_ends_like_a_new_channel_is_checked(
    make_layer: Callable[..., Any], prefix: str, middle: str
) -> None:
    """Between the prefix and the hex digits stands what new_channel() takes, and nothing else."""
    layer = make_layer("pubsub")
    for name in (
        prefix + middle + HEX,
        prefix + middle + HEX + "\n",
        prefix + middle + HEX.upper(),
    ):
        if layer._is_specific(name):
            raise AssertionError(ascii(name[:100]))
    with pytest.raises(InvalidName):
        await layer.send(prefix + middle + HEX + "\n", numbered(1))
    with pytest.raises(InvalidName):
        await layer.new_channel(middle)


@pytest.mark.parametrize("begin", ["__group__", "__group__user-", "__loopback__", "__doctor__x"])
async def test_no_channel_is_named_like_a_topic_of_the_layer(
    make_layer: Callable[..., Any], prefix: str, begin: str
) -> None:
    """Such a name would hear a group, or speak to one."""
    layer = make_layer("pubsub")
    with pytest.raises(InvalidName):
        await layer.new_channel(begin)
    member = await layer.new_channel()
    group = f"user-{HEX}"
    await layer.group_add(group, member)
    # A general channel with a queue of its own, whose name only looks like a topic.
    await layer.send(f"{prefix}__group__{group}", numbered(1))
    assert await receive_until_marker(layer, member) == []
    assert await receive(layer, f"{prefix}__group__{group}") == numbered(1)


@pytest.mark.parametrize("layer_prefix", ["", "w", "worker-", "worker"])
@pytest.mark.parametrize("name", ["worker-{}", "worker.{}", "w{}", "{}"])
async def test_general_channels_with_random_names_are_general_under_any_prefix(
    make_layer: Callable[..., Any], layer_prefix: str, name: str
) -> None:
    """A worker that is named by a UUID gets what was sent before it listened."""
    layer = make_layer("pubsub", prefix=layer_prefix)
    channel = name.format(uuid.uuid4().hex)
    await layer.send(channel, numbered(1))
    assert await receive(layer, channel) == numbered(1)


@pytest.mark.parametrize("layer_prefix", ["", "w", "asgi", "two words, longer than others " * 5])
@pytest.mark.parametrize("begin", ["specific.", "chat", "", "-", "__", "x" * 67])
async def test_new_channels_are_known_in_every_process(
    make_layer: Callable[..., Any], layer_prefix: str, begin: str
) -> None:
    """Whoever has the prefix knows them by their names alone."""
    layer, other = [make_layer("pubsub", prefix=layer_prefix) for _ in range(2)]
    channel = await layer.new_channel(begin)
    await other.send(channel, numbered(1))
    assert await receive(layer, channel) == numbered(1)


async def test_new_channels_of_earlier_releases_are_known(
    make_layer: Callable[..., Any], prefix: str
) -> None:
    """Their digits are all random; the name that Channels gives every consumer is enough."""
    sender, receiver = make_layer("pubsub"), make_layer("pubsub")
    channel = f"{prefix}specific.{uuid.uuid4().hex}"
    assert sender._is_specific(channel)
    await receiver.group_add("room", await receiver.new_channel())
    assert not sender._is_specific(f"{prefix}chat{uuid.uuid4().hex}")


async def test_flush_deletes_whatever_may_be_sent_to(
    make_layer: Callable[..., Any], server: Any, prefix: str, kind: str
) -> None:
    """The names that are accepted are those that are deleted."""
    layer = make_layer(kind)
    names = ["a", "A-z_0.9", "." * 99] + (["x!", "x!a.b-c_D"] if kind == "core" else [])
    for name in names:
        await layer.send(name, numbered(1))
    assert server.command("KEYS", f"{prefix}*")
    await layer.flush()
    assert server.command("KEYS", f"{prefix}*") == []
