"""Wrong options, hosts and messages: an error at once that names the place and what is right."""

from __future__ import annotations

import logging
from decimal import Decimal
from typing import Any

import pytest
import redis.exceptions

from channels_redis.exceptions import (
    ChannelsRedisError,
    ConfigurationError,
    InvalidMessage,
    SerializationError,
)
from channels_redis.testing.servers import RedisServer
from tests.helpers import bounded, receive, until_connected

SECRET = "correct-horse-battery-staple"
WRONG_OPTIONS: list[tuple[str, Any]] = [
    ("prefix", 5),
    ("prefix", None),
    ("prefix", b"asgi"),
    ("expiry", 0),
    ("expiry", -1),
    ("expiry", "60"),
    ("expiry", None),
    ("expiry", float("nan")),
    ("expiry", float("inf")),
    ("expiry", True),
    ("group_expiry", 0),
    ("group_expiry", "a day"),
    ("group_expiry", None),
    ("capacity", 0),
    ("capacity", -5),
    ("capacity", "100"),
    ("capacity", 1.5),
    ("capacity", None),
    ("channel_capacity", ["chat.*"]),
    ("channel_capacity", "chat.*"),
    ("channel_capacity", {"chat.*": "5"}),
    ("channel_capacity", {"chat.*": 0}),
    ("channel_capacity", {"chat.*": None}),
    ("channel_capacity", {5: 5}),
    ("symmetric_encryption_keys", "a string"),
    ("symmetric_encryption_keys", b"bytes"),
    ("symmetric_encryption_keys", 5),
    ("symmetric_encryption_keys", [5]),
    ("symmetric_encryption_keys", ["good", None]),
    ("symmetric_encryption_keys", [""]),
    ("random_prefix_length", "12"),
    ("random_prefix_length", None),
    ("random_prefix_length", 1.5),
    ("random_prefix_length", 10**6),
    ("serializer_default", "../.."),
    ("on_disconnect", 5),
    ("on_disconnect", ""),
    ("on_reconnect", b"redis.reconnect"),
    ("max_message_bytes", 0),
    ("max_message_bytes", "1 MB"),
    ("connect_wait_s", -1),
    ("connect_wait_s", "3"),
    ("command_timeout_s", 0),
    ("command_timeout_s", "10"),
]
WRONG_HOSTS: list[tuple[Any, str]] = [
    (5, "hosts"),
    ("localhost", "list"),
    ({"host": "localhost"}, "list"),
    ([5], r"hosts\[0\]"),
    (["redis://ok", ("localhost",)], r"hosts\[1\].*\(host, port\)"),
    ([("localhost", "port")], r"hosts\[0\].*port"),
    ([("localhost", 0)], r"hosts\[0\].*port"),
    ([("localhost", 70000)], r"hosts\[0\].*port"),
    ([(5, 6379)], r"hosts\[0\].*host"),
    (["localhost:6379"], r"hosts\[0\].*redis://"),
    (["http://localhost"], r"hosts\[0\].*redis://"),
    (["redis://localhost:port"], r"hosts\[0\].*port"),
    (["redis://localhost/db"], r"hosts\[0\].*db"),
    ([{"address": 5}], r"hosts\[0\].*URL"),
    ([{"address": "memcached://h"}], r"hosts\[0\].*redis://"),
    ([{"host": "h", "prot": 6379}], r"hosts\[0\].*'?prot'?(.|\n)*port"),
    ([{"address": "redis://h", "passwort": "x"}], r"hosts\[0\].*passwort(.|\n)*password"),
    ([{"host": "h", "decode_responses": True}], r"hosts\[0\].*decode_responses"),
    (["redis://h?decode_responses=true"], r"hosts\[0\].*decode_responses"),
    ([{"address": "redis://h?decode_responses=1"}], r"hosts\[0\].*decode_responses"),
    ([{"sentinels": [("h", 1)]}], r"hosts\[0\].*master_name"),
    ([{"master_name": "main"}], r"hosts\[0\].*sentinels"),
    ([{"sentinels": [], "master_name": "main"}], r"hosts\[0\].*sentinels"),
    ([{"sentinels": "h:1", "master_name": "main"}], r"hosts\[0\].*sentinels"),
    ([{"sentinels": [("h",)], "master_name": "main"}], r"hosts\[0\].*\(host, port\)"),
    (
        [{"sentinels": [("h", 1)], "master_name": "main", "sentinel_kwargs": "x"}],
        r"hosts\[0\].*sentinel_kwargs",
    ),
    ([{"path": "/run/redis.sock", "ssl": True}], r"hosts\[0\].*(Unix|path)"),
    ([{"path": "/run/redis.sock", "host": "h"}], r"hosts\[0\].*(Unix|path)"),
]


@pytest.mark.parametrize(("option", "value"), WRONG_OPTIONS, ids=lambda value: repr(value)[:40])
def test_a_wrong_option_is_refused_by_its_name(layer_class: Any, option: str, value: Any) -> None:
    """``ConfigurationError`` at construction, a ``ValueError`` and a ``TypeError`` in one."""
    with pytest.raises(ConfigurationError, match=option) as raised:
        layer_class(**{option: value})
    assert isinstance(raised.value, ValueError)
    assert isinstance(raised.value, TypeError)
    assert isinstance(raised.value, ChannelsRedisError)


