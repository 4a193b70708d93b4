"""The example chat does what it promises to a newcomer: it runs, proves itself and cleans up."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect
from websockets.typing import Origin

from channels_redis.testing.servers import wait_until
from tests.helpers import complaints

ROOT = Path(__file__).resolve().parent.parent
CHAT = ROOT / "examples" / "chat"
COMMAND = [sys.executable, str(CHAT / "run.py")]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
}


@dataclass
class RunningChat:
    """A chat that ``run.py`` serves; addresses and process ids by name."""

    process: subprocess.Popen[str]
    urls: dict[str, str]
    pids: dict[str, int]

    def finish(self) -> tuple[int, str, str]:
        """Wait for the end: exit code, output, errors."""
        output, errors = self.process.communicate(timeout=30)
        return self.process.returncode, output, complaints(errors)

    def alive(self) -> list[str]:
        """The names of processes that are there still, be it as zombies."""
        return [name for name, pid in self.pids.items() if _exists(pid)]

    def listening(self) -> list[str]:
        """The names of processes that still take connections."""
        return [name for name, url in self.urls.items() if _accepts(url)]


@contextmanager
def running_chat() -> Iterator[RunningChat]:
    with subprocess.Popen(
        COMMAND, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield RunningChat(process, *_announced(process))
        finally:
            process.terminate()


def _announced(process: subprocess.Popen[str]) -> tuple[dict[str, str], dict[str, int]]:
    assert process.stdout is not None
    urls, pids = {}, {}
    for line in process.stdout:
        if line.startswith("Ctrl-C"):
            return urls, pids
        match = re.fullmatch(r"  (\S+) +(\S.*?) +pid (\d+)", line.rstrip())
        if match:
            name, what, pid = match.groups()
            pids[name] = int(pid)
            if "://" in what:
                urls[name] = what
    raise AssertionError(f"The chat did not start: {process.communicate()}")


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _accepts(url: str) -> bool:
    host, port = url.split("/")[2].split(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.fixture(scope="module")
def chat() -> Iterator[RunningChat]:
    """A chat for tests that don't break it."""
    with running_chat() as running:
        yield running


