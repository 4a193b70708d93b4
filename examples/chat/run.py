"""The whole chat with one command: a server, two daphnes and a worker, until Ctrl-C.

``--check`` drives real WebSocket clients through it instead, prints what was delivered across
the processes, and exits 0 if all of it was, else 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

try:
    from websockets.exceptions import WebSocketException

    from channels_redis.testing.servers import RedisServer, ServerNotFound
    from check import Route, check, table
    from fleet import Fleet
    from processes import ChatFailed
except ModuleNotFoundError as missing:
    raise SystemExit(
        f"{missing}. Start the demo in its own environment, from the top of the repository:\n"
        "  python3 -m pip install tox && python3 -m tox -e demo"
    ) from None

LAYERS = ("core", "pubsub")


class Interrupted(Exception):
    """Ctrl-C, or SIGTERM."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="prove it with real clients and exit")
    parser.add_argument(
        "--layer", choices=LAYERS, help="the layer to use (default: core; --check tries both)"
    )
    options = parser.parse_args(arguments)
    if options.check:
        work = run_check([options.layer] if options.layer else list(LAYERS))
    else:
        work = serve(options.layer or "core")
    try:
        return asyncio.run(until_signal(work))
    except Interrupted:
        print("Stopped; all processes have ended.", flush=True)
        return 1 if options.check else 0
    except (ChatFailed, ServerNotFound) as error:
        print(f"\nFAILED: {error}", file=sys.stderr, flush=True)
        return 1


async def until_signal(work: Coroutine[Any, Any, int]) -> int:
    """Do ``work``; on SIGINT or SIGTERM end it in order and raise ``Interrupted``."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    task = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        stopped.cancel()
        return task.result()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    raise Interrupted


async def serve(layer: str) -> int:
    with RedisServer() as server:
        async with Fleet(server, layer, echo=True) as fleet:
            print(f"\nThe chat runs on the {layer} layer. Open both addresses, side by side:\n")
            for child in fleet.children:
                site = fleet.sites.get(child.name)
                what = f"{site}/rooms/lobby/" if site else "rolls the dice"
                print(f"  {child.name:<8}{what:<42}pid {child.pid}")
            print(f"  {'server':<8}{server.url:<42}pid {server.pid}")
            print("\nCtrl-C ends it.\n", flush=True)
            await fleet.guard(asyncio.Event().wait())
    return 0


async def run_check(layers: Sequence[str]) -> int:
    results: dict[str, list[Route]] = {}
    with RedisServer() as server:
        for layer in layers:
            print(f"Checking the {layer} layer ...", flush=True)
            results[layer] = await check_layer(server, layer)
    print(f"\n{table(results)}\n")
    routes = [route for of_layer in results.values() for route in of_layer]
    faulty = [route for route in routes if route.faults]
    if faulty:
        print(f"FAILED: {len(faulty)} of {len(routes)} routes lost, doubled or mixed up messages.")
        return 1
    arrived = sum(len(route.arrived) for route in routes)
    crossed = sum(len(route.arrived) for route in routes if route.crosses_processes)
    print(
        f"All {arrived} messages arrived, each once and in order;"
        f" {crossed} of them crossed from one process to another."
    )
    return 0


async def check_layer(server: RedisServer, layer: str) -> list[Route]:
    async with Fleet(server, layer, echo=False) as fleet:
        try:
            routes = await fleet.guard(check(fleet.sites, fleet.manage))
        except (WebSocketException, OSError) as error:
            raise ChatFailed(f"A client of the {layer} layer: {error}\n{fleet.log}") from error
        if any(route.faults for route in routes):
            print(fleet.log)
        return routes


if __name__ == "__main__":
    sys.exit(main())
