"""When a job runs and how fast: what was chosen for it, else what its storage roots say."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from disks.models import AuditEntry, Job
from disks.operations.pacing import Pacer
from disks.services import jobs, leases, timing
from disks.services.leases import Lease
from disks.services.timing import MIB, Choice
from disks.services.worker_progress import JobCancelled, JobProgress
from disks.tests.factories import make_root

pytestmark = pytest.mark.django_db


def ask(*exclusive: str, **more: Any) -> Job:
    values: dict[str, Any] = {
        "kind": Job.Kind.MERGE,
        "parameters": {},
        "user": None,
        "summary": "Merge a into b",
        "idempotency_key": uuid.uuid4().hex,
        "exclusive": list(exclusive),
    }
    return jobs.request(**(values | more))


# --- how fast ----------------------------------------------------------------------------


def test_the_slowest_root_that_a_job_touches_decides() -> None:
    make_root("/srv/fast", limit_bytes_per_second=90 * MIB)
    make_root("/srv/slow", limit_bytes_per_second=20 * MIB)
    make_root("/srv/free")
    assert timing.bytes_per_second(ask("/srv/free/a.vhd")) == 0
    assert timing.bytes_per_second(ask("/srv/fast/a.vhd", "/srv/free/b.vhd")) == 90 * MIB
    job = ask("/srv/fast/a.vhd", shared=["/srv/slow/base.vhd"])  # reading loads a storage, too
    assert timing.bytes_per_second(job) == 20 * MIB


@pytest.mark.parametrize("limit", [0, 70 * MIB])
def test_what_is_chosen_for_a_job_counts_more_and_is_kept_when_it_is_tried_again(
    limit: int,
) -> None:
    make_root("/srv/slow", limit_bytes_per_second=20 * MIB)
    job = ask("/srv/slow/a.vhd")
    timing.choose(job, Choice(limit_bytes_per_second=limit), user=None)
    assert timing.bytes_per_second(job) == limit
    entry = AuditEntry.objects.get(job=job, action="job-timed")
    assert entry.sentence.endswith("at most 70 MB/s." if limit else "no limit of speed.")
    timing.choose(job, Choice(limit_bytes_per_second=limit), user=None)  # the same form again
    assert AuditEntry.objects.filter(action="job-timed").count() == 1
    Job.objects.filter(pk=job.pk).update(status=Job.Status.FAILED)
    assert timing.bytes_per_second(jobs.retry(job, None)) == limit


def test_while_a_job_waits_for_its_limit_a_wish_to_stop_is_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = ask("/srv/a.vhd")
    claimed = jobs.claim(job.pk)
    assert claimed is not None
    now = leases.clock()
    monkeypatch.setattr("disks.services.worker_progress.clock", lambda: now)
    slept = []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        slept.append(seconds)
        if sum(slept) > 3:
            jobs.cancel(Job.objects.get(pk=job.pk), None)

    progress = JobProgress(
        Lease(job.pk, claimed.token, Job.Status.RUNNING, claimed.claimed_at),
        pacer=Pacer(MIB, clock=lambda: now, sleep=sleep),
    )
    progress.step("copy", "Copying.")
    progress.moved(3600 * MIB)
    with pytest.raises(JobCancelled):
        progress.report(1, 2)
    assert sum(slept) < 3 + 2
    progress.commit_ends()
    progress._committing = True
    progress.report(2, 2)  # what is being put in place never waits
    assert sum(slept) < 3 + 2
