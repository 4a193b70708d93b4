"""A site of plain consumers under a real server.  ``python served.py PLAN`` (a `Plan` as JSON)
serves it.

It stands alone, as an environment with channels_redis 4.3.0 runs it too.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import parse_qs

import django
from asgiref.sync import async_to_sync
from django.conf import settings


class Plan(TypedDict):
    """``layer`` is a dotted path, ``server`` uvicorn or daphne, ``socket`` a descriptor."""

    layer: str
    options: dict[str, Any]
    server: str
    socket: int
    #: Whether the site keeps every consumer object for ever.
    keeps: bool


plan: Plan = json.loads(sys.argv[1])
settings.configure(
    CHANNEL_LAYERS={"default": {"BACKEND": plan["layer"], "CONFIG": plan["options"]}},
    SECRET_KEY="of a test",
)
django.setup()

# Only now, because these need the settings.
from channels.generic.websocket import (  # noqa: E402  (see above)
    AsyncWebsocketConsumer,
    WebsocketConsumer,
)
from channels.layers import get_channel_layer  # noqa: E402  (see above)
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402  (see above)
from django.urls import path  # noqa: E402  (see above)

GROUP = "room"
#: Every consumer that there was, where the plan says so.
kept: dict[str, Any] = {}


def group_of(scope: dict[str, Any]) -> str:
    """Return which group a client asks for."""
    return parse_qs(scope["query_string"].decode()).get("group", [GROUP])[0]


class AsyncGuest(AsyncWebsocketConsumer):  # type: ignore[misc]  # Channels has no annotations
    """Joins a group and never leaves it; tells the client its channel, and what it hears."""

    async def connect(self) -> None:
        if plan["keeps"]:
            kept[self.channel_name] = self
        await self.channel_layer.group_add(group_of(self.scope), self.channel_name)
        await self.accept()
        await self.send(text_data=self.channel_name)

    async def room_note(self, message: dict[str, Any]) -> None:
        await self.send(text_data=str(message["n"]))

    async def room_work(self, message: dict[str, Any]) -> None:
        await asyncio.sleep(message["seconds"])
        await self.send(text_data="worked")

    async def room_stop(self, message: dict[str, Any]) -> None:
        await self.send(text_data="stopped")
        await asyncio.Event().wait()

    async def room_fail(self, message: dict[str, Any]) -> None:
        raise RuntimeError("a handler that fails")


class SyncGuest(WebsocketConsumer):  # type: ignore[misc]  # Channels has no annotations
    """The same as Channels runs it in a thread."""

    def connect(self) -> None:
        if plan["keeps"]:
            kept[self.channel_name] = self
        async_to_sync(self.channel_layer.group_add)(group_of(self.scope), self.channel_name)
        self.accept()
        self.send(text_data=self.channel_name)

    def room_note(self, message: dict[str, Any]) -> None:
        self.send(text_data=str(message["n"]))

    def room_work(self, message: dict[str, Any]) -> None:
        time.sleep(message["seconds"])
        self.send(text_data="worked")

    def room_fail(self, message: dict[str, Any]) -> None:
        raise RuntimeError("a handler that fails")


def broadcasting() -> dict[str, Any]:
    """Guests to whom ``room.all`` is a broadcast; 4.3.0 has none."""
    try:
        from channels_redis.consumers import BroadcastMixin, broadcast
    except ImportError:
        return {}

    def room_all(cls: Any, message: dict[str, Any]) -> str:
        return str(message["n"])

    def of(base: type[Any]) -> type[Any]:
        return type(base.__name__, (BroadcastMixin, base), {"room_all": broadcast(room_all)})

    return {"broadcast": of(AsyncGuest), "sync-broadcast": of(SyncGuest)}


async def facts(scope: Any, receive: Any, send: Any) -> None:
    """Answer what the process and its layer take, as JSON."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    answer: dict[str, Any] = {"rss_mb": pages * 4096 / 1e6, "cpu_s": time.process_time()}
    answer["kept"] = len(kept)
    layer = get_channel_layer()
    if hasattr(type(layer), "stats"):
        stats = layer.stats()
        answer |= {name: getattr(stats, name) for name in ("mailboxes", "buffered", "dropped")}
    if hasattr(type(layer), "groups"):
        answer["members"] = sum(map(len, layer.groups.values()))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


guests = {"async": AsyncGuest, "sync": SyncGuest, **broadcasting()}
application = ProtocolTypeRouter(
    {
        "http": facts,
        "websocket": URLRouter(
            [path(f"ws/{name}", guest.as_asgi()) for name, guest in guests.items()]
        ),
    }
)


def end_with_parent() -> None:
    """End the process as soon as nobody holds its standard input any more."""
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    if plan["server"] == "daphne":
        from daphne.server import Server

        endpoint = f"fd:fileno={plan['socket']}"
        Server(application, endpoints=[endpoint], verbosity=0, ping_interval=3600).run()
    else:
        import uvicorn

        options: dict[str, Any] = {"ws_ping_interval": None, "log_level": "warning"}
        config = uvicorn.Config(application, lifespan="off", **options)
        uvicorn.Server(config).run(sockets=[socket.socket(fileno=plan["socket"])])


if __name__ == "__main__":
    main()
