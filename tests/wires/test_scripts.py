"""Scripts over a connection: when they go by their source, and when by its hash."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from redis.exceptions import NoPermissionError, ResponseError

from channels_redis._transport.commands import Script
from channels_redis._transport.multiplexer import Multiplexer
from channels_redis.exceptions import WrongKeyType

from .world import World

SCRIPT = Script("put_back")
FORBIDDEN = NoPermissionError("this user has no permissions to run the 'evalsha' command")


class Caller:
    """Calls one script over and over."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.node = world.node()
        self.multiplexer = Multiplexer(self.node)
        self.calls = 0

    def call(self) -> asyncio.Future[Any]:
        """Add a member to a queue by the script; the score tells the order of the calls."""
        self.calls += 1
        packed = SCRIPT.packed("key", 60, self.calls, b"m%d" % self.calls)
        return self.multiplexer.call(packed, script=SCRIPT, key="key")

    def forms(self) -> list[tuple[bytes, bytes]]:
        """Return the command and the member of each call, in the order they were written."""
        logs = [wire.log for wire in self.node.wires]
        return [(args[0], args[-1]) for log in logs for args in log if args[0].startswith(b"EVAL")]


@pytest.fixture
def caller() -> Iterator[Caller]:
    """Whoever calls, in a world of its own."""
    with World() as world:
        caller = Caller(world)
        yield caller
        world.finish(caller.multiplexer.aclose())
        world.loop.settle()


def results(*replies: asyncio.Future[Any]) -> list[Any]:
    """Return the results of calls, which must have ended."""
    return [reply.result() for reply in replies]


def test_the_first_call_on_a_connection_loads_the_script(caller: Caller) -> None:
    """Those behind it go by the hash at once, and nothing is refused."""
    replies = [caller.call() for _ in range(3)]
    caller.world.quiet()
    assert results(*replies) == [1, 1, 1]
    assert caller.forms() == [(b"EVAL", b"m1"), (b"EVALSHA", b"m2"), (b"EVALSHA", b"m3")]


def test_the_first_call_on_the_next_connection_loads_it_again(caller: Caller) -> None:
    """It may be another server."""
    caller.call()
    caller.world.quiet()
    caller.multiplexer.renew("elsewhere")
    reply = caller.call()
    caller.world.flow(1)
    assert results(reply) == [1]
    assert caller.forms() == [(b"EVAL", b"m1"), (b"EVAL", b"m2")]


def test_a_script_that_the_server_has_forgotten_runs_by_its_source(caller: Caller) -> None:
    """Each call once, in the order of the calls, and by the hash again later."""
    caller.call()
    caller.world.quiet()
    caller.world.server.loaded.clear()
    replies = [caller.call() for _ in range(3)]
    caller.world.quiet()
    assert results(*replies) == [1, 1, 1]
    assert caller.world.server.queues[b"key"] == [(n, b"m%d" % n) for n in (1, 2, 3, 4)]
    by_source = [member for command, member in caller.forms() if command == b"EVAL"]
    assert by_source == [b"m1", b"m2", b"m3", b"m4"]
    last = caller.call()
    caller.world.quiet()
    assert results(last) == [1]
    assert caller.forms()[-1] == (b"EVALSHA", b"m5")


def test_where_evalsha_is_forbidden_it_is_not_tried_again(caller: Caller) -> None:
    """Not on the next connection either."""
    caller.call()
    caller.world.quiet()
    caller.world.server.refusals.append(FORBIDDEN)
    refused = caller.call()
    caller.world.quiet()
    after = caller.call()
    caller.world.quiet()
    caller.multiplexer.renew("elsewhere")
    later = caller.call()
    caller.world.flow(1)
    assert results(refused, after, later) == [1, 1, 1]
    assert [command for command, _ in caller.forms()] == [
        b"EVAL",
        b"EVALSHA",
        *([b"EVAL"] * 3),
    ]


def test_a_caller_that_has_gone_does_not_have_its_script_run_later(caller: Caller) -> None:
    """It was refused, and nobody waits for it any more."""
    caller.call()
    caller.world.quiet()
    caller.world.server.loaded.clear()
    gone = caller.call()
    caller.world.loop.settle()
    gone.cancel()
    caller.world.quiet()
    assert caller.forms() == [(b"EVAL", b"m1"), (b"EVALSHA", b"m2")]


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (ResponseError("WRONGTYPE Operation against a key"), WrongKeyType),
        (NoPermissionError("this user has no permissions to run the 'eval' command"), Exception),
    ],
)
def test_other_refusals_are_raised(caller: Caller, refusal: Exception, kind: type) -> None:
    """A key of another type is named."""
    caller.world.server.refusals.append(refusal)
    reply = caller.call()
    caller.world.quiet()
    assert isinstance(reply.exception(), kind)
    assert len(caller.forms()) == 1
    if kind is WrongKeyType:
        assert "'key'" in str(reply.exception())
