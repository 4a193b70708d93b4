"""The code keeps to the picture in docs/architecture.rst: who may import whom, and how large."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis.asyncio

from tests.conftest import LONGEST

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "channels_redis"

# The floors of docs/architecture.rst, from the top. A module may import from its own folder, from
# its own floor and from those below. A folder owns what lies in it.
FLOORS = [
    [
        *("__main__", "apps", "checks", "management", "opentelemetry", "tracing"),
        *("doctor", "testing"),
    ],
    [
        *("core", "pubsub", "consumers", "views", "layers", "sync"),
        *("_layer", "_broadcast", "_resume", "_compat"),
    ],
    ["_receiving", "_groups"],
    ["_session"],
    ["_transport"],
    ["_watch", "events"],
    ["_runtime"],
    ["_config", "_format", "serializers", "utils", "exceptions", "stats", "history", "presence"],
]
# Used by tests and operators, and by no other module.
BESIDE = ("testing", "doctor")

# What is still imported from above, or in a circle. Nothing may be added.
STILL_UP = {
    ("_receiving.topics", "pubsub"),
}
STILL_CIRCLES = [
    {"_compat", "_receiving.topics", "pubsub"},
]

REDIS_IMPORTERS = (
    "_transport",
    "_config.keywords",
    "_config.pools",
    "exceptions",
    "doctor",
    "testing",
)
LOOP_ASKERS = ("_runtime.loops", "testing")
LOOP_QUESTIONS = {"get_running_loop", "get_event_loop", "_get_running_loop"}
CONNECTION_HANDLERS = ("_transport.wire", "_transport.replies")
PREFIX_ADDERS = ("_format.keyspace",)

FUNCTION_LINES = 45

# How often a module touches a private attribute of another object (`other._name`), and why. A
# number may only become smaller; a line goes when nothing is left.
PRIVATE_ACCESSES = {
    "_broadcast.attending": (1, "leaves a frame where the handler of the consumer finds it"),
    "_broadcast.inbox": (2, "is handed a layer, and asks it for its mailboxes"),
    "_compat": (1, "two classes of 4.3.0 that showed each other"),
    "_groups.leases": (4, "writes the memberships of a layer"),
    "_layer.encoding": (3, "has a serializer bind what it encrypts to its place"),
    "_receiving.topics": (9, "asks the layer that it receives for"),
    "_resume.joining": (1, "has a layer tell a consumer that has a handler of missed messages"),
    "_runtime.fork": (1, "tells who is watched that it was forked"),
    "_runtime.tasks": (1, "asyncio's, so that it does not complain of a task that a loop left"),
    "_transport.replies": (7, "redis-py's connections have no public way to their streams"),
    "_transport.wire": (17, "redis-py's connections have no public way to their streams"),
    "consumers": (3, "fits broadcasts into Channels' consumers"),
    "doctor.census": (2, "counts the keys of a layer"),
    "doctor.probe": (1, "tries the keys of a layer"),
    "testing._sentinel": (1, "two classes of servers that work as one"),
    "testing.recording": (2, "two classes that record as one"),
}

#: Definitions of how something ends, is forgotten or is found, in the whole package.
MOST_ENDS = 12

Finding = tuple[int, str]
Rule = Callable[[str, ast.Module], Iterator[Finding]]


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


#: Every module by its name in the package; "" is the package itself.
MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}
PACKAGES = {name for name, path in MODULES.items() if path.name == "__init__.py"}


def is_in(module: str, rooms: tuple[str, ...] | list[str]) -> bool:
    return any(module == room or module.startswith(room + ".") for room in rooms)


def floor_of(module: str) -> int | None:
    """Return how far from the top a module is; None where the picture has no place for it."""
    return next((floor for floor, parts in enumerate(FLOORS) if is_in(module, parts)), None)


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


def imported_modules(module: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the module for each import from this package, annotations included."""
    for line, name in imported(module, tree):
        top, _, other = name.partition(".")
        if top == "channels_redis":
            yield line, other if other in MODULES else other.rpartition(".")[0]


