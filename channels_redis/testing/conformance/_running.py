"""How a conformance test runs, and the steps that many take."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import unittest
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar

Make = Callable[..., Any]
Test = Callable[[Any], None]

MESSAGE = {"type": "test.message", "text": "hello"}
MARKER = {"type": "test.marker"}
RICH = {
    "type": "test.rich",
    "text": "h\u00e9llo \u2713",
    "bytes": b"\x00\xff",
    "numbers": [0, -5, 2**53, 1.5],
    "nothing": None,
    "yes": True,
    "nested": {"list": [1, ["a", {}]], "empty": []},
}
#: Seconds that make sure that ``expiry=1`` has passed, also where whole seconds are counted.
EXPIRED_S = 2.2


def numbered(number: int) -> dict[str, Any]:
    """Return a message that is not like the others."""
    return {"type": "test.numbered", "number": number}


def on_a_loop(body: Callable[[Any, Make], Awaitable[None]]) -> Test:
    """Make a test of a coroutine function that gets a maker of layers; they are closed at the
    end.  A known deviation has to show, and counts as skipped.
    """

    def test(self: Conformance) -> None:
        reason = self.deviations.get(test.__name__)
        try:
            asyncio.run(self._bounded(body))
        except (Exception, asyncio.CancelledError) as error:
            if reason is None or isinstance(error, unittest.SkipTest):
                raise
            raise unittest.SkipTest(reason) from error
        if reason is not None:
            raise AssertionError(f"The deviation is gone: {reason}")

    # Not functools.wraps: pytest would look for a fixture that is called as the parameter.
    test.__name__, test.__doc__ = body.__name__, body.__doc__
    test.__qualname__, test.__module__ = body.__qualname__, body.__module__
    return test


async def receive(layer: Any, channel: str) -> Any:
    """Receive one message; the bound of the test ends the wait for one that never comes."""
    return await layer.receive(channel)


async def receive_until_marker(layer: Any, channel: str, sender: Any = None) -> list[Any]:
    """Return what comes before a marker that is sent now: all that was sent before."""
    await (sender or layer).send(channel, MARKER)
    messages = []
    while (message := await receive(layer, channel)) != MARKER:
        messages.append(message)
    return messages


async def refuses(call: Awaitable[Any]) -> bool:
    """Return whether a call raises for what it was given."""
    try:
        await call
    except (TypeError, ValueError, AssertionError):
        return True
    return False


async def receives_nothing(layer: Any, channel: str) -> bool:
    """Return whether there is nothing for a channel, which the layer may have forgotten."""
    try:
        await asyncio.wait_for(layer.receive(channel), 0.3)
    except (asyncio.TimeoutError, LookupError, RuntimeError):
        return True
    return False


class Conformance:
    """What a test knows of the layer that it is about."""

    deviations: ClassVar[Mapping[str, str]] = {}
    bound_s: ClassVar[float] = 15.0

    def new_layer(self, **options: Any) -> Any:
        """Return a new layer with these of the options ``capacity``, ``channel_capacity``,
        ``expiry`` (seconds) and ``group_expiry`` (seconds).

        All layers of one test reach each other, as if each were of a process of its own, and
        none of another test: see :attr:`unique`.
        """
        raise NotImplementedError("Define new_layer(self, **options).")

    @cached_property
    def unique(self) -> str:
        """A text for this test alone: letters and digits, to make a prefix of."""
        return f"test{secrets.token_hex(6)}"

    async def _bounded(self, body: Callable[[Any, Make], Awaitable[None]]) -> None:
        layers = []

        def make(**options: Any) -> Any:
            layers.append(self.new_layer(**options))
            return layers[-1]

        try:
            await asyncio.wait_for(body(self, make), self.bound_s)
        except asyncio.TimeoutError:
            raise AssertionError(f"It did not end within {self.bound_s:g} s.") from None
        finally:
            for layer in layers:
                close = getattr(layer, "close", None) or getattr(layer, "close_pools", None)
                if close is not None:
                    await close()


@contextlib.contextmanager
def expected(error: type[Exception]) -> Iterator[None]:
    """Fail unless the block raises ``error``."""
    try:
        yield
    except error:
        return
    raise AssertionError(f"{error.__name__} was not raised")
