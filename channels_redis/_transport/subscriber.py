"""The Pub/Sub connection of one node: subscribe, confirm, read, resubscribe.

Each topic has at most one command on its way, so every confirmation is unambiguous; what is
wanted may change meanwhile, and is compared again when the confirmation is read::

    IDLE --SUBSCRIBE--> JOINING --confirmed--> JOINED --UNSUBSCRIBE--> LEAVING --confirmed--> IDLE

Topics asked for in one tick go out in one command.  Whoever joins is told where the
confirmation is read, before any message that follows it.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from redis.exceptions import ConnectionError

from ..exceptions import ConfigurationError, ConnectionLost
from .connections import Loop, Wire, forget, pack
from .loopback import DEAF, Loopback
from .multiplexer import Multiplexer
from .topology import Node, backoff_s

#: Topics in one command; more go out in several.
BATCH_TOPICS = 500


class _State(enum.Enum):
    IDLE = enum.auto()
    JOINING = enum.auto()
    JOINED = enum.auto()
    LEAVING = enum.auto()


class _Join:
    """One caller that waits for a subscription to be confirmed."""

    __slots__ = ("arrived", "future")

    def __init__(self, arrived: Callable[[], None], future: asyncio.Future[None]) -> None:
        self.arrived = arrived
        self.future = future


class _Topic:
    __slots__ = ("joins", "state", "wanted")

    def __init__(self) -> None:
        self.state = _State.IDLE
        self.wanted = True
        self.joins: list[_Join] = []


class Subscriber:
    """Keeps the wanted topics of one event loop subscribed at one node.

    ``on_message(topic, payload)`` takes what is published; ``in_use(topic)`` tells whether
    anybody still listens to a topic.  Both are called on the loop and must be quick.  On
    ``own_topic`` it listens to itself, published over ``multiplexer`` (see :mod:`.loopback`).
    """

    def __init__(
        self,
        node: Node,
        multiplexer: Multiplexer,
        loop: Loop,
        on_message: Callable[[bytes, bytes], None],
        in_use: Callable[[bytes], bool],
        own_topic: bytes,
    ) -> None:
        self._node = node
        self._loop = loop
        self._on_message = on_message
        self._in_use = in_use
        self._own_topic = own_topic
        self._loopback = Loopback(
            loop,
            node.command_timeout_s / 2,
            subscribe=lambda: self._write(b"SUBSCRIBE", [own_topic]),
            publish=lambda: multiplexer.call(pack(b"PUBLISH", own_topic, b"")),
            failed=self._is_deaf,
        )
        self._topics: dict[bytes, _Topic] = {}
        self._changed: dict[bytes, None] = {}
        # Commands on their way, oldest first, each with the topics not yet confirmed.
        self._sent: deque[tuple[bytes, deque[bytes]]] = deque()
        self._unconfirmed = 0
        self._recovering = False
        self._writing_due = False
        self._wire: Wire | None = None
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self._trouble = "not connected"
        self._closed = False
        node.users.add(self)

    @property
    def topics(self) -> list[bytes]:
        """The topics whose subscription is confirmed."""
        return [name for name, topic in self._topics.items() if topic.state is _State.JOINED]

    @property
    def descriptor(self) -> int | None:
        """The file descriptor of the connection, if there is one."""
        return self._wire.descriptor if self._wire is not None else None

    async def subscribe(
        self, name: bytes, arrived: Callable[[], None], limit_s: float | None
    ) -> None:
        """Return when the server has confirmed the subscription.

        ``arrived`` is called then, before any message that follows; a cancelled call is
        undone and never calls it.  Raises :class:`ConnectionLost` after ``limit_s`` seconds,
        :class:`ConfigurationError` where the server refuses.
        """
        topic = self._topics.setdefault(name, _Topic())
        topic.wanted = True
        if topic.state is _State.JOINED:
            arrived()
            return
        join = _Join(arrived, self._loop.create_future())
        topic.joins.append(join)
        self._request(name)
        limit = self._loop.call_later(limit_s, self._give_up, join) if limit_s else None
        try:
            await join.future
        except BaseException:
            if join in topic.joins:
                topic.joins.remove(join)
            self.release(name)
            raise
        finally:
            if limit is not None:
                limit.cancel()

    def release(self, name: bytes) -> None:
        """Unsubscribe from a topic, unless somebody listens or waits to."""
        topic = self._topics.get(name)
        if topic is None or topic.joins or self._in_use(name):
            return
        topic.wanted = False
        self._request(name)

    def renew(self, reason: str) -> None:
        """Let the connection go, and subscribe where the topology says now."""
        if self._wire is not None:
            self._wire.abort(reason)

    async def aclose(self) -> None:
        """End the task, close the connection, fail those who wait."""
        self._closed = True
        self._fail_joins(self._topics, self._lost("the layer was closed"))
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._disconnect()
        self._node.health.gone(self)

    def abandon(self) -> None:
        """Let go after the loop was closed without warning."""
        self._closed = True
        self._loopback.stop()
        self._node.health.gone(self)
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.abandon()
        if self._task is not None:
            forget(self._task)

    def _give_up(self, join: _Join) -> None:
        if not join.future.done():
            join.future.set_exception(self._lost(self._trouble))

    def _lost(self, reason: str) -> ConnectionLost:
        return ConnectionLost(f"Redis at {self._node.health.node}: {reason}; not subscribed")

    def _request(self, name: bytes) -> None:
        """Have the wishes about a topic compared with its state in this tick."""
        if self._closed:
            self._fail_joins([name], self._lost("the layer was closed"))
            return
        self._changed[name] = None
        if not self._writing_due:
            self._writing_due = True
            self._loop.call_soon(self._write_changes)
        if self._task is None:
            self._start()

    def _start(self) -> None:
        name = f"channels_redis subscriber {self._node.health.node}"
        self._task = self._loop.create_task(self._run(), name=name)

    def _write_changes(self) -> None:
        """Write what changes: decided here, synchronously, for all topics of the tick."""
        self._writing_due = False
        changed, self._changed = self._changed, {}
        joining: list[bytes] = []
        leaving: list[bytes] = []
        for name in changed:
            topic = self._topics.get(name)
            if topic is None:
                continue
            if not topic.wanted and topic.state is _State.IDLE:
                del self._topics[name]
            elif not topic.wanted and topic.state is _State.JOINED:
                topic.state = _State.LEAVING
                leaving.append(name)
            elif topic.wanted and topic.state is _State.IDLE and self._wire is not None:
                topic.state = _State.JOINING
                joining.append(name)
        self._unconfirmed += len(joining)
        self._write(b"SUBSCRIBE", joining)
        self._write(b"UNSUBSCRIBE", leaving)

    def _write(self, command: bytes, names: list[bytes]) -> None:
        for start in range(0, len(names), BATCH_TOPICS):
            assert self._wire is not None  # else no topic is JOINED or JOINING
            batch = names[start : start + BATCH_TOPICS]
            self._sent.append((command, deque(batch)))
            self._wire.write(pack(command, *batch))

    async def _run(self) -> None:
        try:
            while self._topics and not self._closed:
                try:
                    await self._serve()
                except ConfigurationError as error:
                    self._fail_joins(self._topics, error)
                    await self._lose(error)
                except Exception as error:  # noqa: BLE001 (whatever it is, nobody may go deaf)
                    await self._lose(error)
            await self._disconnect()
            self._node.health.gone(self)
        except asyncio.CancelledError:
            self._task = None
            # A foreign cancellation (asyncio.run() at its end) makes nobody deaf.
            if self._topics and not self._closed:
                self._start()
            raise
        self._task = None
        if self._topics and not self._closed:
            self._start()  # asked for while the connection was closed

    async def _serve(self) -> None:
        if self._wire is None:
            if self._failures:
                await asyncio.sleep(backoff_s(self._failures - 1))
            self._wire = await self._node.dial()
            self._recovering = True
            self._changed.update(dict.fromkeys(self._topics))
            self._write_changes()
            self._loopback.start()
        while self._topics:
            self._handle(await self._wire.read())

    def _handle(self, reply: Any) -> None:
        if isinstance(reply, list) and reply[0] == b"message":
            self._loopback.heard()
            if reply[1] != self._own_topic:
                self._node.tally.received += 1
                self._on_message(reply[1], reply[2])
            return
        self._loopback.replied()
        if isinstance(reply, list) and reply[0] in (b"subscribe", b"unsubscribe"):
            self._confirm(reply[0].upper(), reply[1])
        elif isinstance(reply, Exception):
            self._refused(reply)

    def _confirm(self, command: bytes, name: bytes) -> None:
        """Take the next confirmation; they come in the order of the commands."""
        if not self._sent or self._sent[0][0] != command or self._sent[0][1][0] != name:
            raise ConnectionError("a confirmation that nobody asked for")
        names = self._sent[0][1]
        names.popleft()
        if not names:
            self._sent.popleft()
        if name == self._own_topic:
            self._loopback.confirmed()
            return
        topic = self._topics[name]
        if command == b"SUBSCRIBE":
            topic.state = _State.JOINED
            self._unconfirmed -= 1
            self._arrive(topic)
        else:
            topic.state = _State.IDLE
        self._settle(name, topic)
        if self._recovering and not self._unconfirmed:
            self._recovering = False
            self._failures = 0
            self._node.health.works(self)

    def _arrive(self, topic: _Topic) -> None:
        joins, topic.joins = topic.joins, []
        for join in joins:
            if not join.future.done():
                join.arrived()
                join.future.set_result(None)

    def _settle(self, name: bytes, topic: _Topic) -> None:
        """Compare the wish with the state that was reached."""
        if topic.state is _State.IDLE and not topic.wanted:
            del self._topics[name]
        elif topic.wanted != (topic.state is _State.JOINED):
            self._request(name)

    def _refused(self, reply: Exception) -> None:
        """Take an error reply: it answers the oldest command as a whole."""
        if not self._sent:
            raise ConnectionError(str(reply))
        command, names = self._sent.popleft()
        if self._own_topic in names:
            self._loopback.confirmed()
            return
        explained = self._node.explain(reply)
        if isinstance(explained, ConfigurationError):
            raise explained
        if command == b"UNSUBSCRIBE" or self._recovering:
            raise ConnectionError(str(reply))
        self._unconfirmed -= len(names)
        for name in names:
            self._topics[name].state = _State.IDLE
            self._topics[name].wanted = False
        self._fail_joins(names, explained)
        for name in names:
            self._settle(name, self._topics[name])

    def _fail_joins(self, names: Iterable[bytes], error: Exception) -> None:
        for name in names:
            topic = self._topics.get(name)
            for join in topic.joins if topic is not None else ():
                if not join.future.done():
                    join.future.set_exception(error)

    async def _lose(self, error: Exception) -> None:
        """Let the connection go; everything has to be subscribed anew."""
        self._failures += 1
        self._trouble = str(error)
        for name, topic in list(self._topics.items()):
            topic.state = _State.IDLE
            if not topic.wanted:
                del self._topics[name]
        self._node.health.lost(self, self._trouble)
        await self._disconnect()

    def _is_deaf(self, reason: str) -> None:
        """Give up a connection that answers no more, or hears nothing."""
        if reason == DEAF:
            # Which end is at the wrong server, this one or the publishing one, can't be known.
            self._node.renew(reason)
        elif self._wire is not None:
            self._wire.abort(reason)

    async def _disconnect(self) -> None:
        self._loopback.stop()
        wire, self._wire = self._wire, None
        self._sent.clear()
        self._unconfirmed = 0
        if wire is not None:
            await wire.close()
