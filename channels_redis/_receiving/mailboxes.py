"""All mailboxes of a layer, and the calls that wait on them.

Mailboxes belong to a layer and may be used in any thread; waiting calls belong to their event
loops. Messages are pulled, not pushed: putting a message appends it and wakes one waiting
``receive()``, which then takes it synchronously. So a cancellation can't lose a message, which
stays in the mailbox until it is taken.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, ref

from .._runtime import clock
from .._runtime.native import RLock
from ..exceptions import TooManyChannels
from .budget import Budget, Share
from .mailbox import Home, Mailbox
from .sinks import Sink, no_current_task
from .waiters import Demand, Loop, Waiter, wake

Drops = list[tuple[str, str]]
"""The channel of each message that was dropped, and the reason."""

#: The number of consumers of one message that are woken in one iteration of their event loop.
WAKES = 100
#: The maximum number of channels that were created here and never received on.
UNHEARD = 20_000


class Mailboxes:
    """All mailboxes of a layer, under one lock.

    ``capacity`` returns the limit of a channel in messages, or None; mailboxes without a limit
    share ``max_buffered_bytes``. ``dropped(channel, reason, count)`` is called for messages that
    will not be delivered.
    """

    def __init__(
        self,
        capacity: Callable[[str], int | None],
        dropped: Callable[[str, str, int], None],
        expiry_s: float,
        group_expiry_s: float,
        max_buffered_bytes: int,
    ) -> None:
        self.lock = RLock()
        self.boxes: dict[str, Mailbox] = {}
        self._budget = Budget(max_buffered_bytes)
        #: Channels that were created here and not received on yet.
        self._unheard: set[str] = set()
        # The channels that a task has created and that have a mailbox.
        self._made: WeakKeyDictionary[asyncio.Task[Any], set[str]] = WeakKeyDictionary()
        self._capacity = capacity
        self._dropped = dropped
        self._expiry_s = expiry_s
        self._group_expiry_s = group_expiry_s
        #: How many consumers may have a sink in their mailbox.
        self.sinks = 0
        self._taken = 0
        self._undecodable = 0
        self._delivered = 0

    def open(self, name: str, demand: Demand | None = None) -> Mailbox:
        """Return the mailbox of a channel, which is created if necessary."""
        with self.lock:
            box = self.boxes.get(name)
            if box is None:
                box = Mailbox(name, self._capacity(name), demand, clock.monotonic())
                self.boxes[name] = box
            elif box.demand is None and demand is not None:
                box.demand = demand
                if box.loop is not None:
                    demand.settle(box.loop, 1)
            return box

    def made_here(self, box: Mailbox) -> None:
        """Note that the running task, usually the consumer, created the channel."""
        task = asyncio.current_task()
        if task is None:
            return
        with self.lock:
            if not box.alive:
                return  # Another thread has closed or flushed the layer meanwhile.
            names = self._made.get(task)
            if names is None:
                names = self._made[task] = set()
                # A weak reference, because a task may outlive its layer.
                task.add_done_callback(partial(_maker_ended, ref(self)))
            names.add(box.name)
            box.maker = ref(task)
            if box.loop is None:
                self._unheard.add(box.name)

    def check_room(self) -> None:
        """Raise :class:`TooManyChannels` if too many channels are created and never received on."""
        if len(self._unheard) >= UNHEARD:
            raise TooManyChannels(
                f"new_channel(): {UNHEARD} channels of this process were created and never "
                "received on. Create a channel only where it is received on."
            )

    def maker_ended(self, task: asyncio.Task[Any]) -> None:
        """Note that a task that created channels has ended; other tasks may receive on them."""
        with self.lock:
            for name in self._made.pop(task, ()):
                box = self.boxes[name]
                box.maker = None
                if not box.awaited():
                    box.left = (clock.monotonic(), ref(task.get_loop()))

    def settle(self, box: Mailbox, loop: Loop) -> None:
        """Note that a consumer receives on ``loop`` from now on."""
        with self.lock:
            self._unsettle(box)
            box.loop = ref(loop)
            self._unheard.discard(box.name)
            if box.demand is not None and box.alive:
                box.demand.settle(box.loop, 1)

    def _unsettle(self, box: Mailbox) -> None:
        if box.loop is not None and box.demand is not None:
            box.demand.settle(box.loop, -1)
        box.loop = None

    def put(self, box: Mailbox, item: Any, running: Loop | None, bound: int | None = None) -> None:
        """Append a message; at capacity, or at ``bound`` messages, the oldest makes room.

        ``running`` is the event loop that runs in this thread, here and below.
        """
        self._append([box], item, bound)
        self._wake_some([box], 0, running)

    def put_all(self, boxes: Iterable[Mailbox], item: Any, running: Loop | None) -> None:
        """Append one message to many mailboxes in one pass, and wake those who wait, but for those
        that can be handed it.

        It is in all mailboxes before anybody has it, so nothing that comes later overtakes it.
        """
        boxes = list(boxes)
        if self.sinks:
            # The frame that consumers share is about as large again.
            item.cost_bytes *= 2
        self._append(boxes, item, None)
        if len(boxes) > WAKES:
            self._wake_elsewhere(boxes[WAKES:], running)
        if self.sinks and running is not None:
            self._hand_some(boxes, 0, item, running)
        else:
            self._wake_some(boxes, 0, running)

    def has_room(self, box: Mailbox, count: int, size_bytes: int) -> bool:
        """Return whether so many messages of so many bytes in all fit into a mailbox at once."""
        if box.capacity is not None:
            return len(box.items or ()) + count <= box.capacity
        return size_bytes <= self._budget.limit_bytes // 2

    def _append(self, boxes: list[Mailbox], item: Any, bound: int | None) -> None:
        now = clock.monotonic()
        entry, counted_entry = (now, item, False), (now, item, True)
        counted: list[Share] = []
        dropped: Drops = []
        with self.lock:
            for box in boxes:
                items = box.items
                if items is None:
                    items = box.items = deque()
                # A message that a call waits for is taken at once, so it is not counted.
                if (box.waiters and not items) or not item.droppable:
                    items.append(entry)
                elif not box.alive:
                    dropped.append((box.name, "abandoned"))
                elif (limit := bound or box.capacity) is None:
                    counted.append(box)
                    items.append(counted_entry)
                else:
                    self._make_room(box, limit, dropped)
                    items.append(entry)
            if counted:
                self._budget.add(counted, item)
                self._keep_within_budget(dropped)
        if dropped:
            self._report_drops(dropped)

    def _make_room(self, box: Mailbox, limit: int, dropped: Drops) -> None:
        if box.items is not None and len(box.items) >= limit and self._drop_oldest(box):
            dropped.append((box.name, "capacity"))

    def _keep_within_budget(self, dropped: Drops) -> None:
        while self._budget.exceeded:
            box = self._budget.largest()
            if not (isinstance(box, Mailbox) and self._drop_oldest(box)):
                return
            dropped.append((box.name, "memory"))

    def _drop_oldest(self, box: Mailbox) -> bool:
        """Drop the oldest message that may be dropped; return whether there was one."""
        for index, (_, item, _) in enumerate(box.items or ()):
            if item.droppable:
                self._remove(box, index)
                return True
        return False

    def _remove(self, box: Mailbox, index: int = 0) -> Any:
        """Take a message out of its mailbox."""
        assert box.items is not None
        if index:
            _, item, counted = box.items[index]
            del box.items[index]
        else:
            _, item, counted = box.items.popleft()
        if counted:
            self._budget.remove(box, item)
        return item

    def _drop_expired(self, box: Mailbox, now: float) -> int:
        """Drop the messages that are older than ``expiry``; return their number."""
        count, items = 0, box.items
        # A message that can be put back into its queue expires there.
        while items and now - items[0][0] >= self._expiry_s and items[0][1].droppable:
            self._remove(box)
            count += 1
        return count

    def _clear(self, box: Mailbox) -> int:
        """Drop all messages of a mailbox; return their number."""
        count = len(box.items or ())
        while box.items:
            self._remove(box)
        box.items = None
        return count

    def _report_drops(self, dropped: Drops) -> None:
        """Report drops, without holding the lock, because this calls users' hooks."""
        for (name, reason), count in Counter(dropped).items():
            self._dropped(name, reason, count)

    def _wake_elsewhere(self, boxes: list[Mailbox], running: Loop | None) -> None:
        """Wake the calls on other loops, because this loop may stop now."""
        with self.lock:
            for box in boxes:
                if box.waiters and box.waiters[0].get_loop() is not running:
                    self._wake_next(box, running)

    def _wake_some(self, boxes: list[Mailbox], start: int, running: Loop | None) -> None:
        """Wake calls for a message that has just arrived, and the rest in the next iterations.

        Waking ten thousand at once would block the loop, trigger garbage collections, and evict
        their data from the CPU cache before they run.
        """
        end = start + WAKES
        with self.lock:
            for box in boxes[start:end]:
                if box.waiters and box.items:
                    self._wake_next(box, running)
        # On a closed loop no call waits any more, and calls on other loops were woken before.
        if end < len(boxes) and running is not None and not running.is_closed():
            running.call_soon(self._wake_some, boxes, end, running)

    def _hand_some(self, boxes: list[Mailbox], start: int, item: Any, running: Loop) -> None:
        """Hand a message to those that are idle and whose next one it is, and wake the others; as
        many at once as :meth:`_wake_some`.
        """
        end, now = start + WAKES, clock.monotonic()
        with no_current_task(running):
            for box in boxes[start:end]:
                if box.waiters and box.items:
                    self._hand(box, item, running, now)
        if end < len(boxes) and not running.is_closed():
            running.call_soon(self._hand_some, boxes, end, item, running)

    def _hand(self, box: Mailbox, item: Any, running: Loop, now: float) -> None:
        """Hand a message to the consumer of a mailbox, or wake it.

        Without the lock, as a sink runs code of users, which may have done anything.
        """
        sink = box.sink
        prepared = sink and sink.prepare(item)
        with self.lock:
            items, waiters = box.items, box.waiters
            if not (items and waiters):
                return
            if (
                not sink
                or not prepared
                or items[0][1] is not item
                or not sink.is_idle(waiters, running)
            ):
                self._wake_next(box, running)
                return
            if items.popleft()[2]:
                self._budget.remove(box, item)
            box.used_at = now
            self._taken += 1
        sink.hand(prepared)

    def _wake_next(self, box: Mailbox, running: Loop | None) -> None:
        while box.waiters:
            waiter = box.waiters.pop(0)
            loop = waiter.get_loop()
            if box.demand is not None:
                box.demand.remove(loop)
            if waiter.done():
                continue
            if loop is running:
                waiter.set_result(None)
                return
            # A stopped loop may never run again: the next call is woken, too.
            if wake(waiter, running) and loop.is_running():
                return

    def take(self, box: Mailbox) -> Any:
        """Return the oldest message of the mailbox that has not expired, or None."""
        expired = 0
        with self.lock:
            items = box.items
            if not items:
                return None
            now = box.used_at = clock.monotonic()
            box.left = None
            if now - items[0][0] >= self._expiry_s:
                expired = self._drop_expired(box, now)
            item = None
            if items:
                _, item, counted = items.popleft()
                if counted:
                    self._budget.remove(box, item)
                self._taken += 1
        if expired:
            self._dropped(box.name, "expired", expired)
        return item

    def wait(self, box: Mailbox, loop: Loop) -> Waiter | None:
        """Return what to await before the next :meth:`take` (:meth:`withdraw` it if that does
        not end well); None if there is a message, or the mailbox was ended, or has lost its
        source: it has to be opened again.
        """
        with self.lock:
            if box.items or not (box.alive and box.fed):
                return None
            box.left = None
            waiter: Waiter = loop.create_future()
            box.waiters.append(waiter)
            demand = box.demand
            if demand is None or not demand.add(loop):
                return waiter
            if box.loop is None or box.loop() is not loop:
                self.settle(box, loop)
        try:
            demand.on_first_waiter(loop)
        except BaseException:
            self.withdraw(box, waiter)
            raise
        return waiter

    def attach(self, box: Mailbox, sink: Sink) -> None:
        """Deliver messages to an idle consumer without waking it."""
        with self.lock:
            self.sinks += box.sink is None
            box.sink = sink

    def detach(self, box: Mailbox) -> None:
        """Undo :meth:`attach`."""
        with self.lock:
            self.sinks -= box.sink is not None
            box.sink = None

    def withdraw(self, box: Mailbox, waiter: Waiter) -> None:
        """Take back a waiter that was cancelled."""
        with self.lock:
            if waiter in box.waiters:
                self._forget(box, waiter)
            box.used_at = clock.monotonic()
            if box.items:
                # It was woken, or about to be, for a message that it will not take.
                self._wake_next(box, waiter.get_loop())

    def count_undecodable(self) -> None:
        """Note that a message that was taken could not be decoded."""
        with self.lock:
            self._undecodable += 1

    def delivered(self) -> int:
        """Return how many messages were taken and decoded. Never decreases."""
        with self.lock:
            self._delivered = max(self._delivered, self._taken - self._undecodable)
            return self._delivered

    def waiting(self) -> int:
        """Return how many calls of ``receive()`` wait."""
        return sum(len(box.waiters) for box in list(self.boxes.values()))

    def census(self) -> tuple[int, int, int, int]:
        """Return the numbers of mailboxes, of waiting calls and of messages, and the bytes of the
        messages.
        """
        boxes = list(self.boxes.values())
        # Looked up once each, as another thread may empty a mailbox meanwhile.
        buffered = sum(len(items) for box in boxes if (items := box.items))
        return len(boxes), self.waiting(), buffered, self._budget.used_bytes

    def reclaim(self, box: Mailbox, wanted: Callable[[Any], bool]) -> list[Any]:
        """Take back the messages for which ``wanted(message)`` is true."""
        with self.lock:
            found = [index for index, (_, item, _) in enumerate(box.items or ()) if wanted(item)]
            # From the end, so that the indexes of the others stay valid.
            mine = [self._remove(box, index) for index in reversed(found)]
            return mine[::-1]

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
        """Remove all messages and groups, and all mailboxes without a known consumer."""
        with self.lock:
            for box in list(self.boxes.values()):
                self._clear(box)
                box.groups = box.carried = None
                if not box.waiters and box.maker is None:
                    self._end(box)

    def _end(self, box: Mailbox) -> int:
        """Remove a mailbox; return the number of its messages."""
        del self.boxes[box.name]
        box.alive = False
        self._unheard.discard(box.name)
        task = box.maker() if box.maker is not None else None
        if task is not None and task in self._made:
            self._made[task].discard(box.name)
        self.detach(box)
        self._unsettle(box)
        return self._clear(box)

    def discard(self, box: Mailbox) -> None:
        """Forget a mailbox; calls that wait on it open another."""
        with self.lock:
            if box.alive:
                self._end(box)
            self._wake_all(box, None, None)

    def claim(self, box: Mailbox, home: Home, *, subscribed: bool) -> bool:
        """Note that ``home`` has joined a topic for a mailbox, perhaps that of its own name;
        False if the mailbox has ended, or another home joins its topics.

        Who has joined its own name takes it over from one that does not feed it, as that one's
        loop is stopped: calls that wait here would wait until it runs again.
        """
        with self.lock:
            if not box.alive:
                return False
            before = box.home
            if before not in (None, home):
                if box.fed or not subscribed:
                    return False
                before.taken_over(box)
            box.home = home
            box.subscribed = box.subscribed or subscribed
            return True

    def forget_home(self, home: Home) -> None:
        """Note that ``home`` joins no topics any more; waiting calls open the mailbox again."""
        running = home.loop if home.loop.is_running() else None
        with self.lock:
            for box in [box for box in self.boxes.values() if box.home is home]:
                box.home, box.subscribed = None, False
                if box.demand is None:
                    self._wake_all(box, None, running)
                else:
                    box.groups = None

    def forget_loop(self, loop: Loop) -> None:
        """Remove all waiting calls of a closed loop."""
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
        """Drop what has expired; remove and return the mailboxes of ``home``, or of none, whose
        consumers have gone.
        """
        now = clock.monotonic()
        dropped: Drops = []
        with self.lock:
            gone = []
            for box in list(self.boxes.values()):
                if box.items:
                    dropped += [(box.name, "expired")] * self._drop_expired(box, now)
                # A call was woken whose loop stopped at that moment.
                if box.items and any(one.get_loop().is_running() for one in box.waiters):
                    self._wake_next(box, None)
                if box.home in (None, home) and box.ended(now, self._group_expiry_s):
                    gone.append(box)
            for box in gone:
                dropped += [(box.name, "abandoned")] * self._end(box)
        self._report_drops(dropped)
        return gone


def _maker_ended(mailboxes: ref[Mailboxes], task: asyncio.Task[Any]) -> None:
    boxes = mailboxes()
    if boxes is not None:
        boxes.maker_ended(task)
