"""Server-sent events of a group, for pages that only read: see :doc:`history`.

Needs Django under an ASGI server.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import random
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from channels.layers import get_channel_layer
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse
from django.views import View

from ._format.keyspace import POSITION_KEY
from ._resume import events
from ._resume.feed import AWAY, Feed
from ._resume.joining import Joined
from ._runtime import clock
from ._watch.traces import TRACE_KEYS

__all__ = ["GroupEventsView"]

#: The keys of a message that the layer has added.
_LAYER_KEYS = {POSITION_KEY, *TRACE_KEYS}
#: ``identity`` keeps Django's GZipMiddleware from holding events back, the last one nginx.
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Encoding": "identity",
    "X-Accel-Buffering": "no",
}


class EventStream(StreamingHttpResponse):  # type: ignore[misc]  # Django has no annotations
    """A response that ends its generator at once when the client has gone.

    Django closes only what it wraps around it.
    """

    def __init__(self, parts: AsyncGenerator[str, None]) -> None:
        super().__init__(parts, content_type="text/event-stream; charset=utf-8", headers=_HEADERS)
        self._parts = parts

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        async with contextlib.aclosing(self._parts):
            async for part in super().__aiter__():
                yield part


class GroupEventsView(View):  # type: ignore[misc]  # Django has no annotations
    """A view whose response is the messages of a group with ``history``, for ``EventSource``.

    The ``id`` of an event is the position of its message.  A browser that comes back names it in
    ``Last-Event-ID``, and gets what it missed; ``?since=`` is the same for a page that is loaded
    again.  Where this is not possible, it gets an event ``reset`` first: the page has to load its
    state.  If the layer loses its server, the response ends, and the browser comes back.
    """

    #: The name of the group; or override :meth:`get_group`.
    group: str | None = None
    #: Where a browser without a position begins: ``"start"`` for what is kept, None for what comes.
    since: str | None = None
    channel_layer_alias = "default"
    #: Not HEAD, whose answer would never end.
    http_method_names = ("get", "options")
    #: Seconds between two comments on an idle connection.
    heartbeat_s: float = 15.0
    #: Seconds until the response ends, and the browser comes back; None for no limit.
    lifetime_s: float | None = 3600.0
    #: How long browsers wait before they come back: between half of it and all.
    retry_ms: int = 3000

    def get_group(self) -> str:
        """Return the name of the group for ``self.request`` and ``self.kwargs``."""
        if self.group is None:
            raise ImproperlyConfigured(
                f"{type(self).__name__} needs an attribute 'group' or a method get_group()."
            )
        return self.group

    def has_permission(self, group: str) -> Any:
        """Return whether ``self.request`` may read a group; may be a coroutine function.

        By default no, except for the one that the attribute ``group`` names.
        """
        return group == self.group

    def get_content(self, message: dict[str, Any]) -> Any:
        """Return the data of a message's event: text, or a value that is encoded as JSON; None to
        send no event.
        """
        return {key: message[key] for key in message if key not in _LAYER_KEYS}

    def get_event_name(self, message: dict[str, Any]) -> str:
        """Return the type of a message's event; empty for ``message``."""
        return ""

    async def get(self, request: HttpRequest, *arguments: Any, **options: Any) -> HttpResponseBase:
        """Answer with the events of the group.  Raises ``PermissionDenied``."""
        if not hasattr(request, "scope"):
            raise ImproperlyConfigured(
                f"{type(self).__name__} needs an ASGI server: under WSGI, a response without an "
                "end would keep a thread for each browser."
            )
        group = self.get_group()
        allowed = self.has_permission(group)
        if not (await allowed if inspect.isawaitable(allowed) else allowed):
            raise PermissionDenied
        layer = get_channel_layer(self.channel_layer_alias)
        if not hasattr(layer, "group_history"):
            raise ImproperlyConfigured(
                f"{type(self).__name__} needs a layer of channels_redis as "
                f"CHANNEL_LAYERS[{self.channel_layer_alias!r}], not {type(layer).__name__}."
            )
        headers: Any = request.headers  # a cached_property, which pyright does not look through
        named = str(headers.get("Last-Event-ID") or request.GET.get("since", ""))
        return EventStream(self._stream(Feed(layer, group), named))

    async def _stream(self, feed: Feed, named: str) -> AsyncGenerator[str, None]:
        """Yield the events until the client has gone: Django cancels this then."""
        yield events.retry(random.randint(self.retry_ms // 2, self.retry_ms))
        try:
            for text in self._opening(await feed.join(named, self.since)):
                yield text
            ends_at = clock.monotonic() + (math.inf if self.lifetime_s is None else self.lifetime_s)
            while (left_s := ends_at - clock.monotonic()) > 0:
                message = await feed.next(min(self.heartbeat_s, left_s))
                yield events.HEARTBEAT if message is None else self._text(feed, message)
        except AWAY:
            return
        finally:
            await feed.leave()

    def _opening(self, joined: Joined) -> Iterator[str]:
        """Yield what a client is told before it receives messages."""
        # Not the last position, if messages are still to come before it.
        position = None if joined.pending else joined.position
        if joined.failed:
            yield self._reset(joined.group, position)
        elif position is not None:
            yield events.event(None, position=position)
        for message in joined.kept:
            yield self._event(message)

    def _text(self, feed: Feed, message: dict[str, Any]) -> str:
        if not feed.tells_of_outage(message):
            return self._event(message)
        is_incomplete = feed.group in message.get("missed", ())
        return self._reset(feed.group, None) if is_incomplete else events.HEARTBEAT

    def _reset(self, group: str, position: str | None) -> str:
        return events.event({"group": group}, position=position, name="reset")

    def _event(self, message: dict[str, Any]) -> str:
        return events.event(
            self.get_content(message),
            position=message.get(POSITION_KEY),
            name=self.get_event_name(message),
        )
