"""A worker process to be killed.

Started as ``python -m tests.faults.worker KIND URL PREFIX CHANNEL RECEIVERS``.
Prints "ready", and then the number of each message that it has received.
"""

from __future__ import annotations

import asyncio
import sys

from tests.conftest import class_of


async def main(kind: str, url: str, prefix: str, channel: str, receivers: str) -> None:
    layer = class_of(kind)(hosts=[url], prefix=prefix)

    async def work() -> None:
        while True:
            message = await layer.receive(channel)
            print(message["n"], flush=True)

    works = [asyncio.create_task(work()) for _ in range(int(receivers))]
    await asyncio.sleep(0)
    print("ready", flush=True)
    await asyncio.gather(*works)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
