"""Tokens that end while connections stand: each connection presents the next one in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis.auth.idp import IdentityProviderInterface
from redis.auth.token import SimpleToken
from redis.auth.token_manager import (
    CredentialsListener,
    RetryPolicy,
    TokenManager,
    TokenManagerConfig,
)
from redis.credentials import StreamingCredentialProvider
from redis.exceptions import ConnectionError

from channels_redis.testing.servers import ClusterSet, RedisServer
from tests.conftest import find_server_or_skip
from tests.helpers import is_older, receive, wait_for

SAY = {"type": "test"}


class Issuer(IdentityProviderInterface):
    """Gives out tokens, each of a user of its own, so that servers show who presented which."""

    def __init__(self, servers: list[RedisServer], name: str, life_s: float = 3600) -> None:
        self.servers = servers
        self.name = name
        self.life_s = life_s
        self.issued = 0

    def request_token(self, force_refresh: bool = False) -> SimpleToken:
        self.issued += 1
        user = f"{self.name}-{self.issued}"
        for server in self.servers:
            server.command("ACL", "SETUSER", user, "on", f">secret-{user}", "~*", "&*", "+@all")
        now_ms = time.time() * 1000
        return SimpleToken(f"secret-{user}", now_ms + self.life_s * 1000, now_ms, {"oid": user})

    def revoke(self, number: int) -> None:
        """End a token: the servers end the connections that have no newer one."""
        for server in self.servers:
            server.command("ACL", "DELUSER", f"{self.name}-{number}")


class Tokens(StreamingCredentialProvider):
    """Sends a new token when told to; like many, it keeps one callback."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self.token = issuer.request_token()
        self.callback: Callable[[Any], Any] = lambda token: None

    def get_credentials(self) -> tuple[str, str]:
        return self.token.try_get("oid"), self.token.get_value()

    async def get_credentials_async(self) -> tuple[str, str]:
        return self.get_credentials()

    def on_next(self, callback: Callable[[Any], Any]) -> None:
        self.callback = callback

    def on_error(self, callback: Callable[[Exception], Any]) -> None:
        pass

    def is_streaming(self) -> bool:
        return True


@pytest.fixture(scope="module")
def some_cluster() -> Iterator[ClusterSet]:
    """A cluster whose users these tests make and remove."""
    find_server_or_skip()
    with ClusterSet(3) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def one_server() -> Iterator[RedisServer]:
    """A server of the same kind."""
    find_server_or_skip()
    with RedisServer() as server:
        yield server


@pytest.fixture(params=["single", "cluster"])
def place(
    request: pytest.FixtureRequest, prefix: str, one_server: RedisServer
) -> Iterator[tuple[dict[str, Any], Issuer]]:
    """An entry of ``hosts`` without credentials, and who issues some for its servers."""
    if is_older(one_server, (6,)):
        pytest.skip("users came with Redis 6.0")
    servers, entry = [one_server], {"host": one_server.host, "port": one_server.port}
    if request.param == "cluster":
        cluster: ClusterSet = request.getfixturevalue("some_cluster")
        servers, entry = cluster.servers, cluster.host_entry()
    issuer = Issuer(servers, prefix)
    yield {**entry, "client_name": prefix}, issuer
    for number in range(1, issuer.issued + 1):
        issuer.revoke(number)


def connections(servers: list[RedisServer], name: str) -> dict[tuple[int, str], str]:
    """Return who presented what on each connection of a name: its server and id, and the user."""
    found = {}
    for server in servers:
        for line in server.command("CLIENT", "LIST").decode().splitlines():
            facts = dict(word.split("=", 1) for word in line.split(" "))
            if facts["name"] == name:
                found[server.port, facts["id"]] = facts["user"]
    return found


async def settled(issuer: Issuer) -> dict[tuple[int, str], str]:
    """Return the connections once those that were made for a question only have ended."""
    now: dict[tuple[int, str], str] = {}

    async def stays() -> bool:
        nonlocal now
        before, now = now, connections(issuer.servers, issuer.name)
        await asyncio.sleep(0.1)
        return bool(now) and before == now

    await wait_for(stays)
    return now


