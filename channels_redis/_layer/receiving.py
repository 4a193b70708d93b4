"""The receiving part of a layer: queues, mailboxes, and messages about outages for consumers."""

from __future__ import annotations

import asyncio
import copy
import logging
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar
from weakref import ref

from channels.layers import BaseChannelLayer

from .._format.bounds import Unacceptable
from .._format.histories import Histories
from .._format.keyspace import ADDRESS_KEY, EXCLUDE_KEY, NONCE_KEY, Keyspace
from .._receiving.mailbox import Mailbox
from .._receiving.mailboxes import Mailboxes
from .._receiving.messages import Item, Whole
from .._receiving.queues import GeneralQueue, LocalQueue, QueueContext
from .._runtime import clock, fork
from .._runtime.loops import LoopStates, running_loop, running_loop_or_none
from .._runtime.tasks import BREATH_S, turn
from .._runtime.weakly import weakly
from .._session import Session
from .._watch.events import MessagesDropped, Reporter
from .._watch.outages import Outage
from .encoding import Encoding

Loop = asyncio.AbstractEventLoop
Capacities = list[tuple[re.Pattern[str], int]]


class ReceivingLayer(BaseChannelLayer):  # type: ignore[misc]  # Channels has no annotations
    """The receiving part of a channel layer."""

    # Others describe Channels' attributes as they are before a layer sets its own.
    expiry: float  # pyright: ignore[reportIncompatibleVariableOverride]
    channel_capacity: Capacities  # pyright: ignore[reportIncompatibleVariableOverride]

    capacity: int
    ring_size: int
    on_disconnect: str | None
    on_reconnect: str | None

    _logger: ClassVar[logging.Logger]
    #: Whether an outage of Redis can lose messages that were sent in it.
    _loses_in_outage: ClassVar[bool]
    #: How long a pop may wait on the server; None for half of ``command_timeout_s``.
    _block_s: float | None = None

    #: Whether there may be messages about users who have left, which may come again.
    _checks_leaves: bool = False

    _encoding: Encoding
    _histories: Histories
    _keys: Keyspace
    _mailboxes: Mailboxes
    _queues: dict[str, LocalQueue]
    _outage: Outage
    _report: Reporter
    _sessions: LoopStates[Any]
    _turn: Iterator[int]
    #: The event loop on which opening a message took long in the present turn.
    _slow_loop: ref[Loop] | None = None

    # Queues

    def _queue(self, name: str, make: Callable[[QueueContext, str], LocalQueue]) -> LocalQueue:
        with self._mailboxes.lock:
            queue = self._queues.get(name)
            if queue is None:
                queue = self._queues[name] = make(self._queue_context(), name)
            return queue

    def _queue_context(self) -> QueueContext:
        return QueueContext(
            expiry_s=self.expiry,
            block_s=self._block_s,
            keyspace=self._keys,
            mailboxes=self._mailboxes,
            report=self._report,
            sessions=self._sessions,
        )

    def _general_queue(self, name: str) -> LocalQueue:
        """Return a queue that many processes read: on every shard, because senders use them in
        turn.
        """
        return self._queue(name, self._make_general_queue)

    def _make_general_queue(self, context: QueueContext, name: str) -> LocalQueue:
        unpack = partial(weakly(self._unpack_queued, None), name)
        return GeneralQueue(context, name, list(range(self.ring_size)), unpack)

    def _next_shard(self) -> int:
        """Return the shard for the next direct message to a general channel."""
        return next(self._turn) % self.ring_size

    def _unpack_queued(self, name: str, member: bytes) -> Any:
        """Return the message inside a member of a queue, without the layer's own keys."""
        message = self._encoding.decode(member, name, self._keys.queue_place)
        if isinstance(message, dict):
            message.pop(ADDRESS_KEY, None)
            message.pop(NONCE_KEY, None)
        return message

    # Receiving

    async def receive(self, channel: str) -> Any:
        """Return the next message of a channel as soon as there is one; the dict is not shared.

        May be cancelled at any time without losing a message, and does not raise because of the
        network. Raises :class:`InvalidName`, :class:`ForeignChannelError` for a channel of another
        process (core), :class:`LayerClosed` if the layer is closed meanwhile, :class:`WrongKeyType`
        if the queue's key in Redis is not a sorted set, :class:`TooManyChannels` if this process
        already reads 1,000 queues, and :class:`ConfigurationError` if no retry can help and the
        server has never worked.
        """
        fork.check()
        # One coroutine and one future for each consumer that waits, as a site may have 10,000.
        mailboxes = self._mailboxes
        known = mailboxes.boxes.get(channel) if isinstance(channel, str) else None
        box = known or await self._open(channel)
        if box.loop is None:
            mailboxes.settle(box, running_loop())
        while True:
            while box.items:
                if self._slow_loop is not None:
                    await self._let_others_run(box)
                item = mailboxes.take(box)
                message = None if item is None else self._opened(channel, item)
                if message is not None:
                    return message
            waiter = mailboxes.wait(box, running_loop())
            if waiter is None:
                box = await self._open(channel)
                continue
            try:
                failure = await waiter
            except BaseException:
                mailboxes.withdraw(box, waiter)
                raise
            if failure is not None:
                raise copy.copy(failure)

    def _opened(self, channel: str, item: Item) -> Any:
        """Return the message of an item; None if it is not for this channel, or can't be decoded,
        which is counted.
        """
        began = clock.monotonic()
        try:
            message = item.open()
            if clock.monotonic() - began > BREATH_S:
                self._slow_loop = slow = ref(running_loop())
                running_loop().call_soon(self._forget_slow_loop, slow)
            if isinstance(message, dict):
                if self._checks_leaves and self._is_repeated(channel, message):
                    return None
                return None if channel in message.pop(EXCLUDE_KEY, ()) else message
            if self._lets_pass(channel, message):
                return message
            raise TypeError("not a dict")
        except Exception as error:  # noqa: BLE001 (whatever a serializer raises)
            self._mailboxes.count_undecodable()
            self._undecodable(channel, error)

    def _is_repeated(self, channel: str, message: dict[str, Any]) -> bool:
        """Return whether a message about a user who has left came to this channel before."""
        raise NotImplementedError

    def _forget_slow_loop(self, loop: ref[Loop]) -> None:
        if self._slow_loop is loop:
            self._slow_loop = None

    async def _let_others_run(self, box: Mailbox) -> None:
        """Open only one message per iteration of the event loop, if that takes long."""
        while (slow := self._slow_loop) is not None and slow() is running_loop():
            try:
                await turn()
            except BaseException:
                # The message stays where it is; somebody else may wait for it.
                self._mailboxes.withdraw(box, running_loop().create_future())
                raise

    async def _open(self, channel: str) -> Mailbox:
        """Return the mailbox of a channel with a source: a queue, or a subscription."""
        raise NotImplementedError

    def _lets_pass(self, channel: str, message: Any) -> bool:
        """Return whether a channel accepts a message that is not a dict."""
        return False

    def _undecodable(self, channel: str, error: Exception) -> None:
        kind = type(error).__name__
        reason = error.reason if isinstance(error, Unacceptable) else "undecodable"
        facts = {"event": "undecodable", "channel": channel, "error": kind}
        self._logger.debug("Undecodable message for %s: %s", channel, kind, extra=facts)
        self._report(MessagesDropped(channel, reason))

    def _dropped(self, channel: str, reason: str, count: int = 1) -> None:
        self._report(MessagesDropped(channel, reason, count), unread=True)

    # Outages

    def _is_specific(self, channel: str) -> bool:
        """Return whether a channel is read by one process only."""
        raise NotImplementedError

    def _outage_changed(self, began: bool, outage_s: float) -> None:
        """Send the messages about an outage to the consumers of this process."""
        kind = self.on_disconnect if began else self.on_reconnect
        if kind is None:
            return
        with self._mailboxes.lock:
            boxes = [box for box in self._mailboxes.boxes.values() if self._is_specific(box.name)]
        for box in boxes:
            if not began:
                was_told, box.told = box.told, False
                if was_told and not box.missed:
                    continue
            facts = {
                "type": kind,
                "outage_s": round(outage_s, 3),
                "may_have_missed": self._loses_in_outage,
                "groups": sorted(box.groups or ()),
            }
            if self._histories.on and not began:
                facts |= self._missed_of(box)
                box.missed = None
            self._mailboxes.put(box, Whole(facts), running_loop_or_none())

    def _tell_of_missed(self, channel: str, kind: str) -> None:
        """Have a channel get a message of the type ``kind`` about missed messages where the option
        ``on_reconnect`` is unset: for parts of this package that have a handler for it.
        """
        box = self._mailboxes.boxes.get(channel)
        if box is not None:
            box.missed_type = kind

    def _missed_of(self, box: Mailbox) -> dict[str, Any]:
        """Return what is known of the messages that a consumer has missed."""
        missed = box.missed
        groups = box.groups or ()
        kept = self._histories.with_history(groups)
        if not kept:
            return {}
        known = {"missed": sorted(group for group in missed or () if group in groups)}
        if len(kept) < len(groups) and self._loses_in_outage:
            return known
        return {**known, "may_have_missed": bool(known["missed"])}

    def _tell_missed(self, boxes: list[Mailbox]) -> None:
        """Tell consumers that they have missed messages of groups with a history, before they get
        later ones; who is told in an outage is not told again at its end.
        """
        outage_s = self._outage.seconds()[0]
        for box in boxes:
            kind = self.on_reconnect or box.missed_type
            if kind is None:
                continue
            facts = {"type": kind, "outage_s": round(outage_s, 3)}
            facts |= {"groups": sorted(box.groups or ()), "may_have_missed": True}
            facts |= self._missed_of(box)
            box.missed, box.told = None, outage_s > 0
            self._mailboxes.put(box, Whole(facts), running_loop_or_none())

    def _sweep(self, session: Session) -> None:
        """End the mailboxes of consumers that have ended."""
        gone = self._mailboxes.sweep(session)
        if gone:
            self._leave(session, gone)
        with self._mailboxes.lock:
            for name, queue in list(self._queues.items()):
                if queue.unused():
                    del self._queues[name]
                else:
                    queue.look_after()
        self._report.flush_due()

    def _leave(self, session: Session, boxes: list[Mailbox]) -> None:
        """Leave the groups of ended mailboxes."""
        raise NotImplementedError
