"""Turns facts about a server into findings with advice.  Does no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError

from .._transport.node import OLDEST_SERVER
from .facts import SentinelFacts, ServerFacts, ShardFacts
from .findings import Finding, Level
from .rights import ANY, HISTORIES, PRESENCES, QUEUES, TOPICS, Need, patterns
from .trouble import explain_trouble, first_line

#: Larger clock differences and latencies are reported.
CLOCK_S = 2.0
LATENCY_NOTE_S = 0.005
LATENCY_WARNING_S = 0.05
#: The fraction of the server's connections or memory in use above which a warning is given.
TIGHT = 0.9


#: Findings after which no further checks make sense, because the server cannot be used.
_ANOTHER_KIND = ("too-old", "is-cluster", "is-sentinel")


@dataclass(frozen=True)
class Wishes:
    """What the layer needs of its servers."""

    is_pubsub: bool
    prefix: str
    max_message_bytes: int
    has_histories: bool = False
    has_presence: bool = False


def judge_shard(shard: ShardFacts, wishes: Wishes) -> list[Finding]:
    """Return all findings about one entry of ``hosts``."""
    findings = list(_judge_sentinels(shard))
    if shard.server.trouble is not None:
        # An unknown master_name is the cause of the failure, so the failure is not reported too.
        if not any(finding.id == "sentinel-name" for finding in findings):
            findings.append(explain_trouble(shard))
        return findings
    findings.append(_greeting(shard))
    for part in (_version, _kind_of_server, _clients):
        findings += part(shard)
    if not any(finding.id in _ANOTHER_KIND for finding in findings):
        findings += _rights(shard, wishes)
        findings += _memory(shard)
        findings += _output_buffers(shard, wishes)
    findings += _clock(shard)
    return findings


def _finding(level: Level, id: str, shard: ShardFacts, text: str, advice: str = "") -> Finding:
    return Finding(level, id, shard.where, text, advice)


# Reachability


def _greeting(shard: ShardFacts) -> Finding:
    info, ms = shard.server.info, shard.server.latency_s * 1000
    product = info.get("server_name", "redis").capitalize()
    version = info.get("valkey_version") or info.get("redis_version") or "of unknown version"
    text = f"{product} {version} at {shard.endpoint} replies in {ms:.2g} ms."
    if shard.server.latency_s < LATENCY_NOTE_S:
        return _finding(Level.OK, "reachable", shard, text)
    is_far = shard.server.latency_s >= LATENCY_WARNING_S
    level = Level.WARNING if is_far else Level.NOTE
    advice = (
        "Every send takes at least this long. Run the server in the same data centre as the "
        "processes."
    )
    return _finding(level, "latency", shard, text, advice)


def _judge_sentinels(shard: ShardFacts) -> Iterator[Finding]:
    silent = [one for one in shard.sentinels if one.trouble is not None]
    heard = [one for one in shard.sentinels if one.trouble is None]
    level = Level.WARNING if heard else Level.ERROR
    for one in silent:
        assert one.trouble is not None
        text = f"The Sentinel at {one.endpoint} cannot be queried: {first_line(one.trouble)}."
        advice = "Check its address. Its password and TLS options belong in sentinel_kwargs."
        yield _finding(level, "sentinel-unreachable", shard, text, advice)
    strangers = [one for one in heard if one.primary is None]
    if strangers:
        yield _unknown_name(shard, strangers, bool(len(strangers) < len(heard)))
    named = {one.primary for one in heard} - {None}
    if len(named) > 1:
        places = ", ".join(sorted(f"{place[0]}:{place[1]}" for place in named if place))
        text = f"The Sentinels name different primaries: {places}."
        advice = (
            "If a failover is in progress, wait for its end. Otherwise compare the Sentinels' "
            "configurations."
        )
        yield _finding(Level.ERROR, "sentinel-disagree", shard, text, advice)
    elif named and not strangers:
        text = f"{len(heard)} of {len(shard.sentinels)} Sentinels agree on the primary."
        yield _finding(Level.OK, "sentinels", shard, text)


def _unknown_name(shard: ShardFacts, strangers: list[SentinelFacts], partly: bool) -> Finding:
    known = sorted({name for one in strangers for name in one.names})
    who = ", ".join(str(one.endpoint) for one in strangers)
    return _finding(
        Level.WARNING if partly else Level.ERROR,
        "sentinel-name",
        shard,
        f"The Sentinels at {who} know no primary named {shard.master_name!r}.",
        f"Correct master_name. Known names: {', '.join(known) or 'none'}.",
    )


# What kind of server it is


def _version(shard: ShardFacts) -> Iterator[Finding]:
    version = shard.server.info.get("redis_version", "")
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        yield _finding(
            Level.NOTE,
            "version-unknown",
            shard,
            "Could not read the server's version (INFO refused).",
            "Allow +info, or check that the server is Redis 5.0 or newer, or Valkey.",
        )
    elif (int(found[1]), int(found[2])) < OLDEST_SERVER:
        yield _finding(
            Level.ERROR,
            "too-old",
            shard,
            f"The server is Redis {version}, which is too old.",
            "Install Redis 5.0 or newer, or Valkey. Older versions lack BZPOPMIN.",
        )


def _kind_of_server(shard: ShardFacts) -> Iterator[Finding]:
    info = shard.server.info
    if "sentinel" in (info.get("redis_mode"), info.get("server_mode")):
        yield _finding(
            Level.ERROR,
            "is-sentinel",
            shard,
            "This is a Sentinel, not a server that can store messages.",
            f'Use {{"sentinels": [("{shard.endpoint.host}", {shard.endpoint.port})], '
            f'"master_name": "..."}}, with the other Sentinels in the list.',
        )
    is_cluster = info.get("cluster_enabled") == "1" or info.get("redis_mode") == "cluster"
    if is_cluster and not shard.asks_for_cluster:
        yield _finding(
            Level.ERROR,
            "is-cluster",
            shard,
            "The server belongs to a Redis Cluster, but this entry of hosts is for a single "
            "server: keys on other servers are refused (MOVED).",
            f'Use {{"cluster": True, "address": "redis{"s" if shard.endpoint.tls else ""}://'
            f'{shard.endpoint.name}"}}, and add the other keywords of this entry.',
        )
    if shard.asks_for_cluster and info and not is_cluster:
        yield _finding(
            Level.ERROR,
            "not-cluster",
            shard,
            "This entry of hosts is for a cluster, but the server does not belong to one.",
            "Remove cluster from the entry, or set cluster-enabled on the server.",
        )
    if info.get("role") == "slave" and not shard.asks_for_cluster:
        yield _finding(
            Level.ERROR,
            "replica",
            shard,
            "The server is a replica: it refuses to store messages, and messages published on it "
            "do not reach other servers.",
            "Use the address of the primary, or Sentinels.",
        )


def _clients(shard: ShardFacts) -> Iterator[Finding]:
    used, limit = (_number(shard.server, name) for name in ("connected_clients", "maxclients"))
    if limit and used >= limit * TIGHT:
        yield _finding(
            Level.WARNING,
            "clients",
            shard,
            f"{used} of {limit} connections of the server are in use.",
            "Raise maxclients, or use CLIENT LIST to see which clients have so many connections.",
        )


def _clock(shard: ShardFacts) -> Iterator[Finding]:
    ahead_s = shard.server.clock_ahead_s
    if ahead_s is None:
        return
    if abs(ahead_s) <= CLOCK_S + shard.server.latency_s:
        yield _finding(
            Level.OK, "clock", shard, "The clocks of the server and of this machine agree."
        )
        return
    direction = "ahead of" if ahead_s > 0 else "behind"
    yield _finding(
        Level.WARNING,
        "clock",
        shard,
        f"The clock of the server is {abs(ahead_s):.0f} s {direction} that of this machine. The "
        "layers use the server's clock, but processes of older releases and logs do not.",
        "Synchronize the clocks of all machines (NTP).",
    )


# Rights


def _rights(shard: ShardFacts, wishes: Wishes) -> Iterator[Finding]:
    vital = (*TOPICS,) if wishes.is_pubsub else QUEUES
    groups: list[tuple[tuple[Need, ...], Level, str]]
    groups = [(vital, Level.ERROR, ""), (ANY, Level.ERROR, "")]
    if wishes.has_histories:
        consequence = " Groups with a history will not work."
        groups.append((HISTORIES, Level.ERROR, consequence))
    if wishes.has_presence:
        groups.append((PRESENCES, Level.ERROR, " Groups with presence will not work."))
    if wishes.is_pubsub:
        groups.append((QUEUES, Level.WARNING, " General channels (workers) will not work."))
    complaints = 0
    judged: set[str] = set()
    for needs, level, consequence in groups:
        others = tuple(need for need in needs if need.command not in judged)
        judged.update(need.command for need in needs)
        for found in _refused(shard, wishes, others, level, consequence):
            complaints += 1
            yield found
    if not complaints:
        user = shard.server.user
        text = f"User {user!r} has all permissions that the layer needs."
        yield _finding(Level.OK, "rights", shard, text)


def _refused(
    shard: ShardFacts, wishes: Wishes, needs: tuple[Need, ...], level: Level, consequence: str
) -> Iterator[Finding]:
    replies = shard.server.replies
    user = shard.server.user
    scopes = set()
    for need in needs:
        reply = replies.get(need.command)
        scope = _refused_scope(reply)
        if scope == "command":
            yield _finding(
                Level.NOTE if need.without else level,
                "rights",
                shard,
                f"The command {need.command.upper()} is refused to user {user!r}"
                + (f": {need.without}." if need.without else f".{consequence}"),
                f"ACL SETUSER {user} +{need.command}",
            )
        elif scope == "unknown":
            yield _finding(
                Level.NOTE if need.without else level,
                "rights",
                shard,
                f"The server does not know the command {need.command.upper()}.{consequence}",
                "Use Redis 5.0 or newer, or Valkey, with no command renamed.",
            )
        elif scope:
            scopes.add(scope)
    for scope in sorted(scopes):
        yield _finding(
            level,
            "rights",
            shard,
            f"User {user!r} may not use {scope} with the prefix {wishes.prefix!r}." + consequence,
            f"ACL SETUSER {user} {patterns(wishes.prefix)}",
        )


def _refused_scope(reply: Any) -> str:
    """Return what an ACL refuses: a command, keys or Pub/Sub channels.  Empty if it refuses
    nothing.
    """
    if not isinstance(reply, Exception):
        return ""
    said = str(reply).lower()
    if "unknown command" in said:
        return "unknown"
    if not isinstance(reply, NoPermissionError):
        return ""
    if "run the" in said:
        return "command"
    return "Pub/Sub channels" if "channel" in said else "keys"


# Memory


def _memory(shard: ShardFacts) -> Iterator[Finding]:
    server = shard.server
    limit, used = (_number(server, name) for name in ("maxmemory", "used_memory"))
    policy = server.info.get("maxmemory_policy", "noeviction")
    refused = any(isinstance(reply, OutOfMemoryError) for reply in server.replies.values())
    if refused or (limit and used >= limit and policy == "noeviction"):
        yield _finding(
            Level.ERROR,
            "memory-full",
            shard,
            f"The memory of the server is full ({_mb(used)} of {_mb(limit)}, policy {policy}): it "
            "refuses to store messages and memberships.",
            "Raise maxmemory, or find out what uses it (MEMORY STATS, channel_layer queues). A "
            "dedicated server for the channel layer is best.",
        )
    elif limit and policy != "noeviction":
        yield _finding(
            Level.WARNING,
            "memory-policy",
            shard,
            f"When its {_mb(limit)} are full, the server deletes keys (maxmemory-policy {policy}), "
            "possibly including groups and queues.",
            "Use a server that is not used as a cache, or set maxmemory-policy to noeviction.",
        )
    elif limit and used >= limit * TIGHT:
        yield _finding(
            Level.WARNING,
            "memory-tight",
            shard,
            f"The memory of the server is nearly full: {_mb(used)} of {_mb(limit)}.",
            "Raise maxmemory, or find out what uses it (MEMORY STATS, channel_layer queues).",
        )
    elif server.info:
        text = f"{_mb(used)} of memory in use, {_mb(limit) if limit else 'no'} limit."
        yield _finding(Level.OK, "memory", shard, text)
    if any(isinstance(reply, ReadOnlyError) for reply in server.replies.values()):
        text = "The server refuses to write (READONLY)."
        yield _finding(Level.ERROR, "replica", shard, text, "Use the primary in hosts.")


def _output_buffers(shard: ShardFacts, wishes: Wishes) -> Iterator[Finding]:
    name = "pubsub" if wishes.is_pubsub else "normal"
    said = shard.server.output_limits
    found = re.search(rf"\b{name} (\d+) (\d+) (\d+)", said or "")
    if found is None:
        yield _finding(
            Level.NOTE,
            "output-buffer-unknown",
            shard,
            "Could not read the limits of output buffers (CONFIG refused).",
            f"Look up client-output-buffer-limit {name} in your provider's settings.",
        )
        return
    hard, soft, seconds = (int(number) for number in found.groups())
    tightest = min((limit for limit in (hard, soft) if limit), default=0)
    if tightest and tightest < 2 * wishes.max_message_bytes:
        yield _finding(
            Level.WARNING,
            "output-buffer",
            shard,
            f"client-output-buffer-limit {name} is {hard} {soft} {seconds}: the server disconnects "
            f"a process that is {_mb(tightest)} behind, and a single message may be as large as "
            f"{_mb(wishes.max_message_bytes)}.",
            f"CONFIG SET client-output-buffer-limit '{name} 33554432 8388608 60' or more, or lower "
            "max_message_bytes to half of the limit.",
        )
        return
    text = f"client-output-buffer-limit {name} is {hard} {soft} {seconds}, which is sufficient."
    yield _finding(Level.OK, "output-buffer", shard, text)


def _number(server: ServerFacts, name: str) -> int:
    text = server.info.get(name, "0").strip()
    return int(text) if text.isdecimal() else 0


def _mb(size: int) -> str:
    return f"{size / 2**20:,.1f} MB"
