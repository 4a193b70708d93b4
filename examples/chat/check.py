"""The proof: real clients on both ports, and a count of what reached whom from which process."""

from __future__ import annotations

import asyncio
import contextlib
import http.cookiejar
import json
import secrets
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Origin

from processes import ChatFailed

MESSAGES_PER_ROUTE = 20
TIMEOUT_S = 20.0

LAST_WORDS = "the end"

WEBSOCKET = "WebSocket, group_send"
PLAIN_VIEW = "plain view, layer.sync"
COMMAND = "management command, layer.sync"
TASKS = "forked task workers, layer.sync"
WORKER_GROUP = "worker, group_send"
WORKER_DIRECT = "worker, direct reply"
OTHER_ROOM = "another room, only its own"
PRESENCE = "visitors who join and leave"
WAYS = (WEBSOCKET, PLAIN_VIEW, COMMAND, TASKS, WORKER_GROUP, WORKER_DIRECT, OTHER_ROOM, PRESENCE)

#: Ways in which no web process takes part: who stands in the table as their sender has only
#: lent its name.
TERMINAL = {"command": COMMAND, "task": TASKS}
TASK_WORKERS = 3

#: Runs a command of manage.py in a process of the given name.
Manage = Callable[..., Awaitable[None]]


@dataclass(frozen=True)
class Route:
    """What went one way from a client of one process to a client of another, or the same."""

    way: str
    sender: str
    receiver: str
    sent: list[str] = field(default_factory=list)
    arrived: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        lost = (Counter(self.sent) - Counter(self.arrived)).total()
        extra = (Counter(self.arrived) - Counter(self.sent)).total()
        faults = [f"{lost} lost"] * bool(lost) + [f"{extra} too many"] * bool(extra)
        return faults or ["out of order"] * (self.sent != self.arrived)

    @property
    def crosses_processes(self) -> bool:
        elsewhere = (WORKER_GROUP, WORKER_DIRECT, *TERMINAL.values())
        return self.sender != self.receiver or self.way in elsewhere

    def __str__(self) -> str:
        if not self.sent and not self.arrived:
            return "-"
        return ", ".join([f"{len(self.arrived)} of {len(self.sent)}", *self.faults])


async def check(sites: Mapping[str, str], manage: Manage) -> list[Route]:
    """Talk to the web processes at ``sites`` (name -> URL) and return every route with its count.

    The last message of each route is sent when all the others are in, so that a copy that came
    too often had its time to arrive.
    """
    async with contextlib.AsyncExitStack() as stack:
        room = f"check-{secrets.token_hex(4)}"
        members = await _enter_all(stack, sites, room)
        outsiders = await _enter_all(stack, sites, f"check-{secrets.token_hex(4)}")
        await _visit(sites, room, members)
        await _speak_from_terminals(manage, room, members[0].author)
        for numbers in (range(1, MESSAGES_PER_ROUTE), [MESSAGES_PER_ROUTE]):
            # Of each number, every member hears three messages from everybody and one reply.
            messages, replies = 3 * len(members) * numbers[-1], numbers[-1]
            messages += len(TERMINAL) * MESSAGES_PER_ROUTE
            await asyncio.gather(
                *(member.speak(numbers) for member in members),
                *(member.hear(messages, replies) for member in members),
            )
        await asyncio.gather(*(outsider.say(LAST_WORDS) for outsider in outsiders))
        await asyncio.gather(*(outsider.hear(len(outsiders), 0) for outsider in outsiders))
        # Last, because a visitor has left only when the grace is over.
        await asyncio.gather(*(member.see_all_leave() for member in members))
    return [
        route
        for sender in members
        for receiver, outsider in zip(members, outsiders, strict=True)
        for route in _routes(sender, receiver, outsider, lent=sender is members[0])
    ]


async def _visit(sites: Mapping[str, str], room: str, members: list[Client]) -> None:
    """Have somebody come to each process, who sees who is there, and go."""
    async with contextlib.AsyncExitStack() as stack:
        visitors = await _enter_all(stack, sites, room, "visitor")
        there = {member.author for member in members}
        for visitor in visitors:
            if not there <= set(visitor.people):
                raise ChatFailed(f"{visitor.process} shows {visitor.people} in the room.")


async def _speak_from_terminals(manage: Manage, room: str, author: str) -> None:
    """Say each number with ``manage.py say``, and again from forked workers."""

    def texts(process: str) -> list[str]:
        return [f"{process} {number}" for number in range(1, MESSAGES_PER_ROUTE + 1)]

    await asyncio.gather(
        manage("command", "say", room, author, *texts("command")),
        manage("task", "say", f"--workers={TASK_WORKERS}", room, author, *texts("task")),
    )


def _routes(sender: Client, receiver: Client, outsider: Client, *, lent: bool) -> list[Route]:
    def route(way: str, sent: list[str], arrived: list[str]) -> Route:
        return Route(way, sender.process, receiver.process, sent, arrived)

    numbers = range(1, MESSAGES_PER_ROUTE + 1)
    spoken = [f"WebSocket {number} from {sender.process}" for number in numbers]
    announced = [f"plain view {number} from {sender.process}" for number in numbers]
    rolled = [f"rolled {n}d1: {' + '.join('1' * n)} = {n} from worker" for n in numbers]
    greeting = f"{sender.author}, the worker took your "
    replies = [f"{greeting}{n}d1. Only you see this." for n in numbers if sender is receiver]
    replied = [reply for reply in receiver.replies if reply.startswith(greeting)]
    terminal = [
        route(
            way,
            [f"{process} {number} from {process}" for number in numbers if lent],
            receiver.heard_from(sender, process),
        )
        for process, way in TERMINAL.items()
    ]
    return [
        route(WEBSOCKET, spoken, receiver.heard_from(sender, "WebSocket")),
        route(PLAIN_VIEW, announced, receiver.heard_from(sender, "plain view")),
        *terminal,
        route(WORKER_GROUP, rolled, receiver.heard_from(sender, "worker")),
        route(WORKER_DIRECT, replies, replied),
        route(OTHER_ROOM, [f"{LAST_WORDS} from {sender.process}"], outsider.heard_from(sender)),
        route(PRESENCE, ["joined", "left"], receiver.seen_of(f"visitor of {sender.process}")),
    ]


