"""Whatever comes in whatever order: a consumer with the mixin shows what Channels' own shows."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from channels.generic.websocket import AsyncWebsocketConsumer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from channels_redis._receiving import mailboxes
from channels_redis.consumers import BroadcastMixin, broadcast
from tests.broadcast.client import Client
from tests.broadcast.conftest import as_default
from tests.conftest import class_of
from tests.helpers import wait_for

PAIRS = 3
LAST = 10_000


@dataclass
class Pace:
    """How many turns of the loop the next sends and handlers of a member take."""

    sends: list[int]

    async def take(self) -> None:
        for _ in range(self.sends.pop(0) if self.sends else 0):
            await asyncio.sleep(0)


class Plain(AsyncWebsocketConsumer):
    """Channels' own; notes what it is shown."""

    def __init__(self, group: str, pace: Pace) -> None:
        super().__init__()
        self.groups = [group]
        self.pace = pace
        self.shown: list[str] = []

    def note(self, message: dict[str, Any]) -> None:
        self.shown.append(f"{message['type']} {message['n']}")

    async def room_all(self, message: dict[str, Any]) -> None:
        await self.send(text_data=f"all {message['n']}")

    async def room_note(self, message: dict[str, Any]) -> None:
        self.note(message)
        await self.send(text_data=f"note {message['n']}")

    async def room_work(self, message: dict[str, Any]) -> None:
        self.note(message)
        await self.pace.take()
        await self.send(text_data=f"work {message['n']}")
        self.note(message)

    async def disconnect(self, code: int) -> None:
        self.shown.append("disconnect")


class Ours(BroadcastMixin, Plain):
    """The same with a broadcast."""

    @broadcast
    def room_all(cls, message: dict[str, Any]) -> str:
        return f"all {message['n']}"


class Member:
    """A consumer of either kind, whose sends take turns of the loop by a plan."""

    def __init__(self, kind: Any, group: str, sends: list[int], work: list[int]) -> None:
        pace = Pace(list(sends))

        async def sending(message: dict[str, Any]) -> None:
            if message["type"] == "websocket.send":
                await pace.take()

        self.client = Client(lambda: kind(group, Pace(list(work))), sending)  # type: ignore[arg-type]  # called as a class is

    @property
    def channel(self) -> str:
        name: str = self.client.consumer.channel_name
        return name

    @property
    def story(self) -> tuple[list[str], list[Any]]:
        """What the consumer was shown, and what its client has."""
        return self.client.consumer.shown, self.client.frames

    async def has(self, frame: str) -> None:
        await wait_for(lambda: frame in self.client.frames or self.client.task.done(), 60)


@asynccontextmanager
async def in_a_room(
    kind: str, url: str, paces: list[tuple[list[int], list[int]]]
) -> AsyncIterator[tuple[Any, str, list[tuple[Member, Member]]]]:
    """Pairs of members, one of each kind with the same pace, in one group."""
    group = f"room-{secrets.token_hex(4)}"
    layer = class_of(kind)(hosts=[url], prefix=f"model-{secrets.token_hex(4)}")
    with as_default(layer):
        pairs = [(Member(Plain, group, *pace), Member(Ours, group, *pace)) for pace in paces]
        members = [member for pair in pairs for member in pair]
        try:
            for member in members:
                await member.client.accepted()
            yield layer, group, pairs
        finally:
            for member in members:
                member.client.task.cancel()
            await asyncio.gather(*(m.client.task for m in members), return_exceptions=True)
            await layer.close()


TURNS = st.lists(st.integers(0, 4), max_size=6)
PACES = st.lists(st.tuples(TURNS, TURNS), min_size=PAIRS, max_size=PAIRS)
WHO = st.integers(0, PAIRS - 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("all"), st.none()),
        st.tuples(st.just("all"), WHO),
        st.tuples(st.sampled_from(["group note", "group work"]), st.none()),
        st.tuples(st.sampled_from(["note", "work", "all to one", "leave", "cancel"]), WHO),
        st.tuples(st.just("turns"), st.integers(0, 5)),
    ),
    max_size=25,
)


async def send(layer: Any, group: str, pairs: list[Any], n: int, step: tuple[str, Any]) -> None:
    """Send what a step says, to all or to both of a pair."""
    what, which = step
    if what == "all":
        left_out = [member.channel for member in pairs[which]] if which is not None else []
        await layer.group_send(group, {"type": "room.all", "n": n}, exclude=left_out)
    elif what.startswith("group"):
        await layer.group_send(group, {"type": f"room.{what.split()[1]}", "n": n})
    else:
        name = "all" if what == "all to one" else what
        for member in pairs[which]:
            await layer.send(member.channel, {"type": f"room.{name}", "n": n})


async def carry_out(layer: Any, group: str, pairs: list[Any], steps: list[Any]) -> set[int]:
    """Do the steps to both of each pair; return the pairs that have ended."""
    gone: set[int] = set()
    for number, (what, which) in enumerate(steps):
        if what == "turns":
            await Pace([which]).take()
        elif what in ("leave", "cancel"):
            gone.add(which)
            for member in pairs[which]:
                end = member.client.hang_up if what == "leave" else member.client.task.cancel
                end()
        else:
            await send(layer, group, pairs, number, (what, which))
    return gone


async def compare(kind: str, url: str, paces: Any, steps: Any) -> None:
    async with in_a_room(kind, url, paces) as (layer, group, pairs):
        gone = await carry_out(layer, group, pairs, steps)
        await layer.group_send(group, {"type": "room.all", "n": LAST})
        for number, pair in enumerate(pairs):
            for member in pair:
                await member.has(f"all {LAST}")
            (plain_shown, plain_frames), (our_shown, our_frames) = pair[0].story, pair[1].story
            if number not in gone:
                assert our_shown == plain_shown
                assert our_frames == plain_frames
                continue
            # When exactly an end is seen is chance; until then all is the same.
            for ours, plain in ((our_shown, plain_shown), (our_frames, plain_frames)):
                ours, plain = (
                    [one for one in story if one != "disconnect"] for story in (ours, plain)
                )
                common = min(len(ours), len(plain))
                assert ours[:common] == plain[:common]
            for member in pair:
                await asyncio.wait({member.client.task}, timeout=60)
                assert member.client.task.done()


@given(paces=PACES, steps=STEPS)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_each_consumer_shows_what_plain_dispatch_shows(
    kind: str, redis_url: str, paces: Any, steps: Any
) -> None:
    """Direct, group and broadcast messages, slow sends, handlers of any length, exclude, ends.

    Each consumer is a portion of its own, so that much comes while others are pending.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mailboxes, "WAKES", 1)
        asyncio.run(compare(kind, redis_url, paces, steps))
