"""The commands that the layers need, the effect of each missing command, and the ACL line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: A placeholder for the probe key or topic in the words of a command.
PROBE = "<probe>"
#: Seconds after which the probe key expires, even if the doctor is killed.
PROBE_S = 10


@dataclass(frozen=True, slots=True)
class Need:
    """The ACL name of a command, and a harmless call of it on the probe key or topic.

    ``without`` says what happens if it is refused; it is empty if the layer then does not work.
    """

    command: str
    words: tuple[str, ...]
    without: str = ""


#: Commands for core, and for general channels of pubsub, in an order in which each can be tested.
QUEUES = (
    Need("zadd", ("ZADD", PROBE, "1", "probe")),
    Need("expire", ("EXPIRE", PROBE, str(PROBE_S))),
    Need("zcount", ("ZCOUNT", PROBE, "-inf", "+inf")),
    Need("zrange", ("ZRANGE", PROBE, "0", "0")),
    Need("zrem", ("ZREM", PROBE, "nobody")),
    Need("zremrangebyscore", ("ZREMRANGEBYSCORE", PROBE, "-inf", "(1")),
    Need("eval", ("EVAL", "return 1", "1", PROBE)),
    Need("zpopmin", ("ZPOPMIN", PROBE, "1")),
    Need("bzpopmin", ("BZPOPMIN", PROBE, "0.01")),
    Need("evalsha", ("EVALSHA", "0" * 40, "1", PROBE), "scripts are sent in full each time"),
    Need("time", ("TIME",), "messages get the times of their senders"),
    Need("client|id", ("CLIENT", "ID"), "a reader that ends may lose a message"),
    Need("client|unblock", ("CLIENT", "UNBLOCK", "0"), "a reader that ends may lose a message"),
    Need("scan", ("SCAN", "0", "MATCH", PROBE, "COUNT", "1"), "flush() needs KEYS instead"),
    Need("unlink", ("UNLINK", PROBE), "flush() needs DEL instead"),
)
#: Commands for consumers and groups of pubsub.
TOPICS = (
    Need("publish", ("PUBLISH", PROBE, "")),
    Need("subscribe", ("SUBSCRIBE", PROBE)),
    Need("unsubscribe", ("UNSUBSCRIBE", PROBE)),
)
#: Commands for groups with a history. The first one replaces the probe key, and none of the others
#: changes it.
HISTORIES = (
    Need("set", ("SET", PROBE, "", "EX", str(PROBE_S))),
    Need("get", ("GET", PROBE)),
    Need("xadd", ("XADD", PROBE, "0-0", "a", "b")),
    Need("xdel", ("XDEL", PROBE, "1-0")),
    Need("xrange", ("XRANGE", PROBE, "-", "+")),
    Need("xrevrange", ("XREVRANGE", PROBE, "+", "-")),
)
#: Commands of :data:`QUEUES` that leases need: on pubsub only with presence.
_LEASES = (
    "zadd",
    "expire",
    "zcount",
    "zrange",
    "zrem",
    "zremrangebyscore",
    "eval",
    "evalsha",
    "time",
)
#: Commands for groups with presence.  HSET and HINCRBY change nothing, because an argument is
#: missing or invalid; what SADD adds is removed, and expires.
PRESENCES = (
    Need("hset", ("HSET", PROBE, "a", "b", "c")),
    Need("hincrby", ("HINCRBY", PROBE, "a", "b")),
    Need("hget", ("HGET", PROBE, "a")),
    Need("hdel", ("HDEL", PROBE, "a")),
    Need("hgetall", ("HGETALL", PROBE)),
    Need("sadd", ("SADD", PROBE, "a")),
    Need("smembers", ("SMEMBERS", PROBE)),
    Need("srem", ("SREM", PROBE, "a")),
    Need("set", ("SET", PROBE, "", "NX", "EX", str(PROBE_S))),
    *(need for need in QUEUES if need.command in _LEASES),
)
#: Commands for all connections.
ANY = (
    Need(
        "ping", ("PING",), "an idle process detects the end of an outage only at its next command"
    ),
    Need("info", ("INFO", "server"), "the version of the server is not known"),
)

# Also in the ACL line: commands that can't be tested or are rarely needed.
_ALSO = ("select", "role")
_ALSO_QUEUES = ("del", "keys")


def history_rights() -> str:
    """Return what to add to the ACL line for groups with a history."""
    return " ".join(sorted(f"+{need.command}" for need in HISTORIES))


def presence_rights() -> str:
    """Return what to add to the ACL line for groups with presence."""
    return " ".join(sorted(f"+{need.command}" for need in PRESENCES if need not in QUEUES))


def acl_line(*, user: str = "app", prefix: str = "asgi", workers: bool = True) -> str:
    """Return the ``ACL SETUSER`` command, with ``secret`` as the password.

    Without ``workers`` it is sufficient for a pubsub layer without general channels.
    """
    needs: Sequence[Need] = (*QUEUES, *TOPICS, *ANY) if workers else (*TOPICS, *ANY)
    names = {need.command for need in needs} | {*_ALSO, *(_ALSO_QUEUES if workers else ())}
    rights = " ".join(f"+{name}" for name in sorted(names))
    return f"ACL SETUSER {user} reset on >secret {patterns(prefix)} {rights}"


def patterns(prefix: str) -> str:
    """Return the ACL patterns for the keys and the Pub/Sub channels of a prefix."""
    return f"~{prefix}* &{prefix}*"
