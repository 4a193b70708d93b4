"""Both layers do what may be expected of any channel layer, with the deviations they publish."""

from __future__ import annotations

import asyncio
import unittest
from typing import Any

import pytest

from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from channels_redis.testing.conformance import ChannelLayerConformance, on_a_loop
from tests.conformance.table import COLUMNS, CSV, TESTS, published, written


def deviations(column: str) -> dict[str, str]:
    return {name: "as docs/testing.rst says" for name, ok in published()[column].items() if not ok}


class OnTheServer(ChannelLayerConformance):
    layer_class: Any

    @pytest.fixture(autouse=True)
    def _at(self, redis_url: str) -> None:
        self.url = redis_url

    def new_layer(self, **options: Any) -> Any:
        return self.layer_class(hosts=[self.url], prefix=self.unique, **options)


class TestCore(OnTheServer):
    layer_class = RedisChannelLayer
    deviations = deviations("core")


class TestPubSub(OnTheServer):
    layer_class = RedisPubSubChannelLayer
    deviations = deviations("pubsub")


def test_the_published_table_has_every_test_and_layer() -> None:
    """It was renewed when a test was added; ``tests/mixed`` measures the other columns."""
    table = published()
    assert written(table) == CSV.read_text()
    assert list(table) == list(COLUMNS)
    assert all(table["core"].values())
    assert [name for name, ok in table["pubsub"].items() if not ok] == [
        "test_a_full_channel_of_a_consumer_is_an_error_for_its_sender"
    ]


class Deaf:
    """A layer on which nothing arrives and nothing is refused."""

    def __init__(self, **options: Any) -> None:
        self.receive = self.send

    async def send(self, *args: Any) -> Any:
        # Not at once: a test that never lets go of its loop could not be bounded.
        await asyncio.sleep(0.001)

    group_add = group_discard = group_send = flush = new_channel = send


def test_no_test_passes_for_a_layer_that_does_nothing() -> None:
    """But the one that asks for nothing."""

    class Tests(ChannelLayerConformance):
        bound_s = 0.5

        def new_layer(self, **options: Any) -> Any:
            return Deaf()

    passed = []
    for name in TESTS:
        try:
            getattr(Tests(), name)()
        except (AssertionError, AttributeError, TypeError, unittest.SkipTest):
            continue
        passed.append(name)
    assert passed == ["test_a_message_to_nobody_is_no_error"]


def test_a_deviation_that_is_gone_is_a_failure() -> None:
    """The list of what a layer does not pass can't grow old."""

    class Tests(ChannelLayerConformance):
        deviations = {"test_it": "it did not"}  # noqa: RUF012 (as users write it)

        def new_layer(self, **options: Any) -> Any:
            return Deaf()

        @on_a_loop
        async def test_it(self, make: Any) -> None:
            """Pass."""

    with pytest.raises(AssertionError, match="it did not"):
        Tests().test_it()
