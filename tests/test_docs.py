"""What README and docs show is run, and what they name exists.

Every ``.. code-block:: python`` of the documents is run by itself, under the name of its file and
line:

* one that assigns ``CHANNEL_LAYERS`` is taken for settings: Channels makes the layers, which then
  have to carry messages;
* one that assigns ``hosts`` is given to both layers in the same way;
* any other is run with both layers, under the settings block before it in its file. It may
  await at its top level; without that it runs where there is no event loop. A WebSocket consumer
  that it defines has to accept a client, and to do what :data:`DRIVERS` asks of it.

The servers are private. The names that stand for them in the documents are in :class:`Places`.
"""

from __future__ import annotations

import ast
import asyncio
import configparser
import contextlib
import inspect
import logging
import re
import shlex
import textwrap
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import channel_layers
from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.test.utils import override_settings

from channels_redis._layer.base import BaseRedisLayer
from channels_redis.testing.servers import ClusterSet, RedisServer
from tests.conftest import class_of, find_server_or_skip
from tests.helpers import receive

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *sorted(ROOT.glob("*.rst")),
    *sorted((ROOT / "docs").glob("*.rst")),
    *sorted((ROOT / "examples").rglob("*.rst")),
]
# Its blocks are the files of one project, which tests/test_tutorial.py runs.
TUTORIAL = ROOT / "docs" / "tutorial.rst"
KINDS = ["core", "pubsub"]
Namespace = dict[str, Any]
Layers = dict[str, Any]

if not settings.configured:
    settings.configure()


# What the documents show


@dataclass(frozen=True)
class Block:
    """A block of Python in a document; ``before`` is the settings block that it follows."""

    path: Path
    line: int
    source: str
    before: Block | None = None

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"

    def assigns(self, name: str) -> bool:
        return any(
            isinstance(target, ast.Name) and target.id == name
            for node in ast.parse(self.source).body
            if isinstance(node, ast.Assign)
            for target in node.targets
        )


def code_blocks(path: Path, language: str) -> Iterator[tuple[int, str]]:
    """Yield the first line and the text of each code block in a language."""
    lines = path.read_text().splitlines()
    for start, line in enumerate(lines):
        if line.strip() != f".. code-block:: {language}":
            continue
        indent = len(line) - len(line.lstrip())
        end = start + 1
        while end < len(lines) and (
            not lines[end].strip() or lines[end][indent : indent + 1] == " "
        ):
            end += 1
        first = start + 1
        while not lines[first].strip() or lines[first].strip().startswith(":"):
            first += 1
        yield first + 1, textwrap.dedent("\n".join(lines[first:end])).rstrip() + "\n"


def python_blocks() -> list[Block]:
    blocks = []
    for path in filter(lambda path: path != TUTORIAL, DOCUMENTS):
        before = None
        for line, source in code_blocks(path, "python"):
            block = Block(path, line, source, before)
            blocks.append(block)
            if block.assigns("CHANNEL_LAYERS"):
                before = block
    return blocks


BLOCKS = python_blocks()
SETTINGS = [block for block in BLOCKS if block.assigns("CHANNEL_LAYERS")]
HOSTS = [block for block in BLOCKS if block.assigns("hosts")]
OTHERS = [block for block in BLOCKS if block not in SETTINGS and block not in HOSTS]


# Where it is run


