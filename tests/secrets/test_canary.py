"""No secret leaves a layer: with no form of ``hosts``, by no failure, and not by the doctor."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from channels_redis.doctor.command import Output, run
from channels_redis.doctor.config import read_settings
from channels_redis.exceptions import ConnectionLost
from channels_redis.testing.servers import RedisServer, reserved_port
from tests.conftest import class_of, find_server_or_skip
from tests.helpers import wait_for
from tests.impostor import Impostor, cluster_answer, sentinel_answer
from tests.proxy import Proxy
from tests.secrets.canary import (
    KEY,
    MARK,
    PASSWORD,
    TOKEN,
    Ears,
    hosts_with_secrets,
)

# The doctor ends its event loop while a busy machine may still be connecting; what is left open is
# looked for by other tests.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def nothing_for_later_tests() -> Iterator[None]:
    """Collect what was left open while the warnings of it are ignored."""
    yield
    gc.collect()


FORMS = list(hosts_with_secrets("localhost", 1))
SAY = {"type": "test"}
QUICK = {"connect_wait_s": 0.3, "command_timeout_s": 0.5}
PATIENT = {"connect_wait_s": 3, "command_timeout_s": 2}


@pytest.fixture
async def ears() -> AsyncIterator[Ears]:
    """What hears all records of this test, from the root logger on."""
    ears = Ears()
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(ears)
    root.setLevel(logging.DEBUG)
    ears.listen_to_loop(asyncio.get_running_loop())
    yield ears
    root.removeHandler(ears)
    root.setLevel(level)


async def use(layer: Any, ears: Ears) -> None:
    """Do all that a site does, and take note of how it ends."""
    ears.watch(layer)
    channel = await _new_channel(layer, ears)
    calls = (
        layer.send("work", SAY),
        layer.send(channel, SAY),
        layer.group_add("room", channel),
        layer.group_send("room", SAY),
        layer.group_channels("room"),
        layer.group_discard("room", channel),
        asyncio.wait_for(layer.receive("work"), 0.7),
        asyncio.wait_for(layer.receive(channel), 0.7),
    )
    await asyncio.gather(*map(ears.try_out, calls))
    await ears.try_out(layer.flush())
    ears.take(layer.stats())
    await ears.try_out(layer.close())
    ears.take(layer.stats())


async def _new_channel(layer: Any, ears: Ears) -> str:
    try:
        channel: str = await asyncio.wait_for(layer.new_channel(), 5)
    except Exception as error:
        ears.take(error)
        return f"{layer.prefix}{'0' * 32}" if "pubsub" in type(layer).__module__ else "specific.x!y"
    return channel


def examine(kind: str, hosts: list[Any], ears: Ears) -> None:
    """Send the doctor to a layer, and list its queues."""
    layer = class_of(kind)
    backend = f"{layer.__module__}.{layer.__name__}"
    config = {"hosts": hosts, "symmetric_encryption_keys": [KEY], **QUICK}
    setups = read_settings({"default": {"BACKEND": backend, "CONFIG": config}})
    ears.take(setups)
    for command in ("doctor", "queues"):
        run(command, setups, Output(ears.take))


async def try_everything(
    make_layer: Callable[..., Any], kind: str, hosts: list[Any], ears: Ears
) -> None:
    """Use a layer and have the doctor look at it; nothing that comes out of it holds a secret."""
    layer = make_layer(kind, hosts=hosts, symmetric_encryption_keys=[KEY], **QUICK)
    await use(layer, ears)
    await asyncio.to_thread(examine, kind, hosts, ears)
    assert not ears.leaks(), "\n\n".join(ears.leaks())


# Servers that repeat what they were sent


class Quoting:
    """Answers ``form``, with what it has been sent in it: all at once, or when it was greeted."""

    def __init__(self, form: str, port: int, *, later: bool) -> None:
        self._form = form.encode(errors="surrogateescape")
        self._port = port
        self._later = later
        self._said: list[bytes] = []

    def __call__(self, words: list[bytes]) -> bytes:
        self._said += [word for word in words if MARK.encode() in word.lower()]
        if self._later:
            if words[0] == b"HELLO":
                return b"%1\r\n+proto\r\n:3\r\n"
            known = sentinel_answer(words, self._port) or cluster_answer(words, self._port)
            if known or words[0] in (b"AUTH", b"SELECT", b"CLIENT"):
                return known or b"+OK\r\n"
        text = b" ".join(self._said[-3:] or [b"nothing"])
        reply = self._form.replace(b"<said>", text).replace(b"<cut>", text[:25])
        return reply.replace(b"<other case>", text.swapcase()) + b"\r\n"


AT_ONCE = {
    "unknown command": "-ERR unknown command 'AUTH', with args beginning with: '<said>'",
    "unknown command, cut off": "-ERR unknown command `HELLO`, with args beginning with: `<cut>",
    "wrong password": "-WRONGPASS <said> is no password of mine",
    "no authentication": "-NOAUTH <said>",
    "no permission": "-NOPERM <said> may not run the 'auth' command",
    "any error": "-ERR <said>",
    "an error code": "-<said>",
    "loading": "-LOADING <said>",
    "busy": "-BUSY <said>",
    "no reply at all": "<said>",
    "a wrong length": "$<said>",
    "a status": "+<said>",
    "an error in an array": "*1\r\n-ERR <said>",
}
LATER = {
    "any error": "-ERR <said>",
    "cut off": "-ERR I was sent <cut>",
    "in another case": "-ERR <other case>",
    "a status": "+<said>",
    "moved": "-MOVED 1 <said>:1",
    "to be asked": "-ASK 1 <said>:1",
    "cluster down": "-CLUSTERDOWN <said>",
    "try again": "-TRYAGAIN <said>",
    "read only": "-READONLY <said>",
    "busy": "-BUSY <said>",
    "out of memory": "-OOM <said>",
    "no permission": "-NOPERM <said>",
    "no script": "-NOSCRIPT <said>",
    "wrong password": "-WRONGPASS <said>",
    "no reply at all": "<said>",
    "a version": "+redis_version:4.0.<said>",
    "not in UTF-8": "-ERR \udcff <said>",
}
WAYS = [(way, False) for way in AT_ONCE] + [(way, True) for way in LATER]


@pytest.mark.parametrize(("way", "later"), WAYS)
async def test_a_server_that_quotes_what_it_was_sent_is_not_repeated(
    make_layer: Callable[..., Any], kind: str, ears: Ears, way: str, later: bool
) -> None:
    """However the server says it, in the handshake or later; with each form of an entry."""
    words = (LATER if later else AT_ONCE)[way]

    async def quoted(form: str) -> None:
        async with Impostor().listening() as server:
            server.answer = Quoting(words, server.port, later=later)
            hosts = [hosts_with_secrets("localhost", server.port)[form]]
            await try_everything(make_layer, kind, hosts, ears)
            heard = [word for words in server.heard for word in words]
            assert any(MARK.encode() in word.lower() for word in heard), "it has nothing to quote"

    await asyncio.gather(*map(quoted, FORMS))


# Real servers, and what goes wrong with them


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
            await wait_for(partial(sends, layer), 30)
        await asyncio.to_thread(fault, server, proxy)
        await asyncio.gather(*[use(layer, ears) for layer in layers])
        await asyncio.gather(*waiting)
        assert ears.leaks() == []


async def sends(layer: Any) -> bool:
    """Tell whether a layer works; on a busy machine the first connection may take its time."""
    try:
        await layer.send("work", SAY)
    except ConnectionLost:
        return False
    return True


async def wait(layer: Any, ears: Ears) -> None:
    """Wait for a message that does not come, until the layer is closed."""
    await ears.try_out(layer.receive(await layer.new_channel()))
