"""Checks that a subscriber still receives, after it has received nothing for a while.

Two checks, as success of the first does not imply success of the second:

* *Does the connection live?*  It subscribes, again and again, to a topic of its own; each time
  the server confirms.  (A PING would do the same, but may be forbidden.)
* *Does it receive what is published?*  Something is published to that topic in the usual way, over
  the multiplexer of the node.  A connection to a server that was demoted or cut off from the
  others replies to all commands, but no messages arrive there.

If publishing fails or is forbidden, nothing is known, and nothing is done.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from typing import Any

from .._runtime import clock
from .._runtime.scope import Scope
from .wire import NO_ANSWER

DEAF = "what is published is not heard"

#: How long an answer may take, as a share of the silence before the question.
_PATIENCE = 0.8


class _Step(enum.Enum):
    QUIET = enum.auto()
    SUBSCRIBING = enum.auto()
    PUBLISHING = enum.auto()
    LISTENING = enum.auto()


class Loopback:
    """The watch over one subscriber's connection, from :meth:`start` to :meth:`stop`.

    After ``quiet_s`` seconds without a message, or as many as :meth:`start` is told if they are
    less, ``subscribe`` is called, and ``publish`` when :meth:`confirmed` is; ``failed(reason)``
    when there is no answer, within twice ``quiet_s`` after the last sign of life.
    """

    def __init__(
        self,
        scope: Scope,
        quiet_s: float,
        *,
        subscribe: Callable[[], None],
        publish: Callable[[], asyncio.Future[Any]],
        failed: Callable[[str], None],
    ) -> None:
        self._longest_s = self._quiet_s = quiet_s
        self._patience_s = quiet_s * _PATIENCE
        self._subscribe = subscribe
        self._publish = publish
        self._failed = failed
        self._step = _Step.QUIET
        # Since when it has been silent, or an answer has been owed.
        self._since = 0.0
        self._publishing: asyncio.Future[Any] | None = None
        self._timer = scope.timer(self._check)

    def start(self, wanted_s: float) -> None:
        """Watch a new connection, whose user wants a sign of life after ``wanted_s`` seconds of
        silence; 0 for no wish.
        """
        self.stop()
        self._quiet_s = min(self._longest_s, wanted_s or self._longest_s)
        self._enter(_Step.QUIET)
        self._timer.start(self._quiet_s)

    def stop(self) -> None:
        """Watch no longer."""
        self._timer.cancel()
        self._publishing = None

    def replied(self) -> None:
        """Note that the server has said something, whatever it was."""
        if self._step is _Step.SUBSCRIBING:
            self._since = clock.monotonic()

    def heard(self) -> None:
        """Note that something published was heard."""
        self._since = clock.monotonic()
        if self._step in (_Step.PUBLISHING, _Step.LISTENING):
            self._step = _Step.QUIET

    def confirmed(self) -> None:
        """Take the confirmation of the own topic, or its refusal, which shows life as well."""
        self._enter(_Step.PUBLISHING)
        self._publishing = self._publish()
        self._publishing.add_done_callback(self._published)

    def _published(self, reply: asyncio.Future[Any]) -> None:
        failed = reply.cancelled() or reply.exception() is not None
        if reply is self._publishing and self._step is _Step.PUBLISHING:
            self._enter(_Step.QUIET if failed else _Step.LISTENING)

    def _enter(self, step: _Step) -> None:
        self._step = step
        self._since = clock.monotonic()

    def _check(self) -> None:
        """Ask after a silence; give the connection up where no answer came."""
        waited_s = clock.monotonic() - self._since
        limit_s = self._quiet_s if self._step is _Step.QUIET else self._patience_s
        if waited_s < limit_s * 0.99:
            limit_s -= waited_s
        elif self._step is _Step.QUIET:
            self._enter(_Step.SUBSCRIBING)
            self._subscribe()
            limit_s = self._patience_s
        elif self._step is not _Step.PUBLISHING:
            self._failed(DEAF if self._step is _Step.LISTENING else NO_ANSWER)
            return
        # An answer mostly comes at once, and then the next silence begins.
        self._timer.start(min(limit_s, self._quiet_s))
