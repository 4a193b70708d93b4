"""Handlers of consumers in traces: with BroadcastMixin, with TracingMixin, and in workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from opentelemetry.trace import StatusCode, get_current_span

from channels_redis.consumers import BroadcastMixin, broadcast
from channels_redis.tracing import TracingMixin, trace
from tests.broadcast.client import Client
from tests.helpers import wait_for
from tests.traces.spans import Spans, ids, recorded


@pytest.fixture
def spans(layer: Any) -> Iterator[Spans]:
    """The spans of all consumers of a test."""
    with recorded() as spans:
        end = trace({"default": layer}, spans.provider)
        yield spans
        end()


def trace_id() -> str:
    return f"{get_current_span().get_span_context().trace_id:032x}"


class Broadcasting(BroadcastMixin, AsyncWebsocketConsumer):
    """Its handlers say which trace they are in, and what they were given."""

    groups = ("room",)

    @broadcast
    def to_all(cls, message: dict[str, Any]) -> str:
        return f"{trace_id()} {sorted(message)}"

    async def to_each(self, message: dict[str, Any]) -> None:
        await self.send(f"{trace_id()} {sorted(message)}")


class Traced(TracingMixin, AsyncWebsocketConsumer):
    """The same without broadcasts."""

    groups = ("room",)
    to_each = Broadcasting.to_each


class TracedInThreads(TracingMixin, WebsocketConsumer):
    """The same in threads."""

    groups = ("room",)

    def to_each(self, message: dict[str, Any]) -> None:
        self.send(f"{trace_id()} {sorted(message)}")


async def frames(clients: list[Client], count: int = 1) -> list[str]:
    """Return the frames of all clients when each has got ``count``."""
    await wait_for(lambda: all(len(client.frames) >= count for client in clients))
    return [frame for client in clients for frame in client.frames]


@pytest.mark.parametrize("family", [Broadcasting, Traced, TracedInThreads])
async def test_a_handler_has_a_span_of_its_own_for_each_consumer(
    layer: Any, join: Callable[..., Any], spans: Spans, family: Any
) -> None:
    """Linked to the sender, and without the keys of the trace in the message."""
    clients = await join(family, 3)
    await layer.group_send("room", {"type": "to.each"})
    said = await frames(clients)
    await wait_for(lambda: len(spans.ended()) == 4)
    sent = spans.named("group_send to.each")
    handled = [span for span in spans.ended() if span is not sent]
    assert sorted(said) == sorted(
        f"{span.context.trace_id:032x} ['type']" for span in handled if span.context
    )
    for span in handled:
        assert [ids(link.context) for link in span.links] == [ids(sent.context)]
        assert span.attributes is not None
        assert span.attributes["messaging.destination.name"] == "room"
        assert span.attributes["code.function.name"] == f"{__name__}.{family.__name__}.to_each"


async def test_a_broadcast_has_one_span_for_all_members(
    layer: Any, join: Callable[..., Any], spans: Spans
) -> None:
    """As its handler is called once."""
    clients = await join(Broadcasting, 3)
    await layer.group_send("room", {"type": "to.all"})
    said = await frames(clients)
    sent, handled = spans.named("group_send to.all"), spans.named("process to.all")
    assert handled.context is not None
    assert said == [f"{handled.context.trace_id:032x} ['type']"] * 3
    assert [ids(link.context) for link in handled.links] == [ids(sent.context)]


@pytest.mark.parametrize("kind_of_message", ["to.all", "to.each"])
async def test_a_direct_message_continues_the_trace(
    layer: Any, join: Callable[..., Any], spans: Spans, kind_of_message: str
) -> None:
    """One sender, one handler, one trace."""
    (client,) = await join(Broadcasting)
    await layer.send(client.consumer.channel_name, {"type": kind_of_message})
    (said,) = await frames([client])
    sent = spans.named(f"send {kind_of_message}")
    assert sent.context is not None
    assert said == f"{sent.context.trace_id:032x} ['type']"


async def test_messages_without_a_trace_have_no_span(
    layer: Any, make_layer: Callable[..., Any], kind: str, join: Callable[..., Any], spans: Spans
) -> None:
    """From senders that are not traced, and from the client."""
    clients = await join(Broadcasting, 2)
    plain = make_layer(kind)
    await plain.group_send("room", {"type": "to.all"})
    await plain.group_send("room", {"type": "to.each"})
    assert await frames(clients, 2) == [f"{0:032x} ['type']"] * 4
    assert spans.names() == []


class Worker(TracingMixin, AsyncConsumer):
    async def job_work(self, message: dict[str, Any]) -> None:
        raise ValueError("no")


class WorkerInThreads(TracingMixin, SyncConsumer):
    def job_work(self, message: dict[str, Any]) -> None:
        raise ValueError("no")


@pytest.mark.parametrize("family", [Worker, WorkerInThreads])
async def test_a_worker_that_fails_is_an_error_in_the_trace_of_its_sender(
    layer: Any, spans: Spans, family: Any
) -> None:
    """The worker of ``runworker``, whose channel is in its scope."""
    await layer.send("jobs", {"type": "job.work"})

    async def from_the_layer() -> Any:
        return await layer.receive("jobs")

    scope = {"type": "channel", "channel": "jobs"}
    with pytest.raises(ValueError, match="no"):
        await asyncio.wait_for(family()(scope, from_the_layer, None), 20)
    sent, handled = spans.named("send job.work"), spans.named("process job.work")
    assert handled.parent is not None and ids(handled.parent) == ids(sent.context)
    assert handled.status.status_code is StatusCode.ERROR
    assert handled.attributes is not None
    assert handled.attributes["error.type"] == "builtins.ValueError"
    assert handled.attributes["messaging.destination.name"] == "jobs"


class Ending(TracingMixin, AsyncConsumer):
    async def job_end(self, message: dict[str, Any]) -> None:
        raise StopConsumer


async def test_a_worker_that_ends_is_no_error(layer: Any, spans: Spans) -> None:
    """StopConsumer is how a consumer ends."""
    await layer.send("jobs", {"type": "job.end"})

    async def from_the_layer() -> Any:
        return await layer.receive("jobs")

    await asyncio.wait_for(Ending()({"type": "channel"}, from_the_layer, None), 20)
    assert spans.named("process job.end").status.status_code is StatusCode.UNSET
