"""Which error replies mean that a command did not run and may be sent again."""

from __future__ import annotations

import pytest
from redis.exceptions import ClusterDownError, ResponseError

from channels_redis._transport.commands import is_retryable


@pytest.mark.parametrize(
    "reply",
    [
        ResponseError("BUSY Redis is busy running a script."),
        ResponseError("NOREPLICAS Not enough good replicas to write."),
        ClusterDownError("The cluster is down"),
    ],
)
def test_a_command_that_did_not_run_may_be_sent_again(reply: ResponseError) -> None:
    """Later, or to another server."""
    assert is_retryable(reply)


@pytest.mark.parametrize(
    "text",
    ["BUSYKEY Target key name already exists.", "BUSYGROUP exists", "WRONGTYPE no", "busy"],
)
def test_other_errors_are_raised(text: str) -> None:
    """Also if their codes begin in the same way."""
    assert not is_retryable(ResponseError(text))
