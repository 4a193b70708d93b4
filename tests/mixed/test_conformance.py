"""What the documentation says of the layers that others made."""

from __future__ import annotations

import asyncio

import pytest

from tests.conformance.table import always_passed, published


@pytest.mark.timeout(480)
@pytest.mark.parametrize("column", ["in memory", "core 4.3.0", "pubsub 4.3.0"])
async def test_the_published_table_is_what_is_measured(column: str) -> None:
    """Each test that is said to fail does, and no other.  4.3.0 is run, not read."""
    await asyncio.to_thread(hold_to_the_truth, column)


def hold_to_the_truth(column: str) -> None:
    for table in always_passed(column):
        if table == published()[column]:
            return
    assert table == published()[column]
