"""Runs the soak and prints its table; exits with 1 where a promise was broken."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from channels_redis.testing.servers import RedisServer
from tests.proxy import Proxy
from tests.soak.accounts import settle
from tests.soak.community import Community, community
from tests.soak.faults import Troublemaker
from tests.soak.report import kept, riddle, table, title

KINDS = ("core", "pubsub")
#: Before the first fault and after the last one, in seconds.
WARM_UP_S, CALM_S = 5.0, 5.0
#: So many of the messages without an explanation are told of one by one.
RIDDLES = 20
#: What was acknowledged survives the death of the server's process (not that of the machine).
LASTING = {"appendonly": "yes", "appendfsync": "no", "save": ""}


async def run(options: argparse.Namespace) -> bool:
    """Run the soak; tell whether all promises were kept."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(RedisServer(config=LASTING))
        proxy = stack.enter_context(Proxy(server.host, server.port))
        communities = [
            await stack.enter_async_context(
                community(kind, number, proxy.url, folder, options.rate / len(KINDS))
            )
            for number, kind in enumerate(KINDS)
        ]
        trouble = Troublemaker(server, proxy, random.Random(options.seed), options.harmless)
        await live(communities, trouble, options)
        accounts = [
            settle(
                one.site(),
                [member.witness() for member in one.members],
                [one.forgetting(loss) for loss in trouble.losses],
            )
            for one in communities
        ]
        print(title(trouble, options.minutes, options.seed))
        print(table(accounts, communities, WARM_UP_S))
        for one, it in zip(communities, accounts, strict=True):
            for sending, channel in it.riddles[:RIDDLES]:
                print(riddle(one, sending, channel))
        kept_by = {
            one.kind: kept(one.kind, it) for one, it in zip(communities, accounts, strict=True)
        }
        return all(kept_by.values())


async def live(
    communities: list[Community], trouble: Troublemaker, options: argparse.Namespace
) -> None:
    """Have messages sent, strike every few seconds, and wait for what is under way."""
    for one in communities:
        keys, topics = one.poisonable()
        trouble.keys += keys
        trouble.topics += topics
        trouble.queues += one.queues()
        trouble.groups |= one.groups()
        await one.begin()
    end = time.monotonic() + options.minutes * 60 - CALM_S
    await asyncio.sleep(WARM_UP_S)
    while time.monotonic() < end:
        await asyncio.to_thread(trouble.strike)
        await asyncio.sleep(trouble.random.uniform(0.5, 1.5) * options.pause)
    await asyncio.sleep(CALM_S)
    for one in communities:
        await one.finish()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long (10)")
    parser.add_argument("--rate", type=float, default=2600, help="messages a second (2600)")
    parser.add_argument("--pause", type=float, default=3, help="seconds between two faults (3)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the faults")
    parser.add_argument("--harmless", action="store_true", help="no fault breaks a connection")
    return 0 if asyncio.run(run(parser.parse_args())) else 1


if __name__ == "__main__":
    sys.exit(main())
