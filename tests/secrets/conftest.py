"""What hears all that a layer lets out."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.secrets.canary import Ears


@pytest.fixture(autouse=True)
def nothing_for_later_tests() -> Iterator[None]:
    """Collect what was left open while the warnings of it are ignored."""
    yield
    gc.collect()


@pytest.fixture
async def ears() -> AsyncIterator[Ears]:
    """What hears all records of this test, from the root logger on."""
    ears = Ears()
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(ears)
    root.setLevel(logging.DEBUG)
    ears.listen_to_loop(asyncio.get_running_loop())
    yield ears
    root.removeHandler(ears)
    root.setLevel(level)
