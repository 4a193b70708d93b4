"""Metrics for OpenTelemetry: ``instrument(layers)``.

Needs ``pip install "channels-redis[opentelemetry]>=5"``. Names and attributes are those of
OpenTelemetry's semantic conventions for messaging, if there are any; names that are specific to the
layers begin with ``channels_redis.``. Counters are read from ``layer.stats()`` on export, so they
cost nothing per message. Durations are measured, which costs some microseconds for each call.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from opentelemetry.metrics import (
    CallbackOptions,
    Histogram,
    Meter,
    MeterProvider,
    Observation,
    get_meter_provider,
)

from . import __version__
from ._layer.base import BaseRedisLayer
from ._runtime.native import Lock
from .doctor.endpoints import endpoints_of
from .events import Operation
from .stats import LayerStats, NodeStats

Attributes = dict[str, str | int]

#: Seconds; OpenTelemetry's recommendation for operations of this kind.
_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
#: Operations that the conventions know: both send, to one channel or to a group.
_SENDING = frozenset({"send", "group_send"})

_LAYER_COUNTERS: list[tuple[str, str, str, Callable[[LayerStats], float]]] = [
    (
        "messaging.client.consumed.messages",
        "{message}",
        "Messages that receive() returned.",
        lambda stats: stats.delivered,
    ),
    (
        "channels_redis.dead.processes",
        "{process}",
        "Other processes that were found dead.",
        lambda stats: stats.dead_processes,
    ),
    (
        "channels_redis.announced.leaves",
        "{leave}",
        "Users whose leaves of groups with presence this process has announced.",
        lambda stats: stats.announced_leaves,
    ),
]
_NODE_COUNTERS: list[tuple[str, str, str, Callable[[NodeStats], float]]] = [
    (
        "messaging.client.sent.messages",
        "{message}",
        "Messages that the server took: one per queue or topic.",
        lambda node: node.sent,
    ),
    (
        "channels_redis.refused.messages",
        "{message}",
        "Messages for which a queue was full.",
        lambda node: node.refused,
    ),
    (
        "channels_redis.received.messages",
        "{message}",
        "Messages that came from the server: one per queue or topic.",
        lambda node: node.received,
    ),
    (
        "channels_redis.reconnects",
        "{reconnect}",
        "Outages that have ended.",
        lambda node: node.reconnects,
    ),
    (
        "channels_redis.outage.time",
        "s",
        "Time of all outages, the present one included.",
        lambda node: node.outage_total_s,
    ),
]
_LAYER_GAUGES: list[tuple[str, str, str, Callable[[LayerStats], float]]] = [
    (
        "channels_redis.mailboxes",
        "{mailbox}",
        "Buffers of channels in this process.",
        lambda stats: stats.mailboxes,
    ),
    (
        "channels_redis.waiting.receivers",
        "{receiver}",
        "Calls of receive() that wait.",
        lambda stats: stats.waiting,
    ),
    (
        "channels_redis.buffered.messages",
        "{message}",
        "Messages in mailboxes that nobody has taken.",
        lambda stats: stats.buffered,
    ),
]
_NODE_GAUGES: list[tuple[str, str, str, Callable[[NodeStats], float]]] = [
    (
        "channels_redis.commands.in_flight",
        "{command}",
        "Commands that wait for their replies.",
        lambda node: node.in_flight,
    ),
    (
        "channels_redis.outage.duration",
        "s",
        "Time of the present outage; 0 where there is none.",
        lambda node: node.outage_s,
    ),
]


class _Watched:
    """One layer and the attributes of its measurements."""

    def __init__(self, alias: str, layer: BaseRedisLayer) -> None:
        self._layer = weakref.ref(layer)
        self.attributes = _labels(alias)
        self.nodes = [
            {**self.attributes, **_address(layer, shard)} for shard in range(layer.ring_size)
        ]

    def stats(self) -> LayerStats | None:
        layer = self._layer()
        return layer.stats() if layer is not None else None


def _labels(alias: str) -> Attributes:
    return {"messaging.system": "redis", "channels_redis.layer": alias}


def _address(layer: BaseRedisLayer, shard: int) -> Attributes:
    endpoint = endpoints_of(layer.create_pool(shard))[0]
    if endpoint.by_sentinels:
        return {"server.address": layer.stats().nodes[shard].node}
    port: Attributes = {"server.port": endpoint.port} if endpoint.port else {}
    return {"server.address": endpoint.host, **port}


class _Instruments:
    """The instruments of one provider, which report all instrumented layers. Created once."""

    def __init__(self, meter: Meter) -> None:
        self.watched: dict[object, _Watched] = {}
        self.durations: Histogram = meter.create_histogram(
            "messaging.client.operation.duration",
            unit="s",
            description="Duration of send() and group_send().",
            explicit_bucket_boundaries_advisory=_BUCKETS_S,
        )
        for name, unit, text, read in _LAYER_COUNTERS:
            extra: Attributes = {}
            if name.startswith("messaging."):
                extra["messaging.operation.name"] = "receive"
            look: Any = partial(self._of_layers, read, extra)
            meter.create_observable_counter(name, [look], unit, text)
        for name, unit, text, node_read in _NODE_COUNTERS:
            extra = {}
            if name.startswith("messaging."):
                extra["messaging.operation.name"] = "send"
            look = partial(self._of_nodes, node_read, extra)
            meter.create_observable_counter(name, [look], unit, text)
        for name, unit, text, read in _LAYER_GAUGES:
            meter.create_observable_gauge(name, [partial(self._of_layers, read, {})], unit, text)
        for name, unit, text, node_read in _NODE_GAUGES:
            look = partial(self._of_nodes, node_read, {})
            meter.create_observable_gauge(name, [look], unit, text)
        meter.create_observable_counter(
            "channels_redis.dropped.messages",
            [self._dropped],
            "{message}",
            "Messages that will not be delivered, by reason.",
        )

    def _all_stats(self) -> Iterable[tuple[_Watched, LayerStats]]:
        for one in list(self.watched.values()):
            stats = one.stats()
            if stats is not None:
                yield one, stats

    def _of_layers(
        self, read: Callable[[LayerStats], float], extra: Attributes, options: CallbackOptions
    ) -> Iterable[Observation]:
        for one, stats in self._all_stats():
            yield Observation(read(stats), {**one.attributes, **extra})

    def _of_nodes(
        self, read: Callable[[NodeStats], float], extra: Attributes, options: CallbackOptions
    ) -> Iterable[Observation]:
        for one, stats in self._all_stats():
            for node, attributes in zip(stats.nodes, one.nodes, strict=True):
                yield Observation(read(node), {**attributes, **extra})

    def _dropped(self, options: CallbackOptions) -> Iterable[Observation]:
        for one, stats in self._all_stats():
            for reason, count in stats.dropped.items():
                yield Observation(count, {**one.attributes, "channels_redis.reason": reason})


_lock = Lock()
_instruments: weakref.WeakKeyDictionary[MeterProvider, _Instruments] = weakref.WeakKeyDictionary()


def instrument(
    layers: Mapping[str, BaseRedisLayer],
    meter_provider: MeterProvider | None = None,
    *,
    durations: bool = True,
) -> Callable[[], None]:
    """Report layers, by their aliases, to OpenTelemetry; return the function that ends this.

    Without ``meter_provider`` the global one is used, which must have been set before. May be
    called again for other layers. A layer is no longer reported after it was garbage collected.
    Without ``durations`` there is no ``messaging.client.operation.duration``, which saves its cost.
    """
    provider = meter_provider or get_meter_provider()
    with _lock:
        instruments = _instruments.get(provider)
        if instruments is None:
            instruments = _Instruments(provider.get_meter("channels_redis", __version__))
            _instruments[provider] = instruments
    ends = [_watch(instruments, alias, layer) for alias, layer in layers.items()]
    if durations:
        ends += [_time(instruments, alias, layer) for alias, layer in layers.items()]

    def end() -> None:
        for one in ends:
            one()

    return end


def _watch(instruments: _Instruments, alias: str, layer: BaseRedisLayer) -> Callable[[], None]:
    key = object()
    instruments.watched[key] = _Watched(alias, layer)

    def end() -> None:
        instruments.watched.pop(key, None)

    return end


def _time(instruments: _Instruments, alias: str, layer: BaseRedisLayer) -> Callable[[], None]:
    labels = {name: _operation_labels(alias, name) for name in _SENDING}
    return layer.on_operation(partial(_record, instruments.durations, labels))


def _operation_labels(alias: str, name: str) -> Attributes:
    operation = {"messaging.operation.name": name, "messaging.operation.type": "send"}
    return {**_labels(alias), **operation}


def _record(durations: Histogram, labels: Mapping[str, Attributes], operation: Operation) -> None:
    known = labels.get(operation.name)
    if known is None:
        return
    if operation.error is not None:
        known = {**known, "error.type": operation.error}
    durations.record(operation.duration_s, known)
