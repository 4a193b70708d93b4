"""What the methods for the history of a group return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["History", "Resumed"]


@dataclass(frozen=True)
class History:
    """The messages of a group that Redis still has, oldest first."""

    #: Each is a dict of its own, with its position under ``"__position__"``.
    messages: list[dict[str, Any]]
    #: The position of the newest message of the group, whether it is among ``messages`` or not.
    position: str
    #: Whether nothing is missing among ``messages``, and between them and the position that was
    #: asked for.
    complete: bool


@dataclass(frozen=True)
class Resumed:
    """How ``group_add(..., since=...)`` went."""

    #: Whether all messages since the position were put into the mailbox of the channel. If not,
    #: none was: the application has to load its state.
    complete: bool
    #: The position up to which the channel has everything, once the application has loaded its
    #: state if it is not complete. Messages after it follow.
    position: str
    #: The number of messages that were put into the mailbox.
    count: int
