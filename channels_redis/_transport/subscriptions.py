"""The topics of a subscriber, and the two kinds of Pub/Sub. Does no I/O."""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from .._format.slots import slot_of

#: Topics in one command; more go out in several.
BATCH_TOPICS = 500


Publish = Callable[[bytes, bytes], "asyncio.Future[Any]"]
"""Publishes a payload (second) to a topic, in the ordinary way."""


class Verbs(NamedTuple):
    """One kind of Pub/Sub: its commands, and the names of its replies."""

    subscribe: bytes
    unsubscribe: bytes
    subscribed: bytes
    unsubscribed: bytes
    message: bytes
    publish: bytes
    #: The slot of a topic, where a command may carry topics of one slot only.
    slot_of: Callable[[bytes], int] | None

    def slot(self, topic: bytes) -> int:
        """Return the slot of a topic; always the same where slots do not matter."""
        return self.slot_of(topic) if self.slot_of is not None else 0

    def batches(self, names: list[bytes]) -> Iterator[list[bytes]]:
        """Return topics as they may go together in one command."""
        by_slot: Iterable[list[bytes]] = [names]
        if self.slot_of is not None:
            slots: dict[int, list[bytes]] = {}
            for name in names:
                slots.setdefault(self.slot_of(name), []).append(name)
            by_slot = slots.values()
        for some in by_slot:
            for start in range(0, len(some), BATCH_TOPICS):
                yield some[start : start + BATCH_TOPICS]


CLASSIC = Verbs(
    b"SUBSCRIBE", b"UNSUBSCRIBE", b"subscribe", b"unsubscribe", b"message", b"PUBLISH", None
)
SHARDED = Verbs(
    b"SSUBSCRIBE",
    b"SUNSUBSCRIBE",
    b"ssubscribe",
    b"sunsubscribe",
    b"smessage",
    b"SPUBLISH",
    slot_of,
)


#: What is sent besides when credentials are renewed.
AUTH = b"AUTH"


class Sent:
    """Commands in flight, oldest first, each with the topics that are not confirmed yet."""

    def __init__(self) -> None:
        self._commands: deque[tuple[bytes, deque[bytes]]] = deque()

    def add(self, command: bytes, names: Iterable[bytes] = ()) -> None:
        """Note that a command was written."""
        self._commands.append((command, deque(names)))

    def confirmed(self, command: bytes, name: bytes) -> bool:
        """Return whether a confirmation is the expected next one, and if so remove it."""
        if not self._commands or self._commands[0][0] != command:
            return False
        names = self._commands[0][1]
        if names[0] != name:
            return False
        names.popleft()
        if not names:
            self._commands.popleft()
        return True

    def consented(self) -> None:
        """Note that the server accepted new credentials."""
        if self._commands and self._commands[0][0] == AUTH:
            self._commands.popleft()

    def refused(self) -> tuple[bytes, list[bytes]]:
        """Return the command of an error reply, and its topics.

        An unexpected error drops the connection, like refused credentials.
        """
        command, names = self._commands.popleft() if self._commands else (AUTH, ())
        return command, list(names)

    def clear(self) -> None:
        """Forget them, with their connection."""
        self._commands.clear()


class State(enum.Enum):
    """How far a subscription is; what is wanted may differ.

    IDLE --SUBSCRIBE--> JOINING --confirmed--> JOINED --UNSUBSCRIBE--> LEAVING --confirmed--> IDLE
    """

    IDLE = enum.auto()
    JOINING = enum.auto()
    JOINED = enum.auto()
    LEAVING = enum.auto()


class Join:
    """One caller that waits for a subscription to be confirmed."""

    __slots__ = ("arrived", "future")

    def __init__(self, arrived: Callable[[], None], future: asyncio.Future[None]) -> None:
        self.arrived = arrived
        self.future = future

    def fail(self, error: Exception) -> None:
        """Raise in the caller, unless it has its answer."""
        if not self.future.done():
            self.future.set_exception(error)


class Topic:
    """One topic: its state at the server, whether it is wanted, and the calls that wait for it."""

    __slots__ = ("joins", "slot", "state", "wanted")

    def __init__(self, slot: int, state: State = State.IDLE, *, wanted: bool = True) -> None:
        self.slot = slot
        self.state = state
        self.wanted = wanted
        self.joins: list[Join] = []

    def arrive(self) -> None:
        """Resume those who wait, because the subscription is confirmed."""
        joins, self.joins = self.joins, []
        for join in joins:
            if not join.future.done():
                join.arrived()
                join.future.set_result(None)


class Topics(dict[bytes, Topic]):
    """The topics of one subscriber."""

    def want(self, name: bytes, verbs: Verbs) -> Topic:
        """Return a topic, which is wanted from now on."""
        topic = self.get(name)
        if topic is None:
            topic = self[name] = Topic(verbs.slot(name))
        topic.wanted = True
        return topic

    def change(self, names: Iterable[bytes], *, connected: bool) -> tuple[list[bytes], list[bytes]]:
        """Return the topics to subscribe and to unsubscribe now, and note that this is done."""
        joining: list[bytes] = []
        leaving: list[bytes] = []
        for name in names:
            topic = self.get(name)
            if topic is None:
                continue
            if not topic.wanted and topic.state is State.IDLE:
                del self[name]
            elif not topic.wanted and topic.state is State.JOINED:
                topic.state = State.LEAVING
                leaving.append(name)
            elif topic.wanted and topic.state is State.IDLE and connected:
                topic.state = State.JOINING
                joining.append(name)
        return joining, leaving

    def lose(self) -> None:
        """Note that no topic is subscribed any more."""
        for name, topic in list(self.items()):
            topic.state = State.IDLE
            if not topic.wanted:
                del self[name]

    def refuse(self, names: Iterable[bytes], error: Exception) -> None:
        """Note that the server answered with an error, and raise ``error`` in the waiting calls."""
        for name in names:
            self[name].state, self[name].wanted = State.IDLE, False
        self.fail(names, error)

    def fail(self, names: Iterable[bytes], error: Exception) -> None:
        """Raise in those who wait for topics."""
        for name in names:
            topic = self.get(name)
            for join in topic.joins if topic is not None else ():
                join.fail(error)

    def elsewhere(self, is_here: Callable[[int], bool]) -> list[bytes]:
        """Return the wanted topics whose slots are not here."""
        return [name for name, one in self.items() if one.wanted and not is_here(one.slot)]

    @property
    def complete(self) -> bool:
        """Whether everything that is wanted is subscribed."""
        return all(one.state is State.JOINED for one in self.values() if one.wanted)

    def knows(self, name: bytes) -> bool:
        """Return whether a topic is wanted."""
        topic = self.get(name)
        return topic is not None and topic.wanted

    def move_out(self, name: bytes) -> Topic:
        """Remove a topic, for another subscriber.

        Commands in flight for it will still be confirmed, and its subscription has to be ended, so
        an unwanted twin stays here.
        """
        topic = self.pop(name)
        if topic.state is not State.IDLE:
            self[name] = Topic(topic.slot, topic.state, wanted=False)
            topic.state = State.IDLE
        return topic

    def move_in(self, name: bytes, topic: Topic) -> None:
        """Add a topic of another subscriber, replacing the twin that it may have left here."""
        twin = self.get(name)
        if twin is not None:
            topic.state = twin.state
        self[name] = topic
