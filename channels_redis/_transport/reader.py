"""The reader of one queue on one shard: pop, block, hand over, put back.

It has a connection of its own, and :mod:`.pops` decides what to write to it.  A blocking pop is
never cancelled: to end a reader, the server is asked to unblock it, and its reply is still
delivered.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from redis.exceptions import ConnectionError, RedisError

from .._runtime import clock, native
from .._runtime.scope import Stage
from .._runtime.tasks import BREATH_S, begun, ended, turn
from .._runtime.timers import Deadline
from ..exceptions import ConfigurationError, ConnectionLost, WrongKeyType
from . import scripts
from .commands import Commands, error_for_key
from .link import Link
from .multiplexer import LATE_S, Multiplexer
from .node import RENEW_S, Node, Redirected
from .packing import pack
from .pops import DEPTH, Popped, Pops, Reply
from .probe import await_life
from .wire import NO_ANSWER, Leftovers, Loop, Wire

#: How long a message of a general channel waits for the receive() that comes back.
HOLD_S = 0.1
#: How long a stopped reader waits for its last reply before it closes the socket.
STOP_S = 0.5
#: Seconds between two checks of a key that is not a sorted set.
UNREADABLE_S = 0.5
#: Seconds between two checks for replies to a replaced reader's pops.
RETRY_S = 0.005
#: Seconds between a redirection and the next connection attempt.
REDIRECTED_S = 0.01


class QueueOwner(Protocol):
    """The local end of a queue, which the reader serves."""

    key: str
    expiry_s: float
    #: How long a pop may wait on the server; None for half of ``command_timeout_s``.
    block_s: float | None
    #: Whether only this process reads the queue.
    specific: bool

    def demand(self) -> int:
        """Return 0 if nothing needs to be popped, else about how many receivers wait."""
        ...

    def limit(self) -> int:
        """Return the maximum number of messages to pop."""
        ...

    def deliver(self, reader: QueueReader, messages: list[Popped], running: Loop | None) -> None:
        """Accept popped messages; ``running`` is the event loop that runs in this thread."""

    def dropped(self, reason: str, count: int) -> None:
        """Count messages that will not be delivered."""

    def reclaim(self, reader: QueueReader, before: float) -> tuple[list[Popped], bool]:
        """Hand back what it delivered ``before`` and nobody took; return whether more is left."""
        ...

    def failed(self, error: Exception) -> None:
        """Raise ``error`` in the waiting calls: no retry will help."""

    def unreadable(self, error: WrongKeyType) -> None:
        """Raise ``error`` in the waiting calls: it concerns only this queue, and may end soon."""

    def ended(self, reader: QueueReader) -> None:
        """Note the end of a reader, and start another if somebody waits by now."""


@dataclass(eq=False)
class Late:
    """What is still to come over the connection of a reader that was replaced."""

    left: Leftovers
    pops: Pops
    client_id: int | None
    #: Whether the server was asked to end the pops.
    ended: bool = False


class QueueReader(Link):
    """A supervised task that pops while there is demand, and reconnects after each loss.

    If other code cancels it, it ends like a stopped one, and the next waiting call starts another.
    ``before`` is the reader that was replaced for this one (see :meth:`mark_replaced`).
    """

    def __init__(
        self,
        owner: QueueOwner,
        node: Node,
        commands: Commands,
        before: QueueReader | None = None,
    ) -> None:
        super().__init__(node, f"reader {owner.key}", Stage.RECEIVING)
        self._owner = owner
        self._before = before
        #: What is still to come over connections of readers that were replaced.
        self._late: list[Late] = []
        self._commands = commands
        self.loop = loop = node.scope.loop
        # In a cluster, a pop at a server from which the slot is moving away gets no reply.
        block_s = owner.block_s or node.command_timeout_s / 2
        self._block_s = 1 if node.in_cluster else max(1, int(block_s))
        limit_s = max(self._block_s + 1.0, node.command_timeout_s * 0.9)
        grace_s = min(1.0, node.command_timeout_s / 10)
        self._deadlines = [Deadline(loop, limit_s, self._unanswered, grace_s)]
        if node.in_cluster:
            late_s, note_late = self._block_s + LATE_S, partial(node.reply_missing, self)
            self._deadlines.append(Deadline(loop, late_s, note_late, grace_s=0))
        self._client_id: int | None = None
        self._pops = self._new_pops()
        #: What was popped and is still to be delivered.
        self._popped: deque[Popped] = deque()
        #: The error of an error reply, raised once all other replies are in.
        self._failure: Exception | None = None
        self._stopping = False
        self._freed = False
        self._replaced = False
        # Who takes what is to come may be in any thread, and there may be two at once.
        self._moving = native.RLock()
        self._renewal = ""
        self._poked: asyncio.Future[None] | None = None
        self._hold = self._scope.timer(self._give_back)
        self._returning: asyncio.Task[None] | None = None
        self._unblocking: asyncio.Task[None] | None = None
        self._helpers: set[asyncio.Task[None]] = set()
        self._task.start()

    def _new_pops(self) -> Pops:
        owner = self._owner
        return Pops(owner.key, owner.expiry_s, self._block_s, specific=owner.specific)

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The task of this reader, until it has ended."""
        return self._task.task

    @property
    def wanted(self) -> bool:
        """Whether somebody wants messages from here, or what was popped has to go back."""
        return self._owner.demand() > 0 or self._holds

    @property
    def _leaving(self) -> bool:
        return self._stopping or self._replaced

    @property
    def _holds(self) -> bool:
        """Whether there are popped messages that nobody took, and that were not put back yet."""
        if self._returning is not None and not self._returning.done():
            return True
        return self._hold.running

    def poke(self, running: Loop) -> None:
        """Wake the reader, because somebody waits; ``running`` is the caller's loop.

        Raises RuntimeError if the reader's loop was closed.
        """
        if self._poked is None:
            return
        if running is self.loop:
            self._wake()
        else:
            self.loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._poked is not None and not self._poked.done():
            self._poked.set_result(None)

    def renew(self, reason: str) -> None:
        """Go to whatever server the topology names now, once what was popped has arrived."""
        if self._wire is not None:
            self._renewal = reason
            self.loop.call_later(RENEW_S, self._wire.abort, reason)

    def stop(self) -> None:
        """End the reader soon, without losing messages.  Call it on the reader's loop."""
        if self._stopping:
            return
        self._stopping = True
        if self._pops.pending and self._wire is not None:
            # Not cancelled: the server may have answered the pop already.
            self._unblocking = self._help(self._unblock(self._wire), "unblock")
        elif self.task is not None and self._late:
            # What the server has popped for another reader may be on its way here.
            self.loop.call_later(STOP_S, self.task.cancel)
        elif self.task is not None:
            self.task.cancel()

    async def aclose(self) -> None:
        """Stop the reader and wait for its end."""
        self.stop()
        if self.task is not None:
            await asyncio.wait({self.task})

    def mark_replaced(self) -> None:
        """Mark as replaced.  Its loop is stopped or blocked; when it runs again, the reader ends.
        Thread-safe.
        """
        self._replaced = True
        self._node.health.gone(self)
        with contextlib.suppress(RuntimeError):  # Closed this moment.
            self.loop.call_soon_threadsafe(self._wake)

    def move_out(self, running: Loop | None) -> list[Late]:
        """Return what a reader that was replaced is still to receive, and deliver what it has.

        All at once, as the loop of the reader that asks for it may stop at any await.
        """
        with self._moving:
            late, self._late = self._late, []
            earlier, self._before = self._before, None
            if earlier is not None:
                late += earlier.move_out(running)
            self._deliver_popped(running)
            left = None
            with contextlib.suppress(OSError):  # No free descriptor: its own loop reads it.
                left = self._wire.take_over() if self._wire is not None else None
            if left is not None:
                late.append(Late(left, self._pops, self._client_id))
                # From here on it expects no replies, and delivers nothing.
                self._pops = self._new_pops()
            return late

    async def _take_over(self, before: QueueReader) -> None:
        """Deliver what a replaced reader has popped, and have the server end its pops.

        Before anything is popped here, as that is newer.  What can't be read here (over TLS,
        without hiredis) the replaced reader delivers itself, if its loop ever goes on.
        """
        wire, expects = before._wire, before._pops
        self._late += before.move_out(self.loop)
        if wire is not None and before._pops is expects:
            await self._end_pops(before._client_id, wire.shut)
        for late in self._late:
            if not late.ended:
                await self._end_pops(late.client_id, late.left.shut)
                late.ended = True
        for _ in range(int(STOP_S / RETRY_S)):
            self._take_late(self.loop)
            if not self._late:
                return
            await asyncio.sleep(RETRY_S)
        self._close_late()

    async def _end_pops(self, client_id: int | None, shut: Callable[[], object]) -> None:
        """End the pops of another connection."""
        asked = client_id is not None and not self._node.in_cluster
        if not (asked and await _unblock_all(self._commands, client_id)):
            shut()  # The id is unknown, or the server did not reply.

    def _take_late(self, running: Loop | None) -> None:
        """Deliver the messages that arrived on connections that were taken over."""
        with self._moving:
            brought = [
                late.pops.take(reply, clock.monotonic())
                for late in self._late
                for reply in (late.left.arrived() if late.pops.pending else ())
            ]
            for reply in [one for one in brought if one.error is None]:
                with contextlib.suppress(RuntimeError):  # of timers, where the loop is closed
                    self._take(reply)
            for late in [one for one in self._late if not one.pops.pending]:
                late.left.close()
            self._late = [late for late in self._late if late.pops.pending]
            self._deliver_popped(running)

    def _close_late(self) -> None:
        for late in self._late:
            late.left.close()
        self._late = []

    def _forget(self) -> None:
        """Deliver what was popped, though the loop was closed without warning."""
        super()._forget()
        self._stopping = True
        # With what lies unread in the socket, before that is shut: it is in no queue any more.
        self._leave()
        arrived = self._wire.arrived() if self._wire is not None and self._pops.pending else ()
        for reply in arrived:
            with contextlib.suppress(RuntimeError):  # of timers, as the loop is closed
                self._take(self._pops.take(reply, clock.monotonic()))
        self._take_late(None)
        self._close_late()
        self._helpers.clear()
        self._owner.ended(self)

    def _leave(self) -> None:
        """Have the server end the pops, and deliver what they bring, while the loop does not run.

        Before the socket is shut: if a server has popped a message, and sees the end of the
        connection before it writes the reply, the message is lost.
        """
        if not (self._pops.pending or self._late or self._before):
            return
        # Not for ever, as objects may be freed anywhere, also where a lock is held.
        if self._moving.acquire(timeout=STOP_S):
            try:
                self._end_now()
            finally:
                self._moving.release()

    def _end_now(self) -> None:
        """Take the socket from the loop, and read until nothing more can come, or for a while.

        Another loop that takes over meanwhile waits, because what comes here is older.
        """
        self._late = self.move_out(None)
        self._take_late(None)
        while self._late and clock.monotonic() < self._scope.leave_by:
            asked = [self._unblock_now(late.client_id) for late in self._late]
            if not all(asked):
                break
            native.sleep(RETRY_S)
            self._take_late(None)
        for late in self._late:
            late.left.shut()

    def _unblock_now(self, client_id: int | None) -> bool:
        """Ask the server to unblock a pop, on the connection of a loop that does not run."""
        server = self._node.same_server(self._commands)
        if client_id is None or not isinstance(server, Multiplexer):
            return False
        return server.write_now(pack("CLIENT", "UNBLOCK", client_id))

    async def _run(self) -> None:
        try:
            await turn()
            before, self._before = self._before, None
            if before is not None:
                # An invalid reply on the old connection must not stop this reader.
                with contextlib.suppress(Exception):
                    await self._take_over(before)
            # Outstanding replies are read first, also if the reader was stopped: their messages are
            # no longer in the queue.
            while self._pops.pending or await self._wait_for_demand():
                await self._work()
            if self._failures and not self._leaving:
                # Nobody waits for the end of the outage any more, and it still has to be reported.
                await_life(self._commands)
        except ConfigurationError as error:
            self._owner.failed(error)
        except asyncio.CancelledError:
            if not self._stopping:
                raise
        except GeneratorExit:
            # Freed together with its loop, on which nothing can be awaited.
            self._freed = True
            raise
        finally:
            if not (self._freed or self.loop.is_closed()):
                await self._finish()

    async def _wait_for_demand(self) -> bool:
        """Wait until something needs to be popped; return False if nothing did for a while."""
        if not self._leaving and not self._owner.demand():
            self._poked = self.loop.create_future()
            # Checked again now that the future exists: calls begin to wait in other threads.
            if not self._owner.demand():
                await asyncio.wait({self._poked}, timeout=self._block_s)
            self._poked = None
        return not self._leaving and self.wanted

    async def _work(self) -> None:
        """Do one round of popping, on a new connection if need be."""
        try:
            if self._wire is None:
                await self._connect()
            elif self._renewal and not self._pops.pending:
                raise ConnectionError(self._renewal)
            else:
                await self._pop(self._wire)
        except ConfigurationError:
            raise
        except WrongKeyType as error:
            self._failure = None
            self._owner.unreadable(error)
            await asyncio.sleep(UNREADABLE_S)
        except Redirected:
            await self._disconnect()
            # Two servers that redirect to each other must not keep the loop busy.
            await asyncio.sleep(REDIRECTED_S)
        except Exception as error:  # noqa: BLE001 (whatever it is, receiving has to go on)
            if not self._leaving:
                self._fails(str(error))
            await self._disconnect()

    async def _connect(self) -> None:
        self._renewal = ""
        await self._pause()
        wire = await self._dial()
        self._pops.reset(asking=self._node.asking)
        if wire.health_check_s:
            # The reply to each blocking pop, and the next pop, keep the connection alive.
            self._block_s = max(1, int(min(self._block_s, wire.health_check_s)))
            self._pops.block_for(self._block_s)
        client_id = await wire.ask("CLIENT", "ID")
        self._client_id = client_id if isinstance(client_id, int) else None

    def _authenticate(self, command: bytes) -> None:
        """Write new credentials; the server reads them when the present pop has ended."""
        if self._wire is not None:
            self._wire.write(command)
            self._pops.expect_consent()

    async def _disconnect(self) -> None:
        self._pops.reset()
        self._failure = None
        for deadline in self._deadlines:
            deadline.cancel()
        await super()._disconnect()

    async def _pop(self, wire: Wire) -> None:
        """Write pops if necessary, and handle one reply."""
        if self._returning is not None:
            # The messages that are put back are older than what a pop would return now.
            await asyncio.wait({self._returning})
            self._returning = None
        leaving = self._stopping or self._replaced or self._failure or self._renewal
        if not leaving and self._owner.demand():
            asked = self._pops.ask(self._owner.limit())
            if asked:
                wire.write(asked)
        if self._pops.pending:
            for deadline in self._deadlines:
                deadline.begin()
            # Another loop that takes over in this moment replaces them.
            pops = self._pops
            reply = await self._reply(wire)
            # Where it raises instead, _disconnect() does the same.
            for deadline in self._deadlines:
                deadline.end()
            self._node.reply_came(self)
            self._take(pops.take(reply, clock.monotonic()))
            await self._deliver_in_turns(wire)
        if self._failure and not self._pops.pending:
            raise self._failure

    def _unanswered(self) -> None:
        if self._wire is not None:
            self._wire.abort(NO_ANSWER)

    async def _reply(self, wire: Wire) -> Any:
        """Read a reply.  A cancellation stops the reader, but not before it has its replies."""
        while True:
            try:
                return await wire.read()
            except asyncio.CancelledError:
                if self._stopping:
                    wire.abort()
                self.stop()

    def _take(self, reply: Reply) -> None:
        """Keep the messages of a reply, before anything else is awaited."""
        if reply.error is not None:
            # Other outstanding replies may have messages: they are read first.
            explained = self._node.explain(reply.error)
            if explained is reply.error:
                explained = error_for_key(explained, self._owner.key)
            lost = explained is reply.error
            self._failure = ConnectionError(str(reply.error)) if lost else explained
            if not isinstance(explained, WrongKeyType):
                return
        self._works()
        if reply.expired:
            self._owner.dropped("expired", reply.expired)
        if reply.messages:
            self._node.tally.received += len(reply.messages)
            if self._owner.specific:
                self._popped.extend(reply.messages)
            else:
                self._hold_for_receivers(reply.messages)

    async def _deliver_in_turns(self, wire: Wire) -> None:
        """Put popped messages into mailboxes.  Decoding may take long, or run the user's code."""
        while self._deliver_popped(self.loop, BREATH_S):
            try:
                await turn()
            except asyncio.CancelledError:
                # As in _reply(): outstanding replies are read first.
                if self._stopping:
                    wire.abort()
                self.stop()

    def _deliver_popped(self, running: Loop | None, limit_s: float = math.inf) -> bool:
        """Put popped messages into mailboxes; return whether ``limit_s`` seconds have passed."""
        end = clock.monotonic() + limit_s
        while self._popped:
            try:
                message = self._popped.popleft()
            except IndexError:  # A reader that takes over does the same on its own loop.
                break
            self._owner.deliver(self, [message], running)
            if clock.monotonic() >= end:
                return True
        return False

    def _hold_for_receivers(self, messages: list[Popped]) -> None:
        self._owner.deliver(self, messages, self.loop)
        if not self._hold.running:
            self._hold.start(HOLD_S)

    def _give_back(self) -> None:
        """Put back the messages that nobody took for a while, so that other processes can."""
        # A loop's timers may be early by as much as its clock is coarse: a millisecond in uvloop.
        age_s = 0 if self._stopping else 0.95 * HOLD_S
        held, more = self._owner.reclaim(self, clock.monotonic() - age_s)
        if more:
            self._hold.start(HOLD_S / 2)
        if held:
            owner = self._owner
            sending = scripts.put_back(self._commands, owner.key, owner.expiry_s, held)
            self._returning = self._help(self._put_back(held, sending), "put back")

    async def _put_back(self, held: list[Popped], sending: asyncio.Future[Any]) -> None:
        owner = self._owner
        try:
            await turn()
            # Shielded, as a cancellation would take the command back, and with it the messages.
            await asyncio.shield(sending)
        except (RedisError, ConfigurationError) as error:
            maybe_executed = isinstance(error, ConnectionLost) and error.maybe_executed
            if maybe_executed or self._stopping:
                owner.dropped("put_back", len(held))
            else:
                # They are certainly not in the queue, so they are kept here and put back later.
                self._hold_for_receivers(held)
        except asyncio.CancelledError:
            await asyncio.wait({sending}, timeout=STOP_S)
            sending.cancel()
            if sending.cancelled() or sending.exception() is not None:
                owner.dropped("put_back", len(held))
            raise

    async def _unblock(self, wire: Wire) -> None:
        """Unblock the pops on the server; close the socket if it does not reply."""
        limit = self.loop.call_later(STOP_S, wire.abort)
        server = self._node.same_server(self._commands)
        try:
            await turn()
            while self._pops.pending and self._client_id is not None:
                command = pack("CLIENT", "UNBLOCK", self._client_id)
                # Repeated after a loss, which does no harm: without a reply, the pops would be
                # abandoned below, with the messages that they have just popped.
                if not await server.call(command, True):
                    # Not blocked yet, or not any more: again, until all have replied.
                    await asyncio.sleep(0.002)
        except (RedisError, ConfigurationError):
            pass
        finally:
            limit.cancel()
            if self._pops.pending:
                wire.abort()

    def _help(self, coroutine: Any, purpose: str) -> asyncio.Task[None]:
        name = f"channels_redis {purpose} {self._owner.key}"
        task: asyncio.Task[None] = begun(coroutine, self.loop, name)
        self._helpers.add(task)
        task.add_done_callback(self._helpers.discard)
        return task

    async def _finish(self) -> None:
        self._stopping = True
        self._take_late(self.loop)
        self._close_late()
        if self._hold.running:
            self._hold.cancel()
            self._give_back()
        try:
            await self._disconnect()
        finally:
            # The helping tasks have to end first, even if this one is cancelled meanwhile: after
            # the owner is notified of the end, another reader may start, or a layer may close.
            if self._unblocking is not None:
                self._unblocking.cancel()
            limit = self.loop.call_later(STOP_S, _cancel_all, self._helpers)
            try:
                await ended(self._helpers)
            finally:
                limit.cancel()
                self._node.health.gone(self)
                self._part.release()
                self._owner.ended(self)


def _cancel_all(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()


async def _unblock_all(commands: Commands, client_id: int | None) -> bool:
    """Unblock all pops of a connection on the server; return whether it replied."""
    try:
        for _ in range(DEPTH):
            if not await commands.call(pack("CLIENT", "UNBLOCK", client_id or 0)):
                break
    except (RedisError, ConfigurationError):
        return False
    return True
