"""Bounded in-process buffers and those who wait on them.  Knows no Redis.

A mailbox belongs to a layer and may be used from any thread; those who wait belong to their
event loops.  *Pull, not push*: putting a message appends it and wakes one waiter, and the
woken ``receive()`` takes it synchronously.  So a cancellation can never carry a message away:
until the moment of taking, the message is in the mailbox.
"""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

Loop = asyncio.AbstractEventLoop

#: A mailbox whose last waiter was cancelled ends after this time, or after ``expiry``.
CANCELLED_S = 10.0
#: A mailbox without waiter, message and group ends after this time, or after ``group_expiry``.
UNUSED_S = 3600.0


class Waiter:
    """One ``receive()`` that waits, on its own event loop."""

    __slots__ = ("future", "loop")

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        #: Resolved with None when there is a message to take, else with what to raise.
        self.future: asyncio.Future[Exception | None] = loop.create_future()

    def wake(self, running: Loop | None, error: Exception | None = None) -> bool:
        """Wake the waiter; ``running`` is the caller's loop.  False if its loop is closed."""
        if self.loop is running:
            self._resolve(error)
            return True
        try:
            self.loop.call_soon_threadsafe(self._resolve, error)
        except RuntimeError:
            return False
        return True

    def _resolve(self, error: Exception | None) -> None:
        if not self.future.done():
            self.future.set_result(error)


class Demand:
    """Who waits for what one source (a queue's readers) brings.

    ``wanted(loop)`` is called, without a lock, on the loop of a waiter that has joined.
    """

    __slots__ = ("waiters", "wanted")

    def __init__(self, wanted: Callable[[Loop], None]) -> None:
        self.waiters: set[Waiter] = set()
        self.wanted = wanted

    def loop(self) -> Loop | None:
        """Return the open loop of one waiter, if there is any."""
        for waiter in tuple(self.waiters):
            if not waiter.loop.is_closed():
                return waiter.loop
        return None


class Mailbox:
    """The buffer of one channel: ``(stamp, message)`` pairs, oldest first."""

    __slots__ = (
        "cancelled",
        "capacity",
        "demand",
        "groups",
        "home",
        "items",
        "name",
        "used_at",
        "waiters",
    )

    def __init__(self, name: str, capacity: int, demand: Demand | None, now: float) -> None:
        self.name = name
        self.capacity = capacity
        self.demand = demand
        #: Whatever its layer needs to find the event loop that feeds it.
        self.home: Any = None
        # A deque costs 600 bytes and most mailboxes of an idle site never hold a message.
        self.items: deque[tuple[float, Any]] | None = None
        self.waiters: list[Waiter] = []
        self.groups: set[str] | None = None
        self.used_at = now
        self.cancelled = False

    def ended(self, now: float, expiry_s: float, group_expiry_s: float) -> bool:
        """Tell whether nobody will come any more.  Never only because nobody waits just now:
        while a consumer's handler runs, nobody does.
        """
        if self.waiters:
            return False
        unused_s = now - self.used_at
        if self.cancelled and unused_s >= min(CANCELLED_S, expiry_s):
            return True
        if self.items:
            return now - self.items[0][0] >= expiry_s
        limit_s = group_expiry_s if self.groups else min(UNUSED_S, group_expiry_s)
        return unused_s >= limit_s


