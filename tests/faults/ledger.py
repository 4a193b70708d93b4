"""Who sent what, who received it, and what the difference may be.

A crowd of consumers waits on one layer, senders on another write to all of them all the time, and
the ledger notes when. What came twice, what came although its sender was told that it was not
sent, and what is missing, is looked up afterwards, whatever the fault was.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import redis.exceptions
from channels.exceptions import ChannelFull

from channels_redis.exceptions import ConnectionLost
from tests.helpers import wait_for

LOST, BACK, NUMBER, END = "test.lost", "test.back", "test.number", "test.end"
EVENTS = {"on_disconnect": LOST, "on_reconnect": BACK}

SENT, NOT_SENT, UNKNOWN = "sent", "not sent", "unknown"

#: How long before a fault a message may have been under way to be lost in it, in seconds.
UNDER_WAY_S = 0.1


@dataclass
class Sending:
    """One message as its sender saw it."""

    channel: str
    began: float
    ended: float
    outcome: str


@dataclass
class Ledger:
    """What happened to all messages; times are those of ``time.monotonic``."""

    sendings: dict[int, Sending] = field(default_factory=dict)
    received: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    back: dict[str, list[float]] = field(default_factory=dict)
    lost: dict[str, list[float]] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    faults: list[float] = field(default_factory=list)

    @property
    def times_received(self) -> Counter[int]:
        return Counter(number for pairs in self.received.values() for number, _ in pairs)

    @property
    def doubled(self) -> list[int]:
        """Messages that came more than once."""
        return [number for number, times in self.times_received.items() if times > 1]

    @property
    def ghosts(self) -> list[int]:
        """Messages that came although the sender was told that they certainly were not sent."""
        times = self.times_received
        return [n for n, one in self.sendings.items() if one.outcome == NOT_SENT and times[n]]

    @property
    def missing(self) -> list[int]:
        """Messages that were sent and did not come."""
        times = self.times_received
        return [n for n, one in self.sendings.items() if one.outcome == SENT and not times[n]]

    @property
    def out_of_order(self) -> list[int]:
        """Messages that came after a later one of the same sender to the same channel."""
        late = []
        for pairs in self.received.values():
            last = -1
            for number, _ in pairs:
                if number < last:
                    late.append(number)
                last = max(last, number)
        return late

    @property
    def unexplained(self) -> list[int]:
        """Messages missing though no outage can have swallowed them."""
        return [number for number in self.missing if not self._swallowed(self.sendings[number])]

    def _swallowed(self, one: Sending) -> bool:
        outages = zip(self.lost[one.channel], self.back[one.channel], strict=False)
        return any(
            one.began < back and one.ended > self._fault_before(lost) - UNDER_WAY_S
            for lost, back in outages
        )

    def _fault_before(self, lost: float) -> float:
        """Return when the fault began that led to the loss that was noticed at ``lost``."""
        return max((fault for fault in self.faults if fault <= lost), default=lost)

    def heard_again(self, since: float) -> float:
        """Return how long after ``since`` the last consumer had received a message again."""
        firsts = [
            next((at for _, at in pairs if at >= since), None) for pairs in self.received.values()
        ]
        if None in firsts:
            return float("inf")
        return max(at for at in firsts if at is not None) - since

    def outcomes(self) -> Counter[str]:
        return Counter(one.outcome for one in self.sendings.values())


class Crowd:
    """Consumers that receive without end, and senders that write to them."""

    def __init__(self, receiver: Any, sender: Any, *, pause_s: float) -> None:
        self.ledger = Ledger()
        self.raised: list[BaseException] = []
        self.channels: list[str] = []
        self._receiver = receiver
        self._sender = sender
        self._pause_s = pause_s
        self._numbers = iter(range(10**9))
        self._consumers: list[asyncio.Task[None]] = []
        self._senders: list[asyncio.Task[None]] = []

    async def gather(self, consumers: int, senders: int) -> None:
        """Have everybody at work, each consumer with a first message."""
        self.channels = await asyncio.gather(*[self._new_channel() for _ in range(consumers)])
        for channel in self.channels:
            self.ledger.received[channel] = []
            self.ledger.back[channel] = []
            self.ledger.lost[channel] = []
            self._consumers.append(asyncio.create_task(self._consume(channel)))
        for share in range(senders):
            channels = self.channels[share::senders]
            self._senders.append(asyncio.create_task(self._send_to(channels)))
        await wait_for(lambda: all(self.ledger.received.values()), timeout_s=30)

    async def _new_channel(self) -> str:
        """Return a new channel, however long the first connection takes on a busy machine."""
        while True:
            with contextlib.suppress(ConnectionLost):
                name: str = await self._receiver.new_channel()
                return name

    async def finish(self) -> Ledger:
        """Stop sending; return when whatever was under way has arrived or never will."""
        for task in self._senders:
            task.cancel()
        await asyncio.wait(self._senders)
        await asyncio.gather(*map(self._send_end, self.channels))
        await wait_for(lambda: len(self.ledger.ended) == len(self.channels), timeout_s=30)
        return self.ledger

    def all_is_well(self) -> bool:
        """Tell whether every consumer that was told of a loss was told of its end as well."""
        ledger = self.ledger
        return all(len(ledger.lost[one]) == len(ledger.back[one]) for one in self.channels)

    def report(self, title: str, delays_s: list[float]) -> None:
        """Print the figures."""
        ledger = self.ledger
        slowest = max(delays_s, default=0.0)
        print(
            f"\n{title}: {len(ledger.sendings)} messages {dict(ledger.outcomes())}, "
            f"missing {len(ledger.missing)} (unexplained {len(ledger.unexplained)}), "
            f"doubled {len(ledger.doubled)}, receivers that raised {len(self.raised)}, "
            f"rounds {len(delays_s)}, slowest return {slowest:.2f} s"
        )

    async def disperse(self) -> None:
        """End all tasks."""
        tasks = [*self._senders, *self._consumers]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def heard_again(self, since: float, timeout_s: float = 30) -> float:
        """Wait until all consumers have received after ``since``; return how long it took."""
        await wait_for(lambda: self.ledger.heard_again(since) < timeout_s, timeout_s)
        return self.ledger.heard_again(since)

    async def _consume(self, channel: str) -> None:
        notes = {LOST: self.ledger.lost[channel], BACK: self.ledger.back[channel]}
        while True:
            try:
                message = await self._receiver.receive(channel)
            except Exception as error:
                self.raised.append(error)
                return
            now = time.monotonic()
            if message["type"] == NUMBER:
                self.ledger.received[channel].append((message["number"], now))
            elif message["type"] == END:
                self.ledger.ended.add(channel)
            else:
                notes[message["type"]].append(now)

    async def _send_to(self, channels: list[str]) -> None:
        while True:
            for channel in channels:
                await self._send(channel)
                await asyncio.sleep(self._pause_s)

    async def _send(self, channel: str) -> None:
        number = next(self._numbers)
        sending = Sending(channel, time.monotonic(), float("inf"), UNKNOWN)
        self.ledger.sendings[number] = sending
        try:
            await self._sender.send(channel, {"type": NUMBER, "number": number})
            sending.outcome = SENT
        except ConnectionLost as error:
            sending.outcome = UNKNOWN if error.maybe_executed else NOT_SENT
        except (ChannelFull, redis.exceptions.ResponseError):
            sending.outcome = NOT_SENT
        finally:
            sending.ended = time.monotonic()

    async def _send_end(self, channel: str) -> None:
        async def sent() -> bool:
            try:
                await self._sender.send(channel, {"type": END})
            except redis.exceptions.ConnectionError:
                return False
            return True

        await wait_for(sent, timeout_s=30)


@contextlib.asynccontextmanager
async def crowd(
    receiver: Any, sender: Any, *, consumers: int = 200, senders: int = 20, pause_s: float = 0.02
) -> AsyncIterator[Crowd]:
    """A crowd at work, dispersed at the end."""
    people = Crowd(receiver, sender, pause_s=pause_s)
    try:
        await people.gather(consumers, senders)
        yield people
    finally:
        await people.disperse()
