"""The doctor finds what is wrong with a server, and says what to do."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import channels_redis
from channels_redis import __main__ as door
from channels_redis.doctor import judge, probe
from channels_redis.doctor.command import run
from channels_redis.doctor.config import read_settings
from channels_redis.doctor.endpoints import Endpoint
from channels_redis.doctor.findings import Finding, Level
from channels_redis.doctor.output import JSONOutput, Output
from channels_redis.doctor.rights import (
    HISTORIES,
    PRESENCES,
    QUEUES,
    TOPICS,
    acl_line,
    history_rights,
    presence_rights,
)
from channels_redis.testing.servers import ClusterSet, RedisServer, SentinelSet
from channels_redis.utils import describe_host
from tests.conftest import class_of, find_server_or_skip
from tests.defects.test_old_servers import OldServer
from tests.helpers import close_listener, complaints
from tests.proxy import Link, Proxy

PASSWORD = "swordfish-17"


class Ear(Output):
    """Keeps the findings, and all that was written."""

    def __init__(self) -> None:
        object.__setattr__(self, "findings", [])
        object.__setattr__(self, "lines", [])
        super().__init__(self.lines.append)

    findings: list[Finding]
    lines: list[str]

    def show(self, finding: Finding) -> None:
        self.findings.append(finding)
        super().show(finding)

    def of(self, *ids: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.id in ids]

    def complaint(self, id: str) -> Finding:
        """Return the one complaint of this name; it says what to do."""
        found = [finding for finding in self.of(id) if finding.level >= Level.WARNING]
        assert len(found) == 1, self.lines
        assert found[0].advice
        return found[0]


def examined(kind: str = "core", fail_level: str = "ERROR", **config: Any) -> tuple[Ear, int]:
    """Send the doctor to a layer; nothing that he says holds the password."""
    layer = class_of(kind)
    backend = f"{layer.__module__}.{layer.__name__}"
    config = {"connect_wait_s": 2, "prefix": f"test-{secrets.token_hex(4)}", **config}
    setups = read_settings({"default": {"BACKEND": backend, "CONFIG": config}})
    ear = Ear()
    status = run("doctor", setups, ear, fail_level=fail_level)
    assert PASSWORD not in "\n".join(ear.lines)
    return ear, status


def entry(server: RedisServer, **keywords: Any) -> dict[str, Any]:
    return {"host": server.host, "port": server.port, **keywords}


@pytest.fixture(autouse=True)
def _machine_may_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no busy machine pass for a far server."""
    monkeypatch.setattr(judge, "LATENCY_NOTE_S", 60)


# What is right


def test_a_good_server_has_nothing_against_it(kind: str, redis_url: str) -> None:
    """Status 0, and the good news is told too."""
    ear, status = examined(kind, hosts=[redis_url])
    assert status == 0
    assert {finding.level for finding in ear.findings} == {Level.OK}
    assert len(ear.of("reachable", "rights", "memory", "output-buffer", "clock")) == 5
    assert ear.lines[-1] == "0 errors, 0 warnings."


def test_a_good_sentinel_set_has_nothing_against_it(kind: str, sentinel_set: SentinelSet) -> None:
    """All Sentinels agree on a primary, and that one is well."""
    ear, status = examined(kind, hosts=[sentinel_set.host_entry()])
    assert status == 0, ear.lines
    assert len(ear.of("sentinels", "reachable")) == 2


def test_the_doctor_leaves_nothing_behind(
    kind: str, private_server: RedisServer, prefix: str
) -> None:
    """The users' data is as it was: the probe is gone."""
    private_server.command("SET", f"{prefix}precious", "data")
    examined(kind, hosts=[private_server.url], prefix=prefix)
    assert private_server.command("KEYS", "*") == [f"{prefix}precious".encode()]


# Ten broken set-ups


def test_a_wrong_password_is_found(kind: str) -> None:
    """The first: refused, and no word of the password."""
    find_server_or_skip()
    with RedisServer(config={"requirepass": PASSWORD}) as server:
        ear, status = examined(kind, hosts=[entry(server, password=PASSWORD + "x")])
        assert status == 1
        assert "username and password" in ear.complaint("wrong-password").advice
        ear, _ = examined(kind, hosts=[entry(server)])
        assert "has none" in ear.complaint("password-missing").text


