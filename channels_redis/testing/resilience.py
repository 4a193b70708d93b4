"""A layer that loses and delays messages on purpose, as the Channels specification allows.

A channel layer delivers at most once, so consumers must live with a message that does not come,
or comes late.  This shows whether they do::

    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.testing.resilience.UnreliableChannelLayer",
            "CONFIG": {
                "layer": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {...}},
                "drop": 0.05,
                "delay": 0.2,
            },
        },
    }
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from django.utils.module_loading import import_string


class UnreliableChannelLayer:
    """Any channel layer, whose ``receive()`` loses and delays some messages.

    ``layer`` is a layer, or the ``BACKEND`` and ``CONFIG`` of one.  ``drop`` and ``delay`` are
    shares of the received messages between 0 and 1; a delayed one comes ``delay_s`` seconds
    late, and those behind it in its channel not before it.  Of a message to a group each member
    has a copy of its own, with a fate of its own.  The same ``seed`` gives the n-th message that
    this object receives the same fate in every run; ``None`` gives another each time.

    ``dropped`` and ``delayed`` count messages.  All else is the wrapped layer's.
    """

    def __init__(
        self,
        layer: Any,
        *,
        drop: float = 0.0,
        delay: float = 0.0,
        delay_s: float = 0.1,
        seed: int | None = 0,
    ) -> None:
        for name, share in [("drop", drop), ("delay", delay)]:
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be a share of messages from 0 to 1, not {share!r}.")
        if delay_s < 0:
            raise ValueError(f"delay_s must be a number of seconds, not {delay_s!r}.")
        if isinstance(layer, Mapping):
            layer = import_string(layer["BACKEND"])(**layer.get("CONFIG", {}))
        self._layer = layer
        self._drop = drop
        self._delay = delay
        self._delay_s = delay_s
        self._random = random.Random(seed)
        #: What was received and is not yet due: channel -> (due, message), oldest first.
        self._held: dict[str, deque[tuple[float, Any]]] = {}
        self.dropped = 0
        self.delayed = 0

    def __getattr__(self, name: str) -> Any:
        # Copying asks before there is anything to ask.
        return getattr(self.__dict__.get("_layer"), name)

    async def receive(self, channel: str) -> Any:
        """Return the next message that is not dropped, when it is due.  May be cancelled."""
        while True:
            held = self._held.get(channel)
            if not held:
                message = await self._layer.receive(channel)
                self._take(channel, message)
                continue
            due, message = held[0]
            if due > time.monotonic():
                await asyncio.sleep(due - time.monotonic())
                continue
            held.popleft()
            if not held:
                self._held.pop(channel, None)
            return message

    def _take(self, channel: str, message: Any) -> None:
        """Decide what becomes of a message; from here on a cancellation can't lose it."""
        drops, delays = self._random.random() < self._drop, self._random.random() < self._delay
        if drops:
            self.dropped += 1
            return
        self.delayed += delays
        due = time.monotonic() + self._delay_s if delays else 0.0
        self._held.setdefault(channel, deque()).append((due, message))
