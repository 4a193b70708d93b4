"""Names of 4.3.0 that new code should not use; ``docs/compat.rst`` lists them.

They can be imported from ``core`` and ``pubsub``.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

from ._layer.base import BaseRedisLayer
from ._receiving.mailbox import Mailbox
from ._receiving.mailboxes import Mailboxes
from ._receiving.messages import Message, Whole
from ._receiving.topics import TopicSession
from ._runtime.loops import running_loop_or_none
from ._runtime.plans import run
from ._runtime.portal import portal
from ._session import Frame, Loop, Session

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster

#: How long 4.3.0 blocks, in seconds.
_BLOCK_S = 5


class CoreNames(BaseRedisLayer):
    """Attributes of the core layer that are kept for existing code."""

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
        """The messages that this process has popped and not yet delivered, by channel."""
        return ReceiveBuffer(self._mailboxes, self.get_capacity)

    async def close_pools(self) -> None:
        """Close the connections of this event loop that are not in use; under ``async_to_sync``,
        those of the portal.

        Receivers and senders are not affected, and the layer can still be used.
        """
        if self._sessions.all():
            await run(lambda: Session.rest, self._sessions)

    async def wait_received(self) -> None:
        """Return at once, because there are no background receive tasks to wait for."""

    @property
    def receive_count(self) -> int:
        """The number of waiting ``receive()`` calls, as in ``stats().waiting``."""
        return self._mailboxes.census()[1]

    def _map_channel_keys_to_connection(
        self, channel_names: list[str], message: Message
    ) -> tuple[dict[int, list[str]], dict[str, bytes], dict[str, int]]:
        """Return the data for sending a message to many channels: shard -> keys of queues, key ->
        packed message, key -> capacity. ``group_send()`` writes the same.
        """
        keys: dict[int, list[str]] = defaultdict(list)
        packed, capacities = {}, {}
        for frame in self._frames(message, list(channel_names)):
            keys[frame.shard].append(frame.key)
            packed[frame.key], capacities[frame.key] = frame.member, frame.bound.messages
        return keys, packed, capacities


class BoundedQueue(asyncio.Queue[Any]):
    """A queue that drops its oldest item if a new one is added while it is full."""

    def put_nowait(self, item: Any) -> None:
        """Append an item, never raising ``QueueFull``."""
        if self.full():
            self.get_nowait()
        super().put_nowait(item)


class ReceiveBuffer(MutableMapping[str, Any]):
    """The old view of the mailboxes: channel -> a queue bounded by ``capacity``."""

    def __init__(self, mailboxes: Mailboxes, capacity_of: Callable[[str], int]) -> None:
        self._mailboxes = mailboxes
        self._capacity_of = capacity_of

    def __getitem__(self, channel: str) -> BufferView:
        box = self._mailboxes.open(channel)
        return BufferView(self._mailboxes, box, self._capacity_of(channel))

    def pop(self, channel: str, *default: Any) -> Any:
        """Remove the buffer of a channel and return it."""
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
        self._mailboxes.discard(self._mailboxes.boxes[channel])

    def __contains__(self, channel: object) -> bool:
        return channel in self._mailboxes.boxes

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._mailboxes.boxes))

    def __len__(self) -> int:
        return len(self._mailboxes.boxes)


class BufferView:
    """One mailbox with the methods of a queue; works without an event loop."""

    def __init__(self, mailboxes: Mailboxes, box: Mailbox, maxsize: int) -> None:
        self._mailboxes = mailboxes
        self._box = box
        self.maxsize = maxsize

    def put_nowait(self, message: Any) -> None:
        """Append a message; if the queue is full, drop the oldest."""
        self._mailboxes.put(self._box, Whole(message), None, self.maxsize)

    def get_nowait(self) -> Any:
        """Return the oldest message, or raise ``asyncio.QueueEmpty``."""
        item = self._mailboxes.take(self._box)
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
        """Return whether the next message would drop the oldest."""
        return self.qsize() >= self.maxsize


class ChannelLock:
    """One ``asyncio.Lock`` per channel. Not used by the layer; kept for code that imports it."""

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


#: What a layer has on one event loop; earlier releases kept their connections in a class of
#: this name.
RedisLoopLayer = Session


class PubSubNames(BaseRedisLayer):
    """Attributes of the pubsub layer that are kept for existing code."""

    @property
    def channels(self) -> dict[str, Mailbox]:
        """The process-specific channels of this process, with their mailboxes."""
        boxes = dict(self._mailboxes.boxes)
        return {name: box for name, box in boxes.items() if self._is_specific(name)}

    @property
    def groups(self) -> dict[str, set[str]]:
        """The groups with members in this process: topic -> channel names."""
        merged: dict[str, set[str]] = {}
        for session in self._sessions.all().values():
            for topic, members in session.groups.items():
                merged.setdefault(topic, set()).update(members)
        return merged

    def _get_group_channel_name(self, group: str) -> str:
        """Return the topic of a group, which is its key in :attr:`groups`."""
        return self._keys.group_topic(group)

    @property
    def _layers(self) -> dict[Loop, RedisPubSubLoopLayer]:
        sessions = self._sessions.all()
        return {loop: one for loop, one in sessions.items() if not portal.is_portal(loop)}

    @property
    def _shards(self) -> list[RedisSingleShardConnection]:
        find = self._sessions.find
        return [
            RedisSingleShardConnection(host, index, find) for index, host in enumerate(self.hosts)
        ]

    def _get_layer(self) -> RedisPubSubLoopLayer:
        session: RedisPubSubLoopLayer = self._sessions.get()
        return session


class RedisPubSubLoopLayer(TopicSession):
    """The state of a layer on one event loop. Subclassing it is no longer supported."""

    @property
    def channel_layer(self) -> PubSubNames:
        """The layer this belongs to."""
        return self.layer

    @property
    def channels(self) -> dict[str, Mailbox]:
        """Process-specific channels that are subscribed on this loop, with their mailboxes."""
        return {name: box for name, box in self.layer.channels.items() if box.home is self}

    @property
    def _shards(self) -> list[RedisSingleShardConnection]:
        return self.layer._shards


class RedisSingleShardConnection:
    """One shard of a loop's ring, for inspection.  Subclassing it is no longer supported."""

    def __init__(
        self, host: dict[str, Any], index: int, find: Callable[[Loop], Session | None]
    ) -> None:
        #: The decoded entry of ``hosts``.
        self.host = host
        self._index = index
        self._find = find

    @property
    def _redis(self) -> Redis | RedisCluster | None:
        """The client of the running loop, once it was used."""
        loop = running_loop_or_none()
        session = self._find(loop) if loop is not None else None
        return session.clients().get(self._index) if session is not None else None
