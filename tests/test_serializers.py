"""Serializers: the recorded bytes, refusals that lead to the offender, encryption, the registry."""

from __future__ import annotations

import base64
import contextlib
import datetime
import decimal
import json
import re
import sys
import threading
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from django.core.serializers.json import DjangoJSONEncoder
from hypothesis import given
from hypothesis import strategies as st

from channels_redis.exceptions import ChannelsRedisError, ConfigurationError, SerializationError
from channels_redis.serializers import (
    BaseMessageSerializer,
    JSONSerializer,
    MissingSerializer,
    MsgPackSerializer,
    SerializerDoesNotExist,
    SerializersRegistry,
    registry,
)

WIRE = Path(__file__).parent / "contract" / "wire" / "upstream-4.3.0.json"
RECORDED = json.loads(WIRE.read_text(encoding="utf-8"))
PREFIX_BYTES = 12
FORMATS = ["json", "msgpack"]

texts = st.text(st.characters(codec="utf-8"), max_size=5)
messages = st.dictionaries(
    texts,
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats(allow_nan=False)
        | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=3,
)
odd_keys = st.text(max_size=2) | st.integers() | st.binary(max_size=2) | st.none() | st.just((1,))
odd_messages = st.dictionaries(
    st.text(max_size=2),
    st.recursive(
        st.none() | st.integers() | st.text(max_size=2) | st.binary(max_size=2) | st.just({1}),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(odd_keys, inner, max_size=2),
        max_leaves=6,
    ),
    max_size=2,
)


def unrecorded(value: Any) -> Any:
    """Bring bytes back that the recording holds as base64, as JSON has none."""
    if isinstance(value, dict):
        if "__b64__" in value:
            return base64.b64decode(value["__b64__"])
        return {key: unrecorded(item) for key, item in value.items()}
    return value


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def refusal(format: str, message: Any) -> str:
    with pytest.raises(SerializationError) as caught:
        registry.get_serializer(format).serialize(message)
    return str(caught.value)


@pytest.mark.parametrize("row", RECORDED["serializers"], ids=lambda row: row["format"])
def test_messages_become_the_bytes_that_4_3_0_made_and_back(row: dict[str, Any]) -> None:
    """Old and new processes write the same bytes and read each other's."""
    serializer = registry.get_serializer(row["format"])
    message, data = unrecorded(row["message"]), base64.b64decode(row["bytes_b64"])
    assert serializer.serialize(message) == data
    assert serializer.deserialize(data) == message


@pytest.mark.parametrize("row", RECORDED["encrypted"], ids=lambda row: "-".join(row["keys"]))
def test_tokens_that_4_3_0_made_are_read_whatever_their_age(row: dict[str, Any]) -> None:
    """Recorded tokens decrypt with their keys, old as they are by now."""
    keys = row["keys"]
    serializer = registry.get_serializer(row["format"], symmetric_encryption_keys=keys)
    assert serializer.deserialize(base64.b64decode(row["token_b64"])) == row["message"]


@pytest.mark.parametrize("format", FORMATS)
@given(message=messages)
def test_every_ordinary_message_survives_the_way(format: str, message: dict[str, Any]) -> None:
    """Whatever is made of JSON's types arrives as it was sent."""
    serializer = registry.get_serializer(format, random_prefix_length=PREFIX_BYTES)
    assert serializer.deserialize(serializer.serialize(message)) == message


@given(message=odd_messages)
def test_what_msgpack_sends_every_receiver_can_unpack(message: dict[str, Any]) -> None:
    """A message is refused at send, or a receiver with strict keys unpacks it: nothing between."""
    try:
        data = MsgPackSerializer().as_bytes(message)
    except SerializationError:
        return
    msgpack.unpackb(data, strict_map_key=True)


def test_random_bytes_stand_in_front_and_differ() -> None:
    """Two equal messages are two members of a queue."""
    serializer = MsgPackSerializer(random_prefix_length=PREFIX_BYTES)
    first, second = (serializer.serialize({"type": "x"}) for _ in range(2))
    assert first != second
    assert (
        first[PREFIX_BYTES:] == second[PREFIX_BYTES:] == MsgPackSerializer().as_bytes({"type": "x"})
    )


@pytest.mark.parametrize("length", [0, -1])
def test_no_random_bytes_without_a_length(length: int) -> None:
    """Zero and less mean none, in both directions."""
    serializer = JSONSerializer(random_prefix_length=length)
    assert serializer.serialize({}) == b"{}"
    assert serializer.deserialize(b"{}") == {}


