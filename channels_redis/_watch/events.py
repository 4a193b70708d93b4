"""The events of a layer, and the reporter that counts and logs them.

Every event is counted and passed to the hooks.  Important events are also logged, at a limited
rate: one WARNING per lost node, one INFO when it is back, drops at once and then in a summary at
most every :data:`SUMMARY_S` seconds.  The data of each record is also available as attributes,
such as ``event``.
"""

from __future__ import annotations

import atexit
import logging
import os
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar
from weakref import ref

from .._runtime import clock
from .._runtime.native import RLock

#: Seconds between two records about the same problem.
SUMMARY_S = 60.0


@dataclass(frozen=True)
class NodeLost:
    """A server that was in use can't be reached, or a connection to it was lost."""

    node: str
    reason: str


@dataclass(frozen=True)
class NodeBack:
    """All connections and subscriptions of a lost server are restored, perhaps on another."""

    node: str
    outage_s: float


@dataclass(frozen=True)
class MessagesDropped:
    """Messages will not be delivered.

    ``reason``: ``capacity`` (the mailbox was full), ``memory`` (all mailboxes together used up
    ``max_buffered_bytes``), ``abandoned`` (its consumer has ended), ``expired`` (unread for
    ``expiry``), ``undecodable`` (no key or format can decode it), ``misplaced`` and ``unbound``
    (encrypted for another queue or topic, or for none: see the option ``encryption_binding``),
    ``too_large`` (longer than the limit for received messages), ``repeated`` (a server delivered a
    message again), ``put_back`` (no ``receive()`` took it, and it may or may not have been put
    back into its queue).
    """

    channel: str
    reason: str
    count: int = 1


@dataclass(frozen=True)
class GroupOverCapacity:
    """A group message skipped ``full`` queues; the group has ``members`` channels."""

    group: str
    full: int
    members: int


@dataclass(frozen=True)
class QueueUnreadable:
    """Receivers of a queue got :class:`WrongKeyType`, because its key is not a sorted set."""

    queue: str


@dataclass(frozen=True)
class SenderClockUsed:
    """A server refuses TIME, so messages get the times of their senders."""

    node: str


@dataclass(frozen=True)
class Operation:
    """A call of a coroutine or of ``layer.sync`` has ended.  Reported for all methods that send
    commands to a server, except ``receive()`` and ``new_channel()``.

    ``error`` is the qualified name of the exception, such as
    ``"channels_redis.exceptions.ConnectionLost"``, or None if the call returned.
    """

    name: str
    duration_s: float
    error: str | None = None


Event = (
    NodeLost | NodeBack | MessagesDropped | GroupOverCapacity | QueueUnreadable | SenderClockUsed
)
T = TypeVar("T")

#: The maximum number of channels that a summary of drops counts separately, and of groups over
#: capacity that get their own records within :data:`SUMMARY_S`.
_NAMES_NOTED = 1000
#: Reasons that may be part of normal operation and are then not logged.
_QUIET = frozenset({"expired", "repeated"})
#: Advice for the reasons of drops.
_ADVICE = {
    "capacity": "consumers are slower than their messages: raise capacity or channel_capacity",
    "memory": "consumers are slower than their messages: raise max_buffered_bytes",
    "expired": "consumers did not read for expiry seconds: shorten their handlers, or raise expiry",
    "undecodable": "senders use another key or another format: compare their settings",
}