def test_a_password_that_the_server_does_not_have_is_found(private_server: RedisServer) -> None:
    """The other way round; servers say it in different words."""
    ear, status = examined(hosts=[entry(private_server, password=PASSWORD)])
    assert status == 1
    assert ear.of("password-unwanted", "wrong-password")


def test_a_wrong_sentinel_name_is_found(kind: str, sentinel_set: SentinelSet) -> None:
    """The second: with the names that the Sentinels know."""
    host = {**sentinel_set.host_entry(), "master_name": "mian"}
    ear, status = examined(kind, hosts=[host])
    assert status == 1
    complaint = ear.complaint("sentinel-name")
    assert "'mian'" in complaint.text
    assert sentinel_set.master_name in complaint.advice


def test_a_cluster_behind_a_plain_entry_is_found(kind: str) -> None:
    """The third: before MOVED is the answer to every second message."""
    find_server_or_skip()
    config = {"cluster-enabled": "yes"}
    with RedisServer(config=config) as server:
        ear, status = examined(kind, hosts=[server.url])
    assert status == 1
    assert "Cluster" in ear.complaint("is-cluster").text


def test_rights_that_are_too_narrow_are_found_command_by_command(
    private_server: RedisServer, prefix: str
) -> None:
    """The fourth: each command that is missing, with the line that grants it."""
    hosts = [entry(private_server, username="app", password=PASSWORD)]
    line = acl_line(prefix=prefix).replace("secret", PASSWORD)
    private_server.command(*line.split(), "-zadd", "-eval", "-time")
    ear, status = examined(hosts=hosts, prefix=prefix)
    assert status == 1
    advice = {finding.advice: finding.level for finding in ear.of("rights")}
    assert advice == {
        "ACL SETUSER app +zadd": Level.ERROR,
        "ACL SETUSER app +eval": Level.ERROR,
        "ACL SETUSER app +time": Level.NOTE,
    }


def test_keys_and_channels_that_are_forbidden_are_found(
    kind: str, private_server: RedisServer, prefix: str
) -> None:
    """Rights for another prefix are the most common mistake of all."""
    line = acl_line(prefix="other").replace("secret", PASSWORD)
    private_server.command(*line.split())
    hosts = [entry(private_server, username="app", password=PASSWORD)]
    ear, status = examined(kind, hosts=hosts, prefix=prefix)
    assert status == 1
    errors = [finding for finding in ear.of("rights") if finding.level is Level.ERROR]
    assert [finding.advice for finding in errors] == [f"ACL SETUSER app ~{prefix}* &{prefix}*"]
    assert ("channels" if kind == "pubsub" else "keys") in errors[0].text


def test_a_pubsub_layer_without_workers_gets_warnings_only(
    private_server: RedisServer, prefix: str
) -> None:
    """What general channels alone need is no error where perhaps nobody uses them."""
    line = acl_line(prefix=prefix, workers=False).replace("secret", PASSWORD)
    private_server.command(*line.split())
    hosts = [entry(private_server, username="app", password=PASSWORD)]
    ear, status = examined("pubsub", hosts=hosts, prefix=prefix)
    assert status == 0
    assert max(finding.level for finding in ear.of("rights")) is Level.WARNING
    _, status = examined("pubsub", hosts=hosts, prefix=prefix, fail_level="WARNING")
    assert status == 1


def test_each_command_is_looked_for(private_server: RedisServer, prefix: str) -> None:
    """None of the commands passes untried."""
    hosts = [entry(private_server, username="app", password=PASSWORD)]
    line = acl_line(prefix=prefix).replace("secret", PASSWORD)
    for need in (*QUEUES, *TOPICS):
        private_server.command(*line.split(), f"-{need.command}")
        ear, _ = examined("pubsub", hosts=hosts, prefix=prefix)
        advice = [finding.advice for finding in ear.of("rights")]
        assert advice == [f"ACL SETUSER app +{need.command}"]


