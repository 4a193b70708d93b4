"""One trace from a Django view to a worker and to a WebSocket consumer, in three processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.helpers import script_arguments_for, script_environment

DOCUMENT = Path(__file__).parents[2] / "docs" / "tracing.rst"
Span = dict[str, Any]
Process = asyncio.subprocess.Process


@asynccontextmanager
async def run(role: str, environment: dict[str, str]) -> AsyncIterator[Process]:
    """Run a process of the site, which is ended afterwards."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.traces.site", role),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def line_of(process: Process) -> str:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 60)
    assert line, "the process has ended"
    return line.decode().strip()


async def spans_of(process: Process, count: int) -> list[Span]:
    return [json.loads(await line_of(process)) for _ in range(count)]


def as_text(spans: list[Span]) -> str:
    """Return spans as the trees that they are, without ids."""
    lines = [f"{'process':9}{'span':38}{'kind':10}destination"]
    names = {span["id"]: f"{span['name']} in {span['process']}" for span in spans}

    def show(span: Span, depth: int) -> None:
        name = "  " * depth + span["name"]
        destination = span["destination"] or ""
        lines.append(f"{span['process']:9}{name:38}{span['kind']:10}{destination}".rstrip())
        lines.extend(f"{'':9}{'  ' * depth}  link: {names[link]}" for link in span["links"])
        for child in spans:
            if child["parent"] == span["id"]:
                assert child["trace"] == span["trace"]
                show(child, depth + 1)

    for span in spans:
        if span["parent"] is None:
            show(span, 0)
    return "\n".join(lines)


async def test_a_trace_goes_from_a_view_to_a_consumer_in_another_process(
    layer_class: type[Any], redis_url: str, prefix: str
) -> None:
    """It is the one that the documentation shows."""
    path, options = script_arguments_for(layer_class, [redis_url], prefix)
    environment = {**script_environment(), "SITE_LAYER": path, "SITE_OPTIONS": options}
    async with run("socket", environment) as socket, run("worker", environment) as worker:
        assert [await line_of(socket), await line_of(worker)] == ["ready", "ready"]
        async with run("view", environment) as view:
            spans = [
                *reversed(await spans_of(view, 2)),
                *reversed(await spans_of(worker, 2)),
                *await spans_of(socket, 1),
            ]
            assert await asyncio.wait_for(view.wait(), 30) == 0
        assert await asyncio.wait_for(socket.wait(), 30) == 0
    assert {span["error"] for span in spans} == {None}
    shown = "\n".join(f"   {line}" for line in as_text(spans).splitlines())
    assert shown in DOCUMENT.read_text(), shown
