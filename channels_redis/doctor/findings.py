"""A finding: a sentence with a level and advice."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from .._config.secrets import Secrets


class Level(enum.IntEnum):
    """How much a finding matters."""

    #: No problem.
    OK = 0
    #: Good to know, or could not be checked.
    NOTE = 1
    #: Works now, but is likely to cause problems.
    WARNING = 2
    #: Does not work.
    ERROR = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of a check.  Its texts contain no secrets."""

    level: Level
    #: A name that does not change between releases, such as ``W001`` or ``unreachable``.
    id: str
    #: The layer or the server, such as ``default`` or ``localhost:6379``.
    where: str
    text: str
    #: What to do; empty if nothing has to be done.
    advice: str = ""

    def without(self, secrets: Secrets) -> Finding:
        """Return the finding with the secrets removed."""
        clean = secrets.text
        return Finding(self.level, self.id, clean(self.where), clean(self.text), clean(self.advice))


def worst(findings: list[Finding]) -> Level:
    """Return the highest level of all findings."""
    return max((finding.level for finding in findings), default=Level.OK)
