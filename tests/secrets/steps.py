"""Everything that a site and an operator do with a layer, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from channels_redis.doctor.command import run
from channels_redis.doctor.config import read_settings
from channels_redis.doctor.output import Output
from tests.conftest import class_of
from tests.secrets.canary import KEY, Ears

SAY = {"type": "test"}
QUICK = {"connect_wait_s": 0.3, "command_timeout_s": 0.5}


async def use(layer: Any, ears: Ears) -> None:
    """Do all that a site does, and take note of how it ends."""
    ears.watch(layer)
    channel = await _new_channel(layer, ears)
    calls = (
        layer.send("work", SAY),
        layer.send(channel, SAY),
        layer.group_add("room", channel),
        layer.group_send("room", SAY),
        layer.group_channels("room"),
        layer.group_discard("room", channel),
        asyncio.wait_for(layer.receive("work"), 0.7),
        asyncio.wait_for(layer.receive(channel), 0.7),
    )
    await asyncio.gather(*map(ears.try_out, calls))
    await ears.try_out(layer.flush())
    ears.take(layer.stats())
    await ears.try_out(layer.close())
    ears.take(layer.stats())


async def _new_channel(layer: Any, ears: Ears) -> str:
    try:
        channel: str = await asyncio.wait_for(layer.new_channel(), 5)
    except Exception as error:
        ears.take(error)
        return f"{layer.prefix}{'0' * 32}" if "pubsub" in type(layer).__module__ else "specific.x!y"
    return channel


def examine(kind: str, hosts: list[Any], ears: Ears) -> None:
    """Send the doctor to a layer, and list its queues."""
    layer = class_of(kind)
    backend = f"{layer.__module__}.{layer.__name__}"
    config = {"hosts": hosts, "symmetric_encryption_keys": [KEY], **QUICK}
    setups = read_settings({"default": {"BACKEND": backend, "CONFIG": config}})
    ears.take(setups)
    for command in ("doctor", "queues"):
        run(command, setups, Output(ears.take))


async def try_everything(
    make_layer: Callable[..., Any], kind: str, hosts: list[Any], ears: Ears
) -> None:
    """Use a layer and have the doctor look at it; nothing that comes out of it holds a secret."""
    layer = make_layer(kind, hosts=hosts, symmetric_encryption_keys=[KEY], **QUICK)
    await use(layer, ears)
    await asyncio.to_thread(examine, kind, hosts, ears)
    assert not ears.leaks(), "\n\n".join(ears.leaks())
