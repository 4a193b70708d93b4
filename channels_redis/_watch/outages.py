"""Combines lost connections into outages.  Does no I/O.

A shard has several users (the multiplexer and readers of each event loop, a subscriber).  Each
reports when it loses its connection and when it works again.  The shard is lost from the first
loss until all users work again.  A layer is in an outage while any of its shards is lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet

from .._config.secrets import NO_SECRETS, Secrets
from .._runtime import clock
from .._runtime.native import Lock, RLock
from ..exceptions import ConnectionLost
from .events import NodeBack, NodeLost, Reporter

_NEVER_WORKED = "it has never worked: check that it is running, and host, port and TLS of its entry"
_DOCTOR = "python -m channels_redis doctor"


class Outage:
    """The outage of a layer.  :meth:`notify` calls ``changed(began, outage_s)`` for each beginning
    and end.
    """

    def __init__(self, changed: Callable[[bool, float], None]) -> None:
        self.lock = RLock()
        self._changed = changed
        self._unreported: deque[tuple[bool, float]] = deque()
        self._reporting = Lock()
        self._lost_shards = 0
        self._since = 0.0
        self._past_s = 0.0

    def shard_lost(self) -> None:
        """Count a lost shard."""
        self._lost_shards += 1
        if self._lost_shards == 1:
            self._since = clock.monotonic()
            self._unreported.append((True, 0.0))

    def shard_back(self) -> None:
        """Count a shard that is back."""
        self._lost_shards -= 1
        if self._lost_shards == 0:
            outage_s = clock.monotonic() - self._since
            self._past_s += outage_s
            self._unreported.append((False, outage_s))

    def notify(self) -> None:
        """Call ``changed`` for beginnings and ends, in their order, without holding the lock,
        because ``changed`` calls users' code.

        If another thread is already doing this, it also handles the new ones.
        """
        while self._unreported and self._reporting.acquire(blocking=False):
            try:
                while self._unreported:
                    self._changed(*self._unreported.popleft())
            finally:
                self._reporting.release()

    def seconds(self) -> tuple[float, float]:
        """Return the length of the present outage (0.0 if none) and of all outages."""
        with self.lock:
            outage_s = clock.monotonic() - self._since if self._lost_shards else 0.0
            return outage_s, self._past_s + outage_s


class Recovery(Protocol):
    """Work that has to be done for a shard before it is back.  May be called in any thread."""

    def is_needed(self) -> bool:
        """Return whether there is anything to do; called under the lock of an outage."""
        ...

    def connected(self) -> None:
        """Note a new connection for commands, possibly to a server that has lost data."""

    def moved(self) -> None:
        """Note that another server, or one that was lost, may now serve this shard."""


class Health:
    """Whether one shard works, for all event loops of a layer.

    Reported texts contain none of ``secrets``.
    """

    def __init__(
        self,
        name: str,
        report: Reporter,
        outage: Outage,
        secrets: Secrets = NO_SECRETS,
        doctor: str = _DOCTOR,
    ) -> None:
        #: As events and log records call it.
        self.name = name
        self.secrets = secrets
        #: The command line of the doctor for this shard.
        self.doctor = doctor
        #: Work that has to be done before the shard is back, in addition to connecting.
        self.recovery: Recovery | None = None
        #: Whether the shard has ever worked.  Until then, an error reply, such as one about a wrong
        #: password, is taken for an error in the options.
        self.proven = False
        #: Whether the shard is proven and not lost.
        self.settled = False
        self._report = report
        self._outage = outage
        # Weak references, because users belong to event loops that may be dropped.
        self._losers: WeakSet[object] = WeakSet()
        self._lost_at: float | None = None
        self._past_s = 0.0
        #: Outages that have ended.
        self.reconnects = 0

    @property
    def down(self) -> bool:
        """Whether the shard, or a part of it, is lost."""
        return self._lost_at is not None

    def located(self, reason: str, fate: str) -> str:
        """Return an error text: the server, the reason, the effect for the caller, and, if the
        server has never worked, what to check.
        """
        text = f"Redis at {self.name}: {self.secrets.text(reason).rstrip('.')}; {fate}"
        return text if self.proven else f"{text}; {_NEVER_WORKED}; for details, run: {self.doctor}"

    def abandoned(self, reason: str, *, maybe_executed: bool = False) -> ConnectionLost:
        """Return the error for a command that gets no reply, or was not written."""
        fate = "it may have been executed" if maybe_executed else "it was not executed"
        return ConnectionLost(
            self.located(reason, f"the command was abandoned ({fate})"),
            maybe_executed=maybe_executed,
        )

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
            self._outage.notify()
            self._report(NodeLost(self.name, self.secrets.text(reason)))
        self.moved()

    def works(self, user: object) -> None:
        """Note that ``user`` has all the connections that it needs to this shard."""
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
        self._outage.notify()
        self._report(NodeBack(self.name, outage_s))

    def seconds(self) -> tuple[float, float]:
        """Return the length of the present outage (0.0 if none) and of all outages."""
        with self._outage.lock:
            outage_s = 0.0 if self._lost_at is None else clock.monotonic() - self._lost_at
            return outage_s, self._past_s + outage_s

    def connected(self) -> None:
        """Note a new connection for commands."""
        if self.recovery is not None:
            self.recovery.connected()

    def moved(self) -> None:
        """Note that another server, or one that was lost, may now serve this shard."""
        if self.recovery is not None:
            self.recovery.moved()

    def gone(self, user: object) -> None:
        """Note that ``user`` has ended, whatever the state of the shard."""
        with self._outage.lock:
            self._losers.discard(user)
