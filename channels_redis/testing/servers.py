"""Real private servers for tests, examples and benchmarks.

Each server listens on a free port of 127.0.0.1 and keeps its files in a temporary directory.  It is
stopped at the end of the ``with`` block, at the exit of the interpreter, and also when the process
that started it is killed::

    with RedisServer() as server:
        connect_to(server.url)

    with SentinelSet() as sentinels:
        layer = RedisChannelLayer(hosts=[sentinels.host_entry()])

    with ClusterSet(primaries=3, replicas=1) as cluster:
        layer = RedisChannelLayer(hosts=[cluster.host_entry()])
"""

from channels_redis.testing._binaries import (
    BINARY_VARIABLE,
    ServerNotFound,
    find_server,
    server_version,
    supports_tls,
)
from channels_redis.testing._certificates import Certificate
from channels_redis.testing._cluster import ClusterSet
from channels_redis.testing._ports import reserved_port
from channels_redis.testing._resp import ErrorReply, command
from channels_redis.testing._sentinel import SentinelSet
from channels_redis.testing._server import RedisServer, wait_until

__all__ = [
    "BINARY_VARIABLE",
    "Certificate",
    "ClusterSet",
    "ErrorReply",
    "RedisServer",
    "SentinelSet",
    "ServerNotFound",
    "command",
    "find_server",
    "reserved_port",
    "server_version",
    "supports_tls",
    "wait_until",
]
