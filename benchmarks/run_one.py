"""One measurement in a process of its own: takes its orders as JSON, prints figures as JSON.

The environment that runs this file decides what is measured. The folder above goes to the end of
the path, behind the environment's own packages, so that an installed channels_redis comes first.
"""

from __future__ import annotations

import asyncio
import cProfile
import inspect
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]
sys.path.append(str(HERE.parent))

from benchmarks.probe import processes  # noqa: E402 path first
from benchmarks.probe.bench import Bench  # noqa: E402 path first
from benchmarks.probe.catalogue import BOUNDS, SCENARIOS  # noqa: E402 path first


async def measure(bench: Bench, run: Any, n: int) -> dict[str, Any]:
    """Run a scenario or a bound, and clean up after it."""
    try:
        figures: dict[str, Any] = await run(bench, n)
    finally:
        await bench.close()
    return figures


def measure_blocking(bench: Bench, run: Any, n: int) -> dict[str, Any]:
    """The same without an event loop of the caller's."""
    try:
        figures: dict[str, Any] = run(bench, n)
    finally:
        asyncio.run(bench.close())
    return figures


def use_uvloop() -> None:
    """Make ``asyncio.run`` use uvloop."""
    import uvloop

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def obey(order: dict[str, Any]) -> dict[str, Any]:
    """Carry out one order of the harness."""
    bench = Bench(**order["bench"])
    if order["bound"]:
        run: Any = BOUNDS[order["scenario"]]
    else:
        run = SCENARIOS[order["scenario"]].run
    if not inspect.iscoroutinefunction(run):
        return measure_blocking(bench, run, order["n"])
    return asyncio.run(measure(bench, run, order["n"]))


def serve_members(order: dict[str, Any]) -> None:
    """Be a process of members for the scenario that started it."""
    bench = Bench(**order["bench"])
    members = processes.serve_members(bench, order["members"], order["messages"])
    asyncio.run(members)


def versions() -> dict[str, str]:
    """The versions that matter, as this environment has them."""
    import channels_redis

    found = {"channels_redis": channels_redis.__version__, "python": sys.version.split()[0]}
    for package in ("redis", "hiredis", "msgpack", "channels", "asgiref", "uvloop"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "none"
    return found


def main() -> None:
    """Read the order from the command line and print what came of it."""
    order = json.loads(sys.argv[1])
    if order.get("versions"):
        print(json.dumps(versions()))
        return
    if order.get("uvloop") or order.get("members_of", {}).get("uvloop"):
        use_uvloop()
    if "members_of" in order:
        serve_members(order["members_of"])
        return
    profile = cProfile.Profile() if order.get("profile") else None
    if profile is not None:
        figures = profile.runcall(obey, order)
        profile.dump_stats(order["profile"])
    else:
        figures = obey(order)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
