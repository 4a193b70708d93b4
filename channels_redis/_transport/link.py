"""One supervised connection to a node, which is opened when it is needed, and again after a loss.

The multiplexer, the reader, the subscriber and the listener to the Sentinels are links. Their
common parts are here: the pauses between connection attempts, reports to the node's health, new
credentials, the restart of the task after a foreign cancellation, and the end.

The link uses only :mod:`.node`; a connection comes from ``node.dial()``, so that tests can provide
connections of their own.
"""

from __future__ import annotations

from .._runtime.scope import Stage
from .._runtime.tasks import SupervisedTask
from .node import Node, backoff_s
from .wire import Wire


class Link:
    """The owner of one connection after the other, and of the task that uses them.

    The task runs :meth:`_run`, from :meth:`_start` on.
    """

    def __init__(self, node: Node, name: str, stage: Stage) -> None:
        self._node = node
        self._scope = node.scope
        self._loop = node.scope.loop
        self._wire: Wire | None = None
        #: Dials and connections that have failed since it worked last.
        self._failures = 0
        #: Why there is no connection.
        self._trouble = "not connected"
        self._closed = False
        self._task = SupervisedTask(self._loop, name, self._run, self._is_wanted)
        self._part = self._scope.hold(stage, self.aclose, forget=self._forget, leave=self._leave)
        node.users.add(self)

    @property
    def connected(self) -> bool:
        """Whether there is a connection that is not known to be lost."""
        return self._wire is not None

    def renew(self, reason: str) -> None:
        """Close the connection, and connect again according to the topology."""
        if self._wire is not None:
            self._wire.abort(reason)

    async def aclose(self) -> None:
        """End the task and close the connection; waiting calls raise an error."""
        self._closed = True
        # First: the closing of others may wait for calls that wait here.
        self._fail_all()
        await self._task.end()
        # After the task, which might be about to store a connection that it has just dialled.
        await self._disconnect()
        self._node.health.gone(self)
        self._part.release()

    # What a link is for

    async def _run(self) -> None:
        """Do the work, after the first ``await turn()``."""
        raise NotImplementedError

    def _is_wanted(self) -> bool:
        """Return whether the work has to continue after a foreign cancellation."""
        return False

    def _fail_all(self) -> None:
        """Raise an error in all waiting calls, because the layer was closed."""

    def _authenticate(self, command: bytes) -> None:
        """Write new credentials (a packed command), in order with other commands."""

    def _forget(self) -> None:
        """Note that the loop was closed without warning."""
        self._closed = True
        self._node.health.gone(self)

    def _leave(self) -> None:
        """Do what is to be done before the connection of a loop that does not run is shut."""

    # What links do

    async def _pause(self) -> None:
        """Wait before the next connection attempt, if the last ones failed."""
        if self._failures:
            await self._node.pause(backoff_s(self._failures - 1))

    async def _dial(self) -> Wire:
        """Get a connection; raises what :meth:`.node.Node.dial` raises."""
        if not self._failures:
            self._trouble = self._node.silence()
        wire = self._wire = await self._node.dial()
        wire.renewed = self._authenticate
        return wire

    def _fails(self, reason: str) -> None:
        """Count a connection that was lost or could not be made, and report it to the node's
        health.
        """
        self._failures += 1
        self._trouble = reason
        self._node.health.lost(self, reason)

    def _works(self) -> None:
        """Note that the connection works; very cheap if it worked before."""
        if self._failures or not self._node.health.settled:
            self._failures = 0
            self._node.health.works(self)

    async def _disconnect(self) -> None:
        """Close the connection."""
        # Forgotten before it is closed, which awaits: so nothing is written to it meanwhile, and
        # new commands wait for the next connection.
        wire, self._wire = self._wire, None
        # A reply that this connection owes will not come.
        self._node.reply_came(self)
        if wire is not None:
            await wire.close()
