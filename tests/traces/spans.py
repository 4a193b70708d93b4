"""Spans that tests look at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


class Spans:
    """The spans that have ended, in the order of their ends."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("tests")

    def ended(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def names(self) -> list[str]:
        return [span.name for span in self.ended()]

    def named(self, name: str) -> ReadableSpan:
        """Return the only span with this name."""
        (found,) = (span for span in self.ended() if span.name == name)
        return found


@contextmanager
def recorded() -> Iterator[Spans]:
    spans = Spans()
    yield spans
    spans.provider.shutdown()


def ids(context: Any) -> tuple[int, int]:
    """Return the ids of a trace and a span."""
    return context.trace_id, context.span_id
