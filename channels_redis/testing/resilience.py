"""A layer that loses and delays messages on purpose, as the Channels specification allows.

A channel layer delivers messages at most once, so consumers must tolerate lost and late messages.
This layer tests whether they do::

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
    """Wraps any channel layer; ``receive()`` loses and delays some messages.

    ``layer`` is a layer, or a dict with ``BACKEND`` and ``CONFIG``.  ``drop`` and ``delay`` are
    probabilities between 0 and 1.  A delayed message is received ``delay_s`` seconds late, and
    later messages of its channel not before it.  Each copy of a group message is dropped or
    delayed separately.  With the same ``seed`` the n-th message that this object receives is
    treated the same in every run; with ``None`` each run is different.

    ``dropped`` and ``delayed`` count messages.  All other attributes are those of the wrapped
    layer.
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
                raise ValueError(f"{name} must be a probability from 0 to 1, not {share!r}.")
        if delay_s < 0:
            raise ValueError(f"delay_s must be a number of seconds, not {delay_s!r}.")
        if isinstance(layer, Mapping):
            layer = import_string(layer["BACKEND"])(**layer.get("CONFIG", {}))
        self._layer = layer
        self._drop = drop
        self._delay = delay
        self._delay_s = delay_s
        self._random = random.Random(seed)
        #: Received messages that are not due yet: channel -> (due, message), oldest first.
        self._held: dict[str, deque[tuple[float, Any]]] = {}
        self.dropped = 0
        self.delayed = 0

    def __getattr__(self, name: str) -> Any:
        # Copying asks before there is anything to ask.
        return getattr(self.__dict__.get("_layer"), name)

    async def receive(self, channel: str) -> Any:
        """Return the next message that is not dropped, as soon as it is due.  May be cancelled."""
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
        """Drop, delay or keep a message.  From here on a cancellation can't lose it."""
        drops, delays = self._random.random() < self._drop, self._random.random() < self._delay
        if drops:
            self.dropped += 1
            return
        self.delayed += delays
        due = time.monotonic() + self._delay_s if delays else 0.0
        self._held.setdefault(channel, deque()).append((due, message))
