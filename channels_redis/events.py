"""What can happen inside a layer, for those who subscribe with ``layer.on_event(callback)``, and
how its operations went, for ``layer.on_operation(callback)``.

All are frozen dataclasses.  Durations are in seconds, nodes are entries of ``hosts`` without
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
