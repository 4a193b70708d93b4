"""All short commands of one event loop to one node, pipelined on one connection.

Commands issued in one tick leave in one write, or in few; replies are matched in order; nobody
holds a lock around a round trip.  What may be sent again after a loss is decided here:

* never written, or answered with a retryable reply (:func:`.commands.is_retryable`): it was not
  executed, and is sent on the next connection, for at most ``connect_wait_s`` seconds;
* written and marked repeatable: the same;
* written otherwise: it may have been executed, so its caller gets :class:`ConnectionLost`.

A script goes as EVAL the first time on a connection, and as EVALSHA from then on.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import Any

from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    NoScriptError,
    RedisError,
)

from .._runtime import clock
from .._runtime.scope import Stage
from .._runtime.tasks import ignore, turn
from .commands import Command, Script, error_for_key, is_hash_unusable, is_retryable
from .link import Link
from .node import RENEW_S, Node
from .probe import IDLE_S, Probe, await_life
from .wire import NO_ANSWER, Wire

#: Bytes written and not yet answered, above which further commands wait for replies.
WINDOW_BYTES = 8 * 1024 * 1024

#: Bytes of commands that wait to be written, above which further ones are refused: else senders
#: that never await would fill the memory in an outage.
BACKLOG_BYTES = 128 * 1024 * 1024

#: After a write of more commands than this, the next write is expected to be as large, and is not
#: made before the end of the tick.
CROWD = 4

#: Bytes of commands that wait to be written, above which they are written before the end of the
#: tick: the server runs them while others are created.
PIECE_BYTES = 12 * 1024

#: Why a connection that nobody needed was closed.
RESTING = "nobody needed it"

#: Re-check the map of a cluster after this long without a reply.
LATE_S = 1.0


class Multiplexer(Link):
    """A pipelined connection that is made on demand, and made again after a loss."""

    def __init__(self, node: Node) -> None:
        super().__init__(node, f"multiplexer {node.health.name}", Stage.COMMANDS)
        self._probe = Probe(node, self._ask)
        # A command is in one of these: not written; written; not executed, to be written again.
        self._unwritten: deque[Command] = deque()
        self._written: deque[Command] = deque()
        self._retryable: deque[Command] = deque()
        self._backlog_bytes = 0
        self._in_flight_bytes = 0
        self._writing_due = False
        self._crowded = False
        self._watch = self._scope.timer(self._check_deadlines)
        self._overdue: Command | None = None
        self._reauthentication: asyncio.Future[Any] | None = None
        self._watch_replies(math.inf)
        self._retiring = False
        # Scripts that were sent on this connection, which may be called by EVALSHA from then on.
        self._loaded: set[Script] = set()
        self._hash_forbidden = False

    @property
    def pending(self) -> int:
        """Number of commands that wait for their replies."""
        return len(self._unwritten) + len(self._written) + len(self._retryable)

    @property
    def connected(self) -> bool:
        """Whether there is a connection that is not known to be lost."""
        return self._wire is not None and not self._retiring

    def call(
        self,
        data: bytes,
        repeatable: bool = False,
        *,
        script: Script | None = None,
        key: bytes | str | None = None,
    ) -> asyncio.Future[Any]:
        """Queue one packed command; return the future of its reply.

        The future raises ``redis.exceptions.ResponseError`` for an error reply
        (:class:`WrongKeyType` where ``key`` is of another type),
        :class:`ConnectionLost` when no connection came within ``connect_wait_s`` seconds, the
        reply was lost, or :data:`BACKLOG_BYTES` wait already, :class:`ConfigurationError` when
        the server refuses what the options ask for.  Cancelling it takes back a command that is
        not yet written.
        """
        future, now = self._loop.create_future(), clock.monotonic()
        self.issue(Command(data, future, now, repeatable, script=script, key=key))
        return future

    def write_now(self, data: bytes) -> bool:
        """Write a packed command although the loop does not run; return whether it was written."""
        if self._wire is None or not self._wire.write_now(data):
            return False
        # Nobody waits for its reply, which must not be taken for another's if the loop goes on.
        future = self._loop.create_future()
        future.cancel()
        command = Command(data, future, clock.monotonic(), repeatable=False)
        command.written_at = command.asked_at
        self._written.append(command)
        self._in_flight_bytes += len(data)
        return True

    def push(self) -> None:
        """Write what is queued, not only at the end of the tick, if nothing is on its way."""
        if self._writing_due and not self._written and not self._crowded:
            self._write_waiting()

    def issue(self, *commands: Command) -> None:
        """Queue commands that nothing must come between, which may be older ones that come from
        another server.  They are written at the latest at the end of the tick.
        """
        if self._closed or self._backlog_bytes > BACKLOG_BYTES:
            waiting = f"{len(self._unwritten)} commands wait to be sent already"
            reason = "the layer was closed" if self._closed else waiting
            for command in commands:
                command.fail(
                    self._node.health.abandoned(reason, maybe_executed=command.may_have_run)
                )
            return
        for command in commands:
            self._queue(command)
        if self._task.task is None:
            self._task.start()
        if self._wire is not None and self._backlog_bytes > PIECE_BYTES:
            self._write_waiting()
        elif self._wire is not None and not self._writing_due:
            self._writing_due = True
            self._loop.call_soon(self._write_waiting)
        if not self._watch.running:
            self._watch.start(self._watch_s)

    def _queue(self, command: Command) -> None:
        self._backlog_bytes += command.size_bytes
        waiting = self._unwritten
        if waiting and waiting[-1].asked_at > command.asked_at:
            later = sum(one.asked_at > command.asked_at for one in waiting)
            waiting.insert(len(waiting) - later, command)
        else:
            waiting.append(command)

    def hand_on(self) -> None:
        """Pass on the commands that other servers of a cluster serve now."""
        for command in self._node.reroute(self._unwritten):
            self._backlog_bytes -= command.size_bytes

    def renew(self, reason: str) -> None:
        """Write nothing more to this server, and go to the one that the topology names now.

        Replies on their way are awaited for a moment.
        """
        if self._wire is None or self._retiring:
            return
        self._retiring = True
        self._trouble = reason
        if self._written:
            self._loop.call_later(RENEW_S, self._wire.abort, reason)
        else:
            self._wire.abort(reason)

    async def rest(self) -> None:
        """Close the connection, unless somebody waits for a reply; the next command makes one."""
        if self._wire is not None and not self.pending:
            self._wire.abort(RESTING)
            await asyncio.sleep(0)  # In which the transport closes the socket.

    def _fail_all(self) -> None:
        """Raise an error in all waiting calls that says whether their commands may have run."""
        self._watch.cancel()
        self._probe.stop()
        reason = "the layer was closed"
        for command in self._written:
            command.fail(self._node.health.abandoned(reason, maybe_executed=True))
        for command in (*self._retryable, *self._unwritten):
            command.fail(self._node.health.abandoned(reason, maybe_executed=command.may_have_run))

    def _write_waiting(self) -> None:
        """Write the waiting commands at once, as far as the window allows."""
        self._writing_due = False
        if self._wire is None or self._retryable or self._retiring:
            return
        if self._wire.lost:
            return  # The reading task is about to see it, and what was not written stays so.
        now = clock.monotonic()
        if self._unwritten and not self._written and now - self._probe.heard_at > IDLE_S:
            self._ask()
        if self._probe.question is not None:
            return  # The answer to it has the rest written.
        chunks = []
        while self._unwritten and self._in_flight_bytes < WINDOW_BYTES:
            command = self._unwritten.popleft()
            self._backlog_bytes -= command.size_bytes
            if command.future.done():
                continue
            command.written_at = now
            self._written.append(command)
            self._in_flight_bytes += len(command.data)
            script, data = command.script, command.data
            if script is not None and script not in self._loaded:
                data = self._with_source(script, data)
            chunks.append(data)
        if chunks:
            self._crowded = len(chunks) > CROWD
            self._wire.write(chunks[0] if len(chunks) == 1 else b"".join(chunks))

    async def _run(self) -> None:
        await turn()
        # After a failure it continues without commands, because the end of an outage is reported.
        while not self._closed and (self.pending or self._wire is not None or self._failures):
            if self._wire is None:
                await self._connect()
            else:
                await self._read_replies(self._wire)

    def _is_wanted(self) -> bool:
        """Return whether anybody waits for replies, or for the end of an outage.

        A connection that carries nothing is no reason: the next command begins the work again.
        """
        return bool(self.pending or self._failures)

    async def _connect(self) -> None:
        """Try once to connect, after a pause if the last attempts failed."""
        await self._pause()
        # Only now: during the pause, the slot of a command may have moved to another server.
        self.hand_on()
        if self._node.retired:
            self._failures = 0
            self._fail_unwritten(None)
            return
        try:
            wire = await self._dial()
        except (RedisError, OSError) as error:
            self._note_failure(error)
        except Exception as error:  # noqa: BLE001 (ConfigurationError, or a subclass's create_pool)
            self._failures = 0
            self._node.health.gone(self)
            self._fail_unwritten(error)
        else:
            self._probe.start(wire)
            self._watch_replies(wire.socket_timeout_s or math.inf)
            self._loaded.clear()
            self._node.health.connected()
            if not self.pending and self._failures:
                await_life(self)
            self._write_waiting()

    def _watch_replies(self, socket_timeout_s: float) -> None:
        """Set how long a reply may take, and how often this is checked."""
        self._reply_limit_s = min(self._node.command_timeout_s, socket_timeout_s)
        self._watch_s = min(self._node.connect_wait_s, self._reply_limit_s) / 10

    def _ask(self) -> None:
        """Write a PING, if no other command is in flight."""
        if self._wire is not None and not self._written:
            question = self._probe.begin()
            self._written.append(question)
            self._in_flight_bytes += len(question.data)
            self._wire.write(question.data)

    def _authenticate(self, command: bytes) -> None:
        """Write new credentials, after the commands that were queued before."""
        self._reauthentication = self.call(command)
        self._reauthentication.add_done_callback(ignore)

    async def _read_replies(self, wire: Wire) -> None:
        """Match replies to commands until the connection is lost or the node proves unfit."""
        try:
            await wire.hand_over(self._take)
        except Exception as error:  # noqa: BLE001 (whatever it is, nobody may wait for ever)
            # First, so that no caller waits until the lost connection is closed.
            self._drop(error)
            await wire.close()

    def _take(self, reply: Any) -> bool:
        if not self._written:
            raise ConnectionError("an unexpected reply")
        command = self._written.popleft()
        self._in_flight_bytes -= len(command.data)
        if not self._written:
            self._probe.heard(command)
        if isinstance(reply, Exception):
            self._take_error(command, reply)
        else:
            if not command.future.done():
                command.future.set_result(reply)
            self._works()
        if self._unwritten and not self._writing_due:
            self._write_waiting()
        if (self._retryable or self._retiring) and not self._written:
            raise ConnectionError(self._trouble)
        return True

    def _take_error(self, command: Command, reply: Exception) -> None:
        """Send a command again that did not run, here or elsewhere; else raise in its caller."""
        try:
            if self._node.redirects(command, reply):
                return
            proven = self._node.health.proven
            if is_retryable(reply) and (proven or not isinstance(reply, AuthenticationError)):
                self._trouble = str(reply)
                self._retryable.append(command)
                return
            if command.script is not None and is_hash_unusable(reply):
                self._repeat_with_source(command, command.script, reply)
            else:
                command.fail(error_for_key(self._node.explain(reply), command.key))
        except Exception as error:
            # Of a user's address_remap, which is called for a redirection.
            reason = f"{type(error).__name__}: {error}"
            command.fail(self._node.health.abandoned(reason, maybe_executed=False))
            raise
        if proven:
            self._works()

    def _with_source(self, script: Script, data: bytes) -> bytes:
        """Return the call of a script that is not loaded yet.

        Commands run in order, so those that follow may go by the hash from now on.
        """
        if not self._hash_forbidden:
            self._loaded.add(script)
        return script.as_source(data)

    def _repeat_with_source(self, command: Command, script: Script, reply: Exception) -> None:
        """Send a script as EVAL that the server has forgotten, or that may not be called by its
        hash: an EVALSHA with such a reply was certainly not executed.
        """
        if not isinstance(reply, NoScriptError):
            self._hash_forbidden = True
            self._loaded.clear()
        # Later calls go by the hash all the same: they are written behind this one, which loads
        # the script.
        command.data = script.as_source(command.data)
        command.script = None
        self._queue(command)

    def _drop(self, error: Exception) -> None:
        """Drop the connection, and decide about each command that was written to it."""
        self._wire = None
        self._retiring = False
        self._in_flight_bytes = 0
        if self._reauthentication is not None:
            # The next connection gets its own credentials in its handshake.
            self._reauthentication.cancel()
        again, self._retryable = self._retryable, deque()
        written, self._written = self._written, deque()
        if self._probe.question is not None:
            written.clear()  # The PING was the only one.
        self._probe.stop()
        at_stake = bool(again or written)
        for command in written:
            if command.repeatable:
                command.may_have_run = True
                again.append(command)
            else:
                command.fail(self._node.health.abandoned(str(error), maybe_executed=True))
        self._unwritten.extendleft(reversed(again))
        self._backlog_bytes += sum(command.size_bytes for command in again)
        self._node.reply_came(self)
        if at_stake:
            self._note_failure(error)
        else:
            self._node.health.moved()

    def _note_failure(self, error: Exception) -> None:
        if not self._node.retired:
            self._fails(str(error))

    def _check_deadlines(self) -> None:
        """Abandon the commands that have waited too long."""
        now = clock.monotonic()
        if self._written and now - self._written[0].written_at >= LATE_S:
            self._node.reply_missing(self)
        else:
            self._node.reply_came(self)
        if self._wire is None:
            self._fail_unwritten(None, asked_before=now - self._node.connect_wait_s)
        elif self._written and now - self._written[0].written_at >= self._reply_limit_s:
            # Only the second time: after a blocked loop, the reply may have arrived unread.
            if self._overdue is self._written[0]:
                self._wire.abort(NO_ANSWER)
            self._overdue = self._written[0]
        if self.pending:
            self._watch.start(self._watch_s)

    def _fail_unwritten(self, error: Exception | None, asked_before: float = math.inf) -> None:
        while self._unwritten and self._unwritten[0].asked_at <= asked_before:
            command = self._unwritten.popleft()
            self._backlog_bytes -= command.size_bytes
            maybe_executed = command.may_have_run
            command.fail(
                error or self._node.health.abandoned(self._trouble, maybe_executed=maybe_executed)
            )