class Standing:
    """A process with every sort of connection, and who sends to it."""

    def __init__(self, make: Callable[..., Any], issuer: Issuer) -> None:
        self.layer, self.sender = make(), make()
        self.issuer = issuer
        self.before: dict[tuple[int, str], str] = {}

    async def start(self) -> None:
        self.channels = [await self.layer.new_channel() for _ in range(6)]
        for channel in self.channels:
            await self.layer.group_add("room", channel)
        self.names = [*self.channels, "tasks"]
        await self.hears()
        self._wait()
        self.before = await settled(self.issuer)

    def _wait(self) -> None:
        self.waiting = [asyncio.create_task(receive(self.layer, one, 60)) for one in self.names]

    async def hears(self) -> None:
        for name in self.names:
            await self.sender.send(name, SAY)
            assert await receive(self.layer, name) == SAY
        # From another event loop.
        await asyncio.to_thread(self.sender.sync.send, self.names[0], SAY)
        assert await receive(self.layer, self.names[0]) == SAY

    async def still_hears(self) -> None:
        """Those who waited all the time get what is sent now."""
        for name in self.names:
            await self.sender.send(name, SAY)
        assert await asyncio.gather(*self.waiting) == [SAY] * len(self.names)
        await self.hears()

    def all_have_presented(self, number: int) -> bool:
        now = connections(self.issuer.servers, self.issuer.name)
        return set(now.values()) == {f"{self.issuer.name}-{number}"} and self.before.keys() <= set(
            now
        )


async def standing_with_tokens(
    make_layer: Callable[..., Any], kind: str, place: tuple[dict[str, Any], Issuer]
) -> tuple[Tokens, Standing]:
    """Return standing connections of a layer, and the provider of their credentials."""
    entry, issuer = place
    tokens = Tokens(issuer)
    host = {**entry, "credential_provider": tokens}
    standing = Standing(lambda: make_layer(kind, hosts=[host], command_timeout_s=2), issuer)
    await standing.start()
    return tokens, standing


async def test_every_standing_connection_presents_the_next_token(
    make_layer: Callable[..., Any], kind: str, place: tuple[dict[str, Any], Issuer]
) -> None:
    """Commands, blocked readers, subscribers, every event loop; none of them is made anew.

    Some providers await their callback, others call it in a thread of their own.
    """
    issuer = place[1]
    tokens, standing = await standing_with_tokens(make_layer, kind, place)
    tokens.token = issuer.request_token()
    await tokens.callback(tokens.token)
    tokens.token = issuer.request_token()
    await asyncio.to_thread(tokens.callback, tokens.token)
    await wait_for(lambda: standing.all_have_presented(3), timeout_s=30)
    for number in (1, 2):
        issuer.revoke(number)
    await standing.still_hears()
    assert standing.before.keys() <= set(connections(issuer.servers, issuer.name))
    assert standing.layer.stats().nodes[0].reconnects == 0


@pytest.mark.slow
async def test_a_token_that_is_refused_costs_a_connection_and_no_more(
    make_layer: Callable[..., Any], kind: str, place: tuple[dict[str, Any], Issuer]
) -> None:
    """Whoever presented it dials again with what the provider has by then; nobody raises."""
    issuer = place[1]
    tokens, standing = await standing_with_tokens(make_layer, kind, place)
    tokens.token = issuer.request_token()
    await tokens.callback(SimpleToken("wrong", 0, 0, {"oid": f"{issuer.name}-2"}))

    def all_dialled_again() -> bool:
        now = connections(issuer.servers, issuer.name)
        return bool(now) and set(now.values()) == {f"{issuer.name}-2"}

    await wait_for(all_dialled_again, timeout_s=30)
    await standing.still_hears()


