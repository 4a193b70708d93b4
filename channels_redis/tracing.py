"""Traces with OpenTelemetry: ``trace(layers)`` where messages are sent, :class:`TracingMixin` or
:func:`process_span` where they are handled.

Needs ``pip install "channels-redis[opentelemetry]>=5"``. Names and attributes of spans follow
OpenTelemetry's semantic conventions for messaging.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from channels.exceptions import StopConsumer
from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from . import __version__
from ._layer.base import BaseRedisLayer
from ._runtime.native import Lock
from ._watch.traces import TRACED_GROUP_KEY, TRACEPARENT_KEY, TRACESTATE_KEY, Handlers, Message

__all__ = ["TracingMixin", "process_span", "trace"]

Attributes = dict[str, str | bool]

_KEYS = {"traceparent": TRACEPARENT_KEY, "tracestate": TRACESTATE_KEY}
_PROPAGATOR: TextMapPropagator = TraceContextTextMapPropagator()
#: Operations that send a message, which is their second argument.
_SENDING = frozenset({"send", "group_send"})

_lock = Lock()
#: The tracers of the calls of trace() that have not ended, the newest last.
_tracers: dict[object, Tracer] = {}


def trace(
    layers: Mapping[str, BaseRedisLayer], tracer_provider: TracerProvider | None = None
) -> Callable[[], None]:
    """Create a span for each ``send()`` and ``group_send()`` of layers, given by their aliases, and
    add its context to the message; return the function that ends this.

    Handlers of consumers with :class:`~channels_redis.consumers.BroadcastMixin` get spans, too.
    Without ``tracer_provider`` the global one is used. If a layer is traced again, the new call
    replaces the old one.
    """
    tracer = _tracer_of(tracer_provider)
    key = object()
    with _lock:
        _tracers[key] = tracer
        Handlers.tracer = _handler_span
    ends = [layer.trace_sending(partial(_sent, tracer, alias)) for alias, layer in layers.items()]

    def end() -> None:
        for one in ends:
            one()
        with _lock:
            _tracers.pop(key, None)
            if not _tracers:
                Handlers.tracer = None

    return end


def _tracer_of(provider: TracerProvider | None) -> Tracer:
    return (provider or otel.get_tracer_provider()).get_tracer("channels_redis", __version__)


# Sending


@contextmanager
def _sent(
    tracer: Tracer, alias: str, operation: str, arguments: tuple[Any, ...]
) -> Iterator[tuple[Any, ...]]:
    """Trace an operation that sends; yield its arguments with the context in the message."""
    if operation not in _SENDING or not isinstance(arguments[1], dict):
        yield arguments
        return
    destination, message, *others = arguments
    span = tracer.start_span(
        _span_name(operation, message),
        kind=SpanKind.PRODUCER,
        attributes={
            **_attributes("send", operation, message, destination),
            "channels_redis.layer": alias,
        },
    )
    with _ending(span):
        group = destination if operation == "group_send" else None
        yield (destination, _carrying(span, message, group), *others)


def _carrying(span: Span, message: Message, group: str | None) -> Message:
    """Return a message with the context of a span, instead of one that it may have already."""
    carrier: dict[str, str] = {}
    context = otel.set_span_in_context(span, Context())
    # Its default setter is for any mapping, which pyright takes for another type.
    _PROPAGATOR.inject(carrier, context)  # pyright: ignore[reportArgumentType]
    if not carrier:
        return message
    carried = _without_keys(message)
    carried.update((_KEYS[name], value) for name, value in carrier.items())
    if group is not None:
        carried[TRACED_GROUP_KEY] = group
    return carried


def _without_keys(message: Message) -> Message:
    carried = dict(message)
    _take_keys(carried)
    return carried


# Handling


class TracingMixin:
    """A mixin for all consumers of Channels, sync or async, that creates a span for each handler
    that is called with a traced message. It must be the first base of a class.

    Classes with :class:`~channels_redis.consumers.BroadcastMixin` do not need it in a process that
    calls :func:`trace`.
    """

    async def dispatch(self, message: Message) -> None:
        """Call the handler of a message within a span."""
        consumer: Any = super()
        with _handler_span(message, self, _handler_name(message)):
            await consumer.dispatch(message)


@contextmanager
def process_span(message: Message, tracer_provider: TracerProvider | None = None) -> Iterator[Span]:
    """Create the span of a received message, for code that calls ``receive()`` itself: ``with
    process_span(message): ...``.

    Removes the keys of the trace from the message. If it has none, no span is created, and the
    span that is yielded records nothing. After ``send()`` the span belongs to the sender's trace.
    After ``group_send()`` it begins a trace of its own, with a link to the sender's, because one
    message may have thousands of members. An exception is recorded and raised.
    """
    with _span_of(message, tracer_provider, {}) as span:
        yield span


@contextmanager
def _handler_span(message: Message, owner: Any, handler: str) -> Iterator[None]:
    """Create the span for a handler of ``owner``, which is a consumer, or the class of many."""
    kind = owner if isinstance(owner, type) else type(owner)
    attributes: Attributes = {
        "code.function.name": f"{kind.__module__}.{kind.__qualname__}.{handler}"
    }
    # A worker has its channel in the scope.
    channel = getattr(owner, "scope", {}).get("channel") or getattr(owner, "channel_name", None)
    if isinstance(channel, str):
        attributes["messaging.destination.name"] = channel
    with _span_of(message, None, attributes):
        yield


@contextmanager
def _span_of(
    message: Message, provider: TracerProvider | None, attributes: Attributes
) -> Iterator[Span]:
    carrier, group = _take_keys(message) if isinstance(message, dict) else ({}, None)
    sender = otel.get_current_span(_PROPAGATOR.extract(carrier, Context())) if carrier else None
    if sender is None or not sender.get_span_context().is_valid:
        yield otel.INVALID_SPAN
        return
    attributes = {**attributes, **_attributes("process", "process", message, group)}
    links = [Link(sender.get_span_context())] if group is not None else []
    parent = Context() if links else otel.set_span_in_context(sender, Context())
    span = _current_tracer(provider).start_span(
        _span_name("process", message),
        context=parent,
        kind=SpanKind.CONSUMER,
        attributes=attributes,
        links=links,
    )
    with otel.use_span(span, record_exception=False, set_status_on_exception=False), _ending(span):
        yield span


def _current_tracer(provider: TracerProvider | None) -> Tracer:
    if provider is None:
        for tracer in reversed(list(_tracers.values())):
            return tracer
    return _tracer_of(provider)


def _take_keys(message: Message) -> tuple[dict[str, str], str | None]:
    """Remove the keys of a trace from a message; return the context, and the group."""
    carrier = {}
    for name, key in _KEYS.items():
        value = message.pop(key, None)
        # A stranger may have written them.
        if isinstance(value, str):
            carrier[name] = value
    group = message.pop(TRACED_GROUP_KEY, None)
    return carrier, group if isinstance(group, str) else None


# Both


@contextmanager
def _ending(span: Span) -> Iterator[None]:
    """End a span, with the error that is raised."""
    try:
        yield
    except StopConsumer:
        raise
    except BaseException as error:
        kind = type(error)
        span.record_exception(error)
        span.set_attribute("error.type", f"{kind.__module__}.{kind.__qualname__}")
        span.set_status(Status(StatusCode.ERROR, str(error)))
        raise
    finally:
        span.end()


def _span_name(operation: str, message: Message) -> str:
    """Return a name with the type of the message. The names of channels and groups are unbounded,
    so the conventions exclude them.
    """
    kind = message.get("type")
    return f"{operation} {kind}" if isinstance(kind, str) else operation


def _attributes(
    operation_type: str, operation: str, message: Message, destination: Any
) -> Attributes:
    found: Attributes = {
        "messaging.system": "redis",
        "messaging.operation.type": operation_type,
        "messaging.operation.name": operation,
    }
    if isinstance(destination, str):
        found["messaging.destination.name"] = destination
    kind = message.get("type")
    if isinstance(kind, str):
        found["channels_redis.message.type"] = kind
    return found


def _handler_name(message: Message) -> str:
    kind = message.get("type")
    return kind.replace(".", "_") if isinstance(kind, str) else "dispatch"
