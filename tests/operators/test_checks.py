"""Django's system checks find wrong settings before they hurt."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core import checks
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test.utils import override_settings

from channels_redis import checks as our_checks
from channels_redis.doctor import config as rules
from channels_redis.doctor.config import read_settings
from channels_redis.management.commands.channel_layer import Command
from channels_redis.utils import describe_host

if not settings.configured:
    settings.configure()

CORE = "channels_redis.core.RedisChannelLayer"
PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"
STRONG = "kT9-vXw2_Lq8ZrB4nM7sPd1yHf6jGc3e"
ROOT = Path(__file__).parents[2]


def found(*layers: dict[str, Any], deploy: bool = False, backend: str = CORE) -> list[Any]:
    """Return what the checks say of some layers, each given by its CONFIG."""
    names = ("default", "second", "third")
    configured = {
        name: {"BACKEND": config.pop("BACKEND", backend), "CONFIG": config}
        for name, config in zip(names, map(dict, layers), strict=False)
    }
    look = our_checks.check_deployment if deploy else our_checks.check_settings
    with override_settings(CHANNEL_LAYERS=configured):
        return look()


def ids(messages: list[Any]) -> list[str]:
    return [message.id.removeprefix("channels_redis.") for message in messages]


@pytest.mark.parametrize("backend", [CORE, PUBSUB])
def test_good_settings_pass(backend: str) -> None:
    """The defaults, several layers, and a deployment as it should be."""
    good = {
        "hosts": ["rediss://:pw@redis.example.com", "redis://:pw@127.0.0.1/3"],
        "symmetric_encryption_keys": [STRONG],
        "encryption_binding": "require",
        "capacity": 500,
    }
    assert found({}, {**good, "prefix": "other:"}, backend=backend) == []
    assert found(good, deploy=True, backend=backend) == []


def test_other_layers_are_not_ours_to_check() -> None:
    """Channels' in-memory layer, and no settings at all."""
    other = {"BACKEND": "channels.layers.InMemoryChannelLayer", "nonsense": 1}
    assert found(other) == []
    with override_settings():
        assert our_checks.check_settings() == []


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("E001", {"capcity": 3}, "'capacity'"),
    ("E001", {"group_expire": 3}, "'group_expiry'"),
    ("E002", {"capacity": "100"}, "whole number"),
    ("E002", {"capacity": 0}, "at least 1"),
    ("E002", {"expiry": -1}, "positive"),
    ("E002", {"channel_capacity": {"work": None}}, "work"),
    ("E002", {"serializer_format": "mgspack"}, "mgspack"),
    ("E003", {"hosts": "redis://localhost"}, "list"),
    ("E003", {"hosts": [{"host": "localhost", "passwrod": "swordfish"}]}, "'password'"),
    ("E003", {"hosts": [("localhost", 0)]}, "port"),
    ("E003", {"hosts": [None]}, "environment variable"),
    ("E003", {"hosts": [("localhost", "")]}, "'port'"),
    ("E004", {"symmetric_encryption_keys": "swordfish"}, "list of keys"),
    ("E004", {"symmetric_encryption_keys": [""]}, "isn't empty"),
    ("E005", {"BACKEND": "channels_redis.cor.RedisChannelLayer"}, "imported"),
    ("W001", {"expiry": 600, "group_expiry": 60}, "group_expiry"),
    ("W002", {"expiry": 60_000}, "milliseconds"),
    ("W002", {"expiry": 1}, "5 to"),
    ("W003", {"capacity": 10**7}, "capacity"),
    ("W003", {"channel_capacity": {"work": 10**7}}, "work"),
    ("W004", {"hosts": ["redis://localhost", ("localhost", 6379)]}, "hosts[0]"),
    ("W006", {"hosts": [{"address": "redis://h", "ssl_cert_reqs": None}]}, "rediss://"),
    ("W006", {"hosts": [{"address": "redis://h", "ssl_check_hostname": False}]}, "no effect"),
]


