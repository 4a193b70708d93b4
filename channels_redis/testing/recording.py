"""A layer that records the messages sent through it, for the tests of a project.

::

    with recording() as layer:              # in place of CHANNEL_LAYERS["default"]
        client.post("/orders/", {...})      # the code under test
    layer.assert_group_sent("orders", type="order.new", number=7)
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from channels import DEFAULT_CHANNEL_LAYER
from channels.layers import channel_layers

from ..sync import when_committed

#: Messages that an error shows.
_SHOWN = 10


@dataclass(frozen=True)
class Sent:
    """One message that was sent to a channel or a group, copied when it was sent.

    ``exclude`` contains the channels that were excluded from a group message.
    """

    to: str
    message: Any
    is_group: bool
    exclude: frozenset[str] = frozenset()

    def __str__(self) -> str:
        left_out = f", without {', '.join(sorted(self.exclude))}" if self.exclude else ""
        return f"to {'group' if self.is_group else 'channel'} {self.to}{left_out}: {self.message!r}"


class RecordingChannelLayer:
    """Wraps any channel layer, and records the messages that are sent in ``sent``.

    A message is recorded when the call has returned; if the call raises, it is not recorded.  May
    be used from any thread.  All other attributes are those of the wrapped layer.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._lock = threading.Lock()
        self._sent: list[Sent] = []

    def __getattr__(self, name: str) -> Any:
        # Copying asks before there is anything to ask.
        return getattr(self.__dict__.get("_layer"), name)

    async def send(self, channel: str, message: Any) -> None:
        """Send to a channel, and record the message."""
        record = Sent(channel, copy.deepcopy(message), False)
        await self._layer.send(channel, message)
        self._add(record)

    async def group_send(self, group: str, message: Any, **keywords: Any) -> None:
        """Send to a group, and record the message."""
        record = _to_group(group, message, keywords)
        await self._layer.group_send(group, message, **keywords)
        self._add(record)

    @property
    def sync(self) -> RecordingSyncFace:
        """``layer.sync`` of the wrapped layer, if it has one, which also records messages."""
        return RecordingSyncFace(self, self._layer.sync)

    # What was sent

    @property
    def sent(self) -> list[Sent]:
        """All messages sent so far, oldest first."""
        with self._lock:
            return list(self._sent)

    def clear(self) -> None:
        """Remove all recorded messages."""
        with self._lock:
            self._sent.clear()

    def assert_sent(self, channel: str, message: Any = None, /, **keys: Any) -> list[Any]:
        """Return the messages sent to a channel that are equal to ``message``, if it is given,
        and have these keys with these values; ``AssertionError`` if there is none.
        """
        return self._assert_sent(channel, False, message, keys)

    def assert_group_sent(self, group: str, message: Any = None, /, **keys: Any) -> list[Any]:
        """The same for messages sent to a group."""
        return self._assert_sent(group, True, message, keys)

    def assert_nothing_sent(self) -> None:
        """Raise ``AssertionError`` if anything was sent to any channel or group."""
        if self.sent:
            raise AssertionError(f"Messages were sent:\n{_listed(self.sent)}")

    def _assert_sent(
        self, to: str, is_group: bool, message: Any, keys: dict[str, Any]
    ) -> list[Any]:
        sent = self.sent
        there = [one.message for one in sent if one.to == to and one.is_group is is_group]
        found = [one for one in there if _matches(one, message, keys)]
        if not found:
            wanted = f" {message!r}" if message is not None else ""
            wanted += f" with {keys!r}" if keys else ""
            kind = "group" if is_group else "channel"
            raise AssertionError(
                f"No message{wanted} was sent to {kind} {to}. Messages sent:\n{_listed(sent)}"
            )
        return found

    def _add(self, record: Sent) -> None:
        with self._lock:
            self._sent.append(record)


class RecordingSyncFace:
    """``layer.sync`` of a :class:`RecordingChannelLayer`."""

    def __init__(self, recorder: RecordingChannelLayer, face: Any) -> None:
        self._recorder = recorder
        self._face = face

    def __getattr__(self, name: str) -> Any:
        return getattr(self._face, name)

    def send(self, channel: str, message: Any, **keywords: Any) -> None:
        """Send to a channel, and record the message."""
        record = Sent(channel, copy.deepcopy(message), False)
        self._face.send(channel, message, **keywords)
        self._recorder._add(record)

    def group_send(self, group: str, message: Any, **keywords: Any) -> None:
        """Send to a group, and record the message."""
        record = _to_group(group, message, keywords)
        self._face.group_send(group, message, **keywords)
        self._recorder._add(record)

    def group_send_on_commit(
        self,
        group: str,
        message: Any,
        *,
        using: str | None = None,
        robust: bool = True,
        **keywords: Any,
    ) -> None:
        """Send to a group when the transaction is committed, and record the message then."""
        send = partial(self.group_send, group, copy.deepcopy(message), **keywords)
        when_committed(send, using=using, robust=robust)


@contextmanager
def recording(alias: str = DEFAULT_CHANNEL_LAYER) -> Iterator[RecordingChannelLayer]:
    """Wrap a layer of ``CHANNEL_LAYERS`` in a :class:`RecordingChannelLayer` for the block."""
    layer = channel_layers[alias]
    recorder = RecordingChannelLayer(layer)
    in_its_place: Any = recorder  # Not a BaseChannelLayer, but has the same methods.
    channel_layers.set(alias, in_its_place)
    try:
        yield recorder
    finally:
        channel_layers.set(alias, layer)


def _to_group(group: str, message: Any, keywords: dict[str, Any]) -> Sent:
    if "exclude" in keywords:
        # Read once: it may be a generator.
        keywords["exclude"] = list(keywords["exclude"])
    return Sent(group, copy.deepcopy(message), True, frozenset(keywords.get("exclude", ())))


def _matches(message: Any, whole: Any, keys: dict[str, Any]) -> bool:
    if whole is not None and message != whole:
        return False
    return all(key in message and message[key] == value for key, value in keys.items())


def _listed(sent: list[Sent]) -> str:
    lines = [f"  {one}" for one in sent[-_SHOWN:]] or ["  nothing"]
    if len(sent) > _SHOWN:
        lines.insert(0, f"  ({len(sent) - _SHOWN} earlier ones)")
    return "\n".join(lines)
