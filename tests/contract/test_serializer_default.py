"""The option ``serializer_default``: dates, ``Decimal``, sets and what else no format carries."""

from __future__ import annotations

import asyncio
import datetime
import threading
import uuid
from decimal import Decimal
from typing import Any

import pytest
from django.utils.functional import lazystr

from channels_redis.exceptions import ConfigurationError, SerializationError
from channels_redis.serializers import BaseMessageSerializer, encode_default, registry
from tests.helpers import receive

NOON = datetime.datetime(2026, 11, 25, 12, 0, 0, 123456, tzinfo=datetime.timezone.utc)
FEW_HOURS = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
ID = uuid.UUID("12345678123456781234567812345678")

# A value, what it comes back as, and how to make the value of that.
CARRIED: list[tuple[Any, Any, Any]] = [
    (NOON, "2026-11-25T12:00:00.123456+00:00", datetime.datetime.fromisoformat),
    (NOON.replace(tzinfo=None), "2026-11-25T12:00:00.123456", datetime.datetime.fromisoformat),
    (
        NOON.replace(tzinfo=FEW_HOURS, microsecond=0),
        "2026-11-25T12:00:00+05:30",
        datetime.datetime.fromisoformat,
    ),
    (NOON.date(), "2026-11-25", datetime.date.fromisoformat),
    (NOON.time(), "12:00:00.123456", datetime.time.fromisoformat),
    (datetime.timedelta(days=1, seconds=1.5), 86401.5, lambda s: datetime.timedelta(seconds=s)),
    (Decimal("10.10"), "10.10", Decimal),
    (ID, str(ID), uuid.UUID),
    (lazystr("hello"), "hello", str),
    ({7}, [7], set),
    (frozenset({ID}), [str(ID)], lambda ids: frozenset(map(uuid.UUID, ids))),
]


@pytest.mark.parametrize("format", ["msgpack", "json"])
async def test_what_is_carried_comes_back_as_documented(build: Any, format: str) -> None:
    """Direct, through a group and from code without a loop, at any depth."""
    layer = build(serializer_format=format, serializer_default=True)
    message = {"type": "x", "values": [value for value, _, _ in CARRIED], "deep": {"when": NOON}}
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.send(channel, message)
    await layer.group_send("room", message)
    await asyncio.to_thread(layer.sync.group_send, "room", message)
    await layer.send("work", message)
    for source in [channel, channel, channel, "work"]:
        got = await receive(layer, source)
        assert got["values"] == [plain for _, plain, _ in CARRIED]
        assert got["deep"] == {"when": NOON.isoformat()}
        back = [make(plain) for (_, _, make), plain in zip(CARRIED, got["values"], strict=True)]
        assert back == [value for value, _, _ in CARRIED]


@pytest.mark.parametrize("format", ["msgpack", "json"])
@pytest.mark.parametrize("off", [None, False])
async def test_without_the_option_the_error_leads_to_the_place(
    layer_class: Any, format: str, off: Any
) -> None:
    """Nothing is turned into something else unasked, and the error tells how to ask."""
    layer = layer_class(serializer_format=format, serializer_default=off)
    place, hint = r'^message\["a"\]\[1\] is a', "unless the option serializer_default is True"
    for value, _, _ in CARRIED:
        with pytest.raises(SerializationError, match=f"{place}.*{hint}"):
            layer.serialize({"type": "x", "a": [1, value]})
    with pytest.raises(SerializationError, match=place) as raised:
        layer.serialize({"type": "x", "a": [1, object()]})
    assert hint not in str(raised.value)


@pytest.mark.parametrize("format", ["msgpack", "json"])
@pytest.mark.parametrize(
    ("value", "place"),
    [
        (object(), r'message\["a"\] is an object, a type'),
        ({object()}, r'message\["a"\]\[0\] is an object, a type'),
        ([{1}, {"b": {object()}}], r'message\["a"\]\[1\]\["b"\]\[0\] is an object, a type'),
    ],
    ids=["object", "in a set", "deep in a set"],
)
async def test_what_the_hook_does_not_know_is_refused_with_its_place(
    layer_class: Any, format: str, value: Any, place: str
) -> None:
    """Also inside of what the hook has turned into a list."""
    layer = layer_class(serializer_format=format, serializer_default=True)
    with pytest.raises(SerializationError, match=place):
        layer.serialize({"type": "x", "when": NOON, "a": value})