class Places:
    """The private servers that stand behind the names in the documents, started when named."""

    NAMED = re.compile(
        r'(?P<name>localhost|[\w-]+\.example\.com)(?P<between>:|",\s+(?:"port": )?)(?P<port>\d+)'
    )
    SOCKET = "/run/redis/redis.sock"
    AUTHORITY = "/etc/ssl/redis-ca.pem"
    SECRET_FILE = "/run/secrets/redis-password"

    def __init__(self, request: pytest.FixtureRequest, stack: contextlib.ExitStack) -> None:
        self._request = request
        self._stack = stack

    @cached_property
    def plain(self) -> RedisServer:
        """The server with a user ``app`` whose password is ``secret``."""
        find_server_or_skip()
        server = self._stack.enter_context(RedisServer(unix_socket=True))
        server.command("ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all")
        return server

    @cached_property
    def shards(self) -> list[RedisServer]:
        find_server_or_skip()
        return [self._stack.enter_context(RedisServer()) for _ in range(3)]

    @property
    def tls(self) -> RedisServer:
        server: RedisServer = self._request.getfixturevalue("tls_server")
        return server

    def address(self, name: str) -> tuple[str, int]:
        kind, _, number = name.removesuffix(".example.com").partition("-")
        if kind == "localhost":
            return self.plain.address
        if kind == "redis":
            return (
                self.shards[int(number) - 1].address
                if number
                else (self.tls.host, self.tls.tls_port)
            )
        if kind == "sentinel":
            sentinels = self._request.getfixturevalue("sentinel_set").sentinels
            return tuple(sentinels[int(number) - 1])
        if kind == "cluster":
            servers: list[RedisServer] = self._request.getfixturevalue("small_cluster").servers
            return servers[int(number) - 1].address
        raise ValueError(f"No server stands for {name!r}; see Places.")

    def put_into(self, source: str) -> str:
        """Return a block with the addresses of real servers in it."""

        def real(match: re.Match[str]) -> str:
            host, port = self.address(match["name"])
            return f"{host}{match['between']}{port}"

        source = self.NAMED.sub(real, source)
        if self.SOCKET in source:
            source = source.replace(self.SOCKET, self.plain.unix_path)
        if self.AUTHORITY in source:
            certificate = self.tls.certificate
            assert certificate is not None
            source = source.replace(self.AUTHORITY, certificate.path)
        if self.SECRET_FILE in source:
            path = self.plain.directory / "redis-password"
            path.write_text("secret\n")
            source = source.replace(self.SECRET_FILE, str(path))
        return source

    def run(self, block: Block) -> Namespace:
        """Run a block and return the names that it defines."""
        # Tracebacks show the place in the document.
        source = "\n" * (block.line - 1) + self.put_into(block.source)
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(source, str(block.path), "exec", flags, dont_inherit=True)
        names: Namespace = {"__name__": "shown"}
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(eval(code, names))
        else:
            exec(code, names)
        return names


@pytest.fixture(scope="module")
def small_cluster() -> Iterator[ClusterSet]:
    find_server_or_skip()
    with ClusterSet(3) as cluster:
        yield cluster


@pytest.fixture
def places(request: pytest.FixtureRequest) -> Iterator[Places]:
    with contextlib.ExitStack() as stack:
        yield Places(request, stack)


@contextlib.contextmanager
def configured(layers: Layers) -> Iterator[None]:
    """Give Channels these settings; close what it makes of them."""
    with override_settings(CHANNEL_LAYERS=layers):
        try:
            yield
        finally:
            for layer in channel_layers.backends.values():
                asyncio.run(layer.close())


def settings_for(block: Block, kind: str, places: Places) -> Layers:
    """Return the settings that a block runs under: those before it, with the layer of a kind."""
    config = {"hosts": [places.plain.url]}
    if block.before is not None:
        config = places.run(block.before)["CHANNEL_LAYERS"]["default"]["CONFIG"]
    layer = class_of(kind)
    return {"default": {"BACKEND": f"{layer.__module__}.{layer.__name__}", "CONFIG": config}}


async def carry_messages(layer: Any) -> None:
    """Send to a consumer, to a group and to a worker."""
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "direct"})
    assert await receive(layer, channel) == {"type": "direct"}
    await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "group"})
    assert await receive(layer, channel) == {"type": "group"}
    await layer.group_discard("room", channel)
    await layer.send("work", {"type": "work"})
    assert await receive(layer, "work") == {"type": "work"}


