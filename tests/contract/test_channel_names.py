"""Channel and group names: how new ones look, which are refused and where."""

from __future__ import annotations

import asyncio
import inspect
import random
import re
from typing import Any

import asgiref.sync
import pytest

from tests.helpers import bounded

COROUTINES = (
    "send",
    "receive",
    "new_channel",
    "group_add",
    "group_discard",
    "group_send",
    "flush",
)
BAD_NAMES = [
    "",
    "two words",
    "x" * 101,
    "snow☃man",
    "semi;colon",
    "a!b!c",
    "new\nline",
    b"bytes",
    1,
    None,
]
SAY = {"type": "x"}


@pytest.mark.parametrize("name", COROUTINES)
def test_the_methods_are_coroutine_functions(kind: str, make_layer: Any, name: str) -> None:
    """Frameworks ask ``iscoroutinefunction`` before they await or wrap a method."""
    method = getattr(make_layer(kind), name)
    assert asgiref.sync.iscoroutinefunction(method)
    assert inspect.iscoroutinefunction(method)


async def test_core_names_new_channels_by_its_client_prefix(make_layer: Any) -> None:
    """``<prefix>.<client prefix>!<32 hex>``: everything before the ``!`` is this process."""
    layer = make_layer("core")
    assert re.fullmatch(
        rf"specific\.{layer.client_prefix}![0-9a-f]{{32}}", await layer.new_channel()
    )
    assert re.fullmatch(
        rf"chat\.{layer.client_prefix}![0-9a-f]{{32}}", await layer.new_channel("chat")
    )


async def test_pubsub_names_new_channels_by_its_prefix(make_layer: Any, prefix: str) -> None:
    """``<layer prefix><prefix><32 hex>`` and no ``!``."""
    layer = make_layer("pubsub")
    assert re.fullmatch(rf"{prefix}specific\.[0-9a-f]{{32}}", await layer.new_channel())
    assert re.fullmatch(rf"{prefix}chat[0-9a-f]{{32}}", await layer.new_channel("chat"))


async def test_new_channel_takes_its_prefix_by_name(kind: str, make_layer: Any) -> None:
    """``new_channel(prefix=...)`` is how Channels' documentation writes it."""
    assert "chat" in await make_layer(kind).new_channel(prefix="chat")


async def test_new_channels_are_not_drawn_from_the_global_generator(
    kind: str, make_layer: Any
) -> None:
    """A project that seeds ``random`` gets no channel twice, and its sequence is not disturbed."""
    layer = make_layer(kind)
    random.seed(1)
    first, state = await layer.new_channel(), random.getstate()
    random.seed(1)
    assert random.getstate() == state
    assert await layer.new_channel() != first


async def test_new_channels_never_repeat(kind: str, make_layer: Any) -> None:
    """Every consumer has a channel of its own."""
    layer = make_layer(kind)
    names = await asyncio.gather(*(layer.new_channel() for _ in range(100)))
    assert len(set(names)) == 100


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: repr(name)[:20])
async def test_a_bad_channel_name_is_a_type_error(kind: str, make_layer: Any, name: Any) -> None:
    """``send``, ``receive`` and both group calls refuse it before anything is sent."""
    layer = make_layer(kind)
    for method, arguments in (
        (layer.send, (name, SAY)),
        (layer.receive, (name,)),
        (layer.group_add, ("group", name)),
        (layer.group_discard, ("group", name)),
    ):
        with pytest.raises(TypeError, match="(?i)channel name"):
            await bounded(method(*arguments))


@pytest.mark.parametrize("name", [*BAD_NAMES, "local!part"], ids=lambda name: repr(name)[:20])
async def test_a_bad_group_name_is_a_type_error(kind: str, make_layer: Any, name: Any) -> None:
    """All three group calls refuse it before anything is sent."""
    layer = make_layer(kind)
    channel = await layer.new_channel()
    for method, arguments in (
        (layer.group_add, (name, channel)),
        (layer.group_discard, (name, channel)),
        (layer.group_send, (name, SAY)),
    ):
        with pytest.raises(TypeError, match="(?i)group name"):
            await bounded(method(*arguments))


@pytest.mark.parametrize("prefix", ["two words", "a!", "snow☃", "x" * 100, 1])
async def test_new_channel_refuses_a_prefix_that_makes_no_legal_name(
    kind: str, make_layer: Any, prefix: Any
) -> None:
    """The error comes where the mistake is, not at the first ``send``."""
    with pytest.raises(TypeError):
        await bounded(make_layer(kind).new_channel(prefix))


async def test_names_of_legal_length_and_letters_pass(kind: str, make_layer: Any) -> None:
    """ASCII letters, digits, hyphens, underscores and periods, up to 99 of them."""
    layer = make_layer(kind)
    for name in ("a", "Room_1-b.c", "x" * 99):
        await layer.send(name, SAY)
        assert await bounded(layer.receive(name)) == SAY
        await layer.group_send(name, SAY)


async def test_core_receive_of_a_channel_of_another_process_is_refused(make_layer: Any) -> None:
    """Only its own process may read a ``!`` name: ``AssertionError``, as ever."""
    foreign = await make_layer("core").new_channel()
    with pytest.raises(AssertionError):
        await bounded(make_layer("core").receive(foreign))


@pytest.mark.parametrize("layer_prefix", ["my:site/{asgi} ü", "long-" * 12])
async def test_any_prefix_of_the_layer_makes_working_channels(
    kind: str, make_layer: Any, prefix: str, layer_prefix: str
) -> None:
    """The naming rules are for the caller's part of a name, not for the ``prefix`` option."""
    layer = make_layer(kind, prefix=prefix + layer_prefix)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.send(channel, SAY)
    assert await bounded(layer.receive(channel)) == SAY
    await layer.group_send("room", SAY)
    assert await bounded(layer.receive(channel)) == SAY
