"""Jobs in the task queues that people use: ``tox -e tasks`` installs and runs them all."""

from __future__ import annotations

from functools import partial

import pytest

from channels_redis.testing.servers import RedisServer
from tests.hosted.conftest import IS_OURS, JOBS, Host

CELERY = ("celery", "--app=hosted_jobs", "worker", "--without-gossip", "--without-mingle")

WORKERS = {
    "celery prefork": (*CELERY, "--pool=prefork", "--concurrency=3"),
    "celery threads": (*CELERY, "--pool=threads", "--concurrency=3"),
    "celery gevent": (*CELERY, "--pool=gevent"),
    "rq": ("rq", "worker", "--url={broker}"),
    "rq simple": ("rq", "worker", "--url={broker}", "--worker-class=rq.SimpleWorker"),
    "dramatiq": ("dramatiq", "hosted_jobs", "--processes=2", "--threads=4"),
    "dramatiq gevent": ("dramatiq-gevent", "hosted_jobs", "--processes=2"),
}


async def ask_all(host: Host, way: str, environment: dict[str, str]) -> None:
    """Ask for all jobs."""
    asking = await host.run("python", "-m", "hosted_jobs", way, str(JOBS), **environment)
    output, _ = await asking.communicate()
    assert asking.returncode == 0, output.decode()


@pytest.mark.parametrize("worker", list(WORKERS))
async def test_jobs_send_to_a_group_and_receive_their_own_messages(
    worker: str, host: Host, private_server: RedisServer
) -> None:
    """Both ways from synchronous code.  asgiref lets one greenlet of a thread use its own."""
    environment = {"HOSTED_QUEUE": worker.split(maxsplit=1)[0], "HOSTED_BROKER": private_server.url}
    command = [word.format(broker=private_server.url) for word in WORKERS[worker]]
    for way in ("sync", "async_to_sync")[not IS_OURS :]:
        few = "1" if way == "async_to_sync" else "10"
        limit = {
            "celery gevent": [f"--concurrency={few}"],
            "dramatiq gevent": [f"--threads={few}"],
        }
        async with host.running(*command, *limit.get(worker, ()), **environment):
            forked = True if worker == "celery prefork" else None
            await host.check(way, partial(ask_all, host, way, environment), forked=forked)
