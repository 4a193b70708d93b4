"""A site in three processes, each of which writes its spans as lines of JSON.

    python -m tests.traces.site socket | worker | view

``SITE_LAYER`` and ``SITE_OPTIONS`` describe the layer.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import django
from django.conf import settings
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

ROLE = sys.argv[1]
#: What a process writes when it waits for messages.
READY = "ready"


def as_line(span: ReadableSpan) -> str:
    """Return a span as a line."""
    assert span.context is not None
    attributes = span.attributes or {}
    facts = {
        "process": ROLE,
        "name": span.name,
        "kind": span.kind.name,
        "trace": f"{span.context.trace_id:032x}",
        "id": f"{span.context.span_id:016x}",
        "parent": f"{span.parent.span_id:016x}" if span.parent else None,
        "links": [f"{link.context.span_id:016x}" for link in span.links],
        "destination": attributes.get("messaging.destination.name"),
        "error": attributes.get("error.type"),
    }
    return json.dumps(facts) + "\n"


provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=as_line)))
otel.set_tracer_provider(provider)


def with_span(get_response: Any) -> Any:
    """Create a span for each request, as OpenTelemetry's own instrumentation of Django does."""

    def middleware(request: Any) -> Any:
        name, kind = f"{request.method} {request.path}", otel.SpanKind.SERVER
        with otel.get_tracer("site").start_as_current_span(name, kind=kind):
            return get_response(request)

    return middleware


settings.configure(
    ALLOWED_HOSTS=["testserver"],
    ASGI_APPLICATION="tests.traces.site.application",
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": os.environ["SITE_LAYER"],
            "CONFIG": json.loads(os.environ["SITE_OPTIONS"]),
        }
    },
    INSTALLED_APPS=["channels"],
    MIDDLEWARE=["tests.traces.site.with_span"],
    ROOT_URLCONF="tests.traces.site",
)
# This module is known by its name, and not run again, where the settings name it.
sys.modules["tests.traces.site"] = sys.modules[__name__]
django.setup()

# Only now, because these need the settings.
from channels.consumer import AsyncConsumer  # noqa: E402  (see above)
from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402  (see above)
from channels.routing import ChannelNameRouter, ProtocolTypeRouter  # noqa: E402  (see above)
from channels.testing import WebsocketCommunicator  # noqa: E402  (see above)
from django.core.management import call_command  # noqa: E402  (see above)
from django.http import HttpResponse  # noqa: E402  (see above)
from django.test import Client  # noqa: E402  (see above)
from django.urls import path  # noqa: E402  (see above)

from channels_redis.consumers import BroadcastMixin, broadcast  # noqa: E402  (see above)
from channels_redis.layers import get_layer  # noqa: E402  (see above)
from channels_redis.tracing import TracingMixin, trace  # noqa: E402  (see above)

trace({"default": get_layer()})


def upload(request: Any) -> HttpResponse:
    """The view: has a worker make a thumbnail."""
    get_layer().sync.send("thumbnails", {"type": "thumbnail.make", "picture": 1})
    return HttpResponse(status=202)


class Thumbnails(TracingMixin, AsyncConsumer):  # type: ignore[misc]  # Channels has no annotations
    """The worker: makes it, and tells all who look at the pictures."""

    async def thumbnail_make(self, message: dict[str, Any]) -> None:
        picture = {"type": "picture.ready", "picture": message["picture"]}
        await get_layer().group_send("pictures", picture)


class Gallery(BroadcastMixin, AsyncWebsocketConsumer):  # type: ignore[misc]  # the same
    """The WebSocket of who looks at them."""

    groups = ("pictures",)

    @broadcast
    def picture_ready(cls, message: dict[str, Any]) -> str:
        return f"picture {message['picture']}"


urlpatterns = [path("upload", upload)]
application = ProtocolTypeRouter(
    {"channel": ChannelNameRouter({"thumbnails": Thumbnails.as_asgi()})}
)


async def socket() -> None:
    client = WebsocketCommunicator(Gallery.as_asgi(), "/")
    await client.connect()
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    assert await client.receive_from(timeout=50) == "picture 1"
    await client.disconnect()
    await get_layer().close()


def worker() -> None:
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    call_command("runworker", "thumbnails")


if __name__ == "__main__":
    if ROLE == "socket":
        asyncio.run(socket())
    elif ROLE == "worker":
        worker()
    else:
        assert Client().get("/upload").status_code == 202
