"""The budget of mailboxes against a plain sum: what it counts, and which mailbox is the largest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from channels_redis._receiving.budget import ENTRY_BYTES, Budget, Share


class Payload:
    """Something of a size."""

    def __init__(self, cost_bytes: int) -> None:
        self.cost_bytes = cost_bytes
        self.copies = 0


Step = int | tuple[int, set[int]]
STEPS = st.lists(
    st.one_of(
        # Put a payload of a size into some of four mailboxes; take the oldest out of one.
        st.tuples(st.integers(0, 300), st.sets(st.integers(0, 3))),
        st.integers(0, 3),
    ),
    max_size=200,
)


def take(step: Step, budget: Budget, shares: list[Share], lying: list[list[Payload]]) -> None:
    if isinstance(step, tuple):
        payload = Payload(step[0])
        budget.add([shares[index] for index in step[1]], payload)
        for index in step[1]:
            lying[index].append(payload)
    elif lying[step]:
        budget.remove(shares[step], lying[step].pop(0))


@given(STEPS)
def test_the_budget_is_the_sum_of_payloads_and_entries(
    steps: list[Step],
) -> None:
    """A payload counts once wherever it lies, an entry each time, and all that left not at all."""
    budget = Budget(100_000)
    shares = [Share() for _ in range(4)]
    lying: list[list[Payload]] = [[] for _ in shares]
    for step in steps:
        take(step, budget, shares, lying)
        payloads = {id(one): one.cost_bytes for box in lying for one in box}
        entries = sum(map(len, lying))
        assert budget.used_bytes == sum(payloads.values()) + ENTRY_BYTES * entries


@given(STEPS, st.integers(1, 5000))
def test_the_largest_mailbox_is_at_most_twice_as_large_as_the_one_that_is_named(
    steps: list[Step], limit_bytes: int
) -> None:
    """Levels are doublings; only where all mailboxes are tiny is none of them named."""
    budget = Budget(limit_bytes)
    shares = [Share() for _ in range(4)]
    lying: list[list[Payload]] = [[] for _ in shares]
    for step in steps:
        take(step, budget, shares, lying)
        largest_bytes = max(share.used_bytes for share in shares)
        named = budget.largest()
        if named is None:
            assert largest_bytes < 2 * ENTRY_BYTES
        else:
            assert 2 * named.used_bytes >= largest_bytes


def test_mailboxes_of_one_size_take_turns() -> None:
    """So that no single one of many busy consumers loses everything."""
    budget = Budget(1000)
    shares = [Share() for _ in range(3)]
    budget.add(shares, Payload(500))
    assert {budget.largest() for _ in range(3)} == set(shares)