def test_what_a_history_needs_is_looked_for_where_there_is_one(
    kind: str, private_server: RedisServer, prefix: str
) -> None:
    """A site without the option needs none of it."""
    hosts = [entry(private_server, username="app", password=PASSWORD)]
    line = acl_line(prefix=prefix).replace("secret", PASSWORD)
    private_server.command(*line.split())
    ear, status = examined(kind, hosts=hosts, prefix=prefix)
    assert status == 0
    ear, status = examined(kind, hosts=hosts, prefix=prefix, history={"*": {}})
    assert status == 1
    missing = {f"ACL SETUSER app +{need.command}" for need in HISTORIES}
    assert {one.advice for one in ear.of("rights") if one.level is Level.ERROR} == missing
    private_server.command(*line.split(), *history_rights().split())
    ear, status = examined(kind, hosts=hosts, prefix=prefix, history={"*": {}})
    assert status == 0


def test_what_presence_needs_is_looked_for_where_there_is_presence(
    kind: str, private_server: RedisServer, prefix: str
) -> None:
    """A site without the option needs none of it; on pubsub it needs leases, too."""
    hosts = [entry(private_server, username="app", password=PASSWORD)]
    config: dict[str, Any] = {"hosts": hosts, "prefix": prefix}
    line = acl_line(prefix=prefix, workers=kind == "core").replace("secret", PASSWORD)
    private_server.command(*line.split())
    _, status = examined(kind, **config)
    assert status == 0
    ear, status = examined(kind, **config, presence={"*": {}})
    assert status == 1
    needs = [need for need in PRESENCES if not need.without]
    missing = {f"ACL SETUSER app +{need.command}" for need in needs}
    if kind == "core":
        missing -= {f"ACL SETUSER app +{need.command}" for need in QUEUES}
    advice = [one.advice for one in ear.of("rights") if one.level is Level.ERROR]
    assert sorted(advice) == sorted(missing)
    line = acl_line(prefix=prefix).replace("secret", PASSWORD)
    private_server.command(*line.split(), *presence_rights().split())
    ear, status = examined(kind, **config, presence={"*": {}})
    assert status == 0
    assert len(ear.of("rights")) == 1


def test_the_probe_of_presence_leaves_nothing(
    kind: str, private_server: RedisServer, prefix: str
) -> None:
    """What remains of the probe expires."""
    both: dict[str, Any] = {"presence": {"*": {}}, "history": {"*": {}}}
    for options in ({"presence": {"*": {}}}, both):
        examined(kind, hosts=[private_server.url], prefix=prefix, **options)
        for key in private_server.command("KEYS", "*"):
            assert private_server.command("TTL", key) > 0


@pytest.fixture
def old_url() -> Iterator[str]:
    """A server that is too old, on a thread of its own."""
    import asyncio

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(OldServer().serve, "127.0.0.1", 0))
    host, port = server.sockets[0].getsockname()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield f"redis://{host}:{port}"
    asyncio.run_coroutine_threadsafe(close_listener(server), loop).result(5)
    # Connections have ended with the doctor; their tasks get a round to end too.
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0.05), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_an_old_server_is_found(kind: str, old_url: str) -> None:
    """The fifth: with its version and what is needed."""
    ear, status = examined(kind, hosts=[old_url])
    assert status == 1
    complaint = ear.complaint("too-old")
    assert "4.0.14" in complaint.text
    assert "5.0" in complaint.advice


def test_a_plain_client_of_a_tls_server_is_found(kind: str, tls_server: RedisServer) -> None:
    """The sixth: otherwise it looks like a server that hangs up."""
    ear, status = examined(kind, hosts=[(tls_server.host, tls_server.tls_port)])
    assert status == 1
    assert "rediss://" in ear.complaint("tls-expected").advice


@pytest.fixture
def silent_tls_port(tls_server: RedisServer) -> Iterator[int]:
    """A server that shakes hands over TLS and then says nothing, not even farewell."""
    certificate = tls_server.certificate
    assert certificate is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.path, certificate.key_path)
    over = threading.Event()

    def serve(listener: socket.socket) -> None:
        with context.wrap_socket(listener.accept()[0], server_side=True):
            over.wait(60)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield listener.getsockname()[1]
        over.set()
        thread.join()


async def test_a_server_that_uses_tls_and_says_no_farewell_is_found(silent_tls_port: int) -> None:
    """The handshake is enough; nothing is left open."""
    endpoint = Endpoint(
        name="",
        host="127.0.0.1",
        port=silent_tls_port,
        database=0,
        tls=False,
        verified=False,
        has_password=False,
        username="",
    )
    assert await probe._speaks_otherwise(endpoint, 10)


