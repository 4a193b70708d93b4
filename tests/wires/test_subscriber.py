"""A subscriber has at its server what is wanted, whatever happens at whichever await."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from redis.exceptions import ConnectionError, NoPermissionError

from .chance import Action, actions
from .listeners import Listeners, Listening
from .loop import Injection
from .world import World, at_every_await


def play(injection: Injection) -> None:
    """Join and leave, at once and in turn, before and after losses and a refusal."""
    with World(injection) as world:
        listeners = injection.subject = Listeners(world)
        place = listeners.places[0]
        first = listeners.subscribe(b"red")
        listeners.subscribe(b"red")
        world.quiet()
        listeners.subscribe(b"green")
        listeners.leave(first)
        world.loop.step(3)
        listeners.leave_all(b"green")
        world.quiet()
        listeners.subscribe(b"blue")
        world.quiet()
        for wire in place.node.wires[-1:]:
            wire.break_off()
        place.node.outcomes.append(ConnectionError("refused"))
        listeners.subscribe(b"green")
        listeners.leave_all(b"blue")
        world.loop.step(3)
        listeners.subscribe(b"blue")
        world.flow(2)
        world.server.refusals.append(NoPermissionError("no permissions for a channel"))
        listeners.subscribe(b"black")
        world.flow(6)
        listeners.leave_all(b"green")
        world.flow(3)
        listeners.check_quiet()
        listeners.leave_all()
        world.quiet()
        listeners.subscribe(b"red")
        world.flow(6)
        listeners.check_quiet()
        listeners.close()
        listeners.check_got()


def cancel(task: asyncio.Task[Any], listeners: Listeners) -> None:
    """Cancel a task from outside, as asyncio.run() does at its end."""
    task.cancel()


def lose(task: asyncio.Task[Any], listeners: Listeners) -> None:
    """Lose the connection."""
    for wire in listeners.places[0].node.wires[-1:]:
        wire.break_off()


def renew(task: asyncio.Task[Any], listeners: Listeners) -> None:
    """Go to another server."""
    listeners.places[0].node.renew("another primary")


def join(task: asyncio.Task[Any], listeners: Listeners) -> None:
    """Have somebody join one topic, and somebody leave another."""
    listeners.subscribe(b"green")
    listeners.leave_all(b"red")


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("action", [cancel, lose, renew, join])
def test_whatever_happens_at_any_await_what_is_wanted_is_subscribed(
    action: Callable[..., None], late: bool
) -> None:
    """Who joins is told once, on confirmation; an outage ends when all is subscribed again."""
    assert at_every_await(play, "channels_redis subscriber", action, late=late) > 10


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("action", [cancel, lose])
def test_whatever_happens_to_who_joins_nothing_is_left_subscribed(
    action: Callable[..., None], late: bool
) -> None:
    """A call that is cancelled, as it waits or as it was just told, is undone."""
    assert at_every_await(play, "caller", action, late=late) > 4


OFTEN = "join leave step run deliver"
SOMETIMES = "publish wait flow lose renew refuse refuse_dial hold_dial let_dial cancel_tasks"


@settings(deadline=None)
@given(actions(OFTEN, SOMETIMES))
def test_in_any_order_of_events_what_is_wanted_is_subscribed_in_the_end(
    chosen: list[Action],
) -> None:
    """And nothing else is; what is published then comes once."""
    with World() as world:
        player = Listening(world)
        player.play(chosen)
        player.let_dial()
        world.flow(25)
        player.listeners.check_quiet()
        player.listeners.close()
        player.listeners.check_got()
