"""Ports for servers that come and go: nobody takes them while they are away."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

HOST = "127.0.0.1"

#: Below the range from which systems give out ports: a client that dials a dead server's port
#: from that same port would connect to itself and keep the server from returning.
LOWEST, HIGHEST = 10_000, 32_000


@contextmanager
def reserved_port(*, companion: int = 0) -> Iterator[int]:
    """Reserve a TCP port of 127.0.0.1 that nobody listens on, for the length of the block.

    No other launcher of this machine chooses it meanwhile, in whatever process, so that a server
    that was killed finds its port free. ``companion`` is the distance to a second port, above
    the first, that is reserved with it.
    """
    port, claims = _claim_some(companion)
    with claims:
        yield port


def _claim_some(companion: int) -> tuple[int, ExitStack]:
    while True:
        port = random.SystemRandom().randrange(LOWEST, HIGHEST - companion)
        try:
            return port, _claim_all({port, port + companion})
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise


def _claim_all(ports: set[int]) -> ExitStack:
    with ExitStack() as claims:
        for port in ports:
            claims.enter_context(_claim(port))
        return claims.pop_all()


def _claim(port: int) -> socket.socket:
    """Return what marks a port as taken; raise ``OSError`` if it is.

    The mark is the UDP port of the same number, which no server here uses: the system gives it
    to one process only, and takes it back when that process ends, however it ends.
    """
    mark = socket.socket(type=socket.SOCK_DGRAM)
    try:
        mark.bind((HOST, port))
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
    except OSError:
        mark.close()
        raise
    return mark
