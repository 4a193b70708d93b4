"""Work of a consumer that is written once for async and sync ones: a generator that yields calls.

Each call runs where the application's own methods run: on the event loop, or in the thread of a
sync consumer.  In both, its result may be awaitable.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from asgiref.sync import async_to_sync

#: Yields calls without arguments, and gets their results.
Steps = Generator[Callable[[], Any], Any, Any]


async def run(steps: Steps) -> Any:
    """Run the calls on the event loop, and return what the generator returns."""
    answer: Any = None
    error: BaseException | None = None
    while True:
        try:
            call = _advance(steps, answer, error)
        except StopIteration as stop:
            return stop.value
        answer = error = None
        try:
            answer = call()
            if inspect.isawaitable(answer):
                answer = await answer
        except BaseException as raised:  # noqa: BLE001 (raised in the generator)
            error = raised


def run_in_thread(steps: Steps) -> Any:
    """The same in the thread of a sync consumer."""
    answer: Any = None
    error: BaseException | None = None
    while True:
        try:
            call = _advance(steps, answer, error)
        except StopIteration as stop:
            return stop.value
        answer = error = None
        try:
            answer = call()
            if inspect.isawaitable(answer):
                answer = async_to_sync(_result_of)(answer)
        except BaseException as raised:  # noqa: BLE001 (raised in the generator)
            error = raised


def _advance(steps: Steps, answer: Any, error: BaseException | None) -> Callable[[], Any]:
    return steps.send(answer) if error is None else steps.throw(error)


async def _result_of(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