class Client:
    """One browser, so to speak: a WebSocket in a room, and a cookie jar for its plain requests."""

    def __init__(
        self, process: str, url: str, room: str, author: str, websocket: ClientConnection
    ) -> None:
        self.process = process
        self.author = author
        #: The names in the room, and who has joined and left since.
        self.people: list[str] = []
        self.moves: list[tuple[str, str]] = []
        self.messages: list[dict[str, str]] = []
        self.replies: list[str] = []
        self._url = f"{url}/rooms/{room}/"
        self._websocket = websocket
        self._cookies = http.cookiejar.CookieJar()
        # No proxy: these addresses mean this machine.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self._cookies)
        )

    def heard_from(self, sender: Client, way: str | None = None) -> list[str]:
        return [
            f"{message['text']} from {message['process']}"
            for message in self.messages
            if message["author"] == sender.author and way in (None, message["way"])
        ]

    def seen_of(self, name: str) -> list[str]:
        return [kind for kind, who in self.moves if who == name]

    async def speak(self, numbers: Sequence[int]) -> None:
        """Say each number in all ways: WebSocket, dice for the worker, plain view."""
        await asyncio.gather(self._speak_here(numbers), asyncio.to_thread(self._post, numbers))

    async def say(self, text: str) -> None:
        await self._websocket.send(json.dumps({"author": self.author, "text": text}))

    async def hear(self, messages: int, replies: int) -> None:
        """Listen until there are so many messages and replies in all, or the time is up."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._hear(messages, replies), TIMEOUT_S)

    async def see_all_leave(self) -> None:
        """Listen until all visitors have left, or the time is up."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._see_all_leave(), TIMEOUT_S)

    async def enter(self) -> None:
        """Load the page, and see that the process it names is the one that serves the socket, and
        who is there.
        """
        page = await asyncio.to_thread(self._get)
        welcome = json.loads(await self._websocket.recv())
        if f" on {self.process}</title>" not in page or welcome.get("process") != self.process:
            raise ChatFailed(f"{self._url} is not served by {self.process}.")
        while not self.people:
            await self._take()

    async def _hear(self, messages: int, replies: int) -> None:
        while len(self.messages) < messages or len(self.replies) < replies:
            await self._take()

    async def _see_all_leave(self) -> None:
        visitors = {name for _, name in self.moves if name.startswith("visitor")}
        while not all("left" in self.seen_of(name) for name in visitors):
            await self._take()

    async def _take(self) -> None:
        frame = json.loads(await self._websocket.recv())
        if "__resume__" in frame:
            return  # where the client is in its group
        if frame["type"] == "message":
            self.messages.append(frame)
        elif frame["type"] == "note":
            self.replies.append(frame["text"])
        elif frame["type"] == "people":
            self.people = frame["names"]
        elif frame["type"] in ("joined", "left"):
            self.moves.append((frame["type"], frame["name"]))
        else:
            raise ChatFailed(f"{self.process} sent {frame['type']!r}: {frame.get('text')}")

    async def _speak_here(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            await self.say(f"WebSocket {number}")
            await self.say(f"/roll {number}d1")

    def _get(self) -> str:
        with self._opener.open(self._url, timeout=TIMEOUT_S) as answer:
            return str(answer.read().decode())

    def _post(self, numbers: Sequence[int]) -> None:
        token = next(cookie.value for cookie in self._cookies if cookie.name == "csrftoken")
        for number in numbers:
            body = {"author": self.author, "text": f"plain view {number}"}
            request = urllib.request.Request(
                f"{self._url}announce/",
                data=urllib.parse.urlencode(body).encode(),
                headers={"X-CSRFToken": token or ""},
            )
            self._opener.open(request, timeout=TIMEOUT_S).close()


async def _enter_all(
    stack: contextlib.AsyncExitStack, sites: Mapping[str, str], room: str, who: str = "client"
) -> list[Client]:
    return [
        await stack.enter_async_context(_client(process, url, room, f"{who} of {process}"))
        for process, url in sites.items()
    ]


@contextlib.asynccontextmanager
async def _client(process: str, url: str, room: str, author: str) -> AsyncIterator[Client]:
    query = urllib.parse.urlencode({"name": author})
    address = f"{url.replace('http', 'ws', 1)}/ws/rooms/{room}/?{query}"
    async with connect(address, origin=Origin(url), proxy=None, open_timeout=TIMEOUT_S) as socket:
        client = Client(process, url, room, author, socket)
        await client.enter()
        yield client


def table(results: Mapping[str, list[Route]]) -> str:
    """Layers and ways down, processes across."""
    routes = [route for of_layer in results.values() for route in of_layer]
    columns = list(dict.fromkeys((route.sender, route.receiver) for route in routes))
    rows = [["layer", "way", *(f"{sender} > {receiver}" for sender, receiver in columns)]]
    for layer, of_layer in results.items():
        cells = {(route.way, route.sender, route.receiver): str(route) for route in of_layer}
        rows += [[layer, way, *(cells.get((way, *c), "-") for c in columns)] for way in WAYS]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)
