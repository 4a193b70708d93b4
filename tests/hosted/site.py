"""A site as others' servers import it; alone in its folder, also beside channels_redis 4.3.0.

``HOSTED_LAYER`` and ``HOSTED_OPTIONS`` describe the layer, which is used once at import.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

from asgiref.sync import async_to_sync
from django.conf import settings
from django.utils.module_loading import import_string

settings.configure()
layer = import_string(os.environ["HOSTED_LAYER"])(**json.loads(os.environ["HOSTED_OPTIONS"]))
imported_in = os.getpid()
# Some servers import it when their event loop runs already.
with suppress(RuntimeError):
    if hasattr(type(layer), "sync"):
        layer.sync.send("warm-up", {"n": 0})
    else:
        async_to_sync(layer.send)("warm-up", {"n": 0})


async def hear_oneself() -> Any:
    """Return who sent what came to one's own channel."""
    channel = await layer.new_channel()
    await layer.send(channel, {"pid": os.getpid()})
    return (await layer.receive(channel))["pid"]


def report(number: int, heard: Any) -> dict[str, Any]:
    """What the audience is told of a job."""
    forked = imported_in != os.getpid()
    return {"n": number, "pid": os.getpid(), "heard": heard, "forked": forked}


def work(way: str, number: int) -> None:
    """A job as a synchronous view or a task does it, in one of two ways."""
    if way == "sync":
        layer.sync.group_send("audience", report(number, os.getpid()))
    else:
        message = report(number, async_to_sync(hear_oneself)())
        async_to_sync(layer.group_send)("audience", message)


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Do the job that the address names, such as ``/sync/17``."""
    _, way, number = environ["PATH_INFO"].split("/")
    work(way, int(number))
    start_response("200 OK", [("Content-Length", "0")])
    return []


async def asgi(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[Any]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """The same on the event loop of the server."""
    assert scope["type"] == "http"  # The server may do without a lifespan.
    number = int(scope["path"].rpartition("/")[2])
    await layer.group_send("audience", report(number, await hear_oneself()))
    headers = [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
