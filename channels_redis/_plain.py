"""What the values that neither msgpack nor JSON carries travel as."""

from __future__ import annotations

import datetime
import decimal
import uuid
from typing import Any

from django.utils.functional import Promise


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
