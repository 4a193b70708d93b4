"""Topics that move from server to server, and those who listen to them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings

from .chance import Action, actions
from .listeners import TOPICS, Listeners, Listening
from .loop import TURNS, Injection
from .world import World, at_every_await


def play(injection: Injection) -> None:
    """Move topics that are joined, being joined and being left, before and after that is known."""
    with World(injection) as world:
        listeners = injection.subject = Listeners(world, servers=2)
        listeners.subscribe(b"red")
        listeners.subscribe(b"green")
        world.quiet()
        listeners.move(b"red", 1)
        listeners.subscribe(b"red")
        world.quiet()
        listeners.follow()
        listeners.subscribe(b"blue")
        listeners.leave_all(b"green")
        listeners.follow()
        world.quiet()
        listeners.move(b"blue", 1)
        listeners.subscribe(b"green")
        world.flow(0.2)
        listeners.follow()
        world.loop.step(2)
        listeners.move(b"red", 0)
        listeners.follow()
        listeners.move(b"red", 1)
        listeners.follow()
        world.flow(6)
        assert not any(one.failed for one in listeners.listeners)
        listeners.check_quiet()
        listeners.close()
        listeners.check_got()


def lose(task: None, listeners: Listeners) -> None:
    """Lose all connections."""
    for place in listeners.places:
        for wire in place.node.wires[-1:]:
            wire.break_off()


def move(task: None, listeners: Listeners) -> None:
    """Move a topic there and back, so that it is soon taken back to where it was."""
    here = listeners.places.index(listeners.place(b"red"))
    for number in (1 - here, here):
        listeners.move(b"red", number)
        listeners.follow()


def leave(task: None, listeners: Listeners) -> None:
    """Have all go who listen to one topic, or wait to, and somebody else come."""
    listeners.leave_all(b"red")
    listeners.subscribe(b"red")


@pytest.mark.parametrize("action", [lose, move, leave])
def test_whatever_happens_in_any_turn_a_topic_is_subscribed_where_it_is_served(
    action: Callable[..., None],
) -> None:
    """Nowhere else is it, and who waits for it is told once, by whichever server."""
    assert at_every_await(play, TURNS, action) > 40


def test_a_topic_that_comes_back_waits_for_what_is_on_its_way_for_it() -> None:
    """Else a confirmation would not tell which command it is for."""
    with World() as world:
        listeners = Listeners(world, servers=2)
        here, there = [place.subscriber for place in listeners.places]
        listeners.subscribe(b"red")
        world.quiet()
        there.move_in(b"red", here.move_out(b"red"))
        world.loop.settle()
        here.move_in(b"red", there.move_out(b"red"))
        world.loop.settle()
        listeners.check_commands()
        world.quiet()
        listeners.check_quiet()
        listeners.close()
        listeners.check_got()


class Moving(Listening):
    """Moves topics between three servers as well."""

    def __init__(self, world: World) -> None:
        super().__init__(world, servers=3)

    def step(self, number: int) -> None:
        """Also have what follows happen to the next server."""
        super().step(number)
        place = self.listeners.places[number % 3]
        self.node = place.node

    def move(self, number: int) -> None:
        self.listeners.move(TOPICS[number % 2], number % 3)

    def follow(self, number: int) -> None:
        self.listeners.follow()


OFTEN = "join leave step run deliver move follow"
SOMETIMES = "publish wait flow lose refuse_dial hold_dial let_dial cancel_tasks"


@settings(deadline=None)
@given(actions(OFTEN, SOMETIMES))
def test_in_any_order_of_events_a_topic_ends_where_it_is_served(chosen: list[Action]) -> None:
    """As soon as it is known who serves what; and what is published there comes once."""
    with World() as world:
        player = Moving(world)
        player.play(chosen)
        player.let_dial()
        player.listeners.follow()
        world.flow(25)
        player.listeners.check_quiet()
        player.listeners.close()
        player.listeners.check_got()
