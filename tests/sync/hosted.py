"""A site in the process servers of others, which import it and fork: see test_hosted.

    gunicorn --preload tests.sync.hosted:wsgi
    gunicorn --preload --worker-class uvicorn_worker.UvicornWorker tests.sync.hosted:asgi
    celery --app tests.sync.hosted_tasks worker

``HOSTED_LAYER`` and ``HOSTED_OPTIONS`` describe the layer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from asgiref.sync import async_to_sync
from django.utils.module_loading import import_string

from tests.sync.steps import GROUP

layer = import_string(os.environ["HOSTED_LAYER"])(**json.loads(os.environ["HOSTED_OPTIONS"]))
imported_in = os.getpid()
layer.sync.send("warm-up", {"n": 0})


async def hear_oneself() -> Any:
    """Return who sent what came to one's own channel."""
    channel = await layer.new_channel()
    await layer.send(channel, {"pid": os.getpid()})
    return (await layer.receive(channel))["pid"]


def report(number: int, heard: Any) -> dict[str, Any]:
    """What the audience is told of a job."""
    forked = imported_in != os.getpid()
    return {"n": number, "pid": os.getpid(), "heard": heard, "forked": forked}


def work(number: int) -> None:
    """A job as a synchronous view or a task does it."""
    layer.sync.group_send(GROUP, report(number, async_to_sync(hear_oneself)()))


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Do the job that the query names."""
    work(int(environ["QUERY_STRING"]))
    start_response("200 OK", [("Content-Length", "0")])
    return []


async def asgi(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[Any]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """The same on the event loop of a worker."""
    assert scope["type"] == "http"  # The server may do without a lifespan.
    number = int(scope["query_string"])
    await layer.group_send(GROUP, report(number, await hear_oneself()))
    headers = [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body"})
