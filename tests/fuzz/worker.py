"""Calls one layer with hostile values, and offers it hostile frames; prints what came of it.

A process of its own for each layer, so that a crash is seen by whoever started it.
"""

from __future__ import annotations

import asyncio
import faulthandler
import inspect
import json
import random
import secrets
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import redis.asyncio
from channels.exceptions import ChannelFull

from channels_redis._layer.base import BaseRedisLayer
from channels_redis.exceptions import ChannelsRedisError
from tests.conftest import class_of
from tests.fuzz import values

#: Longer than any honest call takes, on any machine.
HANG_S = 30.0
#: Who receives where nothing comes is left to wait for so long.
WAIT_S = 0.02
FRAMES_AT_ONCE = 100
#: Of the rest, what it was and where.
SHOWN = 20

DOCUMENTED = (ChannelsRedisError, ChannelFull)
OPTIONS = [
    one.name
    for one in inspect.signature(BaseRedisLayer).parameters.values()
    if one.kind is not one.VAR_KEYWORD
]


class Fuzz:
    """One layer class under fire."""

    def __init__(self, kind: str, url: str, seed: int, ends_at: float) -> None:
        self.layer_class: Callable[..., Any] = class_of(kind)
        self.kind = kind
        self.url = url
        self.dice = random.Random(f"{seed} {kind}")
        self.ends_at = ends_at
        self.prefix = f"fuzz-{secrets.token_hex(4)}"
        self.counts: Counter[str] = Counter()
        self.strange: list[str] = []

    def note(self, where: str, outcome: str, what: str = "") -> None:
        """Count an outcome; keep some of those that must not be."""
        self.counts[f"{where} tried"] += 1
        self.counts[f"{where} {outcome}"] += 1
        if outcome in ("undocumented", "hangs") and len(self.strange) < SHOWN:
            self.strange.append(f"{self.kind} {where}: {outcome}: {what}")

    async def attempt(self, where: str, call: Callable[[], Any], what: str) -> Any:
        """Make a call, and note how it ended."""
        began = time.monotonic()
        result = None
        try:
            result = call()
            if inspect.isawaitable(result):
                result = await self._bounded(result, where)
            outcome = "accepted"
        except DOCUMENTED:
            outcome = "documented"
        except asyncio.TimeoutError:
            outcome = "hangs"
        except Exception as error:
            outcome, what = "undocumented", f"{what}: {type(error).__name__}: {ascii(error)[:200]}"
        if time.monotonic() - began > HANG_S:
            outcome = "hangs"
        self.note(where, outcome, what)
        return result if outcome == "accepted" else None

    async def _bounded(self, awaitable: Awaitable[Any], where: str) -> Any:
        task = asyncio.ensure_future(awaitable)
        if where == "receive":
            await asyncio.wait({task}, timeout=WAIT_S)
            task.cancel()
        done, _ = await asyncio.wait({task}, timeout=HANG_S)
        if not done:
            raise asyncio.TimeoutError
        return None if task.cancelled() else task.result()

    def more(self, tried: int, wanted: int) -> bool:
        """Tell whether to go on: so many are wanted, and the time is bounded."""
        return tried < wanted and time.monotonic() < self.ends_at

    async def constructors(self, wanted: int) -> None:
        """Give options hostile values; use what is accepted."""
        for number in range(wanted):
            if not self.more(number, wanted):
                return
            option = self.dice.choice(OPTIONS)
            given = {option: self._option(option)}
            if self.dice.random() < 0.05:
                given[self.dice.choice(["hots", "", "\ud800", "prefix "])] = 1
            options = {"hosts": [self.url], "prefix": self.prefix, **given}
            layer = await self.attempt(
                "options", partial(self.layer_class, **options), shown(given)
            )
            if layer is not None and option != "hosts":
                await self.attempt("options used", partial(self._use, layer), shown(given))

    def _option(self, option: str) -> Any:
        if option == "hosts" and self.dice.random() < 0.8:
            parts = [values.value(self.dice) for _ in range(self.dice.randrange(4))]
            keyword = self.dice.choice(["address", "host", "port", "password", "sentinels", "ssl"])
            return [self.dice.choice([tuple(parts), parts, {keyword: values.value(self.dice)}])]
        if option == "symmetric_encryption_keys" and self.dice.random() < 0.7:
            return [values.value(self.dice)]
        if option == "channel_capacity" and self.dice.random() < 0.7:
            return {self.dice.choice(values.TEXTS): values.value(self.dice)}
        return values.value(self.dice)

    async def _use(self, layer: Any) -> None:
        try:
            channel = await layer.new_channel()
            await layer.group_add("room", channel)
            await layer.send(channel, {"type": "x"})
            await layer.group_send("room", {"type": "x"})
        finally:
            await layer.close()

    async def methods(self, layer: Any, wanted: int) -> None:
        """Call every public method with hostile names and messages."""
        for number in range(wanted):
            if not self.more(number, wanted):
                return
            method, arguments, keywords = self._call(layer)
            function = getattr(layer, method)
            await self.attempt(
                method,
                partial(function, *arguments, **keywords),
                shown([arguments, keywords]),
            )
            if number % 500 == 0:
                await layer.flush()

    def _call(self, layer: Any) -> tuple[str, list[Any], dict[str, Any]]:
        name = lambda: values.name(self.dice, layer.prefix)  # noqa: E731 (one line says it all)
        message = lambda: values.value(self.dice)  # noqa: E731 (as above)
        calls: dict[str, Callable[[], list[Any]]] = {
            "send": lambda: [name(), message()],
            "receive": lambda: [name()],
            "new_channel": lambda: [name()],
            "group_add": lambda: [name(), name()],
            "group_discard": lambda: [name(), name()],
            "group_send": lambda: [name(), message()],
            "group_channels": lambda: [name()],
            "group_size": lambda: [name()],
        }
        method = self.dice.choice(list(calls))
        keywords = {}
        if method == "group_send" and self.dice.random() < 0.3:
            keywords["exclude"] = self.dice.choice([name(), [name(), name()], message()])
        return method, calls[method](), keywords

    async def frames(self, layer: Any, wanted: int) -> None:
        """Offer frames on a channel, a general channel and a group; all must go on hearing."""
        server = redis.asyncio.Redis.from_url(self.url)
        own = await layer.new_channel()
        await layer.group_add("room", own)
        offered = 0
        while self.more(offered, wanted):
            pipe = server.pipeline(transaction=False)
            for _ in range(FRAMES_AT_ONCE):
                place = self.dice.choice([own, own, "work", "room"])
                self._offer(pipe, layer, own, place)
            await pipe.execute()
            offered += FRAMES_AT_ONCE
            for channel in (own, "work"):
                self.note("frames: readers", await self._hears(layer, channel), channel)
        self.counts["frames tried"] += offered
        self.counts.update({f"frames {why}": n for why, n in layer.stats().dropped.items()})
        await server.aclose()

    def _offer(self, pipe: Any, layer: Any, own: str, place: str) -> None:
        data = values.frame(self.dice, own if place == "room" else place)
        queue = f"{layer.prefix}{own.partition('!')[0] + '!' if place == own else place}"
        if place == "room" or (place == own and self.kind == "pubsub"):
            pipe.publish(f"{layer.prefix}__group__room" if place == "room" else own, data)
        else:
            score = self.dice.choice([time.time()] * 8 + ["inf", "-inf", 0, 1e300])
            pipe.zadd(queue, {data: score})

    async def _hears(self, layer: Any, channel: str) -> str:
        marker = secrets.token_hex(8)
        await layer.send(channel, {"type": "marker", "marker": marker})
        try:
            while True:
                message = await asyncio.wait_for(layer.receive(channel), HANG_S)
                if message.get("marker") == marker:
                    return "accepted"
        except asyncio.TimeoutError:
            return "hangs"
        except Exception as error:
            self.strange.append(f"{self.kind} frames: {ascii(error)[:200]}")
            return "undocumented"


