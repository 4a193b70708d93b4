"""What was found: plain sentences with a level, and what to do."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from .._config.secrets import Secrets


class Level(enum.IntEnum):
    """How much a finding matters."""

    #: As it should be.
    OK = 0
    #: Worth knowing, or not to be known from here.
    NOTE = 1
    #: Works now, and will hurt.
    WARNING = 2
    #: Does not work.
    ERROR = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.  No text in it holds a secret."""

    level: Level
    #: A name that stays the same from release to release, such as ``W001`` or ``unreachable``.
    id: str
    #: The layer or the server, such as ``default`` or ``localhost:6379``.
    where: str
    text: str
    #: What to do; empty where there is nothing to do.
    advice: str = ""

    def without(self, secrets: Secrets) -> Finding:
        """Return the finding with the secrets removed."""
        clean = secrets.text
        return Finding(self.level, self.id, clean(self.where), clean(self.text), clean(self.advice))


def worst(findings: list[Finding]) -> Level:
    """Return the highest level there is."""
    return max((finding.level for finding in findings), default=Level.OK)
