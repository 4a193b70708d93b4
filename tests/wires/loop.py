"""An event loop that a test drives by hand, on a clock of its own."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

#: In place of the name of a task: turns of the loop are counted, in which anything runs.
TURNS = "turns"

#: A loop that is still busy after so many turns without the clock moving is never idle.
BUSY_TURNS = 20_000


class _Selector(selectors.SelectSelector):
    """Waits for nothing: tells the loop how long it would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.about_to_wait: Callable[[float | None], None] = lambda timeout: None

    def select(self, timeout: float | None = None) -> list[Any]:
        self.about_to_wait(timeout)
        return []


class StepLoop(asyncio.SelectorEventLoop):
    """Runs only while the test tells it to: one turn, until idle, or for some virtual seconds.

    Between two turns the test may do what a callback of the loop could do.
    """

    def __init__(self) -> None:
        self._now = 1000.0
        self._until = self._now
        self._one_turn = False
        self._busy = 0
        self._injection: Injection | None = None
        #: What the loop's exception handler was told: nothing, if all is well.
        self.complaints: list[dict[str, Any]] = []
        selector = _Selector()
        super().__init__(selector)
        selector.about_to_wait = self._about_to_wait
        self.set_exception_handler(lambda loop, context: self.complaints.append(context))

    def time(self) -> float:
        return self._now

    def step(self, turns: int = 1) -> None:
        """Run so many turns: what is ready now, then what that made ready, and so on."""
        self._one_turn = True
        for _ in range(turns):
            self.run_forever()
        self._one_turn = False

    def settle(self) -> None:
        """Run until nothing is ready; the clock stands."""
        self.advance(0)

    def advance(self, seconds: float) -> None:
        """Run for so many seconds of the loop's clock."""
        self._until = self._now + seconds
        self._busy = 0
        self.run_forever()
        self._now = self._until

    def inject(self, injection: Injection | None) -> None:
        """Have something done at an await of a task that is made from now on."""
        self._injection = injection

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        injection = self._injection
        if injection is not None and str(options.get("name")).startswith(injection.task_name):
            coro = _Watched(coro, injection)
        return super().create_task(coro, **options)

    def _about_to_wait(self, timeout: float | None) -> None:
        self._busy += 1
        if self._injection is not None and self._injection.task_name is TURNS and timeout == 0:
            self._injection.turns()
        assert self._busy < BUSY_TURNS or self._one_turn, "the loop is never idle"
        if self._one_turn or timeout is None or self._now + timeout > self._until:
            self.stop()
        elif timeout:
            self._busy = 0
            self._now += timeout


class Injection:
    """Does something at the await with one number, of the tasks whose names begin alike.

    ``number`` counts from 1; 0 only counts. ``action`` is called with the task, and with what the
    test has put into ``subject``: when the task has just begun to wait or, where ``late``, when
    what it waits for is there and the task has not yet run again. That is the moment at which a
    cancellation loses what code did not expect to lose. Instead of awaits, it counts turns of the
    loop where ``task_name`` is :data:`TURNS`; then there is no task.
    """

    def __init__(
        self,
        task_name: str,
        number: int,
        action: Callable[[Any, Any], object],
        *,
        late: bool = False,
    ) -> None:
        self.task_name = task_name
        self.subject: Any = None
        self.awaits = 0
        self._number = number
        self._action = action
        self._late = late

    def turns(self) -> None:
        """Note that a turn of the loop is about to begin."""
        self.awaits += 1
        if self.awaits == self._number:
            self._action(None, self.subject)

    def waits(self, awaited: Any) -> None:
        """Note that a task, the current one, is about to wait for a future, or for a turn."""
        self.awaits += 1
        if self.awaits != self._number:
            return
        task = asyncio.current_task()
        assert task is not None
        if self._late and awaited is not None:
            # Before the task's own callback, so that it runs first.
            awaited.add_done_callback(lambda _: self._action(task, self.subject))
        else:
            self._action(task, self.subject)


class _Watched(Coroutine[Any, Any, Any]):
    """A coroutine that tells when it waits."""

    def __init__(self, work: Any, injection: Injection) -> None:
        self._work = work
        self._injection = injection

    def send(self, value: Any) -> Any:
        return self._waits(self._work.send(value))

    def throw(self, *error: Any) -> Any:
        return self._waits(self._work.throw(*error))

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Any:
        return self._work.__await__()

    def _waits(self, awaited: Any) -> Any:
        self._injection.waits(awaited)
        return awaited