def test_options_may_be_given_by_position_as_before() -> None:
    """Keys, prefix length and expiry come in the order of 4.3.0 and stay readable."""
    serializer = JSONSerializer(["key"], 3, 60)
    assert serializer.crypter is not None
    assert (serializer.random_prefix_length, serializer.expiry) == (3, 60)


@pytest.mark.parametrize(
    ("message", "path", "kind"),
    [
        ({"a": [1, 2, {"b": datetime.date(2026, 1, 1)}]}, 'message["a"][2]["b"]', "datetime.date"),
        ({"a": {"b": {1, 2}}}, 'message["a"]["b"]', "set"),
        ({"a": (0, decimal.Decimal(1))}, 'message["a"][1]', "decimal.Decimal"),
        ({"a": uuid.UUID(int=1)}, 'message["a"]', "uuid.UUID"),
        ({"a": [{(1, 2): 3}]}, 'message["a"][0] has the key', "tuple"),
        ({"a": 10**5000}, 'message["a"]', "int"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("format", FORMATS)
def test_a_refusal_names_the_path_and_the_type(
    format: str, message: Any, path: str, kind: str
) -> None:
    """Whoever sends the wrong thing is told where in the message it is, and what."""
    text = refusal(format, message)
    assert path in text
    assert kind in text


@pytest.mark.parametrize(
    ("message", "path"),
    [
        ({"a": [{5: "x"}]}, 'message["a"][0] has the key 5, an int'),
        ({"a": {None: 1}}, 'message["a"] has the key None'),
        ({1.5: 1}, "message has the key 1.5, a float"),
        ({"a": {"big": 2**64}}, 'message["a"]["big"] is an int too large'),
        ({"a": ["\ud800"]}, 'message["a"][0] is a str with lone surrogates'),
        ({"\udfff": 1}, 'message has the key "\\udfff"'),
        ({b"k": {1: 2}}, "message[b'k'] has the key 1"),
    ],
)
def test_msgpack_refuses_what_receivers_could_not_unpack(message: Any, path: str) -> None:
    """Keys that strict receivers refuse, large numbers and surrogates fail at send, by path."""
    assert path in refusal("msgpack", message)


def test_json_keeps_turning_keys_into_strings() -> None:
    """As in 4.3.0, a number, boolean or None as key arrives as a string."""
    serializer = JSONSerializer()
    sent = {"a": {1: "x", None: "y", False: "z"}}
    assert serializer.deserialize(serializer.serialize(sent)) == {
        "a": {"1": "x", "null": "y", "false": "z"}
    }


def test_msgpack_keeps_bytes_as_values_and_keys() -> None:
    """What msgpack can carry beyond JSON it still carries."""
    serializer = MsgPackSerializer()
    message = {"raw": b"\x00\xff", b"key": 1}
    assert serializer.deserialize(serializer.serialize(message)) == message


class AnyKeys(MsgPackSerializer):
    """What people register to have integer keys in messages."""

    def from_bytes(self, message: bytes) -> Any:
        return msgpack.unpackb(message, strict_map_key=False)


def test_a_subclass_that_unpacks_integer_keys_may_send_them() -> None:
    """What a message may hold is for the receivers' own ``from_bytes()`` to say."""
    serializer = AnyKeys()
    assert serializer.deserialize(serializer.serialize({"seats": {1: "x"}})) == {"seats": {1: "x"}}


class TextForDates(JSONSerializer):
    def as_bytes(self, message: Any, *args: Any, **kwargs: Any) -> bytes:
        return super().as_bytes(message, *args, cls=DjangoJSONEncoder, **kwargs)

    def from_bytes(self, message: bytes) -> Any:
        return super().from_bytes(message, parse_float=decimal.Decimal)


class TextForDatesInMsgPack(MsgPackSerializer):
    def as_bytes(self, message: Any) -> bytes:
        return super().as_bytes(message, default=str)

    def from_bytes(self, message: bytes, *args: Any, **kwargs: Any) -> Any:
        return super().from_bytes(message, *args, strict_map_key=False, **kwargs)


def test_subclasses_hand_on_options_of_the_libraries() -> None:
    """``super().as_bytes(message, cls=...)`` works as with 4.3.0, and so does ``from_bytes()``."""
    message = {"on": datetime.date(2026, 11, 25)}
    sent = TextForDates().serialize({**message, "total": 9.5})
    assert TextForDates().deserialize(sent) == {"on": "2026-11-25", "total": decimal.Decimal("9.5")}
    sent = TextForDatesInMsgPack().serialize({**message, 1: 2})
    assert TextForDatesInMsgPack().deserialize(sent) == {"on": "2026-11-25", 1: 2}


def test_a_refusal_leads_past_what_the_options_of_a_subclass_carry() -> None:
    """The path in the text is that of the value which even its encoder doesn't know."""
    message = {"on": datetime.date(2026, 11, 25), "odd": [object()]}
    with pytest.raises(SerializationError, match=r'^message\["odd"\]\[0\] is an object'):
        TextForDates().serialize(message)


@pytest.mark.parametrize("format", FORMATS)
def test_a_message_that_contains_itself_is_refused(format: str) -> None:
    """A circle has a path too, and ends in an error, not in a hang."""
    message: dict[str, Any] = {"a": [{}]}
    message["a"][0]["b"] = message["a"]
    assert refusal(format, message) == 'message["a"][0]["b"] contains itself.'


@pytest.mark.parametrize("format", FORMATS)
def test_a_message_nested_too_deep_is_refused_in_a_short_text(format: str) -> None:
    """However deep it is, the path in the text stays readable."""
    text = refusal(format, {"a": nested(100_000)})
    assert "nested too deep" in text
    assert len(text) < 200


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "message",
    [
        {"password": "s3cret", "when": datetime.date(2026, 1, 1)},
        {"text": "s3cret", "bad": {"s3cret-value"}},
        {"text": "s3cret\ud800", "bad": object()},
    ],
)
def test_a_refusal_holds_nothing_of_the_contents(format: str, message: Any) -> None:
    """Not the text, and not the errors chained to it, which logs print as well."""
    with pytest.raises(SerializationError) as caught:
        registry.get_serializer(format).serialize(message)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None


def test_a_long_key_is_cut_in_the_path() -> None:
    """A key may be contents in disguise: no more than its beginning is shown."""
    assert len(refusal("msgpack", {"k" * 10_000: object()})) < 200


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", b"\x81\xa1a", b'{"', b'{"a": 1} x', b"\xff\xfe", b"\x81\x01\x01", b"\x80\x80"],
)
def test_what_cannot_be_decoded_is_one_class_of_error(format: str, data: bytes) -> None:
    """Readers catch a single class, whatever came."""
    with pytest.raises(SerializationError) as caught:
        registry.get_serializer(format).deserialize(data)
    assert caught.value.__context__ is None


@given(data=st.binary(max_size=200))
def test_no_bytes_bring_a_reader_down(data: bytes) -> None:
    """Any bytes decode to something, or raise that one class."""
    for format in FORMATS:
        for keys in (None, ["key"]):
            serializer = registry.get_serializer(
                format, symmetric_encryption_keys=keys, random_prefix_length=PREFIX_BYTES
            )
            with contextlib.suppress(SerializationError):
                serializer.deserialize(data)


def test_a_frame_that_is_no_dict_is_left_to_the_layer() -> None:
    """Only the layer knows what a message must be."""
    assert MsgPackSerializer().deserialize(msgpack.packb([1])) == [1]
    assert JSONSerializer().deserialize(b'"text"') == "text"


class Failing(BaseMessageSerializer):
    def as_bytes(self, message: Any) -> bytes:
        return b"x"

    def from_bytes(self, message: bytes) -> Any:
        raise LookupError("of its own")


def test_errors_of_a_format_of_the_users_are_that_class_too() -> None:
    """A subclass may raise what it likes in from_bytes; the cause stays visible."""
    with pytest.raises(SerializationError, match="Failing") as caught:
        Failing().deserialize(b"x")
    assert isinstance(caught.value.__cause__, LookupError)


@pytest.mark.parametrize("format", FORMATS)
def test_the_first_key_encrypts_and_all_keys_decrypt(format: str) -> None:
    """Keys can be rotated: new first, old behind it until the last old message is read."""

    def having(*keys: str | bytes) -> Any:
        return registry.get_serializer(
            format, symmetric_encryption_keys=keys, random_prefix_length=PREFIX_BYTES
        )

    message = {"type": "x", "text": "s3cret"}
    old, rotated = having("old").serialize(message), having("new", "old").serialize(message)
    assert b"s3cret" not in old + rotated
    assert having("new", b"old").deserialize(old) == message
    assert having(b"new").deserialize(rotated) == message
    with pytest.raises(SerializationError, match="symmetric_encryption_keys"):
        having("old").deserialize(rotated)


@pytest.mark.parametrize(
    "keys", ["secret", b"secret", {"secret": 1}, iter(["secret"]), [1], [None], ["good", ""], 5]
)
def test_keys_that_are_no_list_of_keys_are_refused_by_the_name_of_the_option(keys: Any) -> None:
    """A bare string above all: each of its letters would be a key."""
    with pytest.raises(ConfigurationError, match="symmetric_encryption_keys") as caught:
        MsgPackSerializer(symmetric_encryption_keys=keys)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("keys", [None, [], ()])
def test_no_keys_mean_no_encryption(keys: Any) -> None:
    """An empty list is as good as None, as before."""
    assert JSONSerializer(symmetric_encryption_keys=keys).crypter is None


def test_missing_cryptography_is_an_error_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The option needs an extra; without the option nothing does."""
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    assert MsgPackSerializer().serialize({}) == b"\x80"
    with pytest.raises(ConfigurationError, match=r"channels-redis\[cryptography\]"):
        MsgPackSerializer(symmetric_encryption_keys=["key"])


def test_a_prefix_length_that_is_no_number_is_refused() -> None:
    """At construction, not at the first send."""
    with pytest.raises(ConfigurationError, match="random_prefix_length"):
        MsgPackSerializer(random_prefix_length="12")  # type: ignore[arg-type]  # that is the test


class Marked(BaseMessageSerializer):
    def as_bytes(self, message: Any) -> bytes:
        return b"M" + repr(message).encode()

    def from_bytes(self, message: bytes) -> Any:
        return {"type": message.decode()}


class FromNothing:
    def __init__(self, **options: Any) -> None:
        self.options = options

    def serialize(self, message: Any) -> bytes:
        return b"bytes"

    def deserialize(self, message: bytes) -> Any:
        return {}


@pytest.mark.parametrize("serializer_class", [Marked, FromNothing])
def test_any_class_with_both_methods_registers(serializer_class: type) -> None:
    """Subclasses of the base and classes of other descent alike; options reach them."""
    own = SerializersRegistry()
    own.register_serializer("own", serializer_class)
    serializer = own.get_serializer("own", symmetric_encryption_keys=None, expiry=60)
    assert isinstance(serializer, serializer_class)


def test_a_subclass_of_the_base_is_encrypted_like_the_rest() -> None:
    """It defines the format alone and finds prefix and encryption done, and its crypter."""
    serializer = Marked(symmetric_encryption_keys=["key"], random_prefix_length=PREFIX_BYTES)
    data = serializer.serialize({"a": 1})
    assert serializer.crypter is not None
    assert serializer.crypter.decrypt(data[PREFIX_BYTES:]) == b"M{'a': 1}"
    assert serializer.deserialize(data) == {"type": "M{'a': 1}"}


@pytest.mark.parametrize("thing", [object(), dict, lambda **options: None, FromNothing(), None])
def test_anything_else_is_refused_by_the_registry(thing: Any) -> None:
    """An AssertionError as before, also under ``python -O``."""
    with pytest.raises(AssertionError, match="serialize and deserialize"):
        SerializersRegistry().register_serializer("own", thing)


def test_registering_again_replaces() -> None:
    """Whoever registers another class as msgpack gets it."""
    own = SerializersRegistry()
    own.register_serializer("msgpack", MsgPackSerializer)
    own.register_serializer("msgpack", Marked)
    assert isinstance(own.get_serializer("msgpack"), Marked)


def test_an_unknown_format_is_a_key_error_that_names_the_known_ones() -> None:
    """The text reads as a sentence, though KeyError would quote it."""
    with pytest.raises(SerializerDoesNotExist) as caught:
        registry.get_serializer("yaml")
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, ChannelsRedisError)
    # Other tests may have registered more, in between.
    assert re.search(
        r"format 'yaml'\. Known formats: .*json, (.*, )?msgpack[,.]", str(caught.value)
    )


def test_a_missing_serializer_raises_what_its_import_raised() -> None:
    """A format whose library is missing says so when it is asked for, not before."""

    class MissingYaml(MissingSerializer):
        exception = ImportError("No module named 'yaml'")

    own = SerializersRegistry()
    own.register_serializer("yaml", MissingYaml)
    with pytest.raises(ImportError, match="yaml"):
        own.get_serializer("yaml", random_prefix_length=PREFIX_BYTES)
    with pytest.raises(ImportError, match="MissingSerializer"):
        MissingSerializer()


def test_one_serializer_serves_many_threads_at_once() -> None:
    """A layer is used from many threads; none sees another's bytes."""
    serializer = MsgPackSerializer(
        symmetric_encryption_keys=["key"], random_prefix_length=PREFIX_BYTES
    )
    wrong: list[Any] = []
    start = threading.Barrier(8)

    def work(number: int) -> None:
        message = {"type": "x", "items": [{"n": number, "text": str(number) * 500}] * 20}
        start.wait()
        for _ in range(30):
            if serializer.deserialize(serializer.serialize(message)) != message:
                wrong.append(number)

    run_all([lambda number=number: work(number) for number in range(8)])  # type: ignore[misc]  # mypy cannot infer the default
    assert wrong == []


def run_all(targets: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
