"""The code keeps to the picture in docs/architecture.rst: who may import whom, and how large."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis.asyncio

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "channels_redis"

# Rooms from the roof to the ground. A module may import from rows below its own, and from no
# other: not from above and not from its neighbours. A room owns what lies under its name.
FLOORS = [
    ["__main__", "testing"],
    ["apps", "management"],
    ["checks", "opentelemetry"],
    ["doctor.command"],
    ["doctor.judge", "doctor.probe", "doctor.census", "doctor.config"],
    ["doctor.trouble", "doctor.primaries"],
    ["doctor.facts"],
    ["doctor.rights", "doctor.findings", "doctor.endpoints"],
    ["consumers", "core", "pubsub"],
    ["_attending", "_compat"],
    ["_base", "_inbox"],
    ["_observed"],
    ["_receiving"],
    ["_topics", "_leases"],
    ["_session"],
    ["_queues", "_memberships"],
    ["sync"],
    ["_steps"],
    ["_portal"],
    ["_databases", "_frames"],
    ["_loops"],
    ["_transport.sharded"],
    ["_transport.queue", "_transport.subscriber", "_transport.flushing", "_transport.cluster"],
    ["_transport.shards", "_transport.cluster_nodes"],
    ["_transport.pops"],
    ["_transport.scripts", "_transport.loopback", "_transport.sentinels", "_transport.slotmap"],
    ["_transport.multiplexer", "_transport.charting"],
    ["_transport.probe"],
    ["_transport.topology"],
    ["_transport.commands"],
    ["_transport.connections", "_transport.subscriptions"],
    ["_transport.foreign"],
    ["_transport.replies", "_transport.credentials", "_transport.packing", "_transport.tasks"],
    ["_encoding", "_transport.refusals"],
    ["utils", "_mailboxes", "_messages", "_outages"],
    ["_mailbox"],
    ["events", "_keywords", "_secrets", "_sinks", "_tls", "_values"],
    # CHECK
    ["_keyspace", "_waiters", "_events", "_tally", "_hosts", "_options", "_slots", "serializers"],
    ["_encryption"],
    ["_received"],
    ["exceptions", "stats", "_plain", "_fork", "_clock", "_budget", "_weakly"],
    ["_native"],
]
# What holds nothing but the version, or nothing at all.
PORCHES = {"", "_transport", "doctor", "management", "management.commands"}
# Tools for tests and operators stand beside the house and may use all of it.
BESIDE = "testing"

REDIS_IMPORTERS = ("_transport", "utils", "_keywords", "exceptions", "doctor", BESIDE)
LOOP_ASKERS = ("_loops", BESIDE)
LOOP_QUESTIONS = {"get_running_loop", "get_event_loop", "_get_running_loop"}
CONNECTION_HANDLERS = ("_transport.connections", "_transport.replies")
PREFIX_ADDERS = ("_keyspace",)

FUNCTION_LINES = 45

Finding = tuple[int, str]
Rule = Callable[[str, ast.Module], Iterator[Finding]]


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


#: Every module by its name in the package; "" is the package itself.
MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
PACKAGES = {name for name, path in MODULES.items() if path.name == "__init__.py"}


def is_in(module: str, rooms: tuple[str, ...] | list[str]) -> bool:
    return any(module == room or module.startswith(room + ".") for room in rooms)


def floor_of(module: str) -> int | None:
    """Return how far from the roof a module lives; None where the picture has no room for it."""
    return next((floor for floor, rooms in enumerate(FLOORS) if is_in(module, rooms)), None)


def imported(module: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the absolute name of everything that a module imports, anywhere in it."""
    package = ["channels_redis", *filter(None, module.split("."))]
    if module not in PACKAGES:
        package.pop()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            for alias in node.names:
                yield node.lineno, ".".join([*base, *filter(None, [node.module]), alias.name])


def imported_when_run(module: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    # What is only named in annotations may live anywhere: no call ever goes that way.
    for_types = {
        found
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for found in imported(module, statement)
    }
    yield from (found for found in imported(module, tree) if found not in for_types)


def imports_go_down(module: str, tree: ast.Module) -> Iterator[Finding]:
    own = floor_of(module)
    for line, name in imported_when_run(module, tree):
        top, _, other = name.partition(".")
        in_porch = floor_of(other) is None and other.rpartition(".")[0] in PORCHES
        if top != "channels_redis" or in_porch or is_in(module, (BESIDE,)):
            continue
        floor = floor_of(other)
        if own is None or floor is None or floor <= own:
            yield line, f"imports {other}, which is not below it"


def only_the_transport_knows_redis(module: str, tree: ast.Module) -> Iterator[Finding]:
    for line, name in imported_when_run(module, tree):
        if name.split(".")[0] == "redis" and not is_in(module, REDIS_IMPORTERS):
            yield line, f"imports {name}; that is for {', '.join(REDIS_IMPORTERS)}"


def only_loops_asks_for_the_running_loop(module: str, tree: ast.Module) -> Iterator[Finding]:
    if is_in(module, LOOP_ASKERS):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            asked = {node.attr}
        elif isinstance(node, ast.ImportFrom):
            asked = {alias.name for alias in node.names}
        else:
            continue
        for question in asked & LOOP_QUESTIONS:
            yield node.lineno, f"uses {question}; that is for _loops"


def only_connections_touches_private_parts_of_redis(
    module: str, tree: ast.Module
) -> Iterator[Finding]:
    if is_in(module, CONNECTION_HANDLERS) or not is_in(module, REDIS_IMPORTERS):
        return
    connection = redis.asyncio.Connection()
    private = {name for name in dir(connection) if name[0] == "_" and name[:2] != "__"}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or node.attr not in private:
            continue
        if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
            yield node.lineno, f"touches {ast.unparse(node)}; that is for _transport.connections"


def only_keyspace_adds_the_prefix(module: str, tree: ast.Module) -> Iterator[Finding]:
    if is_in(module, (*PREFIX_ADDERS, BESIDE)):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FormattedValue) and node.conversion == -1:
            joined = [node.value]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            joined = [node.left, node.right]
        else:
            continue
        for part in joined:
            if isinstance(part, ast.Attribute) and part.attr.lstrip("_") == "prefix":
                yield part.lineno, f"adds {ast.unparse(part)}; that is for _keyspace"


