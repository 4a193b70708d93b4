"""A WebSocket client of one consumer; the server between them is two functions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from tests.helpers import wait_for

Sending = Callable[[dict[str, Any]], Awaitable[None]]


class Client:
    """What a consumer sends to its client is in ``sent``; ``sending``, if there is one, is awaited
    before, as the ``send()`` of a server or of a middleware.
    """

    def __init__(self, kind: type[Any], sending: Sending | None = None) -> None:
        self.sent: list[dict[str, Any]] = []
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.incoming.put_nowait({"type": "websocket.connect"})
        self.consumer = kind()
        self.scope: dict[str, Any] = {"type": "websocket"}
        self._sending = sending
        self.task = asyncio.create_task(self.consumer(self.scope, self.incoming.get, self._send))

    async def _send(self, message: dict[str, Any]) -> None:
        if self._sending is not None:
            await self._sending(message)
        self.sent.append(message)

    @property
    def frames(self) -> list[Any]:
        """The content of all frames."""
        sent = [one for one in self.sent if one["type"] == "websocket.send"]
        return [one["bytes"] if one.get("bytes") is not None else one["text"] for one in sent]

    @property
    def contents(self) -> list[Any]:
        """The same, decoded."""
        return [json.loads(frame) for frame in self.frames]

    async def accepted(self) -> None:
        """Wait until the consumer has accepted, and does nothing else."""
        await wait_for(lambda: self.sent or self.task.done())
        assert self.sent, self.task.result()

    async def heard(self, content: Any) -> None:
        """Wait for a last frame with this content, or for the end of the consumer."""
        frame = json.dumps(content)
        await wait_for(lambda: self.frames[-1:] == [frame] or self.task.done(), 60)

    def say(self, text: str) -> None:
        """Send a frame."""
        self.incoming.put_nowait({"type": "websocket.receive", "text": text})

    def hang_up(self) -> None:
        """Have the server tell that the client has gone."""
        self.incoming.put_nowait({"type": "websocket.disconnect", "code": 1001})

    async def leave(self) -> None:
        """Go, and wait for the end of the consumer."""
        self.hang_up()
        await asyncio.wait_for(asyncio.shield(self.task), 30)