def test_the_check_sees_every_message_cross_the_processes_on_both_layers() -> None:
    """``run.py --check`` exits 0 and its table has every message, for each layer and way."""
    done = subprocess.run(
        [*COMMAND, "--check"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [re.split(r"  +", line) for line in done.stdout.splitlines()]
    everywhere, nobody_else = ["20 of 20"] * 4, ["20 of 20", "-", "-", "20 of 20"]
    from_one = ["20 of 20", "20 of 20", "-", "-"]
    for layer in ("core", "pubsub"):
        assert [layer, "WebSocket, group_send", *everywhere] in rows
        assert [layer, "plain view, layer.sync", *everywhere] in rows
        assert [layer, "management command, layer.sync", *from_one] in rows
        assert [layer, "forked task workers, layer.sync", *from_one] in rows
        assert [layer, "worker, group_send", *everywhere] in rows
        assert [layer, "worker, direct reply", *nobody_else] in rows
        assert [layer, "another room, only its own", *["1 of 1"] * 4] in rows
        assert [layer, "visitors who join and leave", *["2 of 2"] * 4] in rows
    assert complaints(done.stderr) == ""


@pytest.mark.parametrize(
    ("arrived", "verdict"),
    [
        (["a", "b"], "2 of 2"),
        (["b"], "1 of 2, 1 lost"),
        (["a", "b", "b"], "3 of 2, 1 too many"),
        (["a", "c"], "2 of 2, 1 lost, 1 too many"),
        (["b", "a"], "2 of 2, out of order"),
    ],
)
def test_the_check_reports_what_is_wrong_with_a_route(
    monkeypatch: pytest.MonkeyPatch, arrived: list[str], verdict: str
) -> None:
    """Lost, doubled, foreign and overtaken messages are faults, and the table names them."""
    monkeypatch.syspath_prepend(CHAT)
    for name in ("check", "processes"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    route = importlib.import_module("check").Route("a way", "web-1", "web-2", ["a", "b"], arrived)
    assert str(route) == verdict
    assert bool(route.faults) is (arrived != ["a", "b"])


def test_bad_frames_are_refused_with_a_reason_and_the_socket_stays_usable(
    chat: RunningChat,
) -> None:
    """Whatever a client sends, it hears why it is refused and can go on."""
    bad_frames: list[Any] = ["no JSON", b"\x00", "[]", '{"author": "a"}']
    bad_frames += ["[" * 100_000, "9" * 5_000, '{"author": ' * 20_000]
    bad_texts = ["", " ", "x" * 501, "/roll", "/roll 31d6", "/roll 0d6", "/roll 2d0", 7]
    bad_frames += [json.dumps({"author": "Guest", "text": text}) for text in bad_texts]
    page = chat.urls["web-1"]
    origin = page.removesuffix("/rooms/lobby/")
    address = f"{origin.replace('http', 'ws', 1)}/ws/rooms/lobby/"
    with connect(address, origin=Origin(origin), proxy=None) as client:
        assert json.loads(client.recv(10)) == {"type": "welcome", "process": "web-1"}
        assert "__resume__" in json.loads(client.recv(10))
        assert json.loads(client.recv(10)) == {"type": "people", "names": ["Guest"]}
        assert json.loads(client.recv(10))["type"] == "joined"
        for frame in bad_frames:
            client.send(frame)
            refusal = json.loads(client.recv(10))
            assert refusal["type"] == "refused", frame
            assert refusal["text"], frame
        client.send(json.dumps({"author": "a", "text": "lone \ud800 surrogate"}))
        joined = json.loads(client.recv(10))
        assert (joined["type"], joined["name"]) == ("joined", "a")
        assert json.loads(client.recv(10))["text"] == "lone ? surrogate"


def test_a_page_may_run_nothing_but_the_scripts_of_its_site(chat: RunningChat) -> None:
    """Each page has the headers of a real site; no script and no style stands in it."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(chat.urls["web-1"], timeout=10) as response:
        headers, page = response.headers, response.read().decode()
    policy = dict(one.split(" ", 1) for one in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "same-origin"
    assert re.findall(r"<script(?![^>]* src=)|<style| style=| on\w+=", page) == []


def test_a_plain_request_without_the_token_of_the_page_is_forbidden(chat: RunningChat) -> None:
    """Another site can't speak in a visitor's name."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError, match="403") as failure:
        opener.open(chat.urls["web-2"] + "announce/", data=b"author=a&text=b", timeout=10)
    failure.value.close()


def test_sigterm_ends_the_chat_and_leaves_no_process_behind() -> None:
    """All children have ended and were reaped when the command exits, which is no failure."""
    with running_chat() as chat:
        assert sorted(chat.alive()) == ["server", "web-1", "web-2", "worker"]
        chat.process.terminate()
        code, output, errors = chat.finish()
        assert (code, chat.alive(), errors) == (0, [], "")
        assert output.endswith("Stopped; all processes have ended.\n")


@pytest.mark.parametrize("victim", ["web-2", "server"])
def test_a_process_that_dies_fails_the_chat_with_a_text_that_names_it(victim: str) -> None:
    """The run does not limp on: it says who died, ends the others and exits 1."""
    with running_chat() as chat:
        os.kill(chat.pids[victim], signal.SIGKILL)
        code, _, errors = chat.finish()
        assert (code, chat.alive()) == (1, [])
        assert errors.strip().startswith(f"FAILED: {victim} (pid {chat.pids[victim]}) ended")


def test_a_killed_chat_leaves_no_process_at_its_ports() -> None:
    """SIGKILL leaves the command no time to clean up; its children notice and end."""
    with running_chat() as chat:
        chat.process.kill()
        chat.finish()
        wait_until(lambda: not chat.listening(), "rid of all children")
