"""What goes through the broker: ids of jobs, and two small clockwork tasks."""

from __future__ import annotations

import logging
from functools import partial

import redis
from celery import signals
from django.db import transaction
from kombu.exceptions import OperationalError

from disks.models import Job
from disks.services import jobs, leases, schedule, shutdown
from vdadmin.celery import app

logger = logging.getLogger(__name__)

UNREACHABLE = "The queue cannot be reached; the job is sent as soon as it answers."


@signals.worker_init.connect
def _worker_starts(**_: object) -> None:
    shutdown.prepare()


@signals.worker_shutting_down.connect
def _worker_ends(**_: object) -> None:
    shutdown.announce()


@app.task(name="disks.run_job")
def run_job(job_id: int) -> None:
    """Do the job, if it is there to be done; the row decides, not the message."""
    if isinstance(job_id, int) and not isinstance(job_id, bool) and 0 < job_id < 2**63:
        jobs.run(job_id)
    else:
        logger.warning("a message asks for job %.60r; ignored", job_id)


@app.task(name="disks.request_due_scans")
def request_due_scans() -> None:
    """Every minute: jobs for the storage roots whose next scan is due."""
    for job in schedule.request_due_scans():
        enqueue(job)


@app.task(name="disks.forget_old_jobs")
def forget_old_jobs() -> None:
    """A few times a day: rows of jobs that ended long ago."""
    schedule.forget_old_jobs()


def enqueue(job: Job) -> None:
    """Hand the job to the workers once the transaction has committed."""
    transaction.on_commit(partial(send, job.pk))


def send(job_id: int) -> bool:
    """Put the id into the queue now. False: the broker is away, and the job's row says so.

    Nothing is lost then: the reconciler sends whatever stays queued.
    """
    try:
        run_job.apply_async((job_id,), retry=False)
    except (OperationalError, OSError) as error:
        logger.warning("job %s stays queued, the broker is away: %s", job_id, error)
        Job.objects.filter(pk=job_id, status=Job.Status.QUEUED, waits_for=None).update(
            sentence=UNREACHABLE
        )
        return False
    queued = Job.objects.filter(pk=job_id, status=Job.Status.QUEUED)
    queued.update(sent_at=leases.from_now(0))
    queued.filter(sentence=UNREACHABLE).update(sentence=jobs.WAITING)
    return True


def queue_depth() -> int | None:
    """How many messages wait in the queue; None while the broker is away."""
    try:
        with app.connection_for_write() as connection:
            return int(connection.default_channel.client.llen(app.conf.task_default_queue))
    except (OperationalError, OSError, redis.RedisError) as error:
        logger.warning("the broker is away: %s", error)
        return None


jobs.Sender.send = staticmethod(send)