@pytest.mark.parametrize("block", SETTINGS, ids=str)
def test_settings_that_are_shown_make_layers_that_work(block: Block, places: Places) -> None:
    """Who copies them has only the addresses to change."""
    layers = places.run(block)["CHANNEL_LAYERS"]
    with configured(layers):
        for alias in layers:
            asyncio.run(carry_messages(channel_layers[alias]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", HOSTS, ids=str)
def test_hosts_that_are_shown_lead_to_servers(block: Block, kind: str, places: Places) -> None:
    """Each form of ``hosts`` is written as shown, on both layers."""

    async def use() -> None:
        layer = class_of(kind)(hosts=places.run(block)["hosts"])
        await carry_messages(layer)
        await layer.close()

    asyncio.run(use())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", OTHERS, ids=str)
def test_code_that_is_shown_runs(block: Block, kind: str, places: Places) -> None:
    """On both layers; its consumers accept clients and do what is said of them."""
    with configured(settings_for(block, kind, places)):
        names = places.run(block)
        for consumer in filter(is_consumer, names.values()):
            drive = DRIVERS.get(consumer.__name__, leave)
            asyncio.run(with_clients(consumer, drive, places))
        for name, test in names.items():
            if name.startswith("test_"):
                asyncio.run(test(None))  # Fixtures do what configured() does.
        if "stop" in names:  # what ends tracing
            names["stop"]()


# Consumers, and what is asked of them


def is_consumer(value: Any) -> bool:
    return (
        isinstance(value, type)
        and issubclass(value, AsyncWebsocketConsumer)
        and value.__module__ == "shown"
    )


async def with_clients(
    consumer: Any, drive: Callable[[list[Any], Places], Awaitable[None]], places: Places
) -> None:
    """Connect two clients, drive them, and let them go."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client_of(consumer)) for _ in range(2)]
        await drive(clients, places)


@contextlib.asynccontextmanager
async def client_of(consumer: Any) -> AsyncIterator[Any]:
    client = WebsocketCommunicator(consumer.as_asgi(), "/")
    client.scope["user"] = types.SimpleNamespace(pk=7, get_username=lambda: "Ann")
    accepted, _ = await client.connect(timeout=10)
    assert accepted
    try:
        yield client
    finally:
        await client.disconnect(timeout=10)


async def leave(clients: list[Any], places: Places) -> None:
    """Ask for no more than that clients may come and go."""


async def chat(clients: list[Any], places: Places) -> None:
    """What one client says, both read."""
    await clients[0].send_json_to({"text": "Hello"})
    for client in clients:
        assert await client.receive_json_from(timeout=10) == {"text": "Hello"}


async def survive_an_outage(clients: list[Any], places: Places) -> None:
    """Each client hears of the outage and of its end, and scores arrive afterwards."""
    await asyncio.to_thread(places.plain.stop)
    for client in clients:
        assert await client.receive_json_from(timeout=10) == {"live": False}
    await asyncio.to_thread(places.plain.start)
    for client in clients:
        assert await client.receive_json_from(timeout=10) == {"live": True, "reload": True}
        # Nobody tells a client that its consumer has joined again; a server that came back
        # empty has forgotten the group.
    layer = channel_layers["default"]
    for client in clients:
        await layer.group_send("scores", {"type": "score", "score": 1})
        assert await client.receive_json_from(timeout=10) == {"score": 1}


async def notice_typing(clients: list[Any], places: Places) -> None:
    """What one client does, the other hears, and he does not."""
    for sender, other in [clients, clients[::-1]]:
        await sender.send_json_to({"who": "Ann"})
        assert await other.receive_json_from(timeout=10) == {"who": "Ann"}
    assert await clients[0].receive_nothing()


async def show_scores(clients: list[Any], places: Places) -> None:
    """What is sent once, each client has."""
    await channel_layers["default"].group_send("scores", {"type": "score.update", "score": 1})
    for client in clients:
        assert await client.receive_json_from(timeout=10) == {"score": 1}


DRIVERS = {
    "ChatConsumer": chat,
    "LiveScoreConsumer": show_scores,
    "ScoreConsumer": survive_an_outage,
    "TypingConsumer": notice_typing,
}


def test_every_document_with_code_is_collected() -> None:
    """The tests above do not pass by finding nothing."""
    collected = {block.path.name for block in BLOCKS}
    assert {"README.rst", "configuration.rst", "semantics.rst"} <= collected
    for path in filter(lambda path: path != TUTORIAL, DOCUMENTS):
        count = path.read_text().count("code-block:: python")
        assert sum(block.path == path for block in BLOCKS) == count
    drivers = {name for block in BLOCKS for name in re.findall(r"^class (\w+)", block.source, re.M)}
    assert DRIVERS.keys() <= drivers


# What the documents name


CONFIGURATION = ROOT / "docs" / "configuration.rst"


def test_the_options_in_the_reference_are_those_of_the_code() -> None:
    """Each option, in the order of the code, with its default."""
    documented = re.findall(
        r"^\.\. confval:: (\w+)\n   :type: .+\n   :default: ``(.+)``$",
        CONFIGURATION.read_text(),
        re.M,
    )
    taken = [
        (name, parameter.default)
        for name, parameter in inspect.signature(BaseRedisLayer).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    ]
    assert [(name, ast.literal_eval(default)) for name, default in documented] == taken


USERS = [
    line
    for _, text in code_blocks(CONFIGURATION, "text")
    for line in text.splitlines()
    if line.startswith("ACL SETUSER")
]


@pytest.mark.parametrize(
    ("user", "kind"),
    [(user, kind) for user in USERS for kind in KINDS if kind == "pubsub" or "+zadd" in user],
    ids=["core", "pubsub", "pubsub without workers"],
)
async def test_the_rights_to_copy_are_enough(
    user: str, kind: str, private_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is refused to a user with these rights, in another database and after a loss too."""
    private_server.command(*shlex.split(user))
    private_server.command("ACL", "LOG", "RESET")
    host, port = private_server.address
    for database in (0, 3):
        layer = class_of(kind)(hosts=[f"redis://app:secret@{host}:{port}/{database}"])
        with caplog.at_level(logging.INFO, "channels_redis"):
            await use_with_few_rights(layer, workers="+zadd" in user)
            private_server.command("CLIENT", "KILL", "USER", "app")
            await use_with_few_rights(layer, workers="+zadd" in user)
        await layer.close()
    entries = private_server.command("ACL", "LOG")
    refused = {entry[entry.index(b"object") + 1] for entry in entries}
    # Asked for by redis-py, wherever the server knows it.
    assert refused <= {b"client|setinfo"}
    assert "TIME" not in caplog.text


async def use_with_few_rights(layer: Any, *, workers: bool) -> None:
    """Do all that a layer can do, as far as it is allowed to."""
    if workers:
        await carry_messages(layer)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "group"})
    assert await receive(layer, channel) == {"type": "group"}
    await layer.flush()


