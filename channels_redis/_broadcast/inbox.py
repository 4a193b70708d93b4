"""A consumer's access to its channel: ``receive()`` in steps, for consumers that also wait for
their client.
"""

from __future__ import annotations

from typing import Any

from .._layer.receiving import ReceivingLayer
from .._receiving.mailbox import Mailbox
from .._receiving.messages import Item
from .._receiving.sinks import Sink
from .._receiving.waiters import Waiter
from .._runtime.loops import running_loop


class Inbox:
    """The mailbox of a channel, as long as it is open. Otherwise ``receive()`` opens it."""

    def __init__(self, layer: ReceivingLayer, channel: str, sink: Sink | None) -> None:
        self._layer = layer
        self._mailboxes = layer._mailboxes
        self._channel = channel
        self._sink = sink
        self._box: Mailbox | None = None
        self._find()

    def _find(self) -> Mailbox | None:
        box = self._box
        if box is not None and box.alive:
            return box
        self._box = box = self._mailboxes.boxes.get(self._channel)
        if box is not None:
            if box.loop is None:
                self._mailboxes.settle(box, running_loop())
            if self._sink is not None:
                self._mailboxes.attach(box, self._sink)
        return box

    @property
    def unread(self) -> bool:
        """Whether there is an unread message."""
        return self._box is not None and bool(self._box.items)

    def take(self) -> tuple[dict[str, Any], Item] | None:
        """Return the next message and its item; None if there is none."""
        box = self._find()
        while box is not None and box.items:
            item = self._mailboxes.take(box)
            if item is not None:
                message = self._layer._opened(self._channel, item)
                if message is not None:
                    return message, item
        return None

    def wait(self) -> Waiter | None:
        """Return the future to await before the next :meth:`take`, and to pass to :meth:`leave`
        then; None if ``receive()`` has to open the mailbox, or a message has arrived.
        """
        box = self._find()
        return self._mailboxes.wait(box, running_loop()) if box is not None else None

    def leave(self, waiter: Waiter) -> None:
        """Stop waiting."""
        assert self._box is not None
        self._mailboxes.withdraw(self._box, waiter)

    def close(self) -> None:
        """Release the mailbox, which ends like others."""
        if self._box is not None and self._sink is not None:
            self._mailboxes.detach(self._box)


def inbox_of(layer: Any, channel: str, sink: Sink | None) -> Inbox | None:
    """Return the inbox of a channel; None for other layers, and for classes that override
    ``receive()``.
    """
    if not isinstance(layer, ReceivingLayer) or "receive" in vars(layer):
        return None
    if type(layer).receive is not ReceivingLayer.receive:
        return None
    return Inbox(layer, channel, sink)