@pytest.mark.parametrize(("id", "config", "hint"), WRONG)
def test_wrong_settings_are_found(id: str, config: dict[str, Any], hint: str) -> None:
    """One message each, with its id, the layer, and what would be right; no secret in it."""
    (message,) = found(config)
    assert ids([message]) == [id]
    assert message.is_serious(checks.ERROR) == (id[0] == "E")
    said = str(message)
    assert hint in said
    assert "default" in said
    assert "swordfish" not in said


def test_what_was_read_of_the_settings_shows_no_secret() -> None:
    """Tracebacks with the values of variables go to error trackers."""
    config = {"hosts": ["redis://:swordfish@localhost"], "symmetric_encryption_keys": [STRONG]}
    shown = repr(rules.read_settings({"default": {"BACKEND": CORE, "CONFIG": config}}))
    assert "default" in shown
    assert "swordfish" not in shown
    assert STRONG not in shown


def test_one_mistake_does_not_hide_the_next() -> None:
    """All of them at once, and not one per start."""
    config = {"capcity": 3, "expiry": "60", "hosts": 5, "symmetric_encryption_keys": 7}
    assert sorted(ids(found(config))) == ["E001", "E002", "E003", "E004"]


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ({}, {}, True),
        ({"prefix": "app"}, {"prefix": "app2"}, True),
        ({"prefix": "app:"}, {"prefix": "app2:"}, False),
        ({"prefix": "app"}, {"prefix": "shop"}, False),
        ({}, {"hosts": ["redis://other.example.com"]}, False),
        ({}, {"hosts": [("localhost", 6379), ("other", 1)]}, True),
        ({}, {"hosts": ["redis://localhost:6379/1"]}, False),
        ({"BACKEND": PUBSUB}, {"BACKEND": PUBSUB, "hosts": ["redis://localhost/1"]}, True),
        ({"BACKEND": PUBSUB}, {}, True),
    ],
)
def test_prefixes_that_clash_are_found(
    one: dict[str, Any], other: dict[str, Any], clash: bool
) -> None:
    """Where servers are shared; Pub/Sub knows no databases."""
    messages = found(one, other)
    assert ids(messages) == (["W005"] if clash else [])


BOUND = {"encryption_binding": "require"}
OPEN: list[tuple[list[str], dict[str, Any]]] = [
    (["W101", "W103"], {"hosts": ["redis://:swordfish@redis.example.com"]}),
    (
        ["W101"],
        {
            "hosts": ["redis://:swordfish@redis.example.com"],
            "symmetric_encryption_keys": [STRONG],
            **BOUND,
        },
    ),
    (["W103"], {"hosts": [("10.0.0.5", 6379)]}),
    ([], {"hosts": ["redis://:swordfish@localhost", "redis://:swordfish@[::1]:6379"]}),
    ([], {"hosts": ["unix://:swordfish@/run/redis.sock"]}),
    (["W102"], {"symmetric_encryption_keys": ["secret"], **BOUND}),
    (["W102"], {"symmetric_encryption_keys": [STRONG, "aaaaaaaaaaaaaaaaaaaaaaaaaaa"], **BOUND}),
    (["W102"], {"symmetric_encryption_keys": ["django-insecure-" + STRONG], **BOUND}),
    (["W105"], {"symmetric_encryption_keys": [STRONG]}),
    (["W105"], {"symmetric_encryption_keys": [STRONG], "encryption_binding": "write"}),
    (["W104"], {"hosts": [{"address": "rediss://redis.example.com", "ssl_cert_reqs": None}]}),
    (
        ["W101", "W103"],
        {
            "hosts": [
                {
                    "sentinels": [("s.example.com", 26379)],
                    "master_name": "main",
                    "password": "swordfish",
                }
            ]
        },
    ),
]


@pytest.mark.parametrize(("wanted", "config"), OPEN)
def test_open_secrets_are_found_for_deployment_only(
    wanted: list[str], config: dict[str, Any]
) -> None:
    """Readable passwords and messages, keys that can be guessed; never the secret itself."""
    messages = found(config, deploy=True)
    assert ids(messages) == wanted
    assert not any("swordfish" in str(message) for message in messages)
    assert found(config) == []


