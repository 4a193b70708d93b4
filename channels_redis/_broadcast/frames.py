"""The result of a broadcast handler: one WebSocket frame for all members of a class."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable
from contextvars import Context
from typing import Any, NamedTuple

from channels.consumer import get_handler_name

from .._format.keyspace import EXCLUDE_KEY
from .._receiving.messages import Item
from .._receiving.sinks import Unfinished
from .._runtime import clock
from .._runtime.loops import running_loop
from .._watch.traces import TRACEPARENT_KEY, Handlers

logger = logging.getLogger("channels_redis.consumers")

#: Seconds between two records of the same handler's failures.
LOG_INTERVAL_S = 60.0


class Frame(NamedTuple):
    """A WebSocket frame: ``field`` is ``"text"`` or ``"bytes"``, or None if nothing is sent."""

    field: str | None
    data: Any = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of a consumer's ``send()``."""
        return {f"{self.field}_data": self.data}


NOTHING = Frame(None)
#: A frame, or the task that returns one.
Making = Frame | asyncio.Task[Frame]


class Maker:
    """Creates the frames of one handler of one class; ``handler`` is the plain function."""

    def __init__(self, kind: type[Any], handler: Any) -> None:
        self.kind = kind
        self._handler = handler
        self._failures = 0
        self._told_at: float | None = None

    def make(self, message: dict[str, Any]) -> Making:
        """Return the frame for a message; what the handler raises is logged.

        Runs in a separate context, because it belongs to no consumer.
        """
        context = Context()
        try:
            handler = self._handler if Handlers.tracer is None else self._traced
            content = context.run(handler, self.kind, message)
            if content is None:
                return NOTHING
            if not isinstance(content, str | bytes):
                content = context.run(self._encoder(), content)
                if inspect.isawaitable(content):
                    return self._awaited(content, context)
            return _frame_of(content)
        except Exception as error:  # noqa: BLE001 (whatever users' code raises)
            self._failed(error)
            return NOTHING

    def _traced(self, kind: type[Any], message: dict[str, Any]) -> Any:
        """Call the handler, with a span for a message that has a trace."""
        tracer = Handlers.tracer
        if tracer is None or TRACEPARENT_KEY not in message:
            return self._handler(kind, message)
        with tracer(message, kind, self._handler.__name__):
            return self._handler(kind, message)

    async def made(self, message: dict[str, Any]) -> Frame:
        """Wait for the frame of a message and return it."""
        return await ended(self.make(message))

    def _encoder(self) -> Any:
        encode_json = getattr(self.kind, "encode_json", None)
        if encode_json is None:
            raise TypeError("it returned neither str nor bytes, and the class has no encode_json()")
        return encode_json

    def _awaited(self, encoding: Awaitable[Any], context: Context) -> Making:
        work = _result_of(encoding)
        try:
            # Channels' own encode_json() is a coroutine function that never waits.
            waits_for = context.run(work.send, None)
        except StopIteration as stop:
            return _frame_of(stop.value)
        rest = self._finished(Unfinished(work, waits_for))
        name = f"channels_redis encode_json of {self.kind.__qualname__}"
        return context.run(lambda: running_loop().create_task(rest, name=name))

    async def _finished(self, encoding: Unfinished) -> Frame:
        try:
            return _frame_of(await encoding.finish())
        except Exception as error:  # noqa: BLE001 (whatever users' code raises)
            self._failed(error)
            return NOTHING

    def _failed(self, error: Exception) -> None:
        """Log an exception of a handler, at a limited rate."""
        now = clock.monotonic()
        self._failures += 1
        if self._told_at is not None and now - self._told_at < LOG_INTERVAL_S:
            return
        name = f"{self.kind.__qualname__}.{self._handler.__name__}"
        count, self._failures, self._told_at = self._failures, 0, now
        logger.error(
            "Broadcast handler %s() failed; nothing was sent to its members (%d messages "
            "since the last record).",
            name,
            count,
            exc_info=error,
            extra={"event": "broadcast_failed", "handler": name, "count": count},
        )


async def _result_of(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _frame_of(content: Any) -> Frame:
    if isinstance(content, str):
        return Frame("text", content)
    if isinstance(content, bytes):
        return Frame("bytes", content)
    raise TypeError(f"encode_json() returned {type(content).__name__}, not str")


async def ended(making: Making) -> Frame:
    """Wait for the frame and return it.  Cancelling this does not cancel it for others."""
    return making if isinstance(making, Frame) else await asyncio.shield(making)


class Shared:
    """The frames of one message for all consumers of a process, one for each of their classes."""

    __slots__ = ("_item", "_made", "_name", "_names_excluded", "frames")

    def __init__(self, item: Item) -> None:
        self._item = item
        #: The frames that idle members of a class can send.
        self.frames: dict[type[Any], Frame] = {}
        self._made: dict[type[Any], Making] = {}
        self._name: str | None = None
        self._names_excluded = False
        try:
            message = item.open()
            self._names_excluded = EXCLUDE_KEY in message
            self._name = get_handler_name(message)
        except Exception:  # noqa: BLE001 (each consumer that opens it will say so)
            return

    def ready(self, kind: type[Any], makers: dict[str, Maker]) -> Frame | None:
        """Return the frame for the idle members of a class; None if they have to handle the message
        themselves, or the frame is not ready yet.
        """
        if self._name not in makers or self._names_excluded:
            return None
        making = self.frame(kind, makers[self._name])
        if not isinstance(making, Frame):
            return None
        self.frames[kind] = making
        return making

    def frame(self, kind: type[Any], maker: Maker) -> Making:
        """Return the frame for the members of a class, which is created at the first call."""
        making = self._made.get(kind)
        if making is None:
            message = dict(self._item.open())
            message.pop(EXCLUDE_KEY, None)
            making = self._made[kind] = maker.make(message)
        elif not isinstance(making, Frame) and making.done() and not making.cancelled():
            making = self._made[kind] = making.result()
        return making


def shared(item: Item) -> Shared:
    """Return the frames that the consumers of this process share for a message."""
    found: Shared | None = item.shared
    if found is None:
        found = item.shared = Shared(item)
    return found