@pytest.mark.parametrize(("hosts", "says"), WRONG_HOSTS, ids=lambda value: repr(value)[:60])
def test_a_wrong_host_entry_is_refused_by_its_place(
    layer_class: Any, hosts: Any, says: str
) -> None:
    """``ConfigurationError`` at construction; the text says which entry and what is right."""
    with pytest.raises(ConfigurationError, match=says):
        layer_class(hosts=hosts)


@pytest.mark.parametrize("option", ["hosts", "prefix", "capacity", "channel_capacity"])
def test_an_option_may_not_be_given_twice(layer_class: Any, option: str) -> None:
    """By position and by name at once is Python's own ``TypeError``."""
    with pytest.raises(TypeError):
        layer_class([], "a", 60, 86400, 100, None, **{option: None})


@pytest.mark.parametrize("message", [None, 5, [1], ("type", "x"), b"bytes"], ids=repr)
async def test_a_message_that_is_no_dict_is_refused(layer: Any, message: Any) -> None:
    """``AssertionError`` as ever, on every way a message can take."""
    channel = await layer.new_channel()
    for send, to in ((layer.send, channel), (layer.send, "tasks"), (layer.group_send, "room")):
        with pytest.raises(AssertionError, match="dict") as raised:
            await bounded(send(to, message))
        assert isinstance(raised.value, InvalidMessage)


async def test_a_string_is_no_message_for_a_consumer(layer: Any, kind: str) -> None:
    """Only pubsub lets it pass, and only on a general channel."""
    channel = await layer.new_channel()
    with pytest.raises(AssertionError, match="dict"):
        await bounded(layer.send(channel, "text"))
    if kind == "core":
        with pytest.raises(AssertionError, match="dict"):
            await bounded(layer.send("tasks", "text"))


@pytest.mark.parametrize("key", ["__asgi_channel__"])
async def test_a_reserved_key_is_refused(layer: Any, key: str) -> None:
    """``AssertionError`` that names the key, on every way a message can take."""
    channel = await layer.new_channel()
    for send, to in ((layer.send, channel), (layer.send, "tasks"), (layer.group_send, "room")):
        with pytest.raises(AssertionError, match=key):
            await bounded(send(to, {"type": "x", key: "y"}))


@pytest.mark.parametrize(
    ("message", "path"),
    [
        ({"type": "x", "when": {"object": object()}}, "when.*object"),
        ({"type": "x", "list": [1, {"price": Decimal(1)}]}, "list.*1.*price"),
        ({"type": "x", "members": {1, 2}}, "members"),
        ({"type": "x", "by_id": {1: "a"}}, "by_id"),
    ],
    ids=["object", "Decimal", "set", "integer key"],
)
async def test_what_cannot_travel_is_refused_with_its_path(
    layer: Any, message: Any, path: str
) -> None:
    """``SerializationError``, a ``TypeError`` and ``ValueError``; the receivers never know."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    for send, to in ((layer.send, channel), (layer.send, "tasks"), (layer.group_send, "room")):
        with pytest.raises(SerializationError, match=path) as raised:
            await bounded(send(to, message))
        assert isinstance(raised.value, TypeError)
        assert isinstance(raised.value, ValueError)
    await layer.send(channel, {"type": "next"})
    assert await receive(layer, channel) == {"type": "next"}


async def test_refused_messages_do_not_quote_their_contents(layer: Any) -> None:
    """Messages may be confidential: errors name keys and types, not values."""
    channel = await layer.new_channel()
    reserved = {"text": SECRET, "__asgi_channel__": SECRET}
    for message in ({"type": SECRET, "bad": object()}, reserved):
        with pytest.raises((TypeError, AssertionError)) as raised:
            await bounded(layer.send(channel, message))
        assert SECRET not in str(raised.value)


# Passwords


def secret_hosts(port: int) -> list[Any]:
    """One password in every form in which an entry can hold one."""
    return [
        f"redis://user:{SECRET}@127.0.0.1:{port}/0",
        f"redis://127.0.0.1:{port}?password={SECRET}",
        {"address": f"redis://:{SECRET}@127.0.0.1:{port}"},
        {"host": "127.0.0.1", "port": port, "username": "user", "password": SECRET},
        {
            "sentinels": [("127.0.0.1", port)],
            "master_name": "main",
            "password": SECRET,
            "sentinel_kwargs": {"password": SECRET},
        },
    ]


@pytest.mark.parametrize("form", range(5))
def test_printing_a_layer_shows_no_password(layer_class: Any, form: int) -> None:
    """``repr``, ``str`` and formatting show hosts and ports, and no secret."""
    host = secret_hosts(6379)[form]
    layer = layer_class(hosts=[host], symmetric_encryption_keys=[SECRET])
    for text in (repr(layer), str(layer), f"{layer}", f"{layer!r}"):
        assert SECRET not in text
        assert "127.0.0.1:6379" in text


@pytest.mark.parametrize(
    "entry",
    [
        f"redis://user:{SECRET}@host:port",
        f"http://user:{SECRET}@host",
        f"user:{SECRET}@host:6379",
        f"redis://user:{SECRET}@host?decode_responses=1",
        (f"user:{SECRET}@host", 6379),
        {"address": f"redis://user:{SECRET}@host", "decode_responses": True},
        {"host": "h", "password": SECRET, "prot": 1},
        {"host": 5, "password": SECRET},
        {"sentinels": [("h", 1)], "password": SECRET},
    ],
    ids=lambda entry: repr(entry).replace(SECRET, "...")[:50],
)
def test_the_error_about_a_host_shows_no_password(layer_class: Any, entry: Any) -> None:
    """A wrong entry is described by its place."""
    with pytest.raises(ConfigurationError) as raised:
        layer_class(hosts=[entry])
    shown = [str(raised.value), repr(raised.value)]
    cause = raised.value.__cause__ or raised.value.__context__
    if cause is not None and not raised.value.__suppress_context__:
        shown.append(repr(cause))
    assert [text for text in shown if SECRET in text] == []


@pytest.mark.parametrize("keys", [SECRET, [SECRET, 5]])
def test_the_error_about_keys_shows_no_key(layer_class: Any, keys: Any) -> None:
    """An encryption key is a secret like a password."""
    with pytest.raises(ConfigurationError) as raised:
        layer_class(symmetric_encryption_keys=keys)
    assert SECRET not in str(raised.value)


async def fail_to_send(layer: Any) -> str:
    """All that the errors of a layer that can't reach its server say."""
    said = []
    for call, arguments in (
        (layer.send, ("tasks", {"type": "x"})),
        (layer.group_send, ("room", {"type": "x"})),
    ):
        with pytest.raises((redis.exceptions.ConnectionError, ConfigurationError)) as raised:
            await bounded(call(*arguments))
        error: BaseException | None = raised.value
        while error is not None:
            said.append(f"{error!r} {error}")
            error = error.__cause__ or error.__context__
    return "\n".join(said)


