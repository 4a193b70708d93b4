"""One outage, however many notice it.  Knows no Redis and does no I/O.

A shard has several users (the multiplexer and readers of each event loop, a subscriber).  Each
says when it lost its connection and when it works again; the shard is lost from the first
loss until the last loser is back.  A layer is in an outage while any of its shards is lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet

from .._config.secrets import NO_SECRETS, Secrets
from .._runtime import clock
from .._runtime.native import Lock, RLock
from .events import NodeBack, NodeLost, Reporter

_NEVER_WORKED = "it has not worked yet: check that it runs, and host, port and TLS of its entry"
_DOCTOR = "python -m channels_redis doctor"


class Outage:
    """The outage of a layer: ``changed(began, outage_s)`` is called when one begins and ends, as
    soon as :meth:`tell` is.
    """

    def __init__(self, changed: Callable[[bool, float], None]) -> None:
        self.lock = RLock()
        self._changed = changed
        self._untold: deque[tuple[bool, float]] = deque()
        self._telling = Lock()
        self._lost_shards = 0
        self._since = 0.0
        self._past_s = 0.0

    def shard_lost(self) -> None:
        """Count a shard that was lost just now."""
        self._lost_shards += 1
        if self._lost_shards == 1:
            self._since = clock.monotonic()
            self._untold.append((True, 0.0))

    def shard_back(self) -> None:
        """Count a shard that is back."""
        self._lost_shards -= 1
        if self._lost_shards == 0:
            outage_s = clock.monotonic() - self._since
            self._past_s += outage_s
            self._untold.append((False, outage_s))

    def tell(self) -> None:
        """Tell of beginnings and ends, in their order, without the lock: users' code hears of it.

        A thread that comes while another does so leaves it to that one.
        """
        while self._untold and self._telling.acquire(blocking=False):
            try:
                while self._untold:
                    self._changed(*self._untold.popleft())
            finally:
                self._telling.release()

    def seconds(self) -> tuple[float, float]:
        """Return how long the present outage lasts (0.0 if none), and all of them together."""
        with self.lock:
            outage_s = clock.monotonic() - self._since if self._lost_shards else 0.0
            return outage_s, self._past_s + outage_s


class Recovery(Protocol):
    """What has to be done with a shard before it is back.  May be called on any thread."""

    def is_needed(self) -> bool:
        """Tell whether there is anything to do; asked under the lock of an outage."""
        ...

    def connected(self) -> None:
        """Take note of a new connection for commands, perhaps to a server that knows less."""

    def moved(self) -> None:
        """Take note that another server, or one that was lost, may serve what this one did."""


class Health:
    """Whether one shard works, for all event loops of a layer.

    What is told of it holds none of ``secrets``.
    """

    def __init__(
        self,
        node: str,
        report: Reporter,
        outage: Outage,
        secrets: Secrets = NO_SECRETS,
        doctor: str = _DOCTOR,
    ) -> None:
        self.node = node
        self.secrets = secrets
        #: The command line that looks at it closely.
        self.doctor = doctor
        #: What has to be done before the shard is back, besides connecting.
        self.recovery: Recovery | None = None
        #: Whether the shard ever worked: until then, a refusal is a mistake in the options.
        self.proven = False
        #: Whether the shard is proven, and not lost just now.
        self.settled = False
        self._report = report
        self._outage = outage
        # Known weakly, as they belong to event loops that may be dropped.
        self._losers: WeakSet[object] = WeakSet()
        self._lost_at: float | None = None
        self._past_s = 0.0
        #: Outages that have ended.
        self.reconnects = 0

    @property
    def down(self) -> bool:
        """Whether the shard, or a part of it, is lost just now."""
        return self._lost_at is not None

    def located(self, reason: str, fate: str) -> str:
        """Return what is wrong where, what that means for the caller, and what to look at if
        nothing ever worked there.
        """
        text = f"Redis at {self.node}: {self.secrets.text(reason).rstrip('.')}; {fate}"
        return text if self.proven else f"{text}; {_NEVER_WORKED}; to look closer: {self.doctor}"

    def lost(self, user: object, reason: str) -> None:
        """Note that ``user`` has lost its connection, or can't get one."""
        with self._outage.lock:
            began = self._lost_at is None
            self._losers.add(user)
            if self.recovery is not None and self.recovery.is_needed():
                self._losers.add(self.recovery)
            if began:
                self._lost_at = clock.monotonic()
                self.settled = False
                self._outage.shard_lost()
        if began:
            self._outage.tell()
            self._report(NodeLost(self.node, self.secrets.text(reason)))
        self.moved()

    def works(self, user: object) -> None:
        """Note that ``user`` has all that it needs of this shard."""
        with self._outage.lock:
            self.proven = True
            self._losers.discard(user)
            if self._lost_at is None:
                self.settled = True
                return
            if self._losers:
                return
            outage_s = clock.monotonic() - self._lost_at
            self._lost_at = None
            self.settled = True
            self.reconnects += 1
            self._past_s += outage_s
            self._outage.shard_back()
        self._outage.tell()
        self._report(NodeBack(self.node, outage_s))

    def seconds(self) -> tuple[float, float]:
        """Return how long the present outage lasts (0.0 if none), and all of them together."""
        with self._outage.lock:
            outage_s = 0.0 if self._lost_at is None else clock.monotonic() - self._lost_at
            return outage_s, self._past_s + outage_s

    def connected(self) -> None:
        """Note a new connection for commands."""
        if self.recovery is not None:
            self.recovery.connected()

    def moved(self) -> None:
        """Note that another server, or one that was lost, may serve what this one did."""
        if self.recovery is not None:
            self.recovery.moved()

    def gone(self, user: object) -> None:
        """Note that ``user`` no longer cares.  Says nothing about the shard."""
        with self._outage.lock:
            self._losers.discard(user)