class Mailboxes:
    """All mailboxes of a layer, under one lock.

    ``capacity`` gives the bound of a channel in messages; ``dropped`` is told the name of a
    channel whose oldest message made room (called with the lock held: it must be quick).
    """

    def __init__(
        self,
        capacity: Callable[[str], int],
        dropped: Callable[[str], None],
        expiry_s: float,
        group_expiry_s: float,
    ) -> None:
        self.lock = threading.RLock()
        self.boxes: dict[str, Mailbox] = {}
        self._capacity = capacity
        self._dropped = dropped
        self._expiry_s = expiry_s
        self._group_expiry_s = group_expiry_s

    def open(self, name: str, demand: Demand | None = None) -> Mailbox:
        """Return the mailbox of a channel, made if need be."""
        with self.lock:
            box = self.boxes.get(name)
            if box is None:
                box = Mailbox(name, self._capacity(name), demand, time.monotonic())
                self.boxes[name] = box
            elif box.demand is None:
                box.demand = demand
            return box

    def put(self, box: Mailbox, item: Any, running: Loop | None, *, bounded: bool = True) -> None:
        """Append a message; at capacity the oldest makes room, unless not ``bounded``.

        ``running`` is the event loop that runs in this thread, here and below.
        """
        with self.lock:
            self._put(box, (time.monotonic(), item), running, bounded)

    def put_all(self, boxes: Iterable[Mailbox], item: Any, running: Loop | None) -> None:
        """Append one message to many mailboxes in one pass."""
        stamped = (time.monotonic(), item)
        with self.lock:
            for box in boxes:
                self._put(box, stamped, running, True)

    def _put(
        self,
        box: Mailbox,
        stamped: tuple[float, Any],
        running: Loop | None,
        bounded: bool,
    ) -> None:
        items = box.items
        if items is None:
            items = box.items = deque()
        elif bounded and len(items) >= box.capacity:
            items.popleft()
            self._dropped(box.name)
        items.append(stamped)
        if box.waiters:
            self._wake_next(box, running)

    def _wake_next(self, box: Mailbox, running: Loop | None) -> None:
        while box.waiters:
            waiter = box.waiters.pop(0)
            if box.demand is not None:
                box.demand.waiters.discard(waiter)
            if not waiter.future.done() and waiter.wake(running):
                return

    async def take(self, box: Mailbox, loop: Loop) -> Any:
        """Return the oldest message of the mailbox, as soon as there is one.

        May be cancelled at any time; raises what :meth:`fail` was given.
        """
        while True:
            with self.lock:
                if box.items:
                    box.used_at, box.cancelled = time.monotonic(), False
                    return box.items.popleft()[1]
                waiter = Waiter(loop)
                box.waiters.append(waiter)
                if box.demand is not None:
                    box.demand.waiters.add(waiter)
            try:
                if box.demand is not None:
                    box.demand.wanted(loop)
                error = await waiter.future
            except BaseException:
                self._withdraw(box, waiter)
                raise
            if error is not None:
                raise copy.copy(error)

    def _withdraw(self, box: Mailbox, waiter: Waiter) -> None:
        with self.lock:
            if waiter in box.waiters:
                box.waiters.remove(waiter)
            elif box.items:
                # It was woken for a message that it will not take: that is the next one's.
                self._wake_next(box, waiter.loop)
            if box.demand is not None:
                box.demand.waiters.discard(waiter)
            box.used_at, box.cancelled = time.monotonic(), True

    def reclaim(self, box: Mailbox, wanted: Callable[[Any], bool]) -> list[Any]:
        """Take back the messages for which ``wanted(message)`` is true."""
        with self.lock:
            if not box.items:
                return []
            mine = [item for _, item in box.items if wanted(item)]
            if mine:
                box.items = deque(pair for pair in box.items if not wanted(pair[1]))
            return mine

    def fail(self, error: Exception, running: Loop | None, demand: Demand | None = None) -> None:
        """Raise ``error`` in every waiting ``receive()``, or in those of one source."""
        with self.lock:
            for box in self.boxes.values():
                if demand is None or box.demand is demand:
                    self._fail(box, error, running)

    def _fail(self, box: Mailbox, error: Exception, running: Loop | None) -> None:
        waiters, box.waiters = box.waiters, []
        for waiter in waiters:
            if box.demand is not None:
                box.demand.waiters.discard(waiter)
            waiter.wake(running, error)

    def empty(self) -> None:
        """Forget all messages, and all mailboxes on which nobody waits."""
        with self.lock:
            for box in list(self.boxes.values()):
                box.items = None
                box.groups = None
                if not box.waiters:
                    del self.boxes[box.name]

    def discard(self, box: Mailbox) -> None:
        """Forget a mailbox."""
        with self.lock:
            if self.boxes.get(box.name) is box:
                del self.boxes[box.name]

    def sweep(self, home: Any) -> list[Mailbox]:
        """Remove and return the mailboxes of ``home``, or of none, whose readers have gone."""
        now = time.monotonic()
        with self.lock:
            gone = [
                box
                for box in self.boxes.values()
                if (box.home is None or box.home is home)
                and box.ended(now, self._expiry_s, self._group_expiry_s)
            ]
            for box in gone:
                del self.boxes[box.name]
                for _ in box.items or ():
                    self._dropped(box.name)
        return gone