@pytest.mark.slow
async def test_where_resp2_is_asked_for_the_subscriber_is_made_anew(
    make_layer: Callable[..., Any], place: tuple[dict[str, Any], Issuer]
) -> None:
    """Its servers take no AUTH beside subscriptions; all hear again with the new token."""
    entry, issuer = place
    tokens = Tokens(issuer)
    host = {**entry, "credential_provider": tokens, "protocol": 2}
    standing = Standing(lambda: make_layer("pubsub", hosts=[host], command_timeout_s=2), issuer)
    await standing.start()
    tokens.token = issuer.request_token()
    await tokens.callback(tokens.token)

    def all_have_it() -> bool:
        now = connections(issuer.servers, issuer.name)
        return len(now) >= len(standing.before) and set(now.values()) == {f"{issuer.name}-2"}

    await wait_for(all_have_it, timeout_s=30)
    await standing.still_hears()


class Managed(StreamingCredentialProvider):
    """As providers for redis-py are made, with its ``TokenManager``."""

    def __init__(self, issuer: Issuer) -> None:
        self.listener = CredentialsListener()
        config = TokenManagerConfig(0.5, 0, 1000, RetryPolicy(3, 100))
        self.manager = TokenManager(issuer, config)
        self.streaming = False

    def get_credentials(self) -> tuple[str, str]:
        raise NotImplementedError("asked for in an event loop only")

    async def get_credentials_async(self) -> tuple[str, str]:
        token = (await self.manager.acquire_token_async()).get_token()
        if not self.streaming:
            self.streaming = True
            await self.manager.start_async(self.listener, skip_initial=True)
        return token.try_get("oid"), token.get_value()

    def on_next(self, callback: Callable[[Any], Any]) -> None:
        self.listener.on_next = callback

    def on_error(self, callback: Callable[[Exception], Any]) -> None:
        self.listener.on_error = callback

    def is_streaming(self) -> bool:
        return self.streaming


@pytest.mark.slow
async def test_a_provider_made_of_redis_pys_parts_renews_by_itself(
    make_layer: Callable[..., Any], kind: str, place: tuple[dict[str, Any], Issuer]
) -> None:
    """Its token manager asks for a token in good time, and connections that stand present it."""
    entry, issuer = place
    issuer.life_s = 2
    provider = Managed(issuer)
    layer = make_layer(
        kind, hosts=[{**entry, "credential_provider": provider}], command_timeout_s=2
    )
    channel = await layer.new_channel()
    waiting = asyncio.create_task(receive(layer, channel, timeout_s=60))
    before = set(await settled(issuer))
    renewed = issuer.issued

    def presented() -> bool:
        now = connections(issuer.servers, issuer.name)
        newer = [f"{issuer.name}-{number}" for number in range(renewed + 1, issuer.issued + 1)]
        return all(now.get(address) in newer for address in before)

    await wait_for(presented, timeout_s=30)
    provider.manager.stop()
    await layer.send(channel, SAY)
    assert await waiting == SAY


async def test_the_users_own_client_presents_the_next_token_too(
    make_layer: Callable[..., Any], kind: str, place: tuple[dict[str, Any], Issuer]
) -> None:
    """What ``connection()`` returns goes on working when the old token has ended."""
    entry, issuer = place
    tokens = Tokens(issuer)
    layer = make_layer(kind, hosts=[{**entry, "credential_provider": tokens}])
    client = layer.connection(0)
    await layer.send("tasks", SAY)
    assert await client.zcard("nothing") == 0
    tokens.token = issuer.request_token()
    await tokens.callback(tokens.token)
    assert await client.zcard("nothing") == 0
    await layer.send("tasks", SAY)
    issuer.revoke(1)

    async def goes_on() -> bool:
        # redis-py presents the token in its own time; a connection that is late is made anew.
        try:
            return bool(await client.zcard("nothing") == 0)
        except ConnectionError:
            return False

    await wait_for(goes_on)
    assert await receive(layer, "tasks") == SAY