def functions_are_short(module: str, tree: ast.Module) -> Iterator[Finding]:
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        documented = ast.get_docstring(node, clean=False) is not None
        first = node.body[1] if documented and len(node.body) > 1 else node.body[0]
        lines = (node.end_lineno or first.lineno) - first.lineno + 1
        if lines > FUNCTION_LINES:
            yield node.lineno, f"{node.name} has {lines} lines; {FUNCTION_LINES} are the limit"


RULES: list[Rule] = [
    imports_go_down,
    only_the_transport_knows_redis,
    only_loops_asks_for_the_running_loop,
    only_connections_touches_private_parts_of_redis,
    only_keyspace_adds_the_prefix,
    functions_are_short,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("module", MODULES)
def test_every_module_keeps_to_the_picture(module: str, rule: Rule) -> None:
    """Imports go down only, and each job is done in its one room."""
    tree = ast.parse(MODULES[module].read_text())
    assert [f"line {line}: {what}" for line, what in rule(module, tree)] == []


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_room(module: str) -> None:
    """Whoever adds a module says where in the picture it lives."""
    assert module in PORCHES or floor_of(module) is not None


LONG_FUNCTION = "def f():\n" + "    x = 1\n" * (FUNCTION_LINES + 1)


@pytest.mark.parametrize(
    ("module", "code", "rule"),
    [
        ("core", "from channels_redis.pubsub import RedisPubSubChannelLayer", imports_go_down),
        ("core", "from .pubsub import RedisPubSubChannelLayer", imports_go_down),
        ("pubsub", "from . import core", imports_go_down),
        ("pubsub", "import channels_redis.core", imports_go_down),
        ("_transport.queue", "from ..core import x", imports_go_down),
        ("_transport.queue", "from .subscriber import x", imports_go_down),
        ("_loops", "if TYPE_CHECKING:\n    pass\nelse:\n    from .core import x", imports_go_down),
        ("_mailbox", "if x:\n    def f():\n        from ._base import y", imports_go_down),
        ("utils", "from channels_redis.testing.servers import RedisServer", imports_go_down),
        ("core", "import redis.asyncio", only_the_transport_knows_redis),
        ("serializers", "from redis import exceptions", only_the_transport_knows_redis),
        (
            "core",
            "import asyncio\nasyncio.get_running_loop()",
            only_loops_asks_for_the_running_loop,
        ),
        ("core", "from asyncio import get_event_loop", only_loops_asks_for_the_running_loop),
        (
            "_transport.queue",
            "connection._writer.close()",
            only_connections_touches_private_parts_of_redis,
        ),
        ("core", "key = f'{self.prefix}:group'", only_keyspace_adds_the_prefix),
        ("core", "key = self._prefix + ':group'", only_keyspace_adds_the_prefix),
        ("core", LONG_FUNCTION, functions_are_short),
    ],
)
def test_what_breaks_the_picture_is_found(module: str, code: str, rule: Rule) -> None:
    """None of the rules passes by not looking."""
    assert list(rule(module, ast.parse(code)))


@pytest.mark.parametrize(
    ("module", "code", "rule"),
    [
        ("core", "from ._base import x\nfrom . import utils, __version__", imports_go_down),
        ("_transport.queue", "from .. import utils\nfrom .scripts import pop", imports_go_down),
        ("_loops", "if TYPE_CHECKING:\n    from ._base import Layer", imports_go_down),
        ("core", "if TYPE_CHECKING:\n    import redis", only_the_transport_knows_redis),
        ("testing.x", "from channels_redis.core import RedisChannelLayer", imports_go_down),
        ("core", "text = f'prefix={self.prefix!r}'", only_keyspace_adds_the_prefix),
        ("_transport.queue", "self._writer = 1", only_connections_touches_private_parts_of_redis),
    ],
)
def test_what_keeps_to_the_picture_is_left_alone(module: str, code: str, rule: Rule) -> None:
    """The rules forbid no more than they say."""
    assert not list(rule(module, ast.parse(code)))


def promises_in(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name[:5] == "test_":
            yield node


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda p: p.name)
def test_every_test_says_its_promise(path: Path) -> None:
    """The docstring of a test is the promise that it keeps."""
    assert [test.name for test in promises_in(path) if not ast.get_docstring(test)] == []
