"""The buffer of one channel in this process: its messages, its waiting calls, and its end.

Knows no Redis.  See :mod:`.mailboxes` for what is done with it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Protocol
from weakref import ref

from .budget import Share
from .resuming import Since
from .sinks import Sink
from .waiters import Demand, Loop, Waiter

#: Seconds without a call of ``receive()`` after which a consumer whose task has ended is gone.
GONE_S = 10.0
#: A mailbox that is in no group and has no subscription ends when unused for this long, or for
#: ``group_expiry``: its channel can be received on again at any time.
UNUSED_S = 3600.0


class Home(Protocol):
    """What joins topics for mailboxes: a layer on one event loop."""

    loop: Loop

    def taken_over(self, box: Mailbox) -> None:
        """Leave the topics of a mailbox, which another home feeds now; called on any thread."""


class Mailbox(Share):
    """The buffer of one channel, oldest message first: each with the time when it came, and whether
    the budget counts it.
    """

    __slots__ = (
        "__weakref__",
        "_home",
        "alive",
        "capacity",
        "carried",
        "demand",
        "groups",
        "items",
        "left",
        "loop",
        "maker",
        "missed",
        "missed_type",
        "name",
        "sink",
        "subscribed",
        "told",
        "used_at",
        "waiters",
    )

    def __init__(self, name: str, capacity: int | None, demand: Demand | None, now: float) -> None:
        super().__init__()
        self.name = name
        #: Its limit in messages, if the user set one; None if the budget is the limit.
        self.capacity = capacity
        self.demand = demand
        #: False after its end, when it accepts no more messages.
        self.alive = True
        # A weak reference: it belongs to an event loop that may be dropped.
        self._home: ref[Home] | None = None
        #: Whether the topic of its own name is one of those that its home has joined.
        self.subscribed = False
        # A deque costs 600 bytes and most mailboxes of an idle site never hold a message.
        self.items: deque[tuple[float, Any, bool]] | None = None
        self.waiters: list[Waiter] = []
        #: Group -> when it was joined, on the monotonic clock.
        self.groups: dict[str, float] | None = None
        #: Group with a history -> where the loop that fed it before has stopped, until this is made
        #: up for.
        self.carried: dict[str, Since] | None = None
        #: Groups with a history of which messages were missed, until the consumer is told.
        self.missed: set[str] | None = None
        #: The type of the message that tells it so where ``on_reconnect`` is unset; None for no
        #: message.
        self.missed_type: str | None = None
        #: Whether the consumer was told of the end of the present outage before it had ended.
        self.told = False
        #: The consumer, if it can be handed messages while it waits.
        self.sink: Sink | None = None
        self.used_at = now
        #: The loop of the last ``receive()``, once there was one.
        self.loop: ref[Loop] | None = None
        #: The task that called ``new_channel()``, while it runs.
        self.maker: ref[asyncio.Task[Any]] | None = None
        #: When that task ended, and the loop on which it ran; None once anybody receives again.
        self.left: tuple[float, ref[Loop]] | None = None

    @property
    def home(self) -> Home | None:
        """The session whose loop has joined topics for it."""
        return self._home() if self._home is not None else None

    @home.setter
    def home(self, home: Home | None) -> None:
        self._home = ref(home) if home is not None else None

    @property
    def fed(self) -> bool:
        """Whether it has a source of messages: readers of a queue, or a subscription."""
        if self.demand is not None:
            return True
        home = self.home
        return self.subscribed and home is not None and home.loop.is_running()

    def awaited(self) -> bool:
        """Return whether there is a waiting call that can still be woken."""
        return any(not (one.done() or one.get_loop().is_closed()) for one in self.waiters)

    def is_unknown(self) -> bool:
        """Return whether this process has not created, received on or joined the channel."""
        known = self.loop or self.groups or self.maker or self.left or self.waiters
        return not known

    def ended(self, now: float, group_expiry_s: float) -> bool:
        """Return whether nobody will come any more.  Never because of what lies unread, or because
        nobody waits just now: while a consumer's handler runs, nobody does.
        """
        if any(not waiter.get_loop().is_closed() for waiter in self.waiters):
            return False
        if self.left is not None and now - self.left[0] >= GONE_S:
            loop = self.left[1]()
            # If the loop ended with the task, as in asyncio.run(), the consumer may continue.
            if loop is not None and loop.is_running():
                return True
        is_of_use = self.items or self.groups or self.maker is not None
        if self.demand is not None and self.loop is None and not is_of_use:
            return True  # A message opened it, and nobody has ever received here.
        is_known = self.groups or self.subscribed
        limit_s = group_expiry_s if is_known else min(UNUSED_S, group_expiry_s)
        return now - self.used_at >= limit_s
