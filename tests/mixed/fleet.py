"""The test's end of `worker.py`: processes that hold layers, in this environment or an old one."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("worker.py")
ANSWER_LIMIT_BYTES = 2**26


class RemoteError(Exception):
    """A call failed in the other process; ``name`` is the class of the error there."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


class Process:
    """A running worker. Calls to it may overlap."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._ids = itertools.count(1)
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._answers = asyncio.create_task(self._read_answers(), name="answers of a worker")

    async def layer(self, kind: str, **config: Any) -> RemoteLayer:
        """Make a layer there."""
        name = f"layer{next(self._ids)}"
        await self.request(do="layer", name=name, kind=kind, config=config)
        return RemoteLayer(self, name)

    async def request(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        number = next(self._ids)
        reply = self._pending[number] = asyncio.get_running_loop().create_future()
        line = json.dumps({"id": number, **request}, default=_encode) + "\n"
        self._process.stdin.write(line.encode())
        await self._process.stdin.drain()
        return await reply

    def kill(self) -> None:
        """End it without a word, as a crash would."""
        self._process.kill()

    async def stop(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._answers

    async def _read_answers(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            answer = json.loads(line, object_hook=_decode)
            reply = self._pending.pop(answer["id"])
            if reply.done():
                continue
            if "error" in answer:
                reply.set_exception(RemoteError(answer["error"], answer["text"]))
            else:
                reply.set_result(answer["result"])
        for reply in self._pending.values():
            if not reply.done():
                reply.set_exception(RemoteError("ProcessEnded", "the worker process is gone"))
                reply.exception()


class RemoteLayer:
    """A layer in another process, with the layer API."""

    def __init__(self, process: Process, name: str) -> None:
        self._process = process
        self._name = name

    async def call(self, method: str, *args: Any, **keywords: Any) -> Any:
        return await self._process.request(
            do="call", name=self._name, method=method, args=args, keywords=keywords
        )

    async def collect(self, channel: str) -> list[dict[str, Any]]:
        """Receive there until a message of type "stop" comes, and return those before it."""
        messages: list[dict[str, Any]] = await self._process.request(
            do="collect", name=self._name, channel=channel
        )
        return messages

    async def new_channel(self) -> str:
        channel: str = await self.call("new_channel")
        return channel

    async def send(self, channel: str, message: Mapping[str, Any]) -> None:
        await self.call("send", channel, message)

    async def receive(self, channel: str) -> dict[str, Any]:
        message: dict[str, Any] = await self.call("receive", channel)
        return message

    async def group_add(self, group: str, channel: str) -> None:
        await self.call("group_add", group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        await self.call("group_discard", group, channel)

    async def group_send(self, group: str, message: Mapping[str, Any], **keywords: Any) -> None:
        await self.call("group_send", group, message, **keywords)

    async def flush(self) -> None:
        await self.call("flush")


@asynccontextmanager
async def start_process(python: str | None = None) -> AsyncIterator[Process]:
    """A worker of this environment, or of the one that ``python`` belongs to."""
    command = [python, "-I"] if python else [sys.executable]
    environment = dict(os.environ)
    if python is None:
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    process = await asyncio.create_subprocess_exec(
        *command,
        str(WORKER),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
        limit=ANSWER_LIMIT_BYTES,
    )
    worker = Process(process)
    try:
        yield worker
    finally:
        await worker.stop()


@asynccontextmanager
async def start_processes(count: int) -> AsyncIterator[list[Process]]:
    """So many workers of this environment."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(start_process()) for _ in range(count)]


def _encode(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    raise TypeError(f"{type(value).__name__} can't cross to a worker")


def _decode(value: dict[str, Any]) -> Any:
    return base64.b64decode(value["$bytes"]) if set(value) == {"$bytes"} else value
