"""Names of the core layer of 4.3.0 that new code does not need; ``docs/compat.rst`` lists them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, MutableMapping
from typing import Any

from ._layer.base import BaseRedisLayer
from ._receiving.mailbox import Mailbox
from ._receiving.messages import Message, Whole
from ._runtime.plans import run
from ._session import Frame, Session

#: How long 4.3.0 blocks, in seconds.
_BLOCK_S = 5


class CoreNames(BaseRedisLayer):
    """The attributes of the core layer that are kept for those who use them."""

    #: How long a blocking pop waits on the server, in whole seconds, where a subclass sets it;
    #: where none does, it is half of ``command_timeout_s``.
    brpop_timeout: float = _BLOCK_S

    @property
    def _block_s(self) -> float | None:  # type: ignore[override]  # nobody sets it
        return self.brpop_timeout if self.brpop_timeout != _BLOCK_S else None

    def _frames(self, message: Message, members: list[str]) -> list[Frame]:
        raise NotImplementedError

    @property
    def receive_buffer(self) -> ReceiveBuffer:
        """The messages that this process has popped and not yet handed out, by channel."""
        return ReceiveBuffer(self)

    async def close_pools(self) -> None:
        """Close the connections of this event loop that no receiver and no call needs just now;
        under ``async_to_sync``, those of the portal.

        Receivers and senders are not touched; the layer stays usable.
        """
        if self._sessions.all():
            await run(lambda: Session.rest, self._sessions)

    async def wait_received(self) -> None:
        """Return at once: nothing is received in the background without an owner."""

    @property
    def receive_count(self) -> int:
        """How many ``receive()`` calls wait just now; ``stats().waiting`` says the same."""
        return self._mailboxes.census()[1]

    def _map_channel_keys_to_connection(
        self, channel_names: list[str], message: Message
    ) -> tuple[dict[int, list[str]], dict[str, bytes], dict[str, int]]:
        """Return what to write to send a message to many channels: shard -> keys of queues,
        key -> packed message, key -> capacity.  ``group_send()`` writes it too.
        """
        keys: dict[int, list[str]] = defaultdict(list)
        packed, capacities = {}, {}
        for frame in self._frames(message, list(channel_names)):
            keys[frame.shard].append(frame.key)
            packed[frame.key], capacities[frame.key] = frame.member, frame.bound.messages
        return keys, packed, capacities


class BoundedQueue(asyncio.Queue[Any]):
    """A queue that drops its oldest item when a new one comes and it is full."""

    def put_nowait(self, item: Any) -> None:
        """Append an item, never raising ``QueueFull``."""
        if self.full():
            self.get_nowait()
        super().put_nowait(item)


class ReceiveBuffer(MutableMapping[str, Any]):
    """The old name of the mailboxes: channel -> a queue bounded by ``capacity``."""

    def __init__(self, layer: CoreNames) -> None:
        self._layer = layer

    def __getitem__(self, channel: str) -> BufferView:
        boxes = self._layer._mailboxes
        return BufferView(self._layer, boxes.open(channel))

    def pop(self, channel: str, *default: Any) -> Any:
        """Forget a channel's buffer, and return it."""
        if channel not in self:
            if default:
                return default[0]
            raise KeyError(channel)
        buffer = self[channel]
        del self[channel]
        return buffer

    def __setitem__(self, channel: str, value: Any) -> None:
        raise TypeError("receive_buffer creates its own queues; put messages into them.")

    def __delitem__(self, channel: str) -> None:
        mailboxes = self._layer._mailboxes
        mailboxes.discard(mailboxes.boxes[channel])

    def __contains__(self, channel: object) -> bool:
        return channel in self._layer._mailboxes.boxes

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._layer._mailboxes.boxes))

    def __len__(self) -> int:
        return len(self._layer._mailboxes.boxes)


class BufferView:
    """One mailbox with the methods of a queue; works without an event loop."""

    def __init__(self, layer: CoreNames, box: Mailbox) -> None:
        self._layer = layer
        self._box = box
        self.maxsize: int = layer.get_capacity(box.name)

    def put_nowait(self, message: Any) -> None:
        """Append a message; at capacity the oldest makes room."""
        self._layer._mailboxes.put(self._box, Whole(message), None, self.maxsize)

    def get_nowait(self) -> Any:
        """Return the oldest message, or raise ``asyncio.QueueEmpty``."""
        item = self._layer._mailboxes.take(self._box)
        if item is None:
            raise asyncio.QueueEmpty
        return item.open()

    def qsize(self) -> int:
        """Return the number of messages."""
        return len(self._box.items or ())

    def empty(self) -> bool:
        """Return whether there is no message."""
        return not self._box.items

    def full(self) -> bool:
        """Return whether the next message pushes the oldest out."""
        return self.qsize() >= self.maxsize


class ChannelLock:
    """Not used any more, and kept for those who import it: one ``asyncio.Lock`` per channel."""

    def __init__(self) -> None:
        self.locks: dict[str, asyncio.Lock] = {}

    async def acquire(self, channel: str) -> bool:
        """Acquire the lock of a channel."""
        return await self.locks.setdefault(channel, asyncio.Lock()).acquire()

    def locked(self, channel: str) -> bool:
        """Return whether the lock of a channel is held."""
        lock = self.locks.get(channel)
        return lock is not None and lock.locked()

    def release(self, channel: str) -> None:
        """Release the lock of a channel."""
        self.locks[channel].release()