@pytest.mark.parametrize(
    "path", [*ROOT.glob("docs/*.csv"), *ROOT.glob("docs/images/*")], ids=lambda path: str(path.name)
)
def test_no_table_and_no_picture_is_left_out(path: Path) -> None:
    """What was measured or drawn is shown by some document."""
    name = str(path.relative_to(ROOT / "docs"))
    assert any(name in document.read_text() for document in DOCUMENTS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_environments_that_are_named_exist(path: Path) -> None:
    """Whoever follows a document gets there."""
    text = path.read_text()
    files = re.findall(
        r"``((?:\.ci|benchmarks|channels_redis|docs|examples|tests)/[\w./-]+)``", text
    )
    missing = [name for name in files if not (ROOT / name).exists() and name != "docs/_build/html"]
    tests = {test.name for test in (ROOT / "tests").rglob("test_*.py")}
    missing += [name for name in re.findall(r"``(test_\w+\.py)``", text) if name not in tests]
    links = [*re.findall(r"`[^`]+ <([^:>]+)>`_", text), *re.findall(r"\.\. image:: (\S+)", text)]
    missing += [link for link in links if not (path.parent / link).exists()]
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    known = {name.removeprefix("testenv:") for name in tox.sections()} | {"py"}
    asked = {env for envs in re.findall(r"tox -e ([\w,-]+)", text) for env in envs.split(",")}
    assert missing == []
    assert asked <= known