class Hooks(Generic[T]):
    """Callbacks of users, which may be added and removed in any thread.

    Exceptions of a callback are logged, once in :data:`SUMMARY_S`, and have no other effect.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._log = logger
        #: Empty if there are none, which is checked before an operation is timed.
        self.callbacks: dict[object, Callable[[T], None]] = {}
        self._failure_logged_at: float | None = None

    def add(self, callback: Callable[[T], None]) -> Callable[[], None]:
        """Add ``callback``; return the function that removes it."""
        if not callable(callback):
            raise TypeError(f"A callback must be callable, not {type(callback).__name__}.")
        key = object()
        self.callbacks[key] = callback

        def remove() -> None:
            self.callbacks.pop(key, None)

        return remove

    def __call__(self, fact: T) -> None:
        """Call all callbacks with a fact."""
        for callback in list(self.callbacks.values()):
            try:
                callback(fact)
            except Exception as error:  # noqa: BLE001 (whatever a user's hook raises)
                self._log_failure(error)

    def _log_failure(self, error: Exception) -> None:
        now = clock.monotonic()
        # A callback that fails may fail for each message.
        if self._failure_logged_at is None or now - self._failure_logged_at >= SUMMARY_S:
            self._failure_logged_at = now
            self._log.error("A hook for events of the channel layer failed", exc_info=error)


@contextmanager
def timed(name: str, hooks: Hooks[Operation]) -> Iterator[None]:
    """Call ``hooks`` with the duration and the error of an operation."""
    started = clock.monotonic()
    error: str | None = None
    try:
        yield
    except BaseException as raised:
        error = f"{type(raised).__module__}.{type(raised).__qualname__}"
        raise
    finally:
        hooks(Operation(name, clock.monotonic() - started, error))


_reporters: weakref.WeakSet[Reporter] = weakref.WeakSet()


@atexit.register
def _at_exit() -> None:
    for reporter in list(_reporters):
        reporter.end()


class Reporter:
    """Turns the events of one layer into counts, log records and calls of hooks.

    May be used from any thread.
    """

    def __init__(self, logger: logging.Logger, hooks: Hooks[Event]) -> None:
        self._log = logger
        # Reentrant, because objects that are garbage collected here may report events.
        self._lock = RLock()
        # A weak reference, because callbacks may reference the layer, which references them.
        self._hooks = ref(hooks)
        #: Messages dropped, by reason.
        self.dropped: Counter[str] = Counter()
        self._pid = os.getpid()
        self._pending_drops: Counter[tuple[str, str]] = Counter()
        self._drops_reported_at: float | None = None
        self._over_capacity: dict[str, tuple[float, int, int]] = {}
        self._clock_reported: set[str] = set()
        #: How often a queue could not be read.
        self.unreadable_queues = 0
        self._unreadable_logged_at: dict[str, float] = {}
        _reporters.add(self)

    def __call__(self, event: Event, *, unread: bool = False) -> None:
        """Count the event, log it if necessary, and call the hooks.  ``unread`` is true for dropped
        messages that a faster consumer of this process would have received.
        """
        facts: dict[str, object]
        match event:
            case MessagesDropped():
                self._drop(event, unread)
            case GroupOverCapacity():
                self._group_over_capacity(event)
            case NodeLost(node, reason):
                facts = {"event": "node_lost", "node": node, "reason": reason}
                why = reason.rstrip(".")
                self._log.warning("Lost Redis at %s: %s; reconnecting", node, why, extra=facts)
            case NodeBack(node, outage_s):
                facts = {"event": "node_back", "node": node, "outage_s": outage_s}
                self._log.info("Redis at %s is back after %.1f s", node, outage_s, extra=facts)
            case QueueUnreadable(queue):
                self._queue_unreadable(queue)
            case SenderClockUsed(node):
                self._sender_clock(node)
        hooks = self._hooks()
        if hooks is not None:
            hooks(event)

    def drops(self) -> dict[str, int]:
        """Return the number of messages dropped, by reason."""
        with self._lock:
            return dict(self.dropped)

    def flush_due(self, *, at_exit: bool = False) -> None:
        """Write the summary of drops if it is due, or at the exit of the process."""
        now = clock.monotonic()
        with self._lock:
            logged_at = self._drops_reported_at
            is_due = at_exit or logged_at is None or now - logged_at >= SUMMARY_S
            if not self._pending_drops or not is_due:
                return
            drops, self._pending_drops = self._pending_drops, Counter()
            self._drops_reported_at = now
        worst = ", ".join(
            f"{count} on {channel} ({reason})" for (reason, channel), count in drops.most_common(5)
        )
        by_reason: Counter[str] = Counter()
        for (reason, _), count in drops.items():
            by_reason[reason] += count
        advice = "".join(f"; {_ADVICE[one]}" for one in by_reason if one in _ADVICE)
        count = drops.total()
        self._log.warning(
            "Dropped %s message%s; most: %s%s",
            *(count, "" if count == 1 else "s", worst, advice),
            extra={"event": "messages_dropped", "count": count, "reasons": dict(by_reason)},
        )

    def end(self) -> None:
        """Write the pending summary at the exit of the process, but not in a forked child."""
        if self._pid == os.getpid():
            self.flush_due(at_exit=True)

    def _drop(self, event: MessagesDropped, unread: bool) -> None:
        with self._lock:
            self.dropped[event.reason] += event.count
            if event.reason in _QUIET and not unread:
                return
            key = event.reason, event.channel
            if key not in self._pending_drops and len(self._pending_drops) >= _NAMES_NOTED:
                key = event.reason, "other channels"
            self._pending_drops[key] += event.count
        self.flush_due()

    def _group_over_capacity(self, event: GroupOverCapacity) -> None:
        now = clock.monotonic()
        with self._lock:
            noted = self._over_capacity
            since, full, members = noted.get(event.group, (-SUMMARY_S, 0, 0))
            full, members = full + event.full, members + event.members
            if now - since < SUMMARY_S:
                noted[event.group] = (since, full, members)
                return
            noted.pop(event.group, None)
            if len(noted) >= _NAMES_NOTED:
                # The one that was reported first.
                oldest = next(iter(noted))
                if now - noted[oldest][0] < SUMMARY_S:
                    return
                del noted[oldest]
            noted[event.group] = (now, 0, 0)
        text = "%s of %s channels over capacity in group %s"
        facts = {
            "event": "group_over_capacity",
            "group": event.group,
            "full": full,
            "members": members,
        }
        self._log.info(text, full, members, event.group, extra=facts)

    def _queue_unreadable(self, queue: str) -> None:
        now = clock.monotonic()
        with self._lock:
            self.unreadable_queues += 1
            logged_at = self._unreadable_logged_at
            if now - logged_at.get(queue, -SUMMARY_S) < SUMMARY_S:
                return
            logged_at.pop(queue, None)
            if len(logged_at) >= _NAMES_NOTED:
                del logged_at[next(iter(logged_at))]
            logged_at[queue] = now
        self._log.error(
            "Queue %s can't be read: its key in Redis is not a sorted set",
            queue,
            extra={"event": "queue_unreadable", "queue": queue},
        )

    def _sender_clock(self, node: str) -> None:
        with self._lock:
            if node in self._clock_reported:
                return
            self._clock_reported.add(node)
        self._log.warning(
            "Redis at %s refuses TIME: allow it, or synchronize the clocks of all senders",
            node,
            extra={"event": "sender_clock_used", "node": node},
        )