def test_a_tls_client_of_a_plain_server_is_found(kind: str, redis_url: str) -> None:
    """And the other way round."""
    url = redis_url.replace("redis://", "rediss://")
    ear, status = examined(kind, hosts=[url], connect_wait_s=0.5)
    assert status == 1
    assert "redis://" in ear.complaint("tls-missing").advice


def test_a_certificate_that_can_not_be_verified_is_found(tls_server: RedisServer) -> None:
    """A self-signed one, and how to trust it."""
    ear, status = examined(hosts=[tls_server.tls_url])
    assert status == 1
    assert "ssl_ca_certs" in ear.complaint("certificate").advice


def test_a_password_that_would_be_sent_without_encryption_is_found() -> None:
    """No TLS is a finding of its own, whether or not the server is there."""
    host = {"host": "redis.invalid", "password": PASSWORD}
    ear, _ = examined(hosts=[host], connect_wait_s=0.5)
    assert "TLS" in ear.complaint("W101").advice


def test_a_tiny_output_buffer_limit_is_found(kind: str) -> None:
    """The seventh: a server that hangs up on whoever is one message behind."""
    find_server_or_skip()
    name = "pubsub" if kind == "pubsub" else "normal"
    with RedisServer(config={"client-output-buffer-limit": f"{name} 1mb 512kb 60"}) as server:
        ear, _ = examined(kind, hosts=[server.url])
        complaint = ear.complaint("output-buffer")
        assert f"{name} is 1048576 524288 60" in complaint.text
        # The advice is a command that mends it.
        words = re.search(r"CONFIG SET (\S+) '([^']+)'", complaint.advice)
        assert words is not None
        server.command("CONFIG", "SET", *words.groups())
        ear, _ = examined(kind, hosts=[server.url])
        assert [finding.level for finding in ear.of("output-buffer")] == [Level.OK]


class WrongClock(Link):
    """A connection on which the server's clock is a minute ahead."""

    def _keep_reply(self, chunk: bytes) -> bytes:
        def later(match: re.Match[bytes]) -> bytes:
            return match[1] + str(int(match[2]) + 60).encode()

        return super()._keep_reply(re.sub(rb"(\*2\r\n\$10\r\n)(\d{10})", later, chunk))


