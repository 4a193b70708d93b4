"""A connection in memory, in place of :class:`channels_redis._transport.wire.Wire`; and a node to
dial, which gives such connections.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from redis.exceptions import ConnectionError, MovedError

from channels_redis._config.secrets import NO_SECRETS
from channels_redis._runtime.scope import Scope
from channels_redis._runtime.tasks import turn
from channels_redis._transport.handshake import loss
from channels_redis._transport.node import Node, NodeContext
from channels_redis._transport.packing import pack
from channels_redis._transport.replies import Inbox, Take
from channels_redis._transport.wire import NO_ANSWER
from channels_redis._watch.outages import Health, Outage
from channels_redis._watch.tally import NodeTally

from .loop import StepLoop
from .server import Args, Server, commands

#: How long the answer to :meth:`FakeWire.ask` may take.
ASK_S = 10.0

BROKEN = "the test broke the connection"


class FakeReplies(Inbox):
    """What has arrived on a connection; arrives when the test says so."""

    def __init__(self, loop: StepLoop) -> None:
        super().__init__(loop, NO_SECRETS)
        #: All that ever arrived.
        self.heard: list[Any] = []

    def receive(self, replies: list[Any], failed: Callable[[], None]) -> None:
        """Take replies that arrive together, as ``Replies.data_received()`` does."""
        try:
            for reply in replies:
                self.heard.append(reply)
                self._offer(reply)
        except Exception as error:  # as there: its owner awaits the end
            self._take = None
            failed()
            self._end(error)
            return
        self._wake()

    def end(self, error: Exception) -> None:
        """Tell of the end of the connection."""
        self._end(error)


class FakeWire:
    """Both ends of a connection: what the layer wrote, and what the server replied.

    Nothing moves by itself. :meth:`run` has the server run what was written, :meth:`deliver` has
    replies arrive, :meth:`break_off` ends it. The layer's end works as ``Wire`` does.
    """

    socket_timeout_s: float | None = None
    health_check_s = 0.0

    def __init__(self, server: Server, loop: StepLoop) -> None:
        self._loop = loop
        self._inbox = FakeReplies(loop)
        self._reason = ""
        self.renewed: Callable[[bytes], None] | None = None
        self.lost = False
        #: Whether the layer has closed it, and waited for the end.
        self.closed = False
        #: Why the layer itself gave the connection up, and how long after the last reply that was.
        self.given_up: str | None = None
        self.given_up_after_s = 0.0
        # The server's end
        self.server = server
        self.client_id = 0
        self.blocked_on: bytes | None = None
        self.blocked_since = 0.0
        self.blocked_until = 0.0
        self.topics: set[bytes] = set()
        #: Commands that the server has not run yet.
        self.written: deque[Args] = deque()
        #: All commands that were ever written.
        self.log: list[Args] = []
        #: Replies that have not arrived yet; after the end, that never will.
        self.replies: deque[Any] = deque()
        self._replied_at = 0.0
        server.accept(self)

    # What the layer uses

    def descriptors(self) -> set[int]:
        return set()

    def write(self, data: bytes) -> None:
        if not self.lost:
            new = list(commands(data))
            self.log += new
            self.written += new

    def write_now(self, data: bytes) -> bool:
        """Can't be done: the server lives on the same loop."""
        return False

    async def read(self) -> Any:
        try:
            return await self._inbox.read()
        except ConnectionError as error:
            lost = error
        raise loss(lost, self._reason, NO_SECRETS)

    async def hand_over(self, take: Take) -> None:
        try:
            await self._inbox.hand_over(take)
            return
        except ConnectionError as error:
            lost = error
        raise loss(lost, self._reason, NO_SECRETS)

    def arrived(self) -> list[Any]:
        return self._inbox.arrived()

    def take_over(self) -> None:
        """Can't be read by another loop."""

    async def ask(self, *args: bytes | str | int) -> Any:
        self.write(pack(*args))
        limit = self._loop.call_later(ASK_S, self.abort, NO_ANSWER)
        try:
            return await self.read()
        finally:
            limit.cancel()

    def abort(self, reason: str = "") -> None:
        if not self.lost:
            self.given_up = reason
            self.given_up_after_s = self._loop.time() - self._replied_at
        self._reason = self._reason or reason
        self._lose()

    async def close(self) -> None:
        self.abort()
        self.renewed = None
        await turn()
        self.closed = True

    def shut(self) -> None:
        self._lose()

    # What the test uses

    def run(self, count: int | None = None) -> int:
        """Have the server run commands, all by default; return how many it ran."""
        ran = 0
        while self.written and not self.blocked_on and ran != count and self in self.server.wires:
            self.server.run(self)
            ran += 1
        return ran

    def reply(self, *replies: Any) -> None:
        """Have the server reply, or say something unasked."""
        self.replies += replies
        self._replied_at = self._loop.time()

    def deliver(self, count: int | None = None) -> int:
        """Have replies arrive in one piece, all by default; return how many."""
        count = len(self.replies) if count is None else min(count, len(self.replies))
        if self.lost:
            return 0
        arriving = [self.replies.popleft() for _ in range(count)]
        if arriving:
            self._inbox.receive(arriving, self._lose)
        return count

    @property
    def heard(self) -> list[Any]:
        """All replies that ever arrived."""
        return self._inbox.heard

    def break_off(self) -> None:
        """Break the connection: what is under way is lost in both directions."""
        self._lose()

    def _lose(self) -> None:
        if self.lost:
            return
        self.lost = True
        self.server.disconnect(self)
        # Not at once, as transports tell of their end in the next turn of the loop.
        end = ConnectionError(BROKEN)
        self._loop.call_soon(self._inbox.end, end)


class FakeNode(Node):
    """Where to dial a model of a server, under the control of a test."""

    def __init__(
        self, server: Server, loop: StepLoop, *, name: str = "fake", health: Health | None = None
    ) -> None:
        #: What was reported of its health.
        self.events: list[Any] = []
        self.hooks: list[Callable[[Any], None]] = []
        report: Any = self._report
        super().__init__(
            _no_client,
            NodeContext(
                health or Health(name, report, Outage(lambda began, seconds: None)),
                Scope(loop),
                NodeTally(),
                connect_wait_s=3,
                command_timeout_s=10,
            ),
        )
        self._step_loop = loop
        self.server = server
        #: Whether other servers may serve a name, and how often the node was told so.
        self.is_sharded = False
        self.noted = 0
        #: All connections that were made, the latest last.
        self.wires: list[FakeWire] = []
        #: How the next dials end: an error, or a future that they wait for first.
        self.outcomes: deque[Exception | asyncio.Future[None]] = deque()

    def _report(self, event: Any, **_: Any) -> None:
        self.events.append(event)
        for hook in self.hooks:
            hook(event)

    async def dial(self) -> Any:
        outcome = self.outcomes.popleft() if self.outcomes else None
        await turn()
        if isinstance(outcome, asyncio.Future):
            await outcome
        elif outcome is not None:
            raise outcome
        return self.connect()

    def connect(self) -> FakeWire:
        """Return a new connection to the server."""
        self.wires.append(FakeWire(self.server, self._step_loop))
        return self.wire

    def silence(self) -> str:
        return "not connected"

    def is_elsewhere(self, reply: Exception) -> bool:
        return self.is_sharded and isinstance(reply, MovedError)

    def note(self, reply: Exception | None) -> None:
        self.noted += 1

    @property
    def wire(self) -> FakeWire:
        """The latest connection."""
        return self.wires[-1]


def _no_client() -> Any:
    raise AssertionError("nobody needs redis-py here")
