"""Traces: spans where messages are sent and handled, and their context in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from channels.exceptions import ChannelFull, StopConsumer
from opentelemetry.trace import NoOpTracerProvider, SpanKind, StatusCode
from redis.asyncio import Redis

from channels_redis.exceptions import InvalidMessage, MessageTooLarge
from channels_redis.serializers import JSONSerializer, registry
from channels_redis.tracing import process_span, trace
from tests.helpers import receive
from tests.traces.spans import Spans, ids, recorded

Make = Callable[..., Any]
KEYS = {"__asgi_traceparent__", "__asgi_tracestate__", "__asgi_traced_group__"}
SAY = {"type": "chat.message", "text": "hello"}


@pytest.fixture
def spans() -> Iterator[Spans]:
    with recorded() as spans:
        yield spans


@pytest.fixture
def traced(make_layer: Make, kind: str, spans: Spans) -> Iterator[Any]:
    """A layer whose operations are traced."""
    layer = make_layer(kind)
    end = trace({"chat": layer}, spans.provider)
    yield layer
    end()


async def test_a_message_to_one_channel_is_handled_in_the_trace_of_its_sender(
    traced: Any, spans: Spans
) -> None:
    """View, send() and handler are one trace; the names are those of the conventions."""
    channel = await traced.new_channel()
    with spans.tracer.start_as_current_span("GET /") as view:
        await traced.send(channel, SAY)
    message = await receive(traced, channel)
    with process_span(message):
        assert message == SAY  # The context has been removed.
    sent, handled = spans.named("send chat.message"), spans.named("process chat.message")
    assert (sent.kind, handled.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert sent.parent is not None and ids(sent.parent) == ids(view.get_span_context())
    assert handled.parent is not None and ids(handled.parent) == ids(sent.context)
    assert handled.parent.is_remote
    assert sent.attributes == {
        "messaging.system": "redis",
        "messaging.operation.type": "send",
        "messaging.operation.name": "send",
        "messaging.destination.name": channel,
        "channels_redis.message.type": "chat.message",
        "channels_redis.layer": "chat",
    }
    assert handled.attributes == {
        "messaging.system": "redis",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "channels_redis.message.type": "chat.message",
    }


async def test_each_member_of_a_group_has_a_trace_with_a_link_to_the_sender(
    traced: Any, spans: Spans
) -> None:
    """A message to a thousand members does not make one trace of a thousand spans."""
    channels = [await traced.new_channel() for _ in range(3)]
    for channel in channels:
        await traced.group_add("room", channel)
    with spans.tracer.start_as_current_span("GET /"):
        await traced.group_send("room", SAY)
    for channel in channels:
        message = await receive(traced, channel)
        with spans.tracer.start_as_current_span("websocket"), process_span(message):
            assert message == SAY
    sent = spans.named("group_send chat.message")
    handled = [span for span in spans.ended() if span.name == "process chat.message"]
    assert sent.context is not None and sent.attributes is not None
    assert sent.attributes["messaging.destination.name"] == "room"
    assert len({span.context.trace_id for span in handled if span.context} - {0}) == 3
    for span in handled:
        assert span.parent is None
        assert [ids(link.context) for link in span.links] == [ids(sent.context)]
        assert span.attributes is not None
        assert span.attributes["messaging.destination.name"] == "room"


async def test_the_span_is_the_current_one_while_a_message_is_handled(
    traced: Any, spans: Spans
) -> None:
    """What the handler does, such as sending on, belongs to it."""
    channel = await traced.new_channel()
    await traced.send(channel, SAY)
    with process_span(await receive(traced, channel)) as span:
        await traced.send(channel, {"type": "again"})
    again = spans.named("send again")
    assert again.parent is not None and ids(again.parent) == ids(span.get_span_context())


def test_blocking_calls_belong_to_the_span_of_their_thread(
    make_layer_blocking: Make, kind: str, spans: Spans
) -> None:
    """The portal's loop runs in another thread, whose context is not the caller's."""
    layer = make_layer_blocking(kind)
    end = trace({"default": layer}, spans.provider)
    with spans.tracer.start_as_current_span("task") as task:
        layer.sync.send("work", SAY)
        layer.sync.group_send("room", SAY, exclude=["somebody"])
    end()
    assert spans.names() == ["send chat.message", "group_send chat.message", "task"]
    for span in spans.ended()[:2]:
        assert span.parent is not None and ids(span.parent) == ids(task.get_span_context())


async def test_without_tracing_a_message_has_no_more_keys(
    make_layer: Make, kind: str, spans: Spans
) -> None:
    """Before trace(), after its end, and with a provider that records nothing."""
    layer = make_layer(kind)
    channel = await layer.new_channel()
    trace({"default": layer}, spans.provider)()
    await layer.send(channel, SAY)
    end = trace({"default": layer}, NoOpTracerProvider())
    await layer.send(channel, SAY)
    end()
    for _ in range(2):
        message = await receive(layer, channel)
        assert message == SAY
        with process_span(message, spans.provider) as span:
            assert not span.is_recording()
    assert spans.names() == []


async def test_a_process_without_tracing_handles_and_passes_on_traced_messages(
    make_layer: Make, kind: str, traced: Any, spans: Spans
) -> None:
    """It sees one or two more keys.  What it sends again stays in the trace."""
    plain = make_layer(kind)
    channel, last = await plain.new_channel(), await traced.new_channel()
    await traced.send(channel, SAY)
    message = await receive(plain, channel)
    assert message.items() >= SAY.items() and message.keys() <= SAY.keys() | KEYS
    await plain.send(last, message)
    with process_span(await receive(traced, last)):
        pass
    sent, handled = spans.ended()
    assert handled.parent is not None and ids(handled.parent) == ids(sent.context)


async def test_a_message_that_is_sent_again_gets_a_new_context(traced: Any, spans: Spans) -> None:
    """That of a group message is replaced, and its dict stays as it was."""
    channel = await traced.new_channel()
    await traced.group_add("room", channel)
    await traced.group_send("room", SAY)
    message = await receive(traced, channel)
    before = dict(message)
    assert KEYS & message.keys() == {"__asgi_traceparent__", "__asgi_traced_group__"}
    await traced.send(channel, message)
    assert message == before
    again = await receive(traced, channel)
    assert KEYS & again.keys() == {"__asgi_traceparent__"}
    assert again["__asgi_traceparent__"] != message["__asgi_traceparent__"]


@pytest.mark.parametrize("context", ["", "00-zz-zz-01", 7, None, ["00"], f"00-{'0' * 32}-1-01"])
async def test_a_context_that_is_none_is_removed_and_makes_no_span(
    make_layer: Make, kind: str, spans: Spans, context: Any
) -> None:
    """Whoever may write to the server may write anything."""
    layer = make_layer(kind)
    channel = await layer.new_channel()
    keys = dict.fromkeys(KEYS, context)
    await layer.send(channel, {**SAY, **keys})
    message = await receive(layer, channel)
    with process_span(message, spans.provider):
        assert message == SAY
    assert spans.names() == []


async def test_a_failed_call_is_an_error_in_its_span(
    make_layer: Make, kind: str, spans: Spans
) -> None:
    """With the name that metrics use."""
    layer = make_layer(kind, capacity=1, max_message_bytes=1000)
    end = trace({"default": layer}, spans.provider)
    await layer.send("work", SAY)
    with pytest.raises(ChannelFull):
        await layer.send("work", SAY)
    with pytest.raises(MessageTooLarge):
        await layer.group_send("room", {"type": "large", "text": "x" * 1000})
    with pytest.raises(InvalidMessage):
        await layer.send("work", 7)
    end()
    first, full, large = spans.ended()
    assert first.status.status_code is StatusCode.UNSET
    assert full.status.status_code is StatusCode.ERROR
    assert full.attributes is not None and large.attributes is not None
    assert full.attributes["error.type"] == "channels.exceptions.ChannelFull"
    assert large.attributes["error.type"] == "channels_redis.exceptions.MessageTooLarge"


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("no"), StatusCode.ERROR), (StopConsumer(), StatusCode.UNSET)]
)
async def test_an_exception_of_a_handler_is_in_its_span(
    traced: Any, spans: Spans, error: Exception, status: StatusCode
) -> None:
    """Once, and it is raised.  The end of a consumer is no error."""
    channel = await traced.new_channel()
    await traced.send(channel, SAY)
    message = await receive(traced, channel)
    with pytest.raises(type(error)), process_span(message):
        raise error
    span = spans.named("process chat.message")
    assert span.status.status_code is status
    assert len(span.events) == (status is StatusCode.ERROR)


async def test_a_custom_serializer_gets_one_span_for_each_call(
    make_layer: Make, spans: Spans
) -> None:
    """With one, group_send() takes a second part after the members are known."""

    class Custom(JSONSerializer):
        pass

    registry.register_serializer("traced custom", Custom)
    layer = make_layer("core", serializer_format="traced custom")
    end = trace({"default": layer}, spans.provider)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", SAY)
    end()
    with process_span(await receive(layer, channel), spans.provider):
        pass
    assert spans.names() == ["group_send chat.message", "process chat.message"]


async def test_a_layer_that_is_traced_again_has_one_span_for_each_call(
    make_layer: Make, kind: str, spans: Spans
) -> None:
    """Code that runs once per process may run twice, as ready() under a reloader."""
    layer = make_layer(kind)
    ends = [trace({"default": layer}, spans.provider) for _ in range(2)]
    ends[0]()  # It was replaced, and ends nothing.
    await layer.send("work", SAY)
    assert spans.names() == ["send chat.message"]
    ends[1]()
    await layer.send("work", SAY)
    assert spans.names() == ["send chat.message"]


async def test_durations_and_traces_may_be_used_together(traced: Any, spans: Spans) -> None:
    """Callbacks of on_operation() see traced calls, and calls that are never traced."""
    seen: list[str] = []
    remove = traced.on_operation(lambda operation: seen.append(operation.name))
    channel = await traced.new_channel()
    await traced.group_add("room", channel)
    await traced.group_send("room", SAY)
    await asyncio.gather(*(traced.send(channel, SAY) for _ in range(3)))
    remove()
    assert seen == ["group_add", "group_send", "send", "send", "send"]
    assert spans.names() == ["group_send chat.message", *["send chat.message"] * 3]


async def test_agents_that_watch_commands_of_redis_py_see_nothing_of_the_layer(
    make_layer: Make, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/tracing.rst says, which names what to use instead."""
    seen: list[Any] = []

    async def watched(self: Any, *arguments: Any, **keywords: Any) -> None:
        seen.append(arguments)

    monkeypatch.setattr(Redis, "execute_command", watched)
    layer = make_layer(kind)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", SAY)
    assert await receive(layer, channel) == SAY
    await layer.send("work", SAY)
    assert await receive(layer, "work") == SAY
    assert seen == []