def test_every_id_is_documented_and_no_other() -> None:
    """Who silences a check finds it in the documentation."""
    source = Path(rules.__file__).read_text()
    text = (ROOT / "docs" / "operations.rst").read_text()
    documented = re.findall(r"^   \* - ``channels_redis\.([EW]\d+)``", text, re.M)
    assert documented == sorted(set(re.findall(r'"([EW]\d{3})"', source)))
    tried = {id for id, *_ in WRONG} | {id for some, _ in OPEN for id in some} | {"W005"}
    assert tried == set(documented)


PROJECT = """
import sys
from django.conf import settings
from django.core.management import execute_from_command_line
settings.configure(
    INSTALLED_APPS=["channels_redis"],
    CHANNEL_LAYERS={"default": {"BACKEND": "channels_redis.core.RedisChannelLayer",
                                "CONFIG": {"hosts": [sys.argv[1]], "expiry": 10**6}}},
)
execute_from_command_line(["manage.py", *sys.argv[2:]])
"""


def manage(host: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``manage.py`` of a project that has the app installed."""
    return subprocess.run(
        [sys.executable, "-c", PROJECT, host, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )


def test_a_project_gets_checks_and_command_from_its_installed_apps(
    redis_url: str, dead_port: int
) -> None:
    """``manage.py check`` and ``manage.py channel_layer``, coloured where Django does so."""
    plain = manage("redis://redis.example.com", "check")
    assert "W002" in plain.stderr
    assert "W103" not in plain.stderr
    deploy = manage("redis://redis.example.com", "check", "--deploy", "--tag", our_checks.TAG)
    assert "(channels_redis.W103)" in deploy.stderr
    good = manage(redis_url, "channel_layer", "--force-color", "doctor")
    assert good.returncode == 0, good.stderr
    assert "\x1b[" in good.stdout
    # The second is what a machine may say that is busy with something else.
    assert "[reachable]" in good.stdout or "[latency]" in good.stdout
    bad = manage(f"redis://127.0.0.1:{dead_port}", "channel_layer", "doctor")
    assert bad.returncode == 1
    assert "[unreachable]" in bad.stdout


def test_the_command_looks_at_the_layers_asked_for(redis_url: str) -> None:
    """One alias, all of them, or an error that names the alias."""
    layers = {
        "one": {"BACKEND": CORE, "CONFIG": {"hosts": [redis_url], "prefix": "one:"}},
        "two": {"BACKEND": PUBSUB, "CONFIG": {"hosts": [redis_url], "prefix": "two:"}},
        "memory": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
    }

    def call(*words: str) -> str:
        written = io.StringIO()
        call_command(Command(), *words, stdout=written, no_color=True)
        return written.getvalue()

    place = describe_host(redis_url)
    with override_settings(CHANNEL_LAYERS=layers):
        assert call("queues", "--alias", "one") == f"nothing on {place} (one)\n"
        assert call("queues").count(f"nothing on {place} (") == 2
        for alias, text in (("three", "'three'"), ("memory", "no layer of channels_redis")):
            with pytest.raises(CommandError, match=text):
                call("doctor", "--alias", alias)


def test_the_layers_work_without_django(redis_url: str) -> None:
    """The app is optional, and so are Django's settings for layers and doctor."""
    code = (
        "import sys\n"
        "from channels_redis import __main__\n"
        "before = __main__.main(['doctor', '--url', sys.argv[1]])\n"
        "from django.conf import settings\n"
        "sys.exit(before or settings.configured)"
    )
    asked = [sys.executable, "-c", code, redis_url]
    said = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=50)
    assert said.returncode == 0, said.stderr


def test_an_option_that_needs_another_is_not_blamed_for_a_third() -> None:
    """Each option is tried by itself, but for what it can't be without."""
    config = {**BOUND, "symmetric_encryption_keys": [STRONG], "expiry": -1}
    (message,) = found(config)
    assert "expiry" in message.msg


def test_a_misspelt_backend_is_shown_the_right_names() -> None:
    """Channels' own error says only that it can't be imported."""
    (setup,) = read_settings({"default": {"BACKEND": "channels_redis.core.RedisChanelLayer"}})
    (refusal,) = setup.refusals
    assert refusal.id == "E005"
    for kind in ("core.RedisChannelLayer", "pubsub.RedisPubSubChannelLayer"):
        assert f"channels_redis.{kind}" in refusal.advice
