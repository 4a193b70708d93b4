"""The events for callbacks of ``layer.on_event()``, and ``Operation`` for those of
``layer.on_operation()``.

All are frozen dataclasses.  Durations are in seconds.  Nodes are entries of ``hosts`` without
secrets.
"""

from ._watch.events import (
    Event,
    GroupOverCapacity,
    MessagesDropped,
    NodeBack,
    NodeLost,
    Operation,
    QueueUnreadable,
    SenderClockUsed,
)

__all__ = [
    "Event",
    "GroupOverCapacity",
    "MessagesDropped",
    "NodeBack",
    "NodeLost",
    "Operation",
    "QueueUnreadable",
    "SenderClockUsed",
]
