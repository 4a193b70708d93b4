"""Which values are as plain as can be, and what those travel as that no format carries."""

from __future__ import annotations

import datetime
import decimal
import uuid
from typing import Any

from django.utils.functional import Promise

#: What every format carries, and nobody can change.
_ATOMS = frozenset({str, int, float, bool, bytes, type(None)})
_KEYS = frozenset({str, bytes})


def is_flat(message: Any) -> bool:
    """Return whether a message is a dict of atoms: text, numbers, bytes, True, False and None."""
    return (
        type(message) is dict
        and _KEYS.issuperset(map(type, message))
        and _ATOMS.issuperset(map(type, message.values()))
    )


def encode_default(value: Any) -> Any:
    """Return what to send instead of a value; ``TypeError`` for one that is not known here.

    ``datetime``, ``date`` and ``time`` become the text that their ``fromisoformat()`` reads;
    ``timedelta`` its seconds as a float; ``Decimal``, ``UUID`` and lazy strings (in the language
    that is active when they are sent) become their text; ``set`` and ``frozenset`` a list, in no
    particular order.  Nothing is turned back on arrival.
    """
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, (decimal.Decimal, uuid.UUID, Promise)):
        return str(value)
    if isinstance(value, (set, frozenset)):
        return list(value)
    raise TypeError
