"""What a broadcast handler may return, how often it is called, and what its failures cost."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    JsonWebsocketConsumer,
)

from channels_redis._broadcast import frames
from channels_redis.consumers import BroadcastMixin, broadcast
from tests.broadcast.client import Client
from tests.helpers import wait_for


class Scores(BroadcastMixin, AsyncJsonWebsocketConsumer):
    """Counts how often its broadcast handler is called."""

    groups: ClassVar[list[str]] = ["scores"]
    calls: ClassVar[list[Any]] = []

    @broadcast
    def score_update(cls, message: dict[str, Any]) -> dict[str, Any]:
        cls.calls.append(message)
        return {"score": message["score"]}

    async def score_note(self, message: dict[str, Any]) -> None:
        await self.send_json({"note": message["text"]})


class SyncScores(BroadcastMixin, JsonWebsocketConsumer):
    """The same in the sync family."""

    groups: ClassVar[list[str]] = ["scores"]
    calls: ClassVar[list[Any]] = []

    @broadcast
    def score_update(cls, message: dict[str, Any]) -> dict[str, Any]:
        cls.calls.append(message)
        return {"score": message["score"]}

    def score_note(self, message: dict[str, Any]) -> None:
        self.send_json({"note": message["text"]})


FAMILIES = [Scores, SyncScores]
MARKER = {"type": "score.note", "text": "end"}


@pytest.fixture(autouse=True)
def fresh_counts() -> None:
    Scores.calls.clear()
    SyncScores.calls.clear()


async def all_contents(clients: list[Client], layer: Any) -> list[list[Any]]:
    """Return what each client has before a marker."""
    await layer.group_send("scores", MARKER)
    for one in clients:
        await one.heard({"note": "end"})
    return [one.contents[:-1] for one in clients]


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_broadcast_is_sent_to_all(
    any_layer: Any, join: Callable[..., Any], family: Any
) -> None:
    """With every channel layer."""
    clients = await join(family, 5)
    await any_layer.group_send("scores", {"type": "score.update", "score": 1})
    await any_layer.group_send("scores", {"type": "score.update", "score": 2})
    assert await all_contents(clients, any_layer) == [[{"score": 1}, {"score": 2}]] * 5


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_broadcast_is_made_once(layer: Any, join: Callable[..., Any], family: Any) -> None:
    """One call per process and message, whatever the number of members."""
    clients = await join(family, 5)
    await layer.group_send("scores", {"type": "score.update", "score": 1})
    await layer.group_send("scores", {"type": "score.update", "score": 2})
    await all_contents(clients, layer)
    assert [call["score"] for call in family.calls] == [1, 2]


async def test_each_class_makes_its_own_frame(layer: Any, join: Callable[..., Any]) -> None:
    """Classes in one group share no frames, and a subclass may build on its parent's."""

    class Louder(Scores):
        @broadcast
        def score_update(cls, message: dict[str, Any]) -> dict[str, Any]:
            return {**super().score_update(message), "loud": True}

    clients = [*await join(Scores, 2), *await join(Louder, 2)]
    await layer.group_send("scores", {"type": "score.update", "score": 1})
    plain, loud = [{"score": 1}], [{"score": 1, "loud": True}]
    assert await all_contents(clients, layer) == [plain, plain, loud, loud]
    assert len(Scores.calls) == 2


async def test_the_type_of_the_content_is_that_of_the_frame(
    layer: Any, join: Callable[..., Any]
) -> None:
    """str is a text frame, bytes a binary one, None is nothing."""

    class Raw(BroadcastMixin, AsyncWebsocketConsumer):
        groups: ClassVar[list[str]] = ["scores"]

        @broadcast
        def score_raw(cls, message: dict[str, Any]) -> str | bytes | None:
            answers: dict[str, str | bytes] = {"text": "text", "bytes": b"bytes"}
            return answers.get(message["as"])

    (client,) = await join(Raw)
    for kind in ("text", "nothing", "bytes"):
        await layer.group_send("scores", {"type": "score.raw", "as": kind})
    await wait_for(lambda: len(client.frames) == 2)
    assert client.sent[1:] == [
        {"type": "websocket.send", "text": "text"},
        {"type": "websocket.send", "bytes": b"bytes"},
    ]


async def test_the_encoder_of_the_class_is_used(layer: Any, join: Callable[..., Any]) -> None:
    """encode_json() may be overridden, as a plain classmethod or a coroutine function."""

    class Plain(Scores):
        @classmethod
        def encode_json(cls, content: Any) -> str:
            return json.dumps([cls.__name__, content])

    class Waiting(Scores):
        encodings: ClassVar[list[Any]] = []

        @classmethod
        async def encode_json(cls, content: Any) -> str:
            cls.encodings.append(content)
            await asyncio.sleep(0)
            return json.dumps([cls.__name__, content])

    plain, waiting = await join(Plain, 2), await join(Waiting, 2)
    await layer.group_send("scores", {"type": "score.update", "score": 1})
    await wait_for(lambda: all(one.frames for one in [*plain, *waiting]))
    assert [one.contents for one in plain] == [[["Plain", {"score": 1}]]] * 2
    assert [one.contents for one in waiting] == [[["Waiting", {"score": 1}]]] * 2
    assert len(Waiting.encodings) == 1


async def test_nothing_overtakes_a_frame_that_is_being_encoded(
    layer: Any, join: Callable[..., Any]
) -> None:
    """While an encode_json() waits, what comes after its broadcast waits too."""
    gate = asyncio.Event()

    class Waiting(Scores):
        @classmethod
        async def encode_json(cls, content: Any) -> str:
            if "score" in content:
                await gate.wait()
            return json.dumps(content)

    clients = await join(Waiting, 3)
    await layer.group_send("scores", {"type": "score.update", "score": 1})
    await layer.group_send("scores", MARKER)
    await wait_for(lambda: Scores.calls)
    gate.set()
    for one in clients:
        await one.heard({"note": "end"})
        assert one.contents == [{"score": 1}, {"note": "end"}]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("broken", ["handler", "encoder"])
