"""The figures of a soak as text, and whether the promises were kept."""

from __future__ import annotations

import math
import platform
from collections import Counter
from pathlib import Path

import redis

from channels_redis._receiving.queues import BATCH
from channels_redis._transport.pops import DEPTH
from tests.soak.accounts import Account
from tests.soak.community import Community
from tests.soak.faults import Troublemaker
from tests.soak.journal import Sending

ROWS = [
    ("messages whose send returned", "returned"),
    ("sends that did not run, as the caller was told", "refused"),
    ("sends that may have run, as the caller was told", "unknown"),
    ("deliveries due for the messages that were sent", "deliveries"),
    ("messages received", "received"),
    ("outages, counted in each process", "outages"),
    ("deliveries missing", "missing"),
    ("… dropped, and reported", "reported"),
    ("… forgotten by a server, with its queue", "forgotten"),
    ("… sent to a group that a server did not know again", "strangers"),
    ("… cut off by an outage", "explained"),
    ("… messages cut off by one loss of one connection, at most", "worst_cut"),
    ("… unexplained", "unexplained"),
    ("doubled by the layer", "doubled"),
    ("received though the sender was told of no send", "ghosts"),
]


def kept(kind: str, account: Account) -> bool:
    """Tell whether what the documentation promises was true."""
    for error in account.raised:
        print("raised:", error)
    bounded = kind != "core" or account.worst_cut <= BATCH + DEPTH
    broken = account.doubled or account.ghosts or account.unexplained or account.raised
    return bounded and not broken


def riddle(community: Community, sending: Sending, channel: int) -> str:
    """Say what is known of a message that is missing without an explanation."""
    site = community.site()
    source = "a general channel" if channel in site.general else f"channel {channel}"
    lines = [
        f"unexplained: {community.kind}, {source}, sent at {sending.began:.3f}-{sending.ended:.3f}"
    ]
    for index, member in enumerate(community.members):
        facts = member.facts
        spans = zip(facts["losses"], [*facts["returns"], math.inf], strict=False)
        near = [f"{lost:.3f}-{back:.3f}" for lost, back in spans if abs(lost - sending.began) < 20]
        lines.append(f"  outages of process {index} near it: {', '.join(near) or 'none'}")
    return "\n".join(lines)


def title(trouble: Troublemaker, minutes: float, seed: int) -> str:
    """Return what was run, on what, and what was done to it."""
    server = trouble.server
    version = server.info("server").get("valkey_version") or server.info("server")["redis_version"]
    faults = Counter(name for _, name in trouble.done)
    lasted_s = max((one.lasted_s for one in trouble.losses), default=0.0)
    listed = ", ".join(f"{name} {count}" for name, count in faults.most_common())
    return (
        f"{minutes:g} minutes, seed {seed}, CPython {platform.python_version()}, "
        f"redis-py {redis.__version__}, {Path(server.binary).name} {version}\n"
        f"{len(trouble.done)} faults: {listed}\n"
        f"frames of random bytes: {trouble.poisoned}\n"
        f"members of groups known again within {lasted_s:.1f} s of a loss of data\n"
    )


def table(accounts: list[Account], communities: list[Community], warm_up_s: float) -> str:
    """Return the table for ``docs/reliability.rst``."""
    rows = [
        [label, *[f"{getattr(account, name):,}" for account in accounts]] for label, name in ROWS
    ]
    undecodable = [f"{one.dropped()['undecodable']:,}" for one in communities]
    rows.append(["frames of random bytes, dropped and reported", *undecodable])
    rows.append(["receivers that raised", *[str(len(one.raised)) for one in accounts]])
    lines = [sum(len(member.log) for member in one.members) for one in communities]
    rows.append(["lines in the logs of all processes", *[str(count) for count in lines]])
    spans = [f"{one.memory_mb(int(warm_up_s)):.0f}, {one.memory_mb(-1):.0f}" for one in communities]
    rows.append(["memory of a process after the warm-up and at the end, MB", *spans])
    return _rst_table(["counted", *[one.kind for one in communities]], rows)


def _rst_table(head: list[str], rows: list[list[str]]) -> str:
    """Return a simple table in reStructuredText."""
    widths = [max(len(line[column]) for line in [head, *rows]) for column in range(len(head))]
    rule = "  ".join("=" * width for width in widths)
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [head, *rows]
    ]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])
