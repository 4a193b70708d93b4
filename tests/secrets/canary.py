"""Secrets that are known to a test, and everything that a layer lets out, to look for them in."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from redis.credentials import CredentialProvider

#: With what is written differently in a URL and in a repr.
PASSWORD = "K4nari-P@ss/w0rd-'\\"
SENTINEL_PASSWORD = "K4nari-of-the-Sentinels"
TOKEN = "K4nari-T0ken-" + "x" * 200
KEY = "K4nari-Encryption-Key"

#: No text holds this, in whatever case, so that what is cut off or written differently is found.
MARK = "k4nari"


class Provider(CredentialProvider):
    """Gives out the token."""

    def get_credentials(self) -> tuple[str, str]:
        return "default", TOKEN

    async def get_credentials_async(self) -> tuple[str, str]:
        return self.get_credentials()


def hosts_with_secrets(host: str, port: int) -> dict[str, Any]:
    """Return every form of an entry of ``hosts``, with a secret in it."""
    place = {"host": host, "port": port}
    encoded = quote(PASSWORD, safe="")
    sentinels = {
        "sentinels": [(host, port)],
        "master_name": "main",
        "sentinel_kwargs": {"password": SENTINEL_PASSWORD},
    }
    return {
        "URL": f"redis://:{encoded}@{host}:{port}",
        "URL with user": f"redis://app:{encoded}@{host}:{port}",
        "URL with query": f"redis://{host}:{port}?password={encoded}",
        "address": {"address": f"redis://app:{encoded}@{host}:{port}"},
        "address and password": {"address": f"redis://{host}:{port}", "password": PASSWORD},
        "pair": {"address": (host, port), "password": PASSWORD},
        "keywords": {**place, "username": "app", "password": PASSWORD},
        "RESP3": {**place, "password": PASSWORD, "protocol": 3},
        "database": {**place, "password": PASSWORD, "db": 2},
        "provider": {**place, "credential_provider": Provider()},
        "Sentinel": {**sentinels, "password": PASSWORD},
        "Sentinel by a provider": {**sentinels, "credential_provider": Provider()},
        "cluster": {**place, "cluster": True, "password": PASSWORD},
        "start-up nodes": {
            "cluster": True,
            "startup_nodes": [(host, port)],
            "credential_provider": Provider(),
        },
    }


class Ears(logging.Handler):
    """Hears everything that leaves a layer."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(f"{record.getMessage()} {vars(record)}")
        if record.exc_info and record.exc_info[1]:
            self.take(record.exc_info[1])

    def take(self, fact: Any) -> None:
        """Take note of what was returned, raised or told."""
        if isinstance(fact, BaseException):
            self.heard += texts_of(fact)
        else:
            self.heard.append(f"{fact!r} {fact}")

    def watch(self, layer: Any) -> None:
        """Listen to a layer, and to the loop that it runs on."""
        layer.on_event(self.take)
        layer.on_operation(self.take)
        self.take(layer)

    def listen_to_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hear what would be printed of exceptions that nobody awaited."""

        def hear(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            for fact in context.values():
                self.take(fact)

        loop.set_exception_handler(hear)

    async def try_out(self, work: Any) -> None:
        """Await something, and take note of how it ends."""
        try:
            self.take(await asyncio.wait_for(work, 15))
        except Exception as error:
            self.take(error)

    def leaks(self) -> list[str]:
        """Return what holds a secret."""
        return [text for text in self.heard if MARK in text.lower()]


def texts_of(error: BaseException) -> Iterator[str]:
    """Yield all that can be read of an error and of what led to it, suppressed or not."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        notes = getattr(one, "__notes__", [])
        yield f"{one} {one!r} {one.args} {notes} {vars(one)} {getattr(one, 'object', '')}"
        yield "".join(traceback.format_exception(one, chain=False))
        waiting += [led for led in (one.__cause__, one.__context__) if led is not None]
