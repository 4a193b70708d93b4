"""What a reader has requested from its queue, and what the replies mean. Does no I/O.

The first command on a connection is ``pop.lua``: it drops expired messages and takes a batch.
``BZPOPMIN`` follows in the same write and waits for the next message. If batches come back empty,
only ``BZPOPMIN`` is used for a while, which is half the work for the server. While messages flow to
a process-specific queue, several ``BZPOPMIN`` wait on the server one behind the other, so that most
messages need no write.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import NoScriptError

from .._runtime.clock import unix_time
from . import scripts
from .commands import is_hash_unusable
from .packing import pack

#: Blocking pops on their way to a process-specific queue while messages flow, at most.
DEPTH = 8
#: Blocking pops without a batch after a batch that was empty.
SINGLES = 4
#: Messages that follow each other within this time flow.
FLOW_S = 0.05

#: Scores that are further ahead of the server's clock than this are no times, as in the scripts.
AHEAD_S = 86_400.0

_ASKING = pack("ASKING")

Popped = tuple[bytes, Any]
"""A message as it was in the queue, and its score as the server gave it."""


@dataclass
class Reply:
    """The content of one reply: messages, the number of expired ones dropped, or an error."""

    messages: list[Popped] = field(default_factory=list)
    expired: int = 0
    error: Exception | None = None


class Pops:
    """The pops of one reader that are in flight, and the next ones to write."""

    def __init__(self, key: str, expiry_s: float, block_s: int, *, specific: bool) -> None:
        self._key = key
        self._expiry_s = expiry_s
        self._specific = specific
        self.block_for(block_s)
        self._hash_forbidden = False
        # Seconds that the server's clock is ahead of ours; None before the first batch.
        self._clock_ahead_s: float | None = None
        self.reset()

    def block_for(self, block_s: int) -> None:
        """Set the number of seconds for which a blocking pop waits for a message."""
        self._single = pack("BZPOPMIN", self._key, block_s)

    def reset(self, *, asking: bool = False) -> None:
        """Start again on a new connection. If the queue's slot is being moved to the server, each
        command has to be preceded by ASKING (``asking``).
        """
        # True for a batch, False for a blocking pop, None for what brings no more than consent
        # (ASKING, AUTH); in the order of the replies.
        self._asked: deque[bool | None] = deque()
        self._asking = asking
        # The first batch loads the script, so that none is refused while pops follow it.
        self._by_hash = False
        self._singles = 0
        self._depth = 1
        self._popped_at = -math.inf

    @property
    def pending(self) -> int:
        """The number of outstanding replies."""
        return len(self._asked)

    def ask(self, room: int) -> bytes:
        """Return the bytes to write now, possibly none; ``room`` is the number of messages that can
        be taken.
        """
        depth = 1 if self._asking else min(self._depth, max(1, room // 4))
        missing = depth - len(self._asked)
        if 2 * missing < depth:
            return b""
        command = b""
        if self._singles <= 0:
            limit = max(0, room - depth)
            command = scripts.pop(self._key, limit, self._expiry_s, by_hash=self._by_hash)
            self._asked.append(True)
        self._asked.extend([False] * missing)
        self._singles -= missing
        if self._asking:
            return self._with_asking(command)
        return command + self._single * missing

    def _with_asking(self, batch: bytes) -> bytes:
        self._asked = deque([None, True, None, False] if batch else [None, False])
        return _ASKING + batch + _ASKING * bool(batch) + self._single

    def expect_consent(self) -> None:
        """Note that another command was written, whose reply is not a message."""
        self._asked.append(None)

    def take(self, reply: Any, now: float) -> Reply:
        """Return the meaning of the next reply; ``now`` is the monotonic time in seconds."""
        is_batch = self._asked.popleft()
        if is_batch is None:
            return Reply(error=reply if isinstance(reply, Exception) else None)
        if isinstance(reply, Exception):
            return Reply(error=self._refused(reply) if is_batch else reply)
        return self._take_batch(reply, now) if is_batch else self._take_single(reply, now)

    def _refused(self, reply: Exception) -> Exception | None:
        if not (self._by_hash and is_hash_unusable(reply)):
            return reply
        self._by_hash = False
        self._hash_forbidden = not isinstance(reply, NoScriptError)
        self._singles = 0
        return None

    def _take_batch(self, reply: list[Any], now: float) -> Reply:
        server_now_s, expired, *pairs = reply
        self._by_hash = not self._hash_forbidden
        self._clock_ahead_s = float(server_now_s) - now
        if not pairs and not expired:
            self._singles = SINGLES
        return Reply(list(zip(pairs[::2], pairs[1::2], strict=True)), expired)

    def _take_single(self, reply: list[Any] | None, now: float) -> Reply:
        flows = reply is not None and now - self._popped_at < FLOW_S
        self._depth = min(self._depth + 1, DEPTH) if flows and self._specific else 1
        if reply is None:
            return Reply()
        self._popped_at = now
        _, member, score = reply
        if self._is_out_of_time(float(score), now):
            self._singles = 0
            return Reply(expired=1)
        return Reply([(member, score)])

    def _is_out_of_time(self, score: float, now: float) -> bool:
        """Return whether a message has expired, or has a score that is not a time."""
        if self._clock_ahead_s is None:
            return math.isinf(score)
        server_now_s = now + self._clock_ahead_s
        # The loop's clock may have stood still, as in a machine that was suspended.
        latest_s = max(server_now_s, unix_time()) + AHEAD_S
        return not math.floor(server_now_s) - self._expiry_s < score <= latest_s
