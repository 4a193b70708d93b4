"""The queues that this process reads: waiting calls, readers, and the delivery of messages.

Shared by both layers: core reads all its channels so, pubsub its general channels.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from .._format.keyspace import Keyspace
from .._runtime import clock
from .._runtime.loops import LoopStates
from .._runtime.portal import portal
from .._runtime.weakly import weakly
from .._session import Session
from .._transport.pops import Popped
from .._transport.reader import QueueReader
from .._watch.events import MessagesDropped, QueueUnreadable, Reporter
from ..exceptions import TooManyChannels, WrongKeyType
from .mailbox import Mailbox
from .mailboxes import Mailboxes
from .messages import Held, Item, Recent
from .silence import SilenceWatch
from .waiters import Demand

Loop = asyncio.AbstractEventLoop

#: Messages in one pop.
BATCH = 128
#: Above this many mailboxes that only messages have opened, the oldest ends: nobody may ever
#: receive there.
STRANGERS = 1000
#: Above this many readers of a layer, one per queue and host, each with a connection, no further
#: general channel is read.
READERS = 1000


@dataclass(frozen=True)
class QueueContext:
    """What a queue knows of its layer, which it does not hold."""

    expiry_s: float
    #: How long a pop may wait on the server; None for half of ``command_timeout_s``.
    block_s: float | None
    keyspace: Keyspace
    mailboxes: Mailboxes
    report: Reporter
    #: Where readers run.
    sessions: LoopStates[Session]


class LocalQueue:
    """One queue as this process reads it: the owner of its readers, at most one per shard.

    See :class:`GeneralQueue` and :class:`OwnQueue` for what becomes of its messages.
    """

    specific: bool

    def __init__(self, context: QueueContext, name: str, shards: list[int]) -> None:
        self.name = name
        self.key = context.keyspace.queue(name)
        self.expiry_s = context.expiry_s
        self.block_s = context.block_s
        self.receivers = Demand(self._ensure_readers)
        self._sessions = context.sessions
        self._report = context.report
        self._mailboxes = context.mailboxes
        self._shards = shards
        # A weak reference: they belong to event loops, which may be dropped.
        self._readers: WeakValueDictionary[int, QueueReader] = WeakValueDictionary()
        #: By the loop that asks.
        self._watches: WeakKeyDictionary[Loop, SilenceWatch] = WeakKeyDictionary()

    def open(self, channel: str) -> Mailbox:
        """Return the mailbox of a channel that this queue feeds."""
        return self._mailboxes.open(channel, self.receivers)

    # What the readers ask for (see QueueOwner)

    def demand(self) -> int:
        """Return how many receivers wait."""
        return self.receivers.waiting

    def limit(self) -> int:
        """Return the maximum number of messages to pop."""
        return self.receivers.waiting

    def deliver(self, reader: QueueReader, messages: list[Popped], running: Loop | None) -> None:
        """Put popped messages into mailboxes."""
        raise NotImplementedError

    def dropped(self, reason: str, count: int) -> None:
        """Count messages that will not be delivered."""
        self._report(MessagesDropped(self.name, reason, count))

    def reclaim(self, reader: QueueReader, before: float) -> tuple[list[Popped], bool]:
        """Hand back what it delivered ``before`` and nobody took; return whether more is left."""
        return [], False

    def failed(self, error: Exception) -> None:
        """Raise an error in the waiting calls: no retry will help."""
        self._mailboxes.fail(error, None, self.receivers)

    def unreadable(self, error: WrongKeyType) -> None:
        """Raise an error in the waiting calls, and report it."""
        self._report(QueueUnreadable(self.name))
        self.failed(error)

    def ended(self, reader: QueueReader) -> None:
        """Note the end of a reader, and start another if a call waits."""
        with self._mailboxes.lock:
            for shard, running in list(self._readers.items()):
                if running is reader:
                    del self._readers[shard]
        self.resume()

    def unused(self) -> bool:
        """Return whether nothing is lost by forgetting the queue: nobody reads it any more."""
        if self._readers or self.receivers.waiting:
            return False
        return not any(box.demand is self.receivers for box in self._mailboxes.boxes.values())

    def look_after(self) -> None:
        """Have those who receive served elsewhere, if the loop of a reader has ended or stands
        still.
        """
        loop = self.receivers.loop()
        readers = list(self._readers.values())
        standing = not readers or not all(one.loop.is_running() for one in readers)
        # On a stopped loop, callbacks would only accumulate.
        if standing and loop is not None and loop.is_running():
            self.resume()

    def resume(self) -> None:
        """Start readers if there are receivers, on the loop of one of them."""
        with self._mailboxes.lock:
            loop = self.receivers.loop()
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # Closed this moment, and its waiters too.
                loop.call_soon_threadsafe(self._ensure_readers, loop)

    def _ensure_readers(self, loop: Loop) -> None:
        """Start a reader on each shard that has none; ``loop`` is the running one."""
        home = self._sessions.find(loop)
        if home is None and not self.receivers.waiting:
            return  # The layer was closed there, or is gone; the next receive() starts anew.
        if not (self.specific or self._readers or self._may_read_more()):
            self.failed(
                TooManyChannels(
                    f"receive() of {self.name!r}: this layer has {READERS:,} readers already (one "
                    "per queue and host). Use fewer general channels, or channels of new_channel()."
                )
            )
            return
        if home is None:
            if portal.serves(loop):
                portal.call_soon(self._ensure_readers)
                return
            home = self._sessions.get()
        elsewhere = False
        for shard in self._shards:
            reader = self._reader(shard, home)
            if reader is not None:
                elsewhere = elsewhere or reader.loop is not loop
                with contextlib.suppress(RuntimeError):  # Its end will start another.
                    reader.poke(loop)
        if elsewhere and loop not in self._watches:
            self._watch_others(loop)

    def _may_read_more(self) -> bool:
        """Return whether another reader of this layer may be started."""
        running: int = sum(session.readers for session in self._sessions.all().values())
        return running < READERS

    def _reader(
        self, shard: int, home: Session, silent: Container[Loop] = ()
    ) -> QueueReader | None:
        """Return the reader of a shard, started if anybody receives and there is none; in place of
        one whose loop does not run, or is ``silent``.
        """
        with self._mailboxes.lock:
            reader = self._readers.get(shard)
            before = None
            if reader is not None and reader.loop is not home.loop:
                if reader.loop.is_running() and reader.loop not in silent:
                    return reader
                before, reader = reader, None
                before.mark_replaced()
            if reader is None and self.demand():
                reader = home.start_reader(self, shard, before)
                if reader is not None:
                    self._readers[shard] = reader
            return reader

    # Loops that are blocked

    def _watch_others(self, loop: Loop) -> None:
        """Check from ``loop``, the running one, whether the loops of the readers respond."""
        # Weakly, as a watch must not keep the queue of a layer that its users have dropped.
        others, silent = weakly(self._others, set[Loop]()), weakly(self._take_over, None)
        watch = self._watches[loop] = SilenceWatch(loop, others, silent)
        watch.ask()

    def _others(self, loop: Loop) -> set[Loop]:
        """Return the other loops that read for receivers on ``loop``."""
        others: set[Loop] = set()
        if self.receivers.concerns(loop):
            others = {reader.loop for reader in list(self._readers.values())} - {loop}
        if not others:
            self._watches.pop(loop, None)
        return others

    def _take_over(self, loop: Loop, silent: set[Loop]) -> None:
        """Replace, on ``loop``, the running one, the readers of loops that do not respond."""
        home = self._sessions.find(loop)
        if home is not None:  # the layer was not closed there meanwhile
            for shard in self._shards:
                self._reader(shard, home, silent)


class GeneralQueue(LocalQueue):
    """The queue of a general channel, which other processes may read too: what no receiver takes
    goes back.
    """

    specific = False

    def __init__(
        self, context: QueueContext, name: str, shards: list[int], unpack: Callable[[bytes], Any]
    ) -> None:
        super().__init__(context, name, shards)
        self._unpack = unpack

    def deliver(self, reader: QueueReader, messages: list[Popped], running: Loop | None) -> None:
        """Put popped messages into the mailbox of the channel."""
        box = self.open(self.name)
        now = clock.monotonic()
        for member, score in messages:
            held = Held(reader, now, member, score, self._unpack)
            self._mailboxes.put(box, held, running)

    def reclaim(self, reader: QueueReader, before: float) -> tuple[list[Popped], bool]:
        """Hand back what it delivered ``before`` and nobody took; return whether more is left."""
        box = self._mailboxes.boxes.get(self.name)
        if box is None:
            return [], False

        # A mailbox may hold what other readers brought, and what was published to a group.
        def is_mine(item: Any) -> bool:
            return isinstance(item, Held) and item.origin is reader

        with self._mailboxes.lock:
            mine: list[Held] = self._mailboxes.reclaim(
                box, lambda item: is_mine(item) and item.since <= before
            )
            left = any(is_mine(item) for _, item, _ in box.items or ())
        return [(item.member, item.score) for item in mine], left


class OwnQueue(LocalQueue):
    """The queue of a process, with the messages of all its channels (core).

    ``read(member)`` returns the addresses of a message and its item; ``undecodable(name, error)``
    is called with what it raises; ``put_in_order`` puts group messages into mailboxes, where groups
    have a history.  Where all members are unique (``unique``), one that comes again
    was popped twice.
    """

    specific = True

    def __init__(
        self,
        context: QueueContext,
        name: str,
        shard: int,
        read: Callable[[bytes], tuple[Any, Item]],
        undecodable: Callable[[str, Exception], None],
        *,
        unique: bool,
        put_in_order: Callable[[list[Mailbox], Item, Loop | None], None] | None = None,
    ) -> None:
        super().__init__(context, name, [shard])
        self._read = read
        self._put_in_order = put_in_order
        self._undecodable = undecodable
        self._recent = Recent() if unique else None
        self._used_at = clock.monotonic()
        self._smallest_capacity = BATCH
        #: Mailboxes that only messages have opened, oldest first.
        self._strangers: OrderedDict[str, Mailbox] = OrderedDict()

    def open(self, channel: str) -> Mailbox:
        """Return the mailbox of a channel that this queue feeds."""
        self._used_at = clock.monotonic()
        box = super().open(channel)
        if box.capacity is not None and box.capacity < self._smallest_capacity:
            self._smallest_capacity = box.capacity
        return box

    def _open_all(self, channels: list[str]) -> list[Mailbox]:
        """Return the mailboxes of many channels; of those that nobody here has made or received
        on, the last :data:`STRANGERS` at most.
        """
        # The addresses are not trusted: each counts once.
        channels = list(dict.fromkeys(channels))
        boxes = self._mailboxes.boxes
        unknown = [one for one in channels if one not in boxes]
        lost = unknown[:-STRANGERS]
        if lost:
            self.dropped("abandoned", len(lost))
        for channel in unknown[len(lost) :]:
            self._strangers[channel] = self.open(channel)
        while len(self._strangers) > STRANGERS:
            self._give_up(*self._strangers.popitem(last=False))
        return [box for one in channels if (box := boxes.get(one)) is not None]

    def _give_up(self, channel: str, box: Mailbox) -> None:
        """End a mailbox that a message has opened, unless it is used by now."""
        with self._mailboxes.lock:
            if box.is_unknown() and self._mailboxes.boxes.get(channel) is box:
                unread = len(box.items or ())
                self._mailboxes.discard(box)
                self.dropped("abandoned", unread)

    def demand(self) -> int:
        """Return how many receivers wait; at least 1 while consumers live that may all be busy:
        they must not fill the queue for each other.
        """
        return self.receivers.waiting or int(self.receivers.alive)

    def limit(self) -> int:
        """Return how many messages there is room for: a batch must fit a mailbox."""
        return self._smallest_capacity

    def deliver(self, reader: QueueReader, messages: list[Popped], running: Loop | None) -> None:
        """Put popped messages into the mailboxes that they are for."""
        for member, _ in messages:
            if self._recent is not None and self._recent.has(member):
                self.dropped("repeated", 1)
                continue
            try:
                addresses, item = self._read(member)
                channels = [addresses] if isinstance(addresses, str) else addresses
                if not all(channel.startswith(self.name) for channel in channels):
                    raise ValueError("addressed to another process")
                boxes = self._open_all(channels)
            except Exception as error:  # noqa: BLE001 (whatever a serializer raises)
                self._undecodable(self.name, error)
                continue
            if self._put_in_order is None or isinstance(addresses, str):
                self._mailboxes.put_all(boxes, item, running)
            else:
                self._put_in_order(boxes, item, running)

    def unused(self) -> bool:
        """Return whether nobody reads the queue, and no message of it can come a second time."""
        return clock.monotonic() - self._used_at >= self.expiry_s and super().unused()
