"""No secret leaves a layer, with no form of ``hosts``, by any failure of a real server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from channels_redis.testing.servers import RedisServer, reserved_port
from tests.conftest import find_server_or_skip
from tests.helpers import until_connected
from tests.proxy import Proxy
from tests.secrets.canary import PASSWORD, TOKEN, Ears, hosts_with_secrets
from tests.secrets.steps import SAY, try_everything, use

# The doctor ends its event loop while a busy machine may still be connecting; what is left open is
# looked for by other tests.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

PATIENT = {"connect_wait_s": 3, "command_timeout_s": 2}


def without_auth(stack: ExitStack) -> tuple[str, int]:
    """A server that does not know AUTH, and quotes what it is sent."""
    config = {"rename-command": ['AUTH ""', 'HELLO ""']}
    return stack.enter_context(RedisServer(config=config)).address


def other_password(stack: ExitStack) -> tuple[str, int]:
    """A server with another password."""
    return stack.enter_context(RedisServer(config={"requirepass": "another-one"})).address


def without_password(stack: ExitStack) -> tuple[str, int]:
    """A server that has no password."""
    return stack.enter_context(RedisServer()).address


def absent(stack: ExitStack) -> tuple[str, int]:
    """Nobody listens."""
    return "127.0.0.1", stack.enter_context(reserved_port())


def frozen(stack: ExitStack) -> tuple[str, int]:
    """A server that accepts connections and says nothing."""
    server = stack.enter_context(RedisServer())
    server.freeze()
    return server.address


def full(stack: ExitStack) -> tuple[str, int]:
    """A server that has no connection left."""
    server = stack.enter_context(RedisServer())
    holding = socket.create_connection(server.address)
    stack.callback(holding.close)
    server.command("CONFIG", "SET", "maxclients", "1")
    return server.address


def speaking_tls(stack: ExitStack) -> tuple[str, int]:
    """A server that speaks TLS where nobody expects it."""
    binary = find_server_or_skip(tls=True)
    server = stack.enter_context(RedisServer(binary=binary, tls=True))
    return server.host, server.tls_port


TROUBLES = [without_auth, other_password, without_password, absent, frozen, full, speaking_tls]


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.__name__)
async def test_no_failure_of_a_real_server_shows_a_secret(
    make_layer: Callable[..., Any], kind: str, ears: Ears, trouble: Any
) -> None:
    """Each form of an entry; what is wrong is wrong from the start."""
    with ExitStack() as stack:
        address = await asyncio.to_thread(trouble, stack)
        forms = hosts_with_secrets(*address).values()
        await asyncio.gather(*[try_everything(make_layer, kind, [one], ears) for one in forms])


def cut(server: RedisServer, proxy: Proxy) -> None:
    """Connections end."""
    proxy.cut()


def refuse(server: RedisServer, proxy: Proxy) -> None:
    """Nobody listens any more."""
    proxy.refuse()


def stall(server: RedisServer, proxy: Proxy) -> None:
    """Nothing passes any more."""
    proxy.stall()


def drop_replies(server: RedisServer, proxy: Proxy) -> None:
    """Replies are lost."""
    proxy.drop_replies()


def kill(server: RedisServer, proxy: Proxy) -> None:
    """The server ends."""
    server.kill()


def change_password(server: RedisServer, proxy: Proxy) -> None:
    """The server has another password and throws everybody out."""
    server.command("ACL", "SETUSER", "default", "resetpass", ">another-one")
    proxy.cut()


def demote(server: RedisServer, proxy: Proxy) -> None:
    """Writes are refused."""
    server.command("REPLICAOF", "127.0.0.1", "1")


def fill(server: RedisServer, proxy: Proxy) -> None:
    """There is no memory left."""
    server.command("CONFIG", "SET", "maxmemory", "1")


STANDING = ("URL", "URL with user", "keywords", "RESP3", "provider")
FAULTS = [cut, refuse, stall, drop_replies, kill, change_password, demote, fill]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_no_fault_while_a_layer_works_shows_a_secret(
    make_layer: Callable[..., Any], kind: str, ears: Ears, fault: Any
) -> None:
    """Receivers wait, and everything else is tried, as it happens."""
    with RedisServer() as server, Proxy(*server.address) as proxy:
        server.command("ACL", "SETUSER", "app", "on", f">{PASSWORD}", "~*", "&*", "+@all")
        server.command("ACL", "SETUSER", "default", "resetpass", f">{PASSWORD}", f">{TOKEN}")
        server.config["requirepass"] = PASSWORD  # for this test's own commands
        forms = hosts_with_secrets(proxy.host, proxy.port)
        layers = [make_layer(kind, hosts=[forms[form]], **PATIENT) for form in STANDING]
        waiting = [asyncio.create_task(wait(layer, ears)) for layer in layers]
        for layer in layers:
            await until_connected(partial(layer.send, "work", SAY))
        await asyncio.to_thread(fault, server, proxy)
        await asyncio.gather(*[use(layer, ears) for layer in layers])
        await asyncio.gather(*waiting)
        assert ears.leaks() == []


async def wait(layer: Any, ears: Ears) -> None:
    """Wait for a message that does not come, until the layer is closed."""
    await ears.try_out(layer.receive(await layer.new_channel()))
