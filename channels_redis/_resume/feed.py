"""A channel of its own in one group, for a response that sends what it receives."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from .._runtime.loops import running_loop
from ..exceptions import ConnectionLost
from . import joining
from .joining import MISSED_TYPE, Joined

#: The server of the layer can't be reached; other packages' errors for that are an OSError.
AWAY = (ConnectionLost, OSError)


class Feed:
    """The messages of a group for one client."""

    def __init__(self, layer: Any, group: str) -> None:
        self.group = group
        self._layer = layer
        names = ("on_disconnect", "on_reconnect")
        self._outage_types = {MISSED_TYPE, *(getattr(layer, name, None) for name in names)}
        self._channel: str | None = None
        self._receiving: asyncio.Future[Any] | None = None

    async def join(self, named: str, since: str | None) -> Joined:
        """Join the group after the position that the client names, else after ``since``."""
        # In the task of the request: when that ends, the layer forgets the channel.
        channel: str = await self._layer.new_channel()
        self._channel = channel
        return await joining.join(self._layer, channel, self.group, named=named, since=since)

    async def next(self, timeout_s: float) -> dict[str, Any] | None:
        """Return the next message; None if there is none for so many seconds."""
        if self._receiving is None:
            name = f"channels_redis events of {self.group}"
            receive = self._layer.receive(self._channel)
            self._receiving = running_loop().create_task(receive, name=name)
        # It goes on if nothing comes in time, so that no message can be lost.
        await asyncio.wait({self._receiving}, timeout=timeout_s)
        if not self._receiving.done():
            return None
        receiving, self._receiving = self._receiving, None
        message: dict[str, Any] = receiving.result()
        return message

    def tells_of_outage(self, message: dict[str, Any]) -> bool:
        """Return whether a message is the layer's own, about an outage or missed messages."""
        kind = message.get("type")
        return kind is not None and kind in self._outage_types

    async def leave(self) -> None:
        """Leave the group; may be called at any time, also while the task is being cancelled."""
        if self._receiving is not None:
            self._receiving.cancel()
            await asyncio.gather(self._receiving, return_exceptions=True)
        if self._channel is not None:
            with contextlib.suppress(*AWAY):
                await self._layer.group_discard(self.group, self._channel)
