"""A site under a real server.  ``python served.py PLAN`` (a `Plan` as JSON) serves it.

It stands alone, as environments without this package run it too.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from typing import Any, TypedDict

GROUP = "scores"


class Plan(TypedDict):
    """``kind`` is one of `APPLICATIONS`; ``layer`` a dotted path; ``socket`` a descriptor that
    listens; ``server`` is daphne or one of uvicorn's WebSocket implementations.
    """

    kind: str
    layer: str
    options: dict[str, Any]
    redis: str
    server: str
    loop: str
    deflate: bool
    socket: int


def bare(plan: Plan) -> Any:
    """No framework: what the server itself costs."""
    from redis.asyncio import Redis

    sends: set[Any] = set()
    tasks = []

    async def listen() -> None:
        async with Redis.from_url(plan["redis"]) as client, client.pubsub() as pubsub:
            await pubsub.subscribe(f"bare.{GROUP}")
            async for one in pubsub.listen():
                if one["type"] == "message":
                    await send_to_all(json.loads(one["data"]))

    async def send_to_all(message: dict[str, Any]) -> None:
        frame = json.dumps({"score": message["score"], "text": message["text"]})
        for send in list(sends):
            await send({"type": "websocket.send", "text": frame})

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if not tasks:
            tasks.append(asyncio.create_task(listen()))
        await receive()
        await send({"type": "websocket.accept"})
        sends.add(send)
        while (await receive())["type"] != "websocket.disconnect":
            pass
        sends.discard(send)

    return application


def socketio(plan: Plan) -> Any:
    """python-socketio with its Redis manager."""
    import socketio

    manager = socketio.AsyncRedisManager(plan["redis"])
    server = socketio.AsyncServer(client_manager=manager, async_mode="asgi", ping_interval=3600)

    async def connect(sid: str, environ: Any) -> None:
        await server.enter_room(sid, GROUP)

    server.on("connect", connect)
    return socketio.ASGIApp(server)


def channels(plan: Plan) -> Any:
    """Consumers of Channels on a channel layer."""
    import django
    from django.conf import settings

    layer = {"BACKEND": plan["layer"], "CONFIG": plan["options"]}
    settings.configure(CHANNEL_LAYERS={"default": layer}, SECRET_KEY="of a benchmark")
    django.setup()
    return consumer_of(plan["kind"]).as_asgi()


def consumer_of(kind: str) -> Any:
    """Make a consumer class."""
    from channels.generic.websocket import AsyncJsonWebsocketConsumer, JsonWebsocketConsumer

    class Plain(AsyncJsonWebsocketConsumer):
        groups = [GROUP]  # noqa: RUF012 (as Channels documents it)

        async def score_update(self, message: dict[str, Any]) -> None:
            await self.send_json({"score": message["score"], "text": message["text"]})

    class SyncPlain(JsonWebsocketConsumer):
        groups = [GROUP]  # noqa: RUF012 (as Channels documents it)

        def score_update(self, message: dict[str, Any]) -> None:
            self.send_json({"score": message["score"], "text": message["text"]})

    if kind in ("plain", "sync-plain"):
        return {"plain": Plain, "sync-plain": SyncPlain}[kind]
    from channels_redis.consumers import BroadcastMixin, broadcast

    if kind == "mixin":
        return type("Mixin", (BroadcastMixin, Plain), {})

    def score_update(cls: Any, message: dict[str, Any]) -> Any:
        return {"score": message["score"], "text": message["text"]}

    base = {"broadcast": Plain, "sync-broadcast": SyncPlain}[kind]
    return type("Broadcast", (BroadcastMixin, base), {"score_update": broadcast(score_update)})


APPLICATIONS = {
    "bare": bare,
    "socketio": socketio,
    "plain": channels,
    "mixin": channels,
    "broadcast": channels,
    "sync-plain": channels,
    "sync-broadcast": channels,
}


def websockets_only(application: Any) -> Any:
    """Answer nothing else: no lifespan, no HTTP."""

    async def only(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await application(scope, receive, send)

    return only


def main(plan: Plan) -> None:
    """Serve until killed."""
    application = websockets_only(APPLICATIONS[plan["kind"]](plan))
    if plan["server"] == "daphne":
        from daphne.server import Server

        endpoint = f"fd:fileno={plan['socket']}"
        Server(application, endpoints=[endpoint], verbosity=0, ping_interval=3600).run()
    else:
        import uvicorn

        config = uvicorn.Config(
            application,
            lifespan="off",
            log_level="warning",
            backlog=4096,
            loop=plan["loop"],
            ws=plan["server"],
            ws_ping_interval=None,
            ws_per_message_deflate=plan["deflate"],
        )
        uvicorn.Server(config).run(sockets=[socket.socket(fileno=plan["socket"])])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
