"""Reserves ports for servers, also while they are stopped."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

HOST = "127.0.0.1"

#: Below the range of ephemeral ports: a client that connects to the port of a stopped server from
#: that same port would connect to itself, and the server could not start again.
LOWEST, HIGHEST = 10_000, 32_000


@contextmanager
def reserved_port(*, companion: int = 0) -> Iterator[int]:
    """Reserve a free TCP port of 127.0.0.1 for the duration of the block.

    This function returns it in no other process of this machine meanwhile, so that a killed server
    can start again on its port. ``companion`` is the distance to a second port above the first,
    which is reserved, too.
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
    """Return a socket that marks a port as reserved; raise ``OSError`` if it is in use.

    The mark is a socket bound to the UDP port of the same number, which the servers do not use.
    Only one process can bind it, and the system frees it when that process ends.
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
