"""The commands that the layers need, each with what is lost without it, and the ACL line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Stands for the probe key or topic in the words of a command.
PROBE = "<probe>"
#: Seconds after which the probe key is gone, whatever happens to the doctor.
PROBE_S = 10


@dataclass(frozen=True, slots=True)
class Need:
    """A command as an ACL names it, and its harmless form on the probe key or topic.

    ``without`` says what happens where it is refused; empty where the layer does not work then.
    """

    command: str
    words: tuple[str, ...]
    without: str = ""


#: What core needs, and general channels of pubsub; in an order in which each can be tried.
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
    Need("time", ("TIME",), "messages carry the clocks of their senders"),
    Need("client|id", ("CLIENT", "ID"), "a reader that ends may lose a message"),
    Need("client|unblock", ("CLIENT", "UNBLOCK", "0"), "a reader that ends may lose a message"),
    Need("scan", ("SCAN", "0", "MATCH", PROBE, "COUNT", "1"), "flush() needs KEYS instead"),
    Need("unlink", ("UNLINK", PROBE), "flush() needs DEL instead"),
)
#: What consumers and groups of pubsub need.
TOPICS = (
    Need("publish", ("PUBLISH", PROBE, "")),
    Need("subscribe", ("SUBSCRIBE", PROBE)),
    Need("unsubscribe", ("UNSUBSCRIBE", PROBE)),
)
#: What all connections use.
ANY = (
    Need("ping", ("PING",), "an outage of an idle process ends with its next command only"),
    Need("info", ("INFO", "server"), "the version of the server stays unknown"),
)

# Granted besides, for what can't be tried or is rarely needed.
_ALSO = ("select", "role")
_ALSO_QUEUES = ("del", "keys")


def acl_line(*, user: str = "app", prefix: str = "asgi", workers: bool = True) -> str:
    """Return the ``ACL SETUSER`` to copy, with ``secret`` in the place of the password.

    Without ``workers`` it is enough for a pubsub layer that has no general channels.
    """
    needs: Sequence[Need] = (*QUEUES, *TOPICS, *ANY) if workers else (*TOPICS, *ANY)
    names = {need.command for need in needs} | {*_ALSO, *(_ALSO_QUEUES if workers else ())}
    rights = " ".join(f"+{name}" for name in sorted(names))
    return f"ACL SETUSER {user} reset on >secret {patterns(prefix)} {rights}"


def patterns(prefix: str) -> str:
    """Return what an ACL user may touch: the keys and the Pub/Sub channels of a prefix."""
    return f"~{prefix}* &{prefix}*"
