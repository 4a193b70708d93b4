"""The statistics that ``layer.stats()`` returns.

Counters start when the layer is constructed (in a forked child: at the fork), and cover all its
threads and event loops.
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
    #: Messages that it accepted: one per queue or topic, so a ``group_send()`` of the core layer
    #: counts once for each process with members.
    sent: int
    #: Messages that it refused because the queue was full: ``send()`` raised ``ChannelFull``, or
    #: ``group_send()`` skipped the queue.
    refused: int
    #: Messages received from it: one per queue or topic, whatever the number of receivers.
    received: int
    #: Commands that are waiting for a reply or for a connection.
    in_flight: int
    #: Outages that have ended.
    reconnects: int
    #: The length of the present outage in seconds; 0.0 if there is none.
    outage_s: float
    #: The length of all outages in seconds, including the present one.
    outage_total_s: float


@dataclass(frozen=True, slots=True)
class LayerStats:
    """The statistics of a layer in this process."""

    #: The sums of the numbers of the same names in :attr:`nodes`.
    sent: int
    refused: int
    received: int
    in_flight: int
    reconnects: int
    #: Messages that ``receive()`` returned.
    delivered: int
    #: Messages that will not be delivered, by reason (see
    #: :class:`~channels_redis.events.MessagesDropped`); reasons that never occurred are missing.
    dropped: dict[str, int]
    #: How often a queue could not be read because its key is not a sorted set (``WrongKeyType``).
    unreadable_queues: int
    #: The length in seconds of the present outage of at least one node, and of all such outages.
    outage_s: float
    outage_total_s: float
    #: Buffers of channels in this process, about one for each consumer.
    mailboxes: int
    #: Calls of ``receive()`` that are waiting for a message.
    waiting: int
    #: Unread messages in mailboxes.
    buffered: int
    #: Their approximate memory in bytes, which is limited by ``max_buffered_bytes``.  Messages in
    #: mailboxes with an explicit ``capacity`` are not included.
    buffered_bytes: int
    #: Other processes that were found dead since this one has a lease, by whichever process: those
    #: that were killed, cut off or stopped for longer than a lease.  On core, and on pubsub with
    #: presence.
    dead_processes: int
    #: Users whose leaves of groups with presence this process has announced.
    announced_leaves: int
    #: One for each entry of ``hosts``, in their order.
    nodes: tuple[NodeStats, ...]

    @property
    def decode_failures(self) -> int:
        """Messages that were dropped because they could not or must not be decoded: for the
        reasons in :data:`DECODE_FAILURES`.
        """
        return sum(self.dropped.get(reason, 0) for reason in DECODE_FAILURES)
