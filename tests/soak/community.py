"""The processes of one layer, started, spoken to and ended by their parent."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack

from tests.helpers import RANDOM_PREFIX_BYTES
from tests.soak import journal, process
from tests.soak.accounts import Forgetting, Site, Witness
from tests.soak.faults import KNOWN_AGAIN_S, Loss

PROCESSES = 2
ANSWER_LIMIT_BYTES = 2**24


class Member:
    """One process, as its parent sees it."""

    def __init__(self, folder: Path, running: asyncio.subprocess.Process) -> None:
        self.facts: Any = {}
        self._folder = folder
        self._running = running

    @property
    def log(self) -> list[str]:
        """The lines that it has logged."""
        return (self._folder / "log").read_text().splitlines()

    async def tell(self, *lines: str) -> Any:
        """Give it a word of `tests.soak.process`, and return its answer."""
        assert self._running.stdin is not None and self._running.stdout is not None
        self._running.stdin.write("".join(line + "\n" for line in lines).encode())
        await self._running.stdin.drain()
        answer = await self._running.stdout.readline()
        if not answer:
            raise RuntimeError("\n".join(["A process of the soak has ended:", *self.log[-50:]]))
        return json.loads(answer)

    def witness(self) -> Witness:
        return Witness(
            sendings=list(journal.sendings(self._folder)),
            receipts=list(journal.receipts(self._folder)),
            losses=self.facts["losses"],
            returns=self.facts["returns"],
            dropped=Counter(self.facts["dropped"]),
            raised=self.facts["raised"],
        )

    async def end(self) -> None:
        if self._running.returncode is None:
            self._running.kill()
        await self._running.wait()


@dataclass
class Community:
    """All processes of one layer, and the names of their channels in the order of the indices."""

    kind: str
    members: list[Member]
    channels: list[str]

    async def begin(self) -> None:
        """Have all begin to send."""
        await self._tell("begin", json.dumps(self.channels))

    async def finish(self) -> None:
        """Have all stop sending, and then receive what is under way."""
        await self._tell("stop")
        for member, facts in zip(self.members, await self._tell("drain"), strict=True):
            member.facts = facts

    async def _tell(self, *lines: str) -> list[Any]:
        return await asyncio.gather(*[member.tell(*lines) for member in self.members])

    def site(self) -> Site:
        slow = process.slow_prefix(self.kind)
        first = len(self.channels)
        last_of_all = process.CONSUMERS - process.MEMBERS
        return Site(
            home={index: index // process.CONSUMERS for index in range(first)},
            slow={index for index, name in enumerate(self.channels) if slow in name},
            busy={
                index
                for index in range(first)
                if index % process.CONSUMERS >= process.CONSUMERS - process.BUSY
            },
            general=set(range(first, first + len(process.GENERAL))),
            groups={
                first + len(process.GENERAL): [
                    index for index in range(first) if index % process.CONSUMERS >= last_of_all
                ]
            },
        )

    def queues(self) -> list[str]:
        """Return the keys of all queues of this layer."""
        own = {name[: name.index("!") + 1] for name in self.channels if "!" in name}
        return [prefix_of(self.kind) + name for name in (*process.GENERAL, *sorted(own))]

    def groups(self) -> dict[str, set[str]]:
        """Return the members of the groups that the server has to know, by key."""
        if self.kind != "core":
            return {}
        members = {self.channels[index] for many in self.site().groups.values() for index in many}
        return {f"{prefix_of(self.kind)}:group:{process.GROUP}": members}

    def forgetting(self, loss: Loss) -> Forgetting:
        """Return what a loss of data has cost this layer."""
        names = [*self.channels, *process.GENERAL]
        index_of = {name: index for index, name in enumerate(names)}
        queued = set()
        for key in self.queues():
            for member in loss.queued[key]:
                message = opened(member)
                to = message.get("__asgi_channel__", key.removeprefix(prefix_of(self.kind)))
                for name in [to] if isinstance(to, str) else to:
                    queued.add((message.get("number", -1), index_of[name]))
        again = {
            index_of[name]: loss.again[key].get(name, loss.began + KNOWN_AGAIN_S)
            for key, members in self.groups().items()
            for name in members
        }
        return Forgetting(loss.began, queued, again)

    def dropped(self) -> Counter[str]:
        """Return what the layers have reported as dropped, by reason."""
        return sum((Counter(one.facts["dropped"]) for one in self.members), Counter())

    def memory_mb(self, second: int) -> float:
        """Return the resident memory of the largest process at one of its seconds."""
        notes = [one.facts["rss_mb"] for one in self.members]
        return max(note[min(second, len(note) - 1)] if second >= 0 else note[-1] for note in notes)

    def poisonable(self) -> tuple[list[str], list[str]]:
        """Return keys and topics at which processes of this layer listen."""
        prefix = prefix_of(self.kind)
        keys = [prefix + process.GENERAL[0]]
        if self.kind == "core":
            return [*keys, prefix + self.channels[-1].split("!")[0] + "!"], []
        return keys, [self.channels[-1], f"{prefix}__group__{process.GROUP}"]


def opened(member: bytes) -> dict[str, Any]:
    """Return the message in a queue; one for nobody for random bytes."""
    try:
        return dict(msgpack.unpackb(member[RANDOM_PREFIX_BYTES:]))
    except Exception:  # Whatever random bytes make of it.
        return {"__asgi_channel__": []}


def prefix_of(kind: str) -> str:
    """Return the option ``prefix`` of a layer."""
    return f"soak-{kind}:"


@asynccontextmanager
async def community(
    kind: str, number: int, url: str, folder: Path, rate: float
) -> AsyncIterator[Community]:
    """The processes of the layer with a number, with their channels open."""
    async with AsyncExitStack() as stack:
        members = []
        for index in range(number * PROCESSES, (number + 1) * PROCESSES):
            plan: process.Plan = {
                "kind": kind,
                "index": index,
                "folder": str(folder / str(index)),
                "url": url,
                "prefix": prefix_of(kind),
                "rate": rate / PROCESSES,
            }
            members.append(await _start(plan))
            stack.push_async_callback(members[-1].end)
        opened = await asyncio.gather(*[member.tell("open") for member in members])
        yield Community(kind, members, [name for names in opened for name in names])


async def _start(plan: process.Plan) -> Member:
    folder = Path(plan["folder"])
    folder.mkdir()
    with (folder / "log").open("wb") as log:
        running = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.soak.process", json.dumps(plan)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            limit=ANSWER_LIMIT_BYTES,
        )
    return Member(folder, running)
