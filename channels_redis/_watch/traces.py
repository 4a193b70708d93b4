"""Where traces are attached. :mod:`channels_redis.tracing` attaches them; else nothing is traced.

The keys travel in messages. Processes without tracing leave them there, and pass them on if they
send the message again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

#: The ``traceparent`` and ``tracestate`` of W3C Trace Context.
TRACEPARENT_KEY = "__asgi_traceparent__"
TRACESTATE_KEY = "__asgi_tracestate__"
#: The name of the group to which a message was sent.
TRACED_GROUP_KEY = "__asgi_traced_group__"
TRACE_KEYS = TRACEPARENT_KEY, TRACESTATE_KEY, TRACED_GROUP_KEY

Message = dict[str, Any]

#: Traces an operation while it is entered: takes its name and arguments, and returns the arguments
#: to use instead.
SendTracer = Callable[[str, tuple[Any, ...]], AbstractContextManager[tuple[Any, ...]]]

#: Traces a handler while it is entered: takes the message, from which it removes the keys,
#: the consumer, or the class of several, and the handler's name.
HandlerTracer = Callable[[Message, Any, str], AbstractContextManager[None]]


class Handlers:
    """What traces the handlers of this process."""

    tracer: HandlerTracer | None = None