class Money:
    """A class of the user's."""

    def __init__(self, amount: str) -> None:
        self.amount = Decimal(amount)


def money_or_default(value: Any) -> Any:
    """A hook of the user's, on top of the layer's."""
    if isinstance(value, Money):
        return {"amount": value.amount}
    return encode_default(value)


@pytest.mark.parametrize("format", ["msgpack", "json"])
@pytest.mark.parametrize("hook", [money_or_default, f"{__name__}.money_or_default"])
async def test_a_hook_of_the_users_is_a_function_or_its_dotted_path(
    layer_class: Any, format: str, hook: Any
) -> None:
    """What it returns may again need the hook."""
    layer = layer_class(serializer_format=format, serializer_default=hook)
    data = layer.serialize({"type": "x", "price": Money("1.50"), "when": NOON})
    assert layer.deserialize(data) == {
        "type": "x",
        "price": {"amount": "1.50"},
        "when": NOON.isoformat(),
    }


@pytest.mark.parametrize("format", ["msgpack", "json"])
async def test_errors_of_a_hook_are_the_callers(layer_class: Any, format: str) -> None:
    """A bug in it is not taken for a value that can't be carried."""

    def broken(value: Any) -> Any:
        raise LookupError("a bug")

    layer = layer_class(serializer_format=format, serializer_default=broken)
    with pytest.raises(LookupError, match="a bug"):
        layer.serialize({"type": "x", "a": object()})


@pytest.mark.parametrize("format", ["msgpack", "json"])
async def test_a_hook_that_never_ends_is_a_refusal(layer_class: Any, format: str) -> None:
    """One that returns what it was given does not hang its caller."""
    layer = layer_class(serializer_format=format, serializer_default=lambda value: value)
    with pytest.raises(SerializationError):
        layer.serialize({"type": "x", "a": object()})


async def test_a_hook_runs_where_the_user_called(build: Any) -> None:
    """It sees the caller's thread, as lazy strings need the caller's language."""
    seen = []

    def hook(value: Any) -> Any:
        seen.append(threading.get_ident())
        return encode_default(value)

    layer = build(serializer_default=hook)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)

    def from_a_thread() -> int:
        layer.sync.group_send("room", {"type": "x", "when": NOON})
        layer.sync.send(channel, {"type": "x", "when": NOON})
        return threading.get_ident()

    thread = await asyncio.to_thread(from_a_thread)
    for _ in range(2):
        assert await receive(layer, channel) == {"type": "x", "when": NOON.isoformat()}
    assert set(seen) == {thread}


@pytest.mark.parametrize("wrong", [5, "nowhere.to.be.found", "json", "os.sep", ["a"]])
async def test_what_is_no_hook_is_refused_by_the_name_of_the_option(
    layer_class: Any, wrong: Any
) -> None:
    """At construction, as all options are."""
    with pytest.raises(ConfigurationError, match="serializer_default"):
        layer_class(serializer_default=wrong)


class TextOnly:
    """A serializer of another family, which knows no hook."""

    def __init__(self, symmetric_encryption_keys: Any = None, **options: Any) -> None:
        if "default" in options:
            raise TypeError("unexpected keyword argument 'default'")

    def serialize(self, message: Any) -> bytes:
        return b""

    def deserialize(self, message: bytes) -> Any:
        return {}


class Shouting(BaseMessageSerializer):
    """A format of the user's, which asks the hook by itself."""

    def as_bytes(self, message: Any) -> bytes:
        assert self.default is not None
        return str(self.default(message["value"])).upper().encode()

    def from_bytes(self, message: bytes) -> Any:
        return {"value": message.decode()}


async def test_formats_of_the_users_get_the_hook_or_say_that_they_take_none(
    layer_class: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base class keeps it as ``self.default``; nobody gets it who did not ask for it."""
    monkeypatch.setitem(registry._classes, "text", TextOnly)
    monkeypatch.setitem(registry._classes, "shout", Shouting)
    layer_class(serializer_format="text")
    with pytest.raises(ConfigurationError, match="serializer_default.*'text'"):
        layer_class(serializer_format="text", serializer_default=True)
    layer = layer_class(serializer_format="shout", serializer_default=True)
    assert b"2026-11-25T12" in layer.serialize({"value": NOON})
