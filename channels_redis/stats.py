"""What ``layer.stats()`` returns: how a layer of this process has fared, and how it is doing.

Numbers that only grow are counted since the layer was constructed (in a forked child: since the
fork), on all its threads and event loops together.
"""

from __future__ import annotations

from dataclasses import dataclass

#: The reasons of drops that :attr:`LayerStats.decode_failures` adds up.
DECODE_FAILURES = ("undecodable", "misplaced", "too_large", "unbound")


@dataclass(frozen=True, slots=True)
class NodeStats:
    """One entry of ``hosts``: a server, or all servers of a Sentinel set or of a cluster."""

    #: The entry, without secrets, such as ``"localhost:6379"``.
    node: str
    #: Messages that it took: one per queue or topic, so that a ``group_send()`` of the core layer
    #: counts once for each process that is reached.
    sent: int
    #: Messages that it refused, as the queue was full: ``send()`` raised ``ChannelFull``, or
    #: ``group_send()`` skipped the queue.
    refused: int
    #: Messages that came from it: one per queue or topic, whatever the number of receivers.
    received: int
    #: Commands that wait for their replies now, or for a connection.
    in_flight: int
    #: Outages that have ended.
    reconnects: int
    #: Seconds that the present outage lasts; 0.0 where there is none.
    outage_s: float
    #: Seconds of all outages, the present one included.
    outage_total_s: float


@dataclass(frozen=True, slots=True)
class LayerStats:
    """A layer, as this process sees it."""

    #: The sums of the numbers of the same names in :attr:`nodes`.
    sent: int
    refused: int
    received: int
    in_flight: int
    reconnects: int
    #: Messages that ``receive()`` returned.
    delivered: int
    #: Messages that will not be delivered, by reason (see
    #: :class:`~channels_redis.events.MessagesDropped`); a reason that never occurred is missing.
    dropped: dict[str, int]
    #: How often a queue could not be read, as its key holds something else (``WrongKeyType``).
    unreadable_queues: int
    #: Seconds that the present outage of at least one node lasts, and of all such outages.
    outage_s: float
    outage_total_s: float
    #: Buffers of channels in this process, about one for each consumer.
    mailboxes: int
    #: Calls of ``receive()`` that wait for a message.
    waiting: int
    #: Messages in mailboxes that nobody has taken yet.
    buffered: int
    #: Memory that they take, in bytes, about; ``max_buffered_bytes`` bounds it.  Messages in
    #: mailboxes with a ``capacity`` that was set are not part of it.
    buffered_bytes: int
    #: One for each entry of ``hosts``, in their order.
    nodes: tuple[NodeStats, ...]

    @property
    def decode_failures(self) -> int:
        """Messages dropped because no key or format could open them, or because they must not
        be opened: for the reasons in :data:`DECODE_FAILURES`.
        """
        return sum(self.dropped.get(reason, 0) for reason in DECODE_FAILURES)
