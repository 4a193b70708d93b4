"""The jobs of :mod:`.hosted` as tasks of Celery, which hands them out when it is ready.

``HOSTED_FOLDER`` holds what would else be in a broker.
"""

from __future__ import annotations

import multiprocessing
import os
from functools import cache
from typing import Any

from celery import Celery
from celery.signals import worker_ready

from tests.sync.hosted import work
from tests.sync.steps import BOUND_S, JOBS, WORKERS

folder = os.environ["HOSTED_FOLDER"]
app = Celery("tests.sync.hosted_tasks", broker="filesystem://")
app.conf.update(
    broker_transport_options={
        "data_folder_in": folder,
        "data_folder_out": folder,
        "control_folder": folder,
    },
    worker_concurrency=WORKERS,
    worker_pool="prefork",
    worker_send_task_events=False,
    worker_enable_remote_control=False,
)
all_workers = multiprocessing.get_context("fork").Barrier(WORKERS)


@cache
def join_in() -> None:
    """Hold the first job of a process until every process has one: else one may do them all."""
    all_workers.wait(BOUND_S)


@app.task  # type: ignore[untyped-decorator]  # Celery has no annotations
def job(number: int) -> None:
    """A job in a pool."""
    join_in()
    work(number)


@worker_ready.connect  # type: ignore[untyped-decorator]  # Celery has no annotations
def hand_out(**_: Any) -> None:
    """Ask for all jobs."""
    for number in range(JOBS):
        job.delay(number)
