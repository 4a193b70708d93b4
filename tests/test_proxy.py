"""The proxy does to connections what its table says."""

from __future__ import annotations

import gc
import socket
from contextlib import ExitStack

import pytest

from channels_redis.testing.servers import RedisServer, command
from tests.helpers import ExternalServer
from tests.proxy import Proxy


def ask(proxy: Proxy, *words: str) -> object:
    return command((proxy.host, proxy.port), *words, timeout_s=0.3)


def test_a_good_network_passes_everything_on(proxy: Proxy) -> None:
    """Commands of any size get their replies, and connections are counted."""
    assert ask(proxy, "ECHO", "x" * 1_000_000) == b"x" * 1_000_000
    assert proxy.accepted == 1


def test_a_refused_connection_is_refused_until_the_network_is_back(proxy: Proxy) -> None:
    """``refuse()`` closes the port, ``resume()`` opens the same one."""
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        ask(proxy, "PING")
    proxy.resume()
    assert ask(proxy, "PING") == b"PONG"


@pytest.mark.parametrize("fault", ["stall", "stall_new", "drop_replies"])
def test_a_stalled_connection_is_open_and_silent(proxy: Proxy, fault: str) -> None:
    """The client is connected and hears nothing, until the network is back."""
    getattr(proxy, fault)()
    with pytest.raises(TimeoutError):
        ask(proxy, "PING")
    proxy.resume()
    assert ask(proxy, "PING") == b"PONG"


def test_a_lost_reply_belongs_to_a_command_that_ran(proxy: Proxy, prefix: str) -> None:
    """The server carries the command out, and the client sees its connection end."""
    proxy.lose_reply_to(b"INCR")
    with pytest.raises(ConnectionError):
        ask(proxy, "INCR", prefix)
    assert ask(proxy, "GETDEL", prefix) == b"1"


def test_connections_that_are_made_as_the_proxy_ends_are_closed(
    server: RedisServer | ExternalServer,
) -> None:
    """Left open, they would be reported as the fault of whichever test runs when Python finds
    them.
    """
    for _ in range(20):
        with ExitStack() as stack, Proxy(server.host, server.port) as proxy:
            for _ in range(10):
                address = proxy.host, proxy.port
                stack.enter_context(socket.create_connection(address)).sendall(b"PING\r\n")
    gc.collect()
