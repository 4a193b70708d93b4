"""Figures of all Redis channel layers for Prometheus, read from ``stats()`` at each scrape.

Copy it into your project; see docs/observability.rst.
"""

from channels.layers import channel_layers
from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

# Name, kind, help, field of channels_redis.stats.NodeStats.
OF_NODES = [
    ("sent_messages", CounterMetricFamily, "Messages that the server took", "sent"),
    ("refused_messages", CounterMetricFamily, "Messages for which a queue was full", "refused"),
    ("received_messages", CounterMetricFamily, "Messages that came from it", "received"),
    ("reconnects", CounterMetricFamily, "Outages that have ended", "reconnects"),
    ("outage_seconds", CounterMetricFamily, "Time of all outages", "outage_total_s"),
    ("present_outage_seconds", GaugeMetricFamily, "Time of this outage, or 0", "outage_s"),
    ("in_flight_commands", GaugeMetricFamily, "Commands without a reply", "in_flight"),
]
# The same of channels_redis.stats.LayerStats.
OF_LAYERS = [
    ("delivered_messages", CounterMetricFamily, "Messages that receive() returned", "delivered"),
    ("mailboxes", GaugeMetricFamily, "Buffers of channels", "mailboxes"),
    ("waiting_receivers", GaugeMetricFamily, "Calls of receive() that wait", "waiting"),
    ("buffered_messages", GaugeMetricFamily, "Messages that nobody has taken", "buffered"),
]


class ChannelLayerCollector(Collector):
    """Asks every layer that this process has used."""

    def collect(self):
        layers = list(channel_layers.backends.items())
        stats = {alias: layer.stats() for alias, layer in layers if hasattr(layer, "stats")}
        nodes = [(alias, node) for alias, layer in stats.items() for node in layer.nodes]
        for name, kind, text, field in OF_NODES:
            family = kind(f"channels_redis_{name}", text, labels=["layer", "node"])
            for alias, node in nodes:
                family.add_metric([alias, node.node], getattr(node, field))
            yield family
        for name, kind, text, field in OF_LAYERS:
            family = kind(f"channels_redis_{name}", text, labels=["layer"])
            for alias, layer in stats.items():
                family.add_metric([alias], getattr(layer, field))
            yield family
        dropped = CounterMetricFamily(
            "channels_redis_dropped_messages", "Not delivered", labels=["layer", "reason"]
        )
        for alias, layer in stats.items():
            for reason, count in layer.dropped.items():
                dropped.add_metric([alias, reason], count)
        yield dropped


def register(registry=REGISTRY):
    """Call this once per process, for example in the ``ready()`` of an app."""
    collector = ChannelLayerCollector()
    registry.register(collector)
    return collector
