"""Messages in a mailbox: objects whose ``open()`` returns a dict.

Consumers never share a dict: a message for many is stored as bytes (or as one original), and each
``receive()`` opens its own copy, in its own task.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar

from .._format.keyspace import GROUP_KEY, POSITION_KEY
from .._format.plain import is_flat
from .._format.positions import PositionText

Message = dict[str, Any]

#: Messages that are known again, per process-specific queue or subscriber.
REMEMBERED = 10_000


#: What the objects around a message take in memory, in bytes, measured on CPython 3.11.
OVERHEAD_BYTES = 250
#: How much larger than its bytes a message is when it is decoded, about: flat, and nested.
FLAT_FACTOR, NESTED_FACTOR = 8, 32
#: Messages that are kept decoded whatever is in them, in bytes.
SMALL_BYTES = 512
#: Messages of which an opened copy is kept for those who open them next: in bytes, in keys.
KEPT_OPEN_BYTES, KEPT_OPEN_KEYS = 1024, 16


class Item:
    """A message in a mailbox; ``droppable`` if a newer one may replace it."""

    droppable: ClassVar[bool] = True
    __slots__ = ("copies", "cost_bytes", "shared")

    def __init__(self, cost_bytes: int) -> None:
        #: What it takes in memory, about, and in how many mailboxes: see :mod:`.budget`.
        self.cost_bytes = cost_bytes
        self.copies = 0
        #: What the consumers of this process make of it together: see ``_broadcast.frames``.
        self.shared: Any = None

    def open(self) -> Any:
        """Return the message, which is not shared; raises the exceptions of decoding."""
        raise NotImplementedError


class Whole(Item):
    """A message with a single receiver; ``wire_bytes`` is its received length."""

    __slots__ = ("_message",)

    def __init__(self, message: Any, wire_bytes: int = 0) -> None:
        super().__init__(OVERHEAD_BYTES + FLAT_FACTOR * wire_bytes)
        self._message = message

    def open(self) -> Any:
        """Return the message."""
        return self._message


class Packed(Item):
    """A message for many as bytes, unpacked by each."""

    __slots__ = ("_data", "_unpack")

    def __init__(self, data: bytes, unpack: Callable[[bytes], Any]) -> None:
        super().__init__(OVERHEAD_BYTES + len(data))
        self._data = data
        self._unpack = unpack

    def open(self) -> Any:
        """Return a message of one's own."""
        return self._unpack(self._data)

    def mentions(self, key: str) -> bool:
        """Return whether the bytes hold a key as text: msgpack's and JSON's show it so."""
        return key.encode() in self._data


class PackedOnce(Packed):
    """The same if no user's code unpacks: a flat message is copied, which takes a tenth of the
    time.
    """

    __slots__ = ("_flat", "_opened")

    def __init__(self, data: bytes, unpack: Callable[[bytes], Any], message: Any = None) -> None:
        super().__init__(data, unpack)
        # ``message`` is what the bytes hold, if that is known already.
        worth_keeping = message is not None and self._is_worth_keeping(message)
        self._flat: dict[Any, Any] | None = message if worth_keeping else None
        self._opened = False
        if len(data) <= KEPT_OPEN_BYTES:
            # The copy that may be kept.
            self.cost_bytes += OVERHEAD_BYTES + FLAT_FACTOR * len(data)

    def open(self) -> Any:
        """Return a message of one's own."""
        if self._flat is not None:
            return self._flat.copy()
        message = self._unpack(self._data)
        # Most messages have one receiver, who would look in vain.
        if self._opened and self._is_worth_keeping(message):
            self._flat = message.copy()
        self._opened = True
        return message

    def _is_worth_keeping(self, message: Any) -> bool:
        small = len(self._data) <= KEPT_OPEN_BYTES and len(message) <= KEPT_OPEN_KEYS
        return small and is_flat(message)


class Placed(Item):
    """A message of a group with a history, which is told its position."""

    __slots__ = ("_item", "_position")

    def __init__(self, item: Item, position: PositionText) -> None:
        super().__init__(item.cost_bytes)
        self._item = item
        self._position = position

    def open(self) -> Any:
        """Return a message of one's own, with its position."""
        message = self._item.open()
        if isinstance(message, dict):
            message.pop(GROUP_KEY, None)  # which core sends along
            message[POSITION_KEY] = self._position
        return message


class Original(Item):
    """A message for many as a dict, copied by each: for custom serializers."""

    __slots__ = ("_message",)

    def __init__(self, message: Any, wire_bytes: int) -> None:
        super().__init__(OVERHEAD_BYTES + NESTED_FACTOR * wire_bytes)
        self._message = message

    def open(self) -> Any:
        """Return a message of one's own."""
        return copy.deepcopy(self._message)


class Held(Item):
    """A message of a general channel, which is put back into its queue if no ``receive()`` takes
    it.

    ``origin`` is the reader that popped ``member`` and ``score`` at the time ``since``.
    """

    droppable: ClassVar[bool] = False
    __slots__ = ("_unpack", "member", "origin", "score", "since")

    def __init__(
        self,
        origin: object,
        since: float,
        member: bytes,
        score: Any,
        unpack: Callable[[bytes], Any],
    ) -> None:
        super().__init__(OVERHEAD_BYTES + len(member))
        self.origin = origin
        self.since = since
        self.member = member
        self.score = score
        self._unpack = unpack

    def open(self) -> Any:
        """Return the message."""
        return self._unpack(self.member)


class Recent:
    """Remembers the last :data:`REMEMBERED` messages to detect duplicates."""

    __slots__ = ("_marks",)

    def __init__(self) -> None:
        self._marks: OrderedDict[int, None] = OrderedDict()

    def has(self, data: bytes) -> bool:
        """Return whether the same bytes were seen before, and remember them."""
        mark = hash(data)
        if mark in self._marks:
            return True
        self._marks[mark] = None
        if len(self._marks) > REMEMBERED:
            self._marks.popitem(last=False)
        return False
