"""The jobs of :mod:`site` for task queues, whose broker is ``HOSTED_BROKER``.

    python -m hosted_jobs celery sync 20

asks for twenty jobs of the numbers from 0 on.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from hosted_site import work

broker = os.environ["HOSTED_BROKER"]

if os.environ["HOSTED_QUEUE"] == "celery":
    from celery import Celery

    app = Celery("hosted_jobs", broker=broker)
    app.conf.update(worker_send_task_events=False, worker_prefetch_multiplier=1)
    ask: Any = app.task(name="job")(work).delay
elif os.environ["HOSTED_QUEUE"] == "dramatiq":
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

    dramatiq.set_broker(RedisBroker(url=broker))
    actor: Any = dramatiq.actor
    ask = actor(work, max_retries=0).send
else:
    from redis import Redis
    from rq import Queue

    def ask(way: str, number: int) -> None:
        Queue(connection=Redis.from_url(broker)).enqueue(work, way, number)


if __name__ == "__main__":
    for number in range(int(sys.argv[2])):
        ask(sys.argv[1], number)
