"""What an error says of a server that has never worked: the likely reason, and what to do."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from channels_redis.__main__ import main
from channels_redis.exceptions import ConfigurationError, ConnectionLost
from channels_redis.testing.servers import RedisServer, SentinelSet
from tests.conftest import class_of
from tests.helpers import MARKER, until_connected

SAY = {"type": MARKER}
DOCTOR = "python -m channels_redis doctor"


async def errors_of(layer: Any) -> list[str]:
    """What each operation that sends says, where none works."""
    said = []
    for operation in (layer.send("general", SAY), layer.group_send("group", SAY)):
        with pytest.raises((ConnectionLost, ConfigurationError)) as caught:
            await operation
        said.append(str(caught.value))
    return said


async def test_tls_to_a_plain_server(make_layer: Any, kind: str, server: Any) -> None:
    """Within connect_wait_s, although the handshake itself has no answer."""
    place = f"rediss://{server.host}:{server.port}"
    layer = make_layer(
        kind, hosts=[f"rediss://:s3cret@{server.host}:{server.port}"], connect_wait_s=1
    )
    for said in await errors_of(layer):
        assert "does not seem to use TLS" in said
        assert said.endswith(f"{DOCTOR} --url {place}")


async def test_a_sentinel_in_the_place_of_a_server(
    make_layer: Any, kind: str, sentinel_set: SentinelSet
) -> None:
    """The error has the right entry, with the name that the Sentinel knows."""
    right = sentinel_set.host_entry()
    place = right["sentinels"][0]
    layer = make_layer(kind, hosts=[place])
    for said in await errors_of(layer):
        entry = {"sentinels": [place], "master_name": right["master_name"]}
        assert f"is a Sentinel. Its entry of hosts is {entry!r}" in said
        assert said.endswith(f"{DOCTOR} --url redis://{place[0]}:{place[1]}")


def test_the_doctor_knows_a_sentinel(
    sentinel_set: SentinelSet, capsys: pytest.CaptureFixture[str]
) -> None:
    """One error that says so, and not one for each command that it does not know."""
    host, port = sentinel_set.host_entry()["sentinels"][0]
    assert main(["doctor", "--url", f"redis://{host}:{port}"]) == 1
    said = capsys.readouterr().out
    assert said.count("ERROR") == 1
    assert "[is-sentinel]" in said
    assert f'"sentinels": [("{host}", {port})]' in said


@contextlib.contextmanager
def without_room(server: RedisServer) -> Iterator[None]:
    """A server at its limit of clients: this one connection."""
    import redis

    with redis.Redis(*server.address) as only:
        only.config_set("maxclients", 1)
        yield
        only.config_set("maxclients", 1000)


async def test_a_server_at_its_limit_of_clients(
    make_layer: Any, kind: str, private_server: RedisServer
) -> None:
    """Its own words, also where it closes the connection before redis-py could read them."""
    with without_room(private_server):
        for _ in range(3):
            layer = make_layer(kind, hosts=[private_server.url], connect_wait_s=1)
            for said in await errors_of(layer):
                assert "max number of clients reached" in said
                assert "UNKNOWN" not in said


@pytest.mark.parametrize(
    ("entry", "command"),
    [
        ("redis://:s3cret@h:7/2", f"{DOCTOR} --url redis://h:7/2"),
        (("h", 7), f"{DOCTOR} --url redis://h:7"),
        ({"host": "h", "ssl": True, "password": "s3cret"}, f"{DOCTOR} --url rediss://h:6379"),
        ("unix:///run/r.sock", f"{DOCTOR} --url unix:///run/r.sock"),
        ({"path": "/run/r.sock"}, f"{DOCTOR} --url unix:///run/r.sock"),
        (
            {"sentinels": [("a", 1), ("b", 2)], "master_name": "my main"},
            f"{DOCTOR} --sentinel a:1 --sentinel b:2 --master-name 'my main'",
        ),
        ({"cluster": True, "host": "h"}, "manage.py channel_layer doctor"),
    ],
    ids=str,
)
def test_the_command_of_the_doctor_fits_the_entry(kind: str, entry: Any, command: str) -> None:
    """To be copied into a shell, and without a secret."""
    (health,) = class_of(kind)(hosts=[entry])._health
    assert health.doctor == command
    assert shlex.split(command)


async def test_an_error_of_a_server_that_never_worked_ends_with_the_command(
    make_layer: Any, kind: str, dead_port: int
) -> None:
    """Where nobody listens; after a server has worked, the error is about the outage alone."""
    layer = make_layer(kind, hosts=[("127.0.0.1", dead_port)], connect_wait_s=0.2)
    for said in await errors_of(layer):
        assert said.endswith(f"{DOCTOR} --url redis://127.0.0.1:{dead_port}")


async def test_an_error_of_an_outage_has_no_such_advice(
    make_layer: Any, kind: str, private_server: RedisServer
) -> None:
    """Who operates it knows that it has worked."""
    layer = make_layer(kind, hosts=[private_server.url], connect_wait_s=0.2)
    await until_connected(lambda: layer.send("general", SAY))
    private_server.stop()
    assert not any("doctor" in said for said in await errors_of(layer))
