"""Chain and name of certificates are verified, with every redis-py, but where a user says no."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import redis.exceptions

from channels_redis.exceptions import ConfigurationError
from channels_redis.testing._certificates import Certificate, make_certificate
from tests.helpers import wait_for
from tests.impostor import Impostor, cluster_answer, greet, sentinel_answer

PASSWORD = "s3cret-Pass-w0rd"
# What redis-py raises for a cluster is no RedisError.
FAILURES = redis.exceptions.RedisError, redis.exceptions.RedisClusterException, ConfigurationError
SAY = {"type": "test"}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for another host, whose authority the layers trust."""
    return make_certificate(tmp_path_factory.mktemp("elsewhere"), ["redis.example.com"])


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for localhost, and for the address that redis-py makes of it in a cluster."""
    return make_certificate(tmp_path_factory.mktemp("here"))


@pytest.fixture
async def impostor(elsewhere: Certificate) -> AsyncIterator[Impostor]:
    """A server with the certificate of another host."""
    async with Impostor().listening(elsewhere) as server:
        yield server


FORMS: dict[str, Callable[[int, str], Any]] = {
    "URL": lambda port, path: f"rediss://:{PASSWORD}@localhost:{port}?ssl_ca_certs={path}",
    "address": lambda port, path: {
        "address": f"rediss://:{PASSWORD}@localhost:{port}",
        "ssl_ca_certs": path,
    },
    "keywords": lambda port, path: {
        "host": "localhost",
        "port": port,
        "password": PASSWORD,
        "ssl_ca_certs": path,
    },
    "verification asked for": lambda port, path: {
        "host": "localhost",
        "port": port,
        "password": PASSWORD,
        "ssl": True,
        "ssl_cert_reqs": "required",
        "ssl_ca_certs": path,
    },
    "connection class": lambda port, path: {
        "host": "localhost",
        "port": port,
        "password": PASSWORD,
        "connection_class": redis.asyncio.SSLConnection,
        "ssl_ca_certs": path,
    },
    "Sentinel": lambda port, path: {
        "sentinels": [("localhost", port)],
        "master_name": "main",
        "sentinel_kwargs": {"password": PASSWORD, "ssl_ca_certs": path},
    },
    "cluster": lambda port, path: {
        "cluster": True,
        "address": f"rediss://:{PASSWORD}@localhost:{port}",
        "ssl_ca_certs": path,
    },
    "start-up nodes": lambda port, path: {
        "cluster": True,
        "startup_nodes": [("localhost", port)],
        "password": PASSWORD,
        "ssl_ca_certs": path,
    },
}

#: Forms whose first command is not for the server that it stands for.
INDIRECT = {"Sentinel"}


def turned_off(entry: Any) -> Any:
    """Return the entry for a user who wants no names verified."""
    if isinstance(entry, str):
        return f"{entry}&ssl_check_hostname=False"
    if "sentinel_kwargs" in entry:
        return {
            **entry,
            "sentinel_kwargs": {**entry["sentinel_kwargs"], "ssl_check_hostname": False},
        }
    return {**entry, "ssl_check_hostname": False}


async def fails_for_the_certificate(layer: Any) -> None:
    """Wait until send() says that it is the certificate: on a busy machine the handshake may take
    longer than the first send() waits.
    """

    async def told() -> bool:
        return "certificate" in (await failure(layer)).lower()

    await wait_for(told, 60)


async def failure(layer: Any) -> str:
    """Return what send() says; it has to fail."""
    with pytest.raises((ConfigurationError, redis.exceptions.ConnectionError)) as raised:
        await layer.send("work", SAY)
    return f"{raised.value} {raised.value.__cause__}"


@pytest.mark.parametrize("form", FORMS)
async def test_no_password_is_sent_to_a_server_with_the_certificate_of_another_host(
    make_layer: Any, kind: str, impostor: Impostor, elsewhere: Certificate, form: str
) -> None:
    """The name is verified before anything is said."""
    hosts = [FORMS[form](impostor.port, elsewhere.path)]
    await (failure if form in INDIRECT else fails_for_the_certificate)(
        make_layer(kind, hosts=hosts)
    )
    assert impostor.heard == []


@pytest.mark.parametrize("form", FORMS)
async def test_the_name_is_not_verified_where_the_user_says_so(
    make_layer: Any, kind: str, impostor: Impostor, elsewhere: Certificate, form: str
) -> None:
    """``ssl_check_hostname=False`` is obeyed, and is all that it takes."""
    hosts = [turned_off(FORMS[form](impostor.port, elsewhere.path))]
    layer = make_layer(kind, hosts=hosts)
    with pytest.raises(FAILURES):
        await layer.send("work", SAY)
    assert [b"AUTH", PASSWORD.encode()] in impostor.heard


@pytest.mark.parametrize("form", FORMS)
async def test_the_right_name_is_taken(
    make_layer: Any, kind: str, here: Certificate, form: str
) -> None:
    """What is refused above is refused for its name alone."""
    async with Impostor().listening(here) as server:
        layer = make_layer(kind, hosts=[FORMS[form](server.port, here.path)])
        with pytest.raises(FAILURES):
            await layer.send("work", SAY)
        assert [b"AUTH", PASSWORD.encode()] in server.heard


async def test_the_primary_that_a_sentinel_names_is_verified(
    make_layer: Any, kind: str, impostor: Impostor, elsewhere: Certificate
) -> None:
    """The Sentinel speaks without TLS here; the primary has the certificate of another host."""

    def answer(words: list[bytes]) -> bytes:
        return sentinel_answer(words, impostor.port) or greet(words)

    async with Impostor(answer).listening() as sentinel:
        entry = {
            "sentinels": [("localhost", sentinel.port)],
            "master_name": "main",
            "password": PASSWORD,
            "ssl_ca_certs": elsewhere.path,
        }
        layer = make_layer(kind, hosts=[entry])
        await fails_for_the_certificate(layer)
        assert sentinel.heard
    assert impostor.heard == []


async def test_servers_of_a_cluster_that_are_found_later_are_verified(
    make_layer: Any, kind: str, impostor: Impostor, elsewhere: Certificate, here: Certificate
) -> None:
    """The first server is who it says it is, and names one that is not."""

    def answer(words: list[bytes]) -> bytes:
        return cluster_answer(words, impostor.port) or greet(words)

    both = Path(f"{here.path}.both")
    both.write_text("".join(Path(one.path).read_text() for one in (here, elsewhere)))
    async with Impostor(answer).listening(here) as first:
        entry = {
            "cluster": True,
            "address": f"rediss://:{PASSWORD}@localhost:{first.port}",
            "ssl_ca_certs": str(both),
        }
        layer = make_layer(kind, hosts=[entry])
        await fails_for_the_certificate(layer)
        assert [b"CLUSTER", b"SLOTS"] in first.heard
        with pytest.raises(FAILURES):
            await layer.connection(0).set("key", "value")
    assert impostor.heard == []


@pytest.mark.parametrize("form", FORMS)
async def test_clients_of_connection_verify_the_name_too(
    make_layer: Any, kind: str, impostor: Impostor, elsewhere: Certificate, form: str
) -> None:
    """What users ask for themselves goes no other way."""
    layer = make_layer(kind, hosts=[FORMS[form](impostor.port, elsewhere.path)])
    with pytest.raises(FAILURES):
        await layer.connection(0).get("key")
    assert impostor.heard == []