async def test_a_handler_that_raises_ends_no_consumer(
    any_layer: Any,
    join: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    family: Any,
    broken: str,
) -> None:
    """It is logged once in a while, with its traceback, and everybody goes on."""

    class Broken(family):
        @broadcast
        def score_update(cls, message: dict[str, Any]) -> Any:
            if broken == "handler":
                raise LookupError("of the test")
            return object()

    clients = await join(Broken, 3)
    with caplog.at_level(logging.ERROR, "channels_redis.consumers"):
        for _ in range(3):
            await any_layer.group_send("scores", {"type": "score.update"})
        assert await all_contents(clients, any_layer) == [[]] * 3
    (record,) = caplog.records
    assert "Broken.score_update() failed" in record.getMessage()
    assert record.exc_info is not None and record.exc_info[0] in (LookupError, TypeError)


async def test_failures_are_logged_again_with_their_number(
    layer: Any,
    join: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each interval has its record, which says how many there were."""

    class Broken(Scores):
        @broadcast
        def score_update(cls, message: dict[str, Any]) -> Any:
            raise LookupError("of the test")

    clients = await join(Broken)
    for _ in range(3):
        await layer.group_send("scores", {"type": "score.update"})
    await all_contents(clients, layer)
    monkeypatch.setattr(frames, "LOG_INTERVAL_S", 0)
    await layer.group_send("scores", {"type": "score.update"})
    await wait_for(lambda: len(caplog.records) == 2)
    assert [record.count for record in caplog.records] == [1, 3]  # type: ignore[attr-defined]


async def test_a_handler_belongs_to_no_consumer(layer: Any, join: Callable[..., Any]) -> None:
    """It sees no context variables of any member."""
    user = contextvars.ContextVar("user", default="nobody")

    class Seeing(Scores):
        async def connect(self) -> None:
            user.set("somebody")
            await super().connect()

        @broadcast
        def score_update(cls, message: dict[str, Any]) -> dict[str, Any]:
            return {"user": user.get()}

    clients = await join(Seeing, 2)
    await layer.group_send("scores", {"type": "score.update"})
    assert await all_contents(clients, layer) == [[{"user": "nobody"}]] * 2


async def test_excluded_channels_get_nothing(layer: Any, join: Callable[..., Any]) -> None:
    """exclude is obeyed, and the others go the short way."""
    clients = await join(Scores, 4)
    left_out = [clients[1].consumer.channel_name]
    message = {"type": "score.update", "score": 1}
    await layer.group_send("scores", message, exclude=left_out)
    expected: list[Any] = [[{"score": 1}]] * 4
    expected[1] = []
    assert await all_contents(clients, layer) == expected
    assert "__asgi_exclude__" not in Scores.calls[0]


async def test_a_direct_message_may_be_a_broadcast(layer: Any, join: Callable[..., Any]) -> None:
    """The handler does not know how its message was sent."""
    clients = await join(Scores, 2)
    await layer.send(clients[0].consumer.channel_name, {"type": "score.update", "score": 1})
    assert await all_contents(clients, layer) == [[{"score": 1}], []]


def test_called_on_the_class_it_returns_its_content() -> None:
    """So it can be tested without a consumer."""
    assert Scores.score_update({"score": 3}) == {"score": 3}


def on_a_coroutine_function() -> None:
    class Coroutine(BroadcastMixin, AsyncWebsocketConsumer):
        @broadcast
        async def score_update(cls, message: Any) -> str:
            return ""


def on_a_static_method() -> None:
    class Static(BroadcastMixin, AsyncWebsocketConsumer):
        @broadcast  # type: ignore[arg-type]  # what is refused
        @staticmethod
        def score_update(message: Any) -> str:
            return ""


def without_a_socket() -> None:
    class NoSocket(BroadcastMixin, AsyncHttpConsumer):
        @broadcast
        def score_update(cls, message: Any) -> str:
            return ""


def with_a_personal_encoder() -> None:
    class Personal(Scores):
        async def encode_json(self, content: Any) -> str:
            return json.dumps(content)


def without_the_mixin() -> None:
    class Alone(AsyncWebsocketConsumer):
        @broadcast
        def score_update(cls, message: Any) -> str:
            return ""


def with_the_mixin_last() -> None:
    class After(AsyncWebsocketConsumer, BroadcastMixin):
        pass


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (on_a_coroutine_function, "is an async def"),
        (on_a_static_method, "is not a plain function"),
        (without_a_socket, "needs a WebSocket consumer"),
        (with_a_personal_encoder, "Make it a classmethod"),
        (without_the_mixin, "needs BroadcastMixin"),
        (with_the_mixin_last, "must come before"),
    ],
)
def test_what_can_not_work_is_refused_when_the_class_is_made(
    make: Callable[[], None], reason: str
) -> None:
    """The error says what to do."""
    with pytest.raises((TypeError, RuntimeError)) as caught:
        make()
    # Before Python 3.12 what __set_name__() raises is wrapped.
    error = caught.value if isinstance(caught.value, TypeError) else caught.value.__cause__
    assert isinstance(error, TypeError)
    assert reason in str(error)


def test_a_mixin_may_have_broadcasts() -> None:
    """What is missing is asked for when a consumer is made of it."""

    class Scoring(BroadcastMixin):
        @broadcast
        def score_update(cls, message: Any) -> str:
            return "score"

    class Consumer(Scoring, AsyncWebsocketConsumer):
        pass

    assert Consumer.score_update({}) == "score"
