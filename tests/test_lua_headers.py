"""Each Lua script says at its top what it takes and returns, and does no more than it may."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPTS = sorted(Path(__file__).parent.parent.glob("channels_redis/_transport/lua/*.lua"))

# What an ACL must allow besides EVAL and EVALSHA; docs/operations.rst lists the same.
COMMANDS = {"ZCOUNT", "ZRANGE", "ZADD", "ZREM", "ZREMRANGEBYSCORE", "ZPOPMIN", "EXPIRE"}
# The same for groups with a history. What is published goes to a topic, which is no key.
COMMANDS |= {"GET", "SET", "XADD", "XDEL", "XRANGE", "XREVRANGE"}
PUBLISHING_COMMANDS = {"PUBLISH", "SPUBLISH"}
# The same for presence.
COMMANDS |= {"HGET", "HSET", "HDEL", "HINCRBY"}
# May be refused: the script then takes the caller's clock.
OPTIONAL_COMMANDS = {"TIME"}

DESCRIBED = re.compile(r"^-- ((?:KEYS|ARGV)\[\d+(?:\.\.)?\]) (.+: .+)$", re.MULTILINE)
UNIT_IN_NAME = re.compile(r"_(s|ms|us|bytes)\b")
UNIT_IN_WORDS = re.compile(r"\b(number of|seconds|milliseconds|bytes)\b")

HEADER = """\
-- Does a thing.
--
-- KEYS[1] queue: sorted set of message -> unix time in seconds
-- ARGV[1] member: the message, bytes
-- ARGV[2] expiry_s: age in seconds
--
-- Returns nothing
"""
BODY = """\
local queue = KEYS[1]
local member = ARGV[1]
local expiry_s = tonumber(ARGV[2])
local time = redis.pcall('TIME')
redis.call('ZADD', queue, time[1], member)
"""


def problems(source: str) -> Iterator[str]:
    """Yield all that is wrong with a script."""
    header, code = split(source)
    yield from header_problems(header, code)
    yield from command_problems(code)


def split(source: str) -> tuple[str, str]:
    """Part a script into its header and its code without comments."""
    lines = source.splitlines(keepends=True)
    length = next((i for i, line in enumerate(lines) if not line.startswith("--")), len(lines))
    return "".join(lines[:length]), re.sub(r"--.*", "", "".join(lines[length:]))


def header_problems(header: str, code: str) -> Iterator[str]:
    described = dict(DESCRIBED.findall(header))
    used = set(re.findall(r"(?:KEYS|ARGV)\[\d+\]", code))
    used |= {f"{kind}[{first}..]" for kind, first in taken_to_the_end(code)}
    yield from (f"{name} is used and not described" for name in used - described.keys())
    yield from (f"{name} is described and not used" for name in described.keys() - used)
    for name in re.findall(r"tonumber\((ARGV\[\d+\])\)", code):
        text = described.get(name, "")
        if not UNIT_IN_NAME.search(text.split(":")[0]) and not UNIT_IN_WORDS.search(text):
            yield f"{name} is a number without a unit"
    if not re.match(r"-- [A-Z].+", header):
        yield "the first line does not say the purpose"
    if not re.search(r"^-- Returns \S", header, re.MULTILINE):
        yield "what it returns is not described"
    if not code.startswith("local "):
        yield "the code does not begin by giving names to what it takes"


def taken_to_the_end(code: str) -> Iterator[tuple[str, str]]:
    """Yield the kind and the first index of what is read in a loop or unpacked."""
    yield from re.findall(r"unpack\((KEYS|ARGV), (\d+)", code)
    yield from ((kind, first) for first, kind in re.findall(r"= (\d+), #(KEYS|ARGV)", code))


def command_problems(code: str) -> Iterator[str]:
    keys = set(re.findall(r"local (\w+) = KEYS\[\d+\]", code))
    for key in keys:
        if len(re.findall(rf"\b{key}\s*=[^=]", code)) > 1:
            yield f"{key} is a key and gets another value"
    calls = re.findall(r"redis\.(p?call)\(\s*(\S+?)\s*(?:,\s*([^\s,)]+).*|\))", code)
    if len(calls) != code.count("redis."):
        yield "something of redis is used besides call and pcall"
    for how, quoted, first in calls:
        command = quoted.strip("'\"")
        if command in OPTIONAL_COMMANDS:
            if how != "pcall":
                yield f"{command} may be refused, and is not called by pcall"
        elif command in PUBLISHING_COMMANDS:
            continue
        elif command not in COMMANDS:
            yield f"{command} is not among the commands that an ACL must allow"
        elif first not in keys and not re.fullmatch(r"KEYS\[\d+\]", first):
            yield f"{command} works on {first}, which is not one of KEYS"


def test_there_are_scripts_to_check() -> None:
    """The tests below have found the files they are about."""
    assert "send" in {path.stem for path in SCRIPTS}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_does_what_its_header_says(path: Path) -> None:
    """Every key and argument is described with its unit, and every key is a declared one."""
    assert list(problems(path.read_text())) == []


def test_a_good_script_has_no_problems() -> None:
    """The checks accept what they ask for."""
    assert list(problems(HEADER + BODY)) == []


@pytest.mark.parametrize(
    ("good", "bad", "problem"),
    [
        ("-- ARGV[2] expiry_s: age in seconds\n", "", "ARGV[2] is used and not described"),
        ("-- Returns", "-- ARGV[3] x_s: age\n-- Returns", "ARGV[3] is described and not used"),
        (
            "-- KEYS[1] queue: sorted set",
            "-- KEYS[2] queue: a",
            "KEYS[1] is used and not described",
        ),
        ("expiry_s: age in seconds", "expiry: age", "ARGV[2] is a number without a unit"),
        ("-- Returns nothing\n", "", "what it returns is not described"),
        ("-- Does a thing.\n", "", "the first line does not say the purpose"),
        ("local queue =", "queue =", "the code does not begin by giving names to what it takes"),
        ("pcall('TIME')", "call('TIME')", "TIME may be refused, and is not called by pcall"),
        ("'ZADD'", "'ZSCORE'", "ZSCORE is not among the commands that an ACL must allow"),
        ("queue, time", "'x' .. queue, time", "ZADD works on 'x', which is not one of KEYS"),
        (
            "redis.call(",
            "queue = queue .. 'x'\nredis.call(",
            "queue is a key and gets another value",
        ),
        ("redis.call(", "redis.log(", "something of redis is used besides call and pcall"),
        ("time[1], member", "time[1], unpack(ARGV, 3)", "ARGV[3..] is used and not described"),
        (
            "redis.call",
            "for i = 3, #ARGV do redis.call",
            "ARGV[3..] is used and not described",
        ),
    ],
)
def test_a_bad_script_is_found(good: str, bad: str, problem: str) -> None:
    """None of the checks passes by not looking."""
    source = HEADER + BODY
    assert good in source
    assert problem in problems(source.replace(good, bad))
