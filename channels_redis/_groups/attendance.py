"""Reads who is in groups with presence, removes the members of dead processes, and announces who
has joined and left.

A process that finds another dead claims it for a short time, takes over its groups, one after the
other, and removes these from the set of the dead process last.  If it dies itself meanwhile, others
find both.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

from .._session import Session
from .._transport import presence as commands
from .._transport.scripts import Renewal
from ..exceptions import COMMAND_ERRORS
from .deaths import Deaths
from .leaves import Leaves
from .people import Entry, Roll, Stored, read_roll
from .writers import Writer

#: A process that has claimed a dead one has so many seconds; then others may.
CLAIM_S = 10


class Asks(Protocol):
    """Asks the primary of a group which processes are dead now; None if none is known."""

    async def __call__(self, session: Session, group: str) -> Renewal | None:
        """Ask."""
        ...


SendEvent = Callable[[Session, str, dict[str, Any]], Coroutine[Any, Any, None] | None]
"""Sends a message to a group; returns None if nobody holds the layer any more."""


class Attendance:
    """The presence of the groups at one entry of ``hosts``."""

    def __init__(self, writer: Writer, deaths: Deaths, ask: Asks, send_event: SendEvent) -> None:
        self._shard = writer.shard
        self._writer = writer
        self._deaths = deaths
        self._ask = ask
        self._send_event = send_event
        #: What this process has to announce.
        self.leaves = Leaves()
        #: How many leaves of users were announced.
        self.announced_leaves = 0
        #: Dead processes that may have left members behind.
        self.dead: set[str] = set()

    async def members(self, session: Session, group: str) -> list[Stored]:
        """Return the members of a group whose processes live, in the order of joining."""
        roll, answer = await asyncio.gather(self._roll(session, group), self._ask(session, group))
        dead = set(answer.dead) if answer is not None else self._deaths.known
        return [member for member in roll.members if member.process not in dead]

    async def _roll(self, session: Session, group: str) -> Roll:
        key = self._writer.presence_key(group)
        return read_roll(await commands.read(session.commands(self._shard, key), key))

    async def clean_up(self, session: Session) -> None:
        """Remove what dead processes have left behind, but for those that others look after."""
        for process in list(self.dead):
            with contextlib.suppress(*COMMAND_ERRORS):  # Tried again after the next renewal.
                if await self._clean_up_after(session, process):
                    self.dead.discard(process)

    async def _clean_up_after(self, session: Session, process: str) -> bool:
        """Return whether nothing is left to do."""
        writer = self._writer
        held, cleaner = writer.keys.held(process), writer.keys.cleaner(process)
        there = session.commands(self._shard, held)
        groups = await commands.held_groups(there, held)
        if not groups:
            return True
        claiming = session.commands(self._shard, cleaner)
        if not await commands.claim(claiming, cleaner, writer.process, CLAIM_S):
            return False
        for group in groups:
            if not await self._take_over(session, group, process):
                return True
        await commands.release(there, held, groups)
        return True

    async def _take_over(self, session: Session, group: str, process: str) -> bool:
        """Remove the members of a dead process from a group; False if it has returned."""
        options = self._writer.people.options(group)
        if options is None:
            return True  # the options of the process were others
        await self._writer.hold(session, group)
        # First the members, then the marks: a process that returns removes its mark before it
        # writes its members again, and these differ from those that are removed.
        roll = await self._roll(session, group)
        answer = await self._ask(session, group)
        if answer is None or process not in answer.dead:
            return False
        gone = [(one.channel, one.value) for one in roll.members if one.process == process]
        persons = await self._writer.remove(session, group, options, gone)
        self.leaves.add(group, persons, options.grace_s)
        for person, left_s in roll.leaving:
            self.leaves.add(group, [person], left_s - answer.now_s)
        return True

    async def announce_joins(
        self, session: Session, group: str, persons: list[str], entries: Iterable[Entry]
    ) -> None:
        """Tell a group which of the persons have joined."""
        infos = {entry.person: entry.info for entry in entries}
        for person in filter(infos.__contains__, persons):
            await self._tell(session, group, "presence.join", infos[person])

    async def announce_leaves(self, session: Session) -> None:
        """Tell groups who has left, as far as it is time to."""
        for group, persons in self.leaves.due().items():
            key = self._writer.presence_key(group)
            there = session.commands(self._shard, key)
            taken = await commands.take_leaves(there, key, persons)
            for person, left_s, info in taken:
                await self._tell(session, group, "presence.leave", info, id=f"{person}.{left_s}")
                await commands.end_leave(there, key, person, left_s)
                self.leaves.done(group, person)
                self.announced_leaves += 1
            for person in set(persons) - {person for person, _, _ in taken}:
                self.leaves.passed(group, person)

    async def _tell(
        self, session: Session, group: str, kind: str, info: bytes, **more: str
    ) -> None:
        sending = self._send_event(
            session, group, self._writer.people.event(kind, group, info) | more
        )
        if sending is not None:
            await sending
