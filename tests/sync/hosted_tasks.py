"""The jobs of :mod:`.hosted` as tasks of Celery, which hands them out when it is ready.

``HOSTED_FOLDER`` holds what would else be in a broker.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.signals import worker_ready

from tests.sync.hosted import work
from tests.sync.steps import JOBS, WORKERS

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
job = app.task(work, name="job")


@worker_ready.connect  # type: ignore[untyped-decorator]  # Celery has no annotations
def hand_out(**_: Any) -> None:
    """Ask for all jobs."""
    for number in range(JOBS):
        job.delay(number)
