"""``layer.sync``: blocking calls from threads that run no event loop."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis.exceptions
from channels.exceptions import ChannelFull

from channels_redis.exceptions import (
    ConfigurationError,
    ConnectionLost,
    InvalidMessage,
    InvalidName,
    LoopRunning,
)
from channels_redis.sync import SyncFace
from channels_redis.testing.servers import RedisServer
from tests.conftest import class_of
from tests.helpers import numbered, receive, receive_numbers
from tests.proxy import Proxy

METHODS = [
    *("send", "group_send", "group_add", "group_discard"),
    *("group_channels", "group_size", "flush", "close"),
]
THREADS = 16


def test_the_face_has_the_names_and_parameters_of_the_layer(layer: Any) -> None:
    """Only ``timeout_s`` is added, so that code moves from one to the other unchanged."""
    for name in METHODS:
        blocking = inspect.signature(getattr(SyncFace, name)).parameters
        coroutine = inspect.signature(getattr(type(layer), name)).parameters
        assert list(blocking) == [*coroutine, "timeout_s"]
        assert blocking["timeout_s"].kind is inspect.Parameter.KEYWORD_ONLY


def test_every_method_does_what_the_coroutine_does(layer: Any) -> None:
    """A script without a loop sends to a consumer, a group and a worker."""

    async def consume() -> None:
        channel = await layer.new_channel()

        async def said(blocking: Callable[..., None], *arguments: Any) -> Any:
            await asyncio.to_thread(blocking, *arguments)
            return await receive(layer, channel)

        sync = layer.sync
        assert await said(sync.send, channel, numbered(1)) == numbered(1)
        await asyncio.to_thread(sync.group_add, "room", channel)
        assert await said(sync.group_send, "room", numbered(2)) == numbered(2)
        await asyncio.to_thread(sync.group_discard, "room", channel)
        await asyncio.to_thread(sync.group_send, "room", numbered(2))
        assert await said(sync.send, channel, numbered(3)) == numbered(3)
        await asyncio.to_thread(sync.send, "work", numbered(4))
        await asyncio.to_thread(sync.flush)
        await asyncio.to_thread(sync.send, "work", numbered(5))
        assert await receive(layer, "work") == numbered(5)

    asyncio.run(consume())


def test_the_face_raises_what_the_coroutine_raises(build: Callable[..., Any]) -> None:
    """Checks run before anything is sent, and what Redis answers comes through."""
    layer = build(capacity=1)
    with pytest.raises(InvalidName):
        layer.sync.send("not a name", {})
    with pytest.raises(InvalidName):
        layer.sync.group_send("not a name", {})
    with pytest.raises(InvalidMessage):
        layer.sync.group_send("room", [])
    layer.sync.send("work", {})
    with pytest.raises(ChannelFull):
        layer.sync.send("work", {})


async def test_a_blocking_call_in_a_thread_with_a_running_loop_is_an_error(
    kind: str, prefix: str
) -> None:
    """Instead of blocking everybody on the loop; nothing is connected for it."""
    layer = class_of(kind)(hosts=["redis://localhost:1"], prefix=prefix)
    for call in (
        lambda: layer.sync.send("work", {}),
        lambda: layer.sync.group_send("room", {}),
        layer.sync.flush,
        layer.sync.close,
    ):
        with pytest.raises(LoopRunning, match="await the layer's own method"):
            call()


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), "1", True])
def test_a_timeout_that_is_none_is_refused(layer: Any, timeout_s: Any) -> None:
    """A mistake in the caller does not become an endless wait, or none."""
    with pytest.raises(ConfigurationError, match="timeout_s"):
        layer.sync.send("work", {}, timeout_s=timeout_s)


def test_a_very_long_timeout_is_possible(layer: Any) -> None:
    """Longer than what locks take at once."""
    layer.sync.send("work", {}, timeout_s=1e18)


def test_a_call_to_a_hung_server_ends_within_its_timeout(
    build: Callable[..., Any], private_server: RedisServer
) -> None:
    """Every call of a pool of threads does, and says so; the same threads then go on sending,
    over the same portal.
    """
    layer = build(hosts=[private_server.url], capacity=1000)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda n: layer.sync.send("work", numbered(n)), range(THREADS)))
        threads = set(threading.enumerate())

        def hang(number: int) -> tuple[BaseException | None, float]:
            started_s = time.monotonic()
            try:
                layer.sync.send("hung", numbered(number), timeout_s=0.4)
            except redis.exceptions.ConnectionError as error:
                return error, time.monotonic() - started_s
            return None, 0.0

        private_server.freeze()
        try:
            outcomes = list(pool.map(hang, range(2 * THREADS)))
        finally:
            private_server.thaw()
        for error, waited_s in outcomes:
            assert isinstance(error, ConnectionLost)
            assert error.maybe_executed
            assert "0.4 s" in str(error)
            assert 0.4 <= waited_s < 5
        list(pool.map(lambda n: layer.sync.send("work", numbered(n)), range(THREADS)))
        assert threads <= set(threading.enumerate())
    received = asyncio.run(receive_numbers(layer, "work", 2 * THREADS))
    assert sorted(received) == sorted([*range(THREADS)] * 2)


def test_a_call_to_a_hung_server_ends_without_a_timeout_of_its_own(
    build: Callable[..., Any], private_server: RedisServer
) -> None:
    """The options of the layer bound it."""
    layer = build(hosts=[private_server.url], connect_wait_s=0.5, command_timeout_s=0.5)
    layer.sync.send("work", {})
    private_server.freeze()
    try:
        with pytest.raises(ConnectionLost):
            layer.sync.group_send("room", {})
    finally:
        private_server.thaw()


def test_the_timeout_is_for_the_whole_call(redis_url: str, prefix: str) -> None:
    """Where a serializer of the user's parts the call in two round trips, they share it."""

    class OwnSerializer(class_of("core")):  # type: ignore[misc]  # made at run time
        def serialize(self, message: Any) -> bytes:
            time.sleep(0.25)
            return bytes(super().serialize(message))

    layer = OwnSerializer(hosts=[redis_url], prefix=prefix, max_message_bytes=1000)
    layer.sync.group_add("room", "work")
    with pytest.raises(ConnectionLost, match=r"0\.3 s"):
        layer.sync.group_send("room", {}, timeout_s=0.3)
    layer.sync.close()