def test_a_clock_that_is_off_by_a_minute_is_found(
    kind: str, private_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The eighth: with how much, and in which direction."""
    monkeypatch.setattr("tests.proxy.Link", WrongClock)
    with Proxy(private_server.host, private_server.port) as proxy:
        ear, status = examined(kind, hosts=[proxy.url])
    assert status == 0
    assert re.search(r"\b(59|60|61) s ahead", ear.complaint("clock").text)


def test_a_full_memory_is_found(kind: str, private_server: RedisServer) -> None:
    """The ninth: noeviction, and nothing can be stored any more."""
    private_server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    private_server.command("CONFIG", "SET", "maxmemory", 1)
    ear, status = examined(kind, hosts=[private_server.url])
    assert status == 1
    assert "maxmemory" in ear.complaint("memory-full").advice
    # One that deletes what it likes is a warning.
    private_server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    private_server.command("CONFIG", "SET", "maxmemory", "1gb")
    ear, status = examined(kind, hosts=[private_server.url])
    assert status == 0
    assert "allkeys-lru" in ear.complaint("memory-policy").text


def test_a_shard_that_can_not_be_reached_is_found(
    kind: str, redis_url: str, dead_port: int
) -> None:
    """The tenth: which one it is, and the others are looked at all the same."""
    nowhere = f"redis://127.0.0.1:{dead_port}"
    ear, status = examined(kind, hosts=[redis_url, nowhere])
    assert status == 1
    assert ear.complaint("unreachable").where in nowhere
    assert len(ear.of("reachable")) == 1


def test_a_server_that_never_answers_is_found_in_time(
    kind: str, private_server: RedisServer
) -> None:
    """A firewall that swallows packets, or a frozen server: an end, and the reason."""
    private_server.freeze()
    try:
        ear, status = examined(kind, hosts=[private_server.url], connect_wait_s=0.3)
    finally:
        private_server.thaw()
    assert status == 1
    assert "does not reply" in ear.complaint("unreachable").text


@pytest.mark.parametrize(("warning_s", "level"), [(60, Level.NOTE), (0, Level.WARNING)])
def test_a_server_that_is_far_away_is_found(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, warning_s: float, level: Level
) -> None:
    """Each send would wait for it: a note first, and a warning from some tens of milliseconds."""
    monkeypatch.setattr(judge, "LATENCY_NOTE_S", 0)
    monkeypatch.setattr(judge, "LATENCY_WARNING_S", warning_s)
    ear, status = examined(hosts=[redis_url])
    assert status == 0
    (found,) = ear.of("latency")
    assert found.level is level
    assert "same data centre" in found.advice


def test_a_replica_is_found(kind: str, sentinel_set: SentinelSet) -> None:
    """It takes connections, and no messages."""
    ear, status = examined(kind, hosts=[sentinel_set.replicas[0].url])
    assert status == 1
    assert "primary" in ear.of("replica")[0].advice


def test_a_database_that_does_not_exist_is_found(kind: str, private_server: RedisServer) -> None:
    """Most servers have sixteen."""
    ear, status = examined(kind, hosts=[f"{private_server.url}/99"])
    assert status == 1
    assert "db" in ear.complaint("wrong-database").advice


def test_invalid_settings_are_reported_by_the_doctor_too(redis_url: str) -> None:
    """One call tells everything, and the status says that it is bad."""
    ear, status = examined(hosts=[redis_url], capcity=3)
    assert status == 1
    assert "'capacity'" in ear.of("E001")[0].text


# Without Django


def test_the_doctor_needs_no_django_project(redis_url: str, dead_port: int) -> None:
    """``python -m channels_redis doctor`` ends with a status for scripts."""

    def call(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "channels_redis", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=110,
            env={**os.environ, **environment},
        )

    good = call("doctor", "--url", redis_url)
    assert good.returncode == 0, good.stderr
    assert "0 errors" in good.stdout
    bad = call("doctor", "--layer", "pubsub", REDIS_URL=f"redis://127.0.0.1:{dead_port}")
    assert bad.returncode == 1
    assert "[unreachable]" in bad.stdout
    assert complaints(bad.stderr) == complaints(good.stderr) == ""


def test_sentinels_can_be_given_on_the_command_line(
    sentinel_set: SentinelSet, capsys: pytest.CaptureFixture[str]
) -> None:
    """No settings are needed to look at a Sentinel set."""
    words = [f"--sentinel={host}:{port}" for host, port in sentinel_set.sentinels]
    assert door.main(["doctor", *words, "--master-name", sentinel_set.master_name]) == 0
    assert "3 of 3 Sentinels" in capsys.readouterr().out


def test_a_cluster_can_be_given_on_the_command_line(
    cluster_set: ClusterSet, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of its servers is enough, and Sentinels make no sense with it."""
    seed = cluster_set.primaries[0].url
    assert door.main(["doctor", "--cluster", "--url", seed]) == 0
    said = capsys.readouterr().out
    assert all(f":{server.port} " in said for server in cluster_set.primaries)
    assert door.main(["queues", "--cluster", "--url", seed]) == 0
    with pytest.raises(SystemExit):
        door.main(["doctor", "--cluster", "--sentinel", "localhost:26379"])


# As JSON


def as_json(action: str, kind: str, **config: Any) -> tuple[dict[str, Any], int]:
    """Return the document that an action writes, and its status."""
    layer = class_of(kind)
    backend = f"{layer.__module__}.{layer.__name__}"
    written: list[str] = []
    settings = {"chat": {"BACKEND": backend, "CONFIG": config}}
    status = run(action, read_settings(settings), JSONOutput(written.append))
    (document,) = written
    assert PASSWORD not in document
    return json.loads(document), status


def test_findings_are_written_as_one_document(
    kind: str, redis_url: str, dead_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that the lines say, for programs; with the same status."""
    good, status = as_json("doctor", kind, hosts=[redis_url])
    assert status == 0
    assert (good["errors"], good["warnings"]) == (0, 0)
    assert {found["level"] for found in good["findings"]} == {"OK"}
    url = f"redis://:{PASSWORD}@127.0.0.1:{dead_port}"
    bad, status = as_json("doctor", kind, hosts=[url], connect_wait_s=1)
    assert (status, bad["errors"]) == (1, 1)
    (found,) = (found for found in bad["findings"] if found["level"] == "ERROR")
    assert found["id"] == "unreachable"
    assert found["where"] == f"127.0.0.1:{dead_port}"
    assert found["text"] and found["advice"]
    assert door.main(["doctor", "--json", "--url", redis_url]) == 0
    assert json.loads(capsys.readouterr().out)["channels_redis"] == channels_redis.__version__


def test_queues_are_written_as_one_document(
    make_layer_blocking: Callable[..., Any], redis_url: str, prefix: str
) -> None:
    """All of them: there may be more than a person wants to read."""
    layer = make_layer_blocking("core")
    for number in range(30):
        layer.sync.send(f"work{number}", {"type": "x"})
    layer.sync.group_add("room", "member")
    said, status = as_json("queues", "core", hosts=[redis_url], prefix=prefix)
    place = {"layer": "chat", "server": describe_host(redis_url)}
    assert status == 0
    assert len(said["queues"]) == 30
    assert {"name": "work7", "messages": 1, **place} in said["queues"]
    assert said["groups"] == [{"name": "room", "members": 1, **place}]
    assert said["failures"] == said["findings"] == []


def test_servers_and_settings_that_fail_are_in_the_document(dead_port: int) -> None:
    """With a status that says so."""
    said, status = as_json("queues", "core", hosts=[("127.0.0.1", dead_port)], connect_wait_s=1)
    assert status == 1
    assert said["failures"][0]["layer"] == "chat"
    said, status = as_json("queues", "core", capcity=3)
    assert status == 1
    assert said["findings"][0]["id"] == "E001"


# Queues


@pytest.fixture
def listed(redis_url: str, prefix: str) -> Callable[..., list[str]]:
    """A function that lists what lies there under the prefix of the test."""

    def listing(kind: str, limit: int = 20) -> list[str]:
        layer = class_of(kind)
        config = {"hosts": [redis_url], "prefix": prefix}
        backend = f"{layer.__module__}.{layer.__name__}"
        setups = read_settings({"chat": {"BACKEND": backend, "CONFIG": config}})
        ear = Ear()
        assert run("queues", setups, ear, limit=limit) == 0
        return [line.partition(" (")[0] for line in ear.lines]

    return listing


def test_queues_are_listed_by_depth_and_groups_by_size(
    listed: Callable[..., list[str]], make_layer_blocking: Callable[..., Any]
) -> None:
    """The deepest first; more than asked for is summed up."""
    layer = make_layer_blocking("core")
    for name, count in (("mail", 2), ("work", 5), ("rest", 1)):
        for _ in range(count):
            layer.sync.send(name, {"type": "x"})
    for group, count in (("small", 1), ("large", 3)):
        for number in range(count):
            layer.sync.group_add(group, f"member-{number}")
    assert listed("core", limit=2) == [
        "queue 5 messages work",
        "queue 2 messages mail",
        "1 more queues with 1 in total",
        "group 3 members large",
        "group 1 members small",
    ]


async def test_groups_of_pubsub_are_listed_as_far_as_a_server_knows_them(
    listed: Callable[..., list[str]], make_layer: Callable[..., Any]
) -> None:
    """It knows the event loops that listen, not the members."""
    import asyncio

    layers = [make_layer("pubsub") for _ in range(2)]
    for layer in layers:
        await layer.group_add("room", await layer.new_channel())
    await layers[0].send("work", {"type": "x"})
    assert await asyncio.to_thread(listed, "pubsub") == [
        "queue 1 messages work",
        "group 2 loops room",
    ]


async def test_processes_are_listed_with_their_leases(
    kind: str, make_layer: Callable[..., Any], private_server: RedisServer, prefix: str
) -> None:
    """Those that live first, then those that were found dead."""
    import asyncio

    config = {"hosts": [private_server.url], "prefix": prefix}
    layer = make_layer(kind, **config, presence={"*": {}})
    await layer.group_add("room", await layer.new_channel(), presence={})
    (key,) = private_server.command("KEYS", f"{prefix}:live:*")
    now_s = int(private_server.command("TIME")[0])
    scores = {"late": now_s - 5, "long-dead": 900 - now_s, "dead": 100 - now_s}
    for name, score in scores.items():
        private_server.command("ZADD", key, score, name)
    said, status = await asyncio.to_thread(as_json, "queues", kind, **config)
    assert status == 0
    alive, *others = said["processes"]
    place = {"layer": "chat", "server": describe_host(private_server.url)}
    assert (alive["name"], alive["state"]) == (layer.client_prefix, "alive")
    assert 0 <= alive["seconds"] <= 30
    assert [(one["name"], one["state"]) for one in others] == [
        ("late", "overdue"),
        ("dead", "dead"),
        ("long-dead", "dead"),
    ]
    assert others[1] == {"name": "dead", "state": "dead", "seconds": others[1]["seconds"], **place}
    for one, seconds in zip(others, (5, 100, 900), strict=True):
        assert seconds - 1 <= one["seconds"] < seconds + 60


def test_the_lines_of_processes_are_as_few_as_asked_for(
    private_server: RedisServer, prefix: str
) -> None:
    """The others are counted."""
    now_s = int(private_server.command("TIME")[0])
    for name, score in {"old": 900 - now_s, "new": 9 - now_s, "alive": now_s + 1e6}.items():
        private_server.command("ZADD", f"{prefix}:live:0", score, name)
    ear = Ear()
    config = {"hosts": [private_server.url], "prefix": prefix}
    settings = {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": config}
    assert run("queues", read_settings({"chat": settings}), ear, limit=2) == 0
    words = [line.partition(" (")[0].split() for line in ear.lines]
    assert [(line[0], *line[2:]) for line in words[:2]] == [
        ("process", "s-left", "alive"),
        ("process", "s-dead", "new"),
    ]
    assert words[2:] == [["1", "more", "processes"]]


def test_a_layer_without_anything_says_so(
    kind: str, redis_url: str, listed: Callable[..., list[str]]
) -> None:
    """An empty answer would leave one wondering."""
    assert listed(kind) == [f"nothing on {describe_host(redis_url)}"]


def test_queues_of_a_server_that_is_away_are_a_failure(dead_port: int) -> None:
    """A status for scripts, and where to look."""
    ear = Ear()
    layer = class_of("core")
    config = {"hosts": [("127.0.0.1", dead_port)]}
    backend = f"{layer.__module__}.{layer.__name__}"
    setups = read_settings({"default": {"BACKEND": backend, "CONFIG": config}})
    assert run("queues", setups, ear) == 1
    assert "doctor" in ear.lines[0]


def test_the_lines_to_copy_are_the_ones_that_are_tested() -> None:
    """What the documents show is what the doctor holds against a user, and the tests use."""
    docs = Path(__file__).parents[2] / "docs"
    shown = {
        name: re.findall(r"^ +(ACL SETUSER app reset .+)$", (docs / name).read_text(), re.M)
        for name in ("operations.rst", "configuration.rst")
    }
    assert shown["operations.rst"] == [acl_line()]
    assert history_rights() in (docs / "operations.rst").read_text()
    assert presence_rights() in (docs / "operations.rst").read_text()
    assert shown["configuration.rst"] == [acl_line(), acl_line(workers=False)]


def test_all_primaries_of_a_cluster_are_looked_at(kind: str, cluster_set: ClusterSet) -> None:
    """Each has its greeting; one that answers is enough to find them."""
    seed = cluster_set.primaries[0]
    ear, status = examined(kind, hosts=[{"cluster": True, "address": seed.url}])
    assert status == 0, ear.lines
    greetings = " ".join(finding.text for finding in ear.of("reachable"))
    assert all(f":{server.port} " in greetings for server in cluster_set.primaries)


def test_queues_of_all_primaries_are_counted(cluster_set: ClusterSet, prefix: str) -> None:
    """A queue is listed whichever server has it."""
    names = [f"work{number}" for number in range(20)]
    for name in names:
        key = prefix + name
        cluster_set.owner(key).command("ZADD", key, 1, "message")
    config = {"hosts": [cluster_set.host_entry()], "prefix": prefix}
    layer = class_of("core")
    backend = f"{layer.__module__}.{layer.__name__}"
    setups = read_settings({"default": {"BACKEND": backend, "CONFIG": config}})
    ear = Ear()
    assert run("queues", setups, ear) == 0
    assert all(f" {name} " in "\n".join(ear.lines) for name in names)
