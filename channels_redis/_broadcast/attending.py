"""The loop of a running consumer, which dispatches the messages of its client and its channel.

In the order in which Channels' ``await_many_dispatch()`` does, and in the same task, but without a
task for each message of the channel.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from channels.consumer import get_handler_name
from channels.exceptions import StopConsumer

from .._receiving.messages import Item
from .._receiving.sinks import Sink, Task, Unfinished, context_of
from .._receiving.waiters import Waiter
from .._runtime.loops import running_loop
from .._watch.traces import TRACEPARENT_KEY, Handlers, HandlerTracer
from . import databases, frames
from .frames import Frame, Maker
from .inbox import inbox_of

Message = dict[str, Any]

#: Iterations of the event loop in which a server delivers its queued events of a closed client.
TURNS = 10


class Ways(Protocol):
    """How messages are dispatched to the consumers of one class."""

    kind: type[Any]
    makers: dict[str, Maker]
    #: Whether ``dispatch()`` is Channels' own, so that handlers can be called directly; and whether
    #: handlers are coroutine functions.
    is_quick: bool
    is_async: bool

    def prepare(self, item: Item) -> Frame | None:
        """Return the frame of a message for idle consumers; None if they have to be woken."""
        ...

    def send(self, consumer: Any, frame: Frame) -> Coroutine[Any, Any, None]:
        """Send a frame with the method of the class, or nothing."""
        ...


class Attending:
    """Dispatches messages to one consumer."""

    def __init__(self, consumer: Any, ways: Ways, receive: Callable[[], Awaitable[Any]]) -> None:
        self._consumer = consumer
        self._ways = ways
        self._receive = receive
        self._care = databases.care()
        self._sink = self._make_sink()
        layer = consumer.channel_layer
        self._inbox = layer and inbox_of(layer, consumer.channel_name, self._sink)
        #: The future that an idle consumer awaits.
        self._waiter: Waiter | None = None
        #: A plain ``receive()`` of the channel layer.
        self._called: Task | None = None
        self._socket = self._call(receive)

    def _make_sink(self) -> Sink | None:
        task, ways = asyncio.current_task(), self._ways
        context = context_of(task) if task is not None else None
        if task is None or context is None or not (ways.is_quick and ways.makers):
            return None
        return Sink(task, context, ways.prepare, partial(ways.send, self._consumer))

    def _call(self, source: Callable[[], Awaitable[Any]]) -> Task:
        # A future or a coroutine, as in Channels.
        task: Task = asyncio.ensure_future(source())
        task.add_done_callback(self._rouse)
        return task

    def _rouse(self, _: object) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def run(self) -> None:
        """Dispatch messages until a handler, a ``send()`` or the layer raises."""
        try:
            while True:
                await self._step()
        finally:
            await self._end()

    async def _step(self) -> None:
        """Dispatch a message of the client and one of the channel, or wait for either."""
        if self._socket.done():
            await self._dispatch(self._socket.result())
            self._socket = self._call(self._receive)
        arrived = self._arrived()
        if arrived is not None:
            await self._show(*arrived)
            if self._inbox is not None and self._inbox.unread:
                # Handlers that never wait must not block other tasks.
                await asyncio.sleep(0)
        elif not self._socket.done():
            await self._idle()

    def _arrived(self) -> tuple[Message, Item | None] | None:
        """Return the next message of the channel, and its item if that is known."""
        if self._called is not None:
            if not self._called.done():
                return None
            called, self._called = self._called, None
            return called.result(), None
        return self._inbox.take() if self._inbox is not None else None

    async def _idle(self) -> None:
        """Wait for a message of the client or the channel."""
        inbox, sink, is_cancelled = self._inbox, self._sink, False
        at_mailbox = inbox.wait() if inbox is not None and self._called is None else None
        if at_mailbox is None and self._called is None and self._consumer.channel_layer is not None:
            self._called = self._call(self._consumer.channel_receive)
        waiter = self._waiter = at_mailbox or running_loop().create_future()
        if sink is not None and at_mailbox is not None:
            sink.socket, sink.waiter = self._socket, waiter
        try:
            failure = await waiter
        except asyncio.CancelledError:
            if sink is None or not isinstance(sink.left, Unfinished):
                raise
            # A send() that was started for this task is cancelled instead of it.
            failure, is_cancelled = None, True
        finally:
            self._waiter = None
            if sink is not None:
                sink.waiter = None
            if inbox is not None and at_mailbox is not None:
                inbox.leave(waiter)
        if failure is not None:
            raise copy.copy(failure)
        if sink is not None and sink.left is not None:
            await self._finish(sink, is_cancelled)

    async def _finish(self, sink: Sink, is_cancelled: bool) -> None:
        """Finish the send() that was started for this task."""
        left, sink.left = sink.left, None
        try:
            if isinstance(left, Unfinished):
                await left.finish(left.cancel() if is_cancelled else None)
            elif left is not None:
                raise left
        except Exception as error:  # noqa: BLE001 (raised there)
            await self._fail(error)

    async def _show(self, message: Message, item: Item | None) -> None:
        """Dispatch a message of the channel to the consumer."""
        maker = self._maker_for(message)
        try:
            if maker is not None:
                await self._broadcast(message, item, maker)
            elif Handlers.tracer is None:
                await self._dispatch(message)
            else:
                await self._trace(Handlers.tracer, message)
        except Exception as error:
            if maker is None and not isinstance(error, OSError):
                raise
            await self._fail(error)

    async def _trace(self, tracer: HandlerTracer, message: Message) -> None:
        """Dispatch a message of the channel, with a span if it has a trace."""
        if TRACEPARENT_KEY not in message:
            await self._dispatch(message)
            return
        with tracer(message, self._consumer, get_handler_name(message)):
            await self._dispatch(message)

    def _maker_for(self, message: Message) -> Maker | None:
        if not self._ways.makers:
            return None
        try:
            return self._ways.makers.get(get_handler_name(message))
        except Exception:  # noqa: BLE001 (dispatching it will say what is wrong with it)
            return None

    async def _broadcast(self, message: Message, item: Item | None, maker: Maker) -> None:
        if item is not None:
            making = frames.shared(item).frame(self._ways.kind, maker)
        else:
            making = maker.make(message)
        frame = await frames.ended(making)
        if not self._ways.is_quick:
            self._consumer._shown = (message, frame)
            await self._consumer.dispatch(message)
        else:
            await self._ways.send(self._consumer, frame)

    async def _dispatch(self, message: Message) -> None:
        consumer, ways = self._consumer, self._ways
        if not (ways.is_quick and ways.is_async):
            await consumer.dispatch(message)
            return
        handler = getattr(consumer, get_handler_name(message), None)
        if not handler:
            raise ValueError(f"No handler for message type {message['type']}")
        if self._care.is_due(consumer.db_check_interval_s):
            await self._care.look()
        try:
            await handler(message)
        except StopConsumer:
            raise
        except Exception:
            self._care.suspect()
            raise

    async def _fail(self, error: Exception) -> None:
        """Raise ``error``, but first dispatch the disconnect of the client if the server has queued
        it, because some servers raise before the consumer can receive it.
        """
        for _ in range(TURNS):
            if self._socket.done():
                break
            await asyncio.sleep(0)
        if self._has_disconnected():
            try:
                await self._dispatch(self._socket.result())
            except StopConsumer:
                if isinstance(error, OSError):  # as the specification has it for a client's end
                    raise
        raise error

    def _has_disconnected(self) -> bool:
        socket = self._socket
        if not socket.done() or socket.cancelled() or socket.exception() is not None:
            return False
        return bool(socket.result().get("type") == "websocket.disconnect")

    async def _end(self) -> None:
        if self._inbox is not None:
            self._inbox.close()
        for task in (self._socket, self._called):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
