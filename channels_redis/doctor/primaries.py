"""The servers of one entry of ``hosts``: one server, or all primaries of a cluster."""

from __future__ import annotations

from typing import Any

from redis.exceptions import RedisError

from .._config import pools
from .._config.hosts import is_cluster
from .._format.slots import Address, read_ranges
from .._layer.base import BaseRedisLayer
from .._runtime.loops import running_loop
from .._runtime.scope import Scope
from .._transport.wire import Wire


async def pools_of(layer: BaseRedisLayer, index: int) -> list[Any]:
    """Return a pool for each server, or only for the first address of the entry if the primaries
    of the cluster are not known.

    Close them with ``close_pool()``.
    """
    host = layer.hosts[index]
    if not is_cluster(host):
        return [layer.create_pool(index)]
    seeds = pools.startup_nodes(host)
    for seed in seeds:
        found = await _primaries(layer, index, seed)
        if found:
            return [pools.aim_pool(layer.create_pool(index), address) for address in found]
    return [pools.aim_pool(layer.create_pool(index), seeds[0])]


async def _primaries(layer: BaseRedisLayer, index: int, seed: Address) -> list[Address]:
    pool = pools.aim_pool(layer.create_pool(index), seed)
    try:
        wire = await Wire.open(pool, Scope(running_loop()), layer.connect_wait_s)
        try:
            reply = await wire.ask("CLUSTER", "SLOTS")
        finally:
            await wire.close()
    except (RedisError, OSError):
        return []
    finally:
        await pools.close_pool(pool)
    if not isinstance(reply, list):
        return []
    ranges = read_ranges(reply, seed, layer.hosts[index].get("address_remap"))
    return list(dict.fromkeys(one.owner for one in ranges if one.owner is not None))
