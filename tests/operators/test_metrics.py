"""Metrics: OpenTelemetry's names for those who ask, and the example for Prometheus."""

from __future__ import annotations

import gc
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from channels.layers import channel_layers
from django.conf import settings
from django.test.utils import override_settings
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest

from channels_redis.exceptions import ConnectionLost
from channels_redis.opentelemetry import instrument
from tests.helpers import receive

if not settings.configured:
    settings.configure()

EXAMPLE = Path(__file__).parents[2] / "examples" / "metrics" / "prometheus.py"
MESSAGE = {"type": "test"}
Make = Callable[..., Any]


class Exporter:
    """What an exporter gets."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader])

    def metrics(self) -> dict[str, Any]:
        """Return the metrics of our meter, by name."""
        data = self._reader.get_metrics_data()
        resources = data.resource_metrics if data is not None else []
        scopes = [scope for resource in resources for scope in resource.scope_metrics]
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def points(self, name: str) -> list[tuple[Any, dict[str, Any]]]:
        """Return values (of a histogram the counts) with their attributes."""
        metric = self.metrics().get(name)
        points = metric.data.data_points if metric is not None else []
        return [
            (getattr(point, "value", getattr(point, "count", None)), dict(point.attributes))
            for point in points
        ]


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    exporter = Exporter()
    yield exporter
    exporter.provider.shutdown()


async def test_messages_are_counted_under_the_names_of_the_conventions(
    make_layer: Make, kind: str, exporter: Exporter
) -> None:
    """Sent and consumed messages and durations, with the attributes that are required."""
    layer = make_layer(kind)
    end = instrument({"chat": layer}, exporter.provider)
    channel = await layer.new_channel()
    await layer.send(channel, MESSAGE)
    await layer.send(channel, MESSAGE)
    await receive(layer, channel)
    common = {"messaging.system": "redis", "channels_redis.layer": "chat"}
    ((sent, attributes),) = exporter.points("messaging.client.sent.messages")
    assert sent == 2
    assert attributes.items() >= {**common, "messaging.operation.name": "send"}.items()
    assert attributes["server.address"]
    assert isinstance(attributes["server.port"], int)
    receiving = {**common, "messaging.operation.name": "receive"}
    assert exporter.points("messaging.client.consumed.messages") == [(1, receiving)]
    ((count, attributes),) = exporter.points("messaging.client.operation.duration")
    assert count == 2
    assert attributes == {
        **common,
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
    }
    assert exporter.metrics()["messaging.client.operation.duration"].unit == "s"
    end()


async def test_what_fails_is_told_by_its_class(
    make_layer: Make, kind: str, exporter: Exporter, dead_port: int
) -> None:
    """``error.type``, and no count among the sent."""
    layer = make_layer(kind, hosts=[("127.0.0.1", dead_port)], connect_wait_s=0.1)
    instrument({"default": layer}, exporter.provider)
    with pytest.raises(ConnectionLost):
        await layer.group_send("room", MESSAGE)
    ((count, attributes),) = exporter.points("messaging.client.operation.duration")
    assert count == 1
    assert attributes["error.type"] == "channels_redis.exceptions.ConnectionLost"
    ((sent, _),) = exporter.points("messaging.client.sent.messages")
    assert sent == 0


async def test_all_statistics_are_exported(make_layer: Make, exporter: Exporter) -> None:
    """Gauges of the moment, drops by reason, one point for each layer and node."""
    layers = {name: make_layer("core", hosts=None, prefix=name) for name in ("one", "two")}
    instrument(layers, exporter.provider)
    layers["one"]._dropped("channel", "capacity")
    layers["two"].receive_buffer["specific.x!1"].put_nowait(MESSAGE)
    assert set(exporter.metrics()) == {
        "messaging.client.sent.messages",
        "messaging.client.consumed.messages",
        "channels_redis.refused.messages",
        "channels_redis.received.messages",
        "channels_redis.dropped.messages",
        "channels_redis.reconnects",
        "channels_redis.dead.processes",
        "channels_redis.announced.leaves",
        "channels_redis.outage.time",
        "channels_redis.outage.duration",
        "channels_redis.mailboxes",
        "channels_redis.waiting.receivers",
        "channels_redis.buffered.messages",
        "channels_redis.commands.in_flight",
    }
    ((count, attributes),) = exporter.points("channels_redis.dropped.messages")
    assert (count, attributes["channels_redis.reason"]) == (1, "capacity")
    buffered = exporter.points("channels_redis.buffered.messages")
    assert sorted((one["channels_redis.layer"], value) for value, one in buffered) == [
        ("one", 0),
        ("two", 1),
    ]


def test_layers_may_come_one_by_one_and_go(layer_class: type[Any], exporter: Exporter) -> None:
    """A second call adds its layers; the end of one, asked for or thrown away, is its own."""
    layers = {str(number): layer_class() for number in range(3)}
    ends = [instrument({alias: layer}, exporter.provider) for alias, layer in layers.items()]

    def reported() -> list[str]:
        points = exporter.points("channels_redis.mailboxes")
        return sorted(attributes["channels_redis.layer"] for _, attributes in points)

    assert reported() == ["0", "1", "2"]
    ends[0]()
    assert reported() == ["1", "2"]
    del layers["2"], ends
    gc.collect()
    assert reported() == ["1"]


async def test_the_example_serves_prometheus(redis_url: str, prefix: str) -> None:
    """What is scraped tells of all layers of the settings; others are left alone."""
    register = runpy.run_path(str(EXAMPLE))["register"]
    registry = CollectorRegistry()
    core = "channels_redis.core.RedisChannelLayer"
    config = {"hosts": [redis_url], "prefix": prefix}
    layers = {
        "default": {"BACKEND": core, "CONFIG": config},
        "memory": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
    }
    with override_settings(CHANNEL_LAYERS=layers):
        register(registry)
        layer = channel_layers["default"]
        assert channel_layers["memory"]
        await layer.send("work", MESSAGE)
        assert await receive(layer, "work") == MESSAGE
        layer._dropped("channel", "capacity")
        text = generate_latest(registry).decode()
        await layer.close()
    node = layer.stats().nodes[0].node
    for line in (
        f'channels_redis_sent_messages_total{{layer="default",node="{node}"}} 1.0',
        'channels_redis_delivered_messages_total{layer="default"} 1.0',
        'channels_redis_dropped_messages_total{layer="default",reason="capacity"} 1.0',
        'channels_redis_mailboxes{layer="default"} 1.0',
        "# TYPE channels_redis_in_flight_commands gauge",
    ):
        assert line in text
    assert "memory" not in text


async def test_durations_can_be_left_out(make_layer: Make, kind: str, exporter: Exporter) -> None:
    """Then nothing stands on the way of a message."""
    layer = make_layer(kind)
    instrument({"default": layer}, exporter.provider, durations=False)
    await layer.send("work", MESSAGE)
    assert exporter.points("messaging.client.operation.duration") == []
    ((sent, _),) = exporter.points("messaging.client.sent.messages")
    assert sent == 1