def shown(given: Any) -> str:
    """Return some of what was given, whatever it does when it is asked for its text."""
    try:
        return ascii(given)[:200]
    except BaseException:
        return f"<{type(given).__name__} that has no text>"


async def run(kind: str, url: str, seed: int, scale: float, limit_s: float) -> None:
    """Do a share of everything, within a limit of time; print the counts as JSON."""
    loop = asyncio.get_running_loop()
    began = time.monotonic()
    fuzz = Fuzz(kind, url, seed, began)
    loop.set_exception_handler(
        lambda _, context: fuzz.note("event loop", "undocumented", shown(context)[:300])
    )
    for share, work in ((0.3, "constructors"), (0.7, "methods"), (1.0, "frames")):
        fuzz.ends_at = began + share * limit_s
        layer = fuzz.layer_class(hosts=[url], prefix=fuzz.prefix)
        if work == "constructors":
            await fuzz.constructors(int(4_000 * scale))
        elif work == "methods":
            await fuzz.methods(layer, int(13_000 * scale))
        else:
            await fuzz.frames(layer, int(14_000 * scale))
        await layer.flush()
        await layer.close()
    print(json.dumps({"counts": fuzz.counts, "strange": fuzz.strange}))


if __name__ == "__main__":
    faulthandler.enable()
    _, kind, url, seed, scale, limit_s = sys.argv
    asyncio.run(run(kind, url, int(seed), float(scale), float(limit_s)))