def imported_when_run(module: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the same but for what is imported for annotations only."""
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
    for line, other in imported_modules(module, tree):
        if not other or (module, other) in STILL_UP:
            continue
        floor = floor_of(other)
        if own is None or floor is None or floor < own:
            yield line, f"imports {other}, which is above it"
        elif is_in(other, BESIDE) and not is_in(module, FLOORS[0]):
            yield line, f"imports {other}, which is for tests and operators"


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
            yield node.lineno, f"uses {question}; that is for _runtime.loops"


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
            yield node.lineno, f"touches {ast.unparse(node)}; that is for _transport.wire"


def only_keyspace_adds_the_prefix(module: str, tree: ast.Module) -> Iterator[Finding]:
    if is_in(module, (*PREFIX_ADDERS, "testing")):
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
                yield part.lineno, f"adds {ast.unparse(part)}; that is for _format.keyspace"


def functions_are_short(module: str, tree: ast.Module) -> Iterator[Finding]:
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        documented = ast.get_docstring(node, clean=False) is not None
        first = node.body[1] if documented and len(node.body) > 1 else node.body[0]
        lines = (node.end_lineno or first.lineno) - first.lineno + 1
        if lines > FUNCTION_LINES:
            yield node.lineno, f"{node.name} has {lines} lines; {FUNCTION_LINES} are the limit"


def private_accesses(tree: ast.Module) -> list[Finding]:
    """Return where code touches private attributes of objects that are not of its own class."""
    modules = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and not (node.module or "").strip(".")
        for alias in node.names
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = node.value
            if isinstance(owner, ast.Name) and owner.id in {"self", "cls"} | modules:
                continue
            if ast.unparse(owner) != "super()":
                found.add((node.lineno, node.col_offset, ast.unparse(node)))
    for kind in ast.walk(tree):
        if isinstance(kind, ast.ClassDef):
            found -= own_accesses(kind)
    return [(line, what) for line, _, what in sorted(found)]


def own_accesses(kind: ast.ClassDef) -> set[tuple[int, int, str]]:
    """Return where a class touches another instance of its own, where that is plain: one that it
    has made, or that it was given as such.
    """
    makers = "cls", f"{kind.name}", "type(self)", "cls.__new__", "type(self).__new__"
    own = {"other"}
    for node in ast.walk(kind):
        if isinstance(node, ast.arg) and node.annotation is not None:
            own |= {node.arg} if ast.unparse(node.annotation).strip("'") == kind.name else set()
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            made = ast.unparse(node.value.func) in makers
            own |= {ast.unparse(target) for target in node.targets if made}
    return {
        (node.lineno, node.col_offset, ast.unparse(node))
        for node in ast.walk(kind)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in own
    }


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


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
    assert [f"line {line}: {what}" for line, what in rule(module, TREES[module])] == []


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_floor(module: str) -> None:
    """Whoever adds a module says where in the picture it lives."""
    assert not module or floor_of(module) is not None


def circles(imports: dict[str, set[str]]) -> list[set[str]]:
    """Return the sets of modules that import each other, directly or by others."""
    reached = {module: set(names) for module, names in imports.items()}
    for between in imports:
        for names in reached.values():
            if between in names:
                names |= reached[between]
    found: list[set[str]] = []
    for module, names in reached.items():
        circle = {other for other in names if module in reached.get(other, ())}
        if circle and circle not in found:
            found.append(circle)
    return found


def imports_of_all() -> dict[str, set[str]]:
    """Return the modules that each module imports."""
    return {
        module: {name for _, name in imported_modules(module, tree)} - {module}
        for module, tree in TREES.items()
        if module
    }


def test_no_modules_import_each_other() -> None:
    """Not in annotations either."""
    assert sorted(map(sorted, circles(imports_of_all()))) == sorted(map(sorted, STILL_CIRCLES))


def test_no_benchmarks_import_each_other() -> None:
    """Nor do the modules that measure."""
    paths = sorted((ROOT / "benchmarks").rglob("*.py"))
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    imports = {}
    for name, path in names.items():
        found = {other for _, other in imported(name, ast.parse(path.read_text()))}
        # `from module import name` names a module too.
        imports[name] = (found | {other.rpartition(".")[0] for other in found}) & names.keys()
    assert imports["benchmarks.scaling"] >= {"benchmarks.model", "benchmarks.points"}
    assert circles(imports) == []


@pytest.mark.parametrize("module", MODULES)
def test_objects_leave_private_parts_of_others_alone(module: str) -> None:
    """What is left has a reason, and only becomes less."""
    found = private_accesses(TREES[module])
    allowed, reason = PRIVATE_ACCESSES.get(module, (0, "no reason is known"))
    assert len(found) <= allowed, f"{reason}: {found}"


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("def f(x):\n    return x._a + x.b._c", 2),
        ("class A:\n    def f(self):\n        return self.other._a", 1),
        ("from .. import utils\nfrom ..other import thing\nutils._a(thing._b)", 1),
        ("class A:\n    def f(self):\n        self._a, cls._b, super()._c, x.__class__", 0),
        ("class A:\n    def f(cls):\n        made = cls()\n        return made._a", 0),
        ("class A:\n    def f(self, one: A):\n        return one._a", 0),
        ("class A:\n    def __eq__(self, other):\n        return other._b", 0),
    ],
)
def test_what_touches_private_parts_is_counted(code: str, count: int) -> None:
    """But not what a class does with another instance of its own."""
    assert len(private_accesses(ast.parse(code))) == count


def test_a_circle_is_found() -> None:
    """However many modules it goes through."""
    imports = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set[str](), "e": {"a"}}
    assert circles(imports) == [{"a", "b", "c"}]


def test_few_define_how_something_ends() -> None:
    """What lives on an event loop registers with its scope, which ends, forgets and silences it."""
    ends = ("abandon", "aclose", "descriptor", "descriptors")
    found = [
        f"{module}.{node.name}"
        for module, path in MODULES.items()
        if not is_in(module, BESIDE)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name in ends
    ]
    assert len(found) <= MOST_ENDS, found
    abandoning = {name for name in found if name.endswith(".abandon")}
    assert abandoning == {"_runtime.loops.abandon", "_runtime.scope.abandon"}


def test_what_is_still_imported_from_above_is_needed() -> None:
    """The list of exceptions only becomes shorter."""
    imports = imports_of_all()
    assert {(one, other) for one, other in STILL_UP if other in imports[one]} == STILL_UP


def test_the_architecture_page_has_the_floors_of_this_test() -> None:
    """In the same order."""
    text = (ROOT / "docs" / "architecture.rst").read_text()
    table = text[text.index("floor  folders and modules") : text.index("Some things are done")]
    assert table.count("``") // 2 == sum(map(len, FLOORS))
    shown = table.split("``")[1::2]
    assert shown == [part for parts in FLOORS for part in parts]


LONG_FUNCTION = "def f():\n" + "    x = 1\n" * (FUNCTION_LINES + 1)


@pytest.mark.parametrize(
    ("module", "code", "rule"),
    [
        ("_layer.base", "from channels_redis.doctor import judge", imports_go_down),
        ("_session", "from .core import RedisChannelLayer", imports_go_down),
        ("_session", "from . import core", imports_go_down),
        ("_session", "import channels_redis.core", imports_go_down),
        ("_transport.reader", "from ..core import x", imports_go_down),
        ("_watch.events", "from .._transport.reader import x", imports_go_down),
        ("_runtime.loops", "if TYPE_CHECKING:\n    from ..core import x", imports_go_down),
        ("_runtime.loops", "if x:\n    from .._layer.base import y", imports_go_down),
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
            "_transport.reader",
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
        ("core", "from ._layer.base import x\nfrom . import utils, __version__", imports_go_down),
        ("_transport.reader", "from .. import utils\nfrom .scripts import pop", imports_go_down),
        ("sync", "from ._runtime.loops import LoopStates", imports_go_down),
        ("core", "if TYPE_CHECKING:\n    import redis", only_the_transport_knows_redis),
        ("testing.x", "from channels_redis.core import RedisChannelLayer", imports_go_down),
        ("core", "text = f'prefix={self.prefix!r}'", only_keyspace_adds_the_prefix),
        ("_transport.reader", "self._writer = 1", only_connections_touches_private_parts_of_redis),
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


def test_the_files_that_are_begun_first_exist() -> None:
    """Whoever renames one finds the list."""
    assert [name for name in LONGEST if not (ROOT / "tests" / name).exists()] == []