def test_many_threads_send_at_once_over_one_connection(
    build: Callable[..., Any], proxy: Proxy
) -> None:
    """All arrive, each once."""
    layer = build(hosts=[proxy.url], capacity=10_000)
    each = 40

    def send(thread: int) -> None:
        for number in range(each):
            layer.sync.send("work", numbered(thread * each + number))
            layer.sync.group_send("room", numbered(number))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(send, range(THREADS)))
    assert proxy.accepted == 1
    received = asyncio.run(receive_numbers(layer, "work", THREADS * each))
    assert sorted(received) == list(range(THREADS * each))


def test_messages_are_serialized_in_the_calling_thread_and_context(
    kind: str, redis_url: str, prefix: str
) -> None:
    """User code sees its own translations, time zone and database connections."""
    language = contextvars.ContextVar("language", default="none")
    seen = set()

    class Watching(class_of(kind)):  # type: ignore[misc]  # made at run time
        def serialize(self, message: Any) -> bytes:
            seen.add((threading.get_ident(), language.get()))
            return bytes(super().serialize(message))

    layer = Watching(hosts=[redis_url], prefix=prefix)
    language.set("de")
    layer.sync.group_add("room", "work") if kind == "core" else None
    layer.sync.send("work", {})
    layer.sync.group_send("room", {})
    assert seen == {(threading.get_ident(), "de")}
    layer.sync.close()


def test_the_portal_keeps_nothing_of_its_callers(layer: Any) -> None:
    """What a request has in its context variables goes when the request ends, though the
    portal's connections were first used for it.
    """
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("request")

    class Request:
        pass

    def handle() -> weakref.ref[Request]:
        request = Request()
        variable.set(request)
        layer.sync.send("work", {})
        layer.sync.group_send("room", {})
        return weakref.ref(request)

    request = contextvars.Context().run(handle)
    gc.collect()
    assert request() is None


TENANT = contextvars.ContextVar("tenant", default="nobody")


def tenant_layer(layer_class: Any, **options: Any) -> Any:
    """A layer whose groups belong to tenants, in the way projects write it."""

    class TenantLayer(layer_class):  # type: ignore[misc]  # the base is a fixture's value
        async def group_send(self, group: str, message: Any) -> None:
            await asyncio.sleep(0)
            await super().group_send(f"{TENANT.get()}.{group}", message)

        async def send(self, channel: str, message: Any) -> None:
            raise KeyError(channel)

    return TenantLayer(**options)


async def test_the_face_runs_what_a_subclass_defines(
    layer_class: Any, redis_url: str, prefix: str
) -> None:
    """Under the caller's context variables, with its errors, and with its time-outs."""
    layer = tenant_layer(layer_class, hosts=[redis_url], prefix=prefix)
    channels = {name: await layer.new_channel() for name in ("one", "other")}
    for name, channel in channels.items():
        await layer.group_add(f"{name}.room", channel)

    def say(tenant: str, **keywords: Any) -> None:
        TENANT.set(tenant)
        layer.sync.group_send("room", {"type": "to", "tenant": tenant}, **keywords)

    for name, channel in channels.items():
        for keywords in ({}, {"timeout_s": 5}):
            in_context: Any = contextvars.Context().run
            await asyncio.to_thread(in_context, say, name, **keywords)
            assert await receive(layer, channel) == {"type": "to", "tenant": name}
    with pytest.raises(KeyError, match="somewhere"):
        await asyncio.to_thread(layer.sync.send, "somewhere", {"type": "x"})
    await layer.close()


def test_the_face_runs_what_was_put_in_the_place_of_a_method(
    layer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instrumentation wraps the methods of the class, or of one object."""
    seen = []
    original = type(layer).send

    async def counted(self: Any, channel: str, message: Any) -> None:
        seen.append(channel)
        await original(self, channel, message)

    monkeypatch.setattr(type(layer), "send", counted)
    layer.sync.send("general", {"type": "x"})
    monkeypatch.undo()

    async def replaced(channel: str, message: Any) -> None:
        seen.append(f"{channel} of one object")

    monkeypatch.setattr(layer, "send", replaced)
    layer.sync.send("general", {"type": "x"})
    monkeypatch.undo()
    layer.sync.send("general", {"type": "x"})
    assert seen == ["general", "general of one object"]
    layer.sync.flush()


def test_an_overriding_method_is_bounded_too(layer_class: Any, redis_url: str, prefix: str) -> None:
    """``timeout_s`` means the same, and no event loop is blocked."""

    class Slow(layer_class):  # type: ignore[misc]  # the base is a fixture's value
        async def group_send(self, group: str, message: Any) -> None:
            await asyncio.sleep(60)

    layer = Slow(hosts=[redis_url], prefix=prefix)
    with pytest.raises(ConnectionLost, match=r"within 0.05 s"):
        layer.sync.group_send("g", {"type": "x"}, timeout_s=0.05)

    async def in_a_loop() -> None:
        with pytest.raises(LoopRunning):
            layer.sync.group_send("g", {"type": "x"})

    asyncio.run(in_a_loop())