@pytest.mark.parametrize("form", range(5))
async def test_an_unreachable_server_shows_no_password(
    kind: str, make_layer: Any, form: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody listens: neither the errors nor any log record holds the secret."""
    caplog.set_level(logging.DEBUG)
    with RedisServer() as server:
        port = server.port
    layer = make_layer(kind, hosts=[secret_hosts(port)[form]], connect_wait_s=0.2)
    assert SECRET not in await fail_to_send(layer)
    assert SECRET not in caplog.text


@pytest.mark.parametrize("form", range(4))
async def test_a_refused_password_is_not_shown(
    kind: str, make_layer: Any, form: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The server says no: ``ConfigurationError`` with the host and without the secret."""
    caplog.set_level(logging.DEBUG)
    with RedisServer(config={"requirepass": "another-one"}) as server:
        layer = make_layer(kind, hosts=[secret_hosts(server.port)[form]], connect_wait_s=2)
        with pytest.raises(ConfigurationError, match=str(server.port)) as raised:
            await bounded(layer.send("tasks", {"type": "x"}))
        assert SECRET not in f"{raised.value!r} {raised.value}"
        assert SECRET not in caplog.text


async def test_a_wrong_sentinel_name_is_a_clear_error(
    kind: str, make_layer: Any, sentinel_set: Any
) -> None:
    """``ConfigurationError`` that names the master, at the first use."""
    entry = {**sentinel_set.host_entry(), "master_name": "no-such-primary"}
    layer = make_layer(kind, hosts=[entry], connect_wait_s=2)
    with pytest.raises(ConfigurationError, match="no-such-primary"):
        await bounded(layer.send("tasks", {"type": "x"}))


async def test_servers_that_are_no_sentinels_are_told_apart_from_old_ones(
    kind: str, make_layer: Any, private_server: RedisServer
) -> None:
    """``ConfigurationError`` that names the keyword to correct, not the version of Redis."""
    entry = {"sentinels": [private_server.address], "master_name": "main"}
    layer = make_layer(kind, hosts=[entry], connect_wait_s=2)
    with pytest.raises(ConfigurationError, match="'sentinels' must list Sentinels"):
        await bounded(layer.send("tasks", {"type": "x"}))


async def test_a_server_that_was_never_reached_is_an_error_that_says_what_to_check(
    kind: str, make_layer: Any, private_server: RedisServer
) -> None:
    """Until something has worked, it may be the entry that is wrong; later, it is an outage."""
    port = private_server.port
    private_server.stop()
    layer = make_layer(kind, hosts=[private_server.url], connect_wait_s=0.2)
    with pytest.raises(redis.exceptions.ConnectionError, match=f"{port}.*check that it is running"):
        await bounded(layer.send("tasks", {"type": "x"}))
    private_server.start()
    await until_connected(lambda: layer.send("tasks", {"type": "x"}))
    private_server.stop()
    with pytest.raises(redis.exceptions.ConnectionError, match=str(port)) as raised:
        await bounded(layer.send("tasks", {"type": "x"}))
    assert "check" not in str(raised.value)
