"""What is said in a room: names, checks of what clients send, and the layer's messages."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.utils import timezone

DICE_CHANNEL = "dice"
MAX_AUTHOR_LENGTH = 30
MAX_TEXT_LENGTH = 500


class Refused(ValueError):
    """A client sent something the chat does not take; the text is meant for its user."""


@dataclass(frozen=True)
class Post:
    """What somebody said, checked."""

    author: str
    text: str

    @classmethod
    def from_client(cls, data: object) -> Post:
        if not isinstance(data, dict):
            raise Refused("A message must be an object with an author and a text.")
        return cls(
            author=clean_author(data.get("author")),
            text=_clean(data.get("text"), "text", MAX_TEXT_LENGTH),
        )


@dataclass(frozen=True)
class Dice:
    """Some dice, written as players do: 2d6 is two dice of six sides."""

    count: int
    sides: int

    @classmethod
    def from_command(cls, text: str) -> Dice | None:
        """The dice of a ``/roll 2d6``, or None if the text is no such command."""
        if text.split(maxsplit=1)[0] != "/roll":
            return None
        match = re.fullmatch(r"/roll\s+([0-9]{1,2})d([0-9]{1,3})", text)
        dice = cls(int(match[1]), int(match[2])) if match else None
        if dice is None or not (1 <= dice.count <= 30 and dice.sides >= 1):
            raise Refused("Write /roll 2d6 for two dice of six sides; 30 dice at most.")
        return dice

    def __str__(self) -> str:
        return f"{self.count}d{self.sides}"

    def roll(self) -> str:
        results = [random.randint(1, self.sides) for _ in range(self.count)]
        return f"rolled {self}: {' + '.join(map(str, results))} = {sum(results)}"


def group_name(room: str) -> str:
    return f"room.{room}"


def chat_message(post: Post, way: str) -> dict[str, Any]:
    """The message for everybody in a room; it names the process that sends it."""
    return {
        "type": "chat.message",
        "author": post.author,
        "text": post.text,
        "way": way,
        "process": settings.CHAT_PROCESS,
        "at": timezone.now().isoformat(),
    }


def clean_author(value: object) -> str:
    return _clean(value, "author", MAX_AUTHOR_LENGTH)


def _clean(value: object, field: str, max_length: int) -> str:
    # JSON can carry lone surrogates, which are no text and can't be encoded again.
    text = value.encode(errors="replace").decode().strip() if isinstance(value, str) else ""
    if not text:
        raise Refused(f"The {field} is missing.")
    if len(text) > max_length:
        raise Refused(f"The {field} is longer than {max_length} characters.")
    return text
