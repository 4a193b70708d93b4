"""Bounded in-process buffers and those who wait on them.  Knows no Redis.

A mailbox belongs to a layer and may be used from any thread; those who wait belong to their
event loops.  *Pull, not push*: putting a message appends it and wakes one waiter, and the
woken ``receive()`` takes it synchronously.  So a cancellation can never carry a message away:
until the moment of taking, the message is in the mailbox.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from . import _clock
from ._waiters import Demand, Loop, Waiter, wake

#: A mailbox whose last waiter was cancelled ends after this time, or after ``expiry``.
CANCELLED_S = 10.0
#: A mailbox without waiter, message and group ends after this time, or after ``group_expiry``.
UNUSED_S = 3600.0
#: So many consumers of one message are woken in one turn of their event loop.
WAKES = 100


class Home(Protocol):
    """What joins topics for mailboxes: a layer on one event loop."""

    loop: Loop

    def taken_over(self, box: Mailbox) -> None:
        """Leave the topics of a mailbox, which another home feeds now; called on any thread."""


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
        "subscribed",
        "used_at",
        "waiters",
    )

    def __init__(self, name: str, capacity: int, demand: Demand | None, now: float) -> None:
        self.name = name
        self.capacity = capacity
        self.demand = demand
        #: The session whose loop has joined topics for it, and whether its own is one of them.
        self.home: Home | None = None
        self.subscribed = False
        # A deque costs 600 bytes and most mailboxes of an idle site never hold a message.
        self.items: deque[tuple[float, Any]] | None = None
        self.waiters: list[Waiter] = []
        self.groups: set[str] | None = None
        self.used_at = now
        self.cancelled = False

    @property
    def fed(self) -> bool:
        """Whether something brings messages here: readers of a queue, or a subscription."""
        if self.demand is not None:
            return True
        return self.subscribed and self.home is not None and self.home.loop.is_running()

    def ended(self, now: float, expiry_s: float, group_expiry_s: float) -> bool:
        """Tell whether nobody will come any more.  Never only because nobody waits just now:
        while a consumer's handler runs, nobody does.
        """
        if any(not waiter.get_loop().is_closed() for waiter in self.waiters):
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

    ``capacity`` gives the bound of a channel in messages; ``dropped(channel, reason)`` is told
    of each message that will not be delivered.
    """

    def __init__(
        self,
        capacity: Callable[[str], int],
        dropped: Callable[[str, str], None],
        expiry_s: float,
        group_expiry_s: float,
    ) -> None:
        self.lock = threading.RLock()
        self.boxes: dict[str, Mailbox] = {}
        self._capacity = capacity
        self._dropped = dropped
        self._expiry_s = expiry_s
        self._group_expiry_s = group_expiry_s
        self._taken = 0
        self._spoilt = 0
        self._delivered = 0

    def open(self, name: str, demand: Demand | None = None) -> Mailbox:
        """Return the mailbox of a channel, made if need be."""
        with self.lock:
            box = self.boxes.get(name)
            if box is None:
                box = Mailbox(name, self._capacity(name), demand, _clock.monotonic())
                self.boxes[name] = box
            elif box.demand is None:
                box.demand = demand
            return box

    def put(self, box: Mailbox, item: Any, running: Loop | None, *, bounded: bool = True) -> None:
        """Append a message; at capacity the oldest makes room, unless not ``bounded``.

        ``running`` is the event loop that runs in this thread, here and below.
        """
        self._append((box,), item, bounded)
        self._wake_some([box], 0, running)

    def put_all(self, boxes: Iterable[Mailbox], item: Any, running: Loop) -> None:
        """Append one message to many mailboxes in one pass, and wake those who wait."""
        boxes = list(boxes)
        self._append(boxes, item, True)
        if len(boxes) > WAKES:
            self._wake_elsewhere(boxes[WAKES:], running)
        self._wake_some(boxes, 0, running)

    def _append(self, boxes: Iterable[Mailbox], item: Any, bounded: bool) -> None:
        stamped = (_clock.monotonic(), item)
        dropped = []
        with self.lock:
            for box in boxes:
                items = box.items
                if items is None:
                    items = box.items = deque()
                elif bounded and len(items) >= box.capacity and _make_room(items):
                    dropped.append(box.name)
                items.append(stamped)
        for name in dropped:
            self._dropped(name, "capacity")

    def _wake_elsewhere(self, boxes: list[Mailbox], running: Loop) -> None:
        """Wake those on other loops, as this one may have no other turn."""
        with self.lock:
            for box in boxes:
                if box.waiters and box.waiters[0].get_loop() is not running:
                    self._wake_next(box, running)

    def _wake_some(self, boxes: list[Mailbox], start: int, running: Loop | None) -> None:
        """Wake those who wait for what has just arrived, and the rest in the loop's next turns.

        Ten thousand at once would hold up everything else on the loop, make the garbage collector
        look at all they were woken with, and have left the processor's cache when they run.
        """
        end = start + WAKES
        with self.lock:
            for box in boxes[start:end]:
                if box.waiters and box.items:
                    self._wake_next(box, running)
        # On a loop that was closed nobody waits any more, and those elsewhere were woken before.
        if end < len(boxes) and running is not None and not running.is_closed():
            running.call_soon(self._wake_some, boxes, end, running)

    def _wake_next(self, box: Mailbox, running: Loop | None) -> None:
        while box.waiters:
            waiter = box.waiters.pop(0)
            loop = waiter.get_loop()
            # Who was woken comes, if not at once; until then nothing else shows that somebody does.
            box.cancelled = False
            if box.demand is not None:
                box.demand.remove(loop)
            if waiter.done():
                continue
            if loop is running:
                waiter.set_result(None)
                return
            # A loop that stands still may never run again: the next one is woken too.
            if wake(waiter, running) and loop.is_running():
                return

    def take(self, box: Mailbox) -> Any:
        """Return the oldest message of the mailbox, or None."""
        with self.lock:
            if not box.items:
                return None
            box.used_at = _clock.monotonic()
            box.cancelled = False
            self._taken += 1
            return box.items.popleft()[1]

    def wait(self, box: Mailbox, loop: Loop) -> Waiter | None:
        """Return what to await before the next :meth:`take` (:meth:`withdraw` it if that does
        not end well); None if there is a message, or the mailbox was ended, or has lost its
        source: it has to be opened again.
        """
        with self.lock:
            if box.items or self.boxes.get(box.name) is not box or not box.fed:
                return None
            waiter: Waiter = loop.create_future()
            box.waiters.append(waiter)
            demand = box.demand
            if demand is None or not demand.add(loop):
                return waiter
        try:
            demand.on_first_waiter(loop)
        except BaseException:
            self.withdraw(box, waiter)
            raise
        return waiter

    def withdraw(self, box: Mailbox, waiter: Waiter) -> None:
        """Take back a waiter that was cancelled."""
        with self.lock:
            if waiter in box.waiters:
                self._forget(box, waiter)
            box.used_at, box.cancelled = _clock.monotonic(), not box.waiters
            if box.items:
                # It was, or was to be, woken for a message that it will not take.
                self._wake_next(box, waiter.get_loop())

    def spoil(self) -> None:
        """Note that a message that was taken could not be opened, and is none."""
        with self.lock:
            self._spoilt += 1

    def delivered(self) -> int:
        """Return how many messages were taken and could be opened.  Never falls."""
        with self.lock:
            self._delivered = max(self._delivered, self._taken - self._spoilt)
            return self._delivered

    def census(self) -> tuple[int, int, int]:
        """Return the numbers of mailboxes, of those who wait, and of messages that lie there."""
        boxes = list(self.boxes.values())
        waiting = sum(len(box.waiters) for box in boxes)
        return len(boxes), waiting, sum(len(box.items) for box in boxes if box.items)

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
                    self._wake_all(box, error, running)

    def _wake_all(self, box: Mailbox, error: Exception | None, running: Loop | None) -> None:
        waiters, box.waiters = box.waiters, []
        for waiter in waiters:
            if box.demand is not None:
                box.demand.remove(waiter.get_loop())
            wake(waiter, running, error)

    def empty(self) -> None:
        """Forget all messages, and all mailboxes on which nobody waits."""
        with self.lock:
            for box in list(self.boxes.values()):
                box.items = None
                box.groups = None
                if not box.waiters:
                    del self.boxes[box.name]

    def discard(self, box: Mailbox) -> None:
        """Forget a mailbox; who waits on it opens another."""
        with self.lock:
            if self.boxes.get(box.name) is box:
                del self.boxes[box.name]
            self._wake_all(box, None, None)

    def claim(self, box: Mailbox, home: Home, *, subscribed: bool) -> bool:
        """Note that ``home`` has joined a topic for a mailbox, perhaps that of its own name;
        False if the mailbox has ended, or another home joins its topics.

        Who has joined its own name takes it over from one that does not feed it, as that one's
        loop stands still: who waits here would wait until it runs again.
        """
        with self.lock:
            if self.boxes.get(box.name) is not box:
                return False
            if box.home not in (None, home):
                if box.fed or not subscribed:
                    return False
                box.home.taken_over(box)
            box.home = home
            box.subscribed = box.subscribed or subscribed
            return True

    def orphan(self, home: Home) -> None:
        """Note that ``home`` joins no topics any more; who waits opens the mailbox again."""
        running = home.loop if home.loop.is_running() else None
        with self.lock:
            for box in [box for box in self.boxes.values() if box.home is home]:
                box.home, box.subscribed = None, False
                if box.demand is None:
                    self._wake_all(box, None, running)
                else:
                    box.groups = None

    def forget_loop(self, loop: Loop) -> None:
        """Forget all who wait on a loop that was closed."""
        with self.lock:
            for box in self.boxes.values():
                gone = [waiter for waiter in box.waiters if waiter.get_loop() is loop]
                for waiter in gone:
                    self._forget(box, waiter)
                if gone and box.items:
                    self._wake_next(box, None)

    def _forget(self, box: Mailbox, waiter: Waiter) -> None:
        box.waiters.remove(waiter)
        if box.demand is not None:
            box.demand.remove(waiter.get_loop())

    def sweep(self, home: object) -> list[Mailbox]:
        """Remove and return the mailboxes of ``home``, or of none, whose readers have gone."""
        now = _clock.monotonic()
        with self.lock:
            for box in self.boxes.values():
                # Somebody was woken whose loop stopped that moment.
                if box.items and any(one.get_loop().is_running() for one in box.waiters):
                    self._wake_next(box, None)
            gone = [
                box
                for box in self.boxes.values()
                if (box.home is None or box.home is home)
                and box.ended(now, self._expiry_s, self._group_expiry_s)
            ]
            for box in gone:
                del self.boxes[box.name]
        for box in gone:
            for _ in box.items or ():
                self._dropped(box.name, "abandoned")
        return gone


def _make_room(items: deque[tuple[float, Any]]) -> bool:
    """Drop the oldest message that may be dropped; tell whether there was one."""
    for index, (_, item) in enumerate(items):
        if item.droppable:
            del items[index]
            return True
    return False
