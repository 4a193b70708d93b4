"""The text of server-sent events, as the HTML standard defines it.  Does no I/O."""

from __future__ import annotations

import json
from typing import Any

#: A comment, which keeps proxies from ending an idle response.
HEARTBEAT = ":\n\n"


def event(content: Any, *, position: str | None = None, name: str = "") -> str:
    """Return an event.  ``content`` is text, or encoded as JSON; None for an event that browsers
    do not dispatch, but whose position they note.
    """
    lines = [f"id: {position}"] if position is not None else []
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        if name:
            lines.append(f"event: {name}")
        # All three line ends of the standard; str.splitlines() knows more.
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        lines += [f"data: {line}" for line in text.split("\n")]
    return "\n".join([*lines, "", ""])


def retry(delay_ms: int) -> str:
    """Return the field that tells a browser how long to wait before it comes back."""
    return f"retry: {delay_ms}\n\n"
