"""When a job runs and how fast: what was chosen for it, else what its storage roots say."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from disks.models import AuditEntry, Job, StorageRoot
from disks.operations.pacing import Pacer
from disks.services import jobs, leases, reconciling, stopping, timing
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
            stopping.cancel(Job.objects.get(pk=job.pk), None)

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


# --- how many at once --------------------------------------------------------------------


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    ids: list[int] = []
    monkeypatch.setattr(jobs.Sender, "send", staticmethod(ids.append))
    return ids


def said(job: Job) -> str:
    job.refresh_from_db()
    return job.sentence


def claimed(job: Job) -> bool:
    return jobs.claim(job.pk) is not None


def ended(job: Job, status: str = Job.Status.SUCCEEDED) -> None:
    job.refresh_from_db()
    assert jobs.end(job, job.token, Job.Status.RUNNING, status, "Done.")


def test_a_root_lets_no_more_jobs_run_than_it_says_and_the_next_is_sent_when_one_ends(
    sent: list[int], django_capture_on_commit_callbacks: Any
) -> None:
    root = make_root("/srv/vms", name="vms", jobs_at_once=2)
    one, two, three, four = (ask(f"/srv/vms/{n}.vhd") for n in range(4))
    assert [claimed(one), claimed(two), claimed(three), claimed(four)] == [True, True, False, False]
    words = "Waits: 2 jobs already run on vms, which allows 2 at once."
    assert (said(three), three.waits_for_root, said(four)) == (words, root, words)
    with django_capture_on_commit_callbacks(execute=True):
        ended(one)
    assert sent == [three.pk]
    assert not claimed(four)  # one that waits longer comes first
    assert said(four).endswith("allows 2 at once, and others have waited longer.")
    assert claimed(three)
    three.refresh_from_db()
    assert three.waits_for_root is None


def test_jobs_elsewhere_and_jobs_that_move_nothing_are_not_counted() -> None:
    make_root("/srv/vms", jobs_at_once=1)
    make_root("/srv/other")
    assert claimed(ask("/srv/vms/1.vhd"))
    assert claimed(ask("/srv/other/1.vhd"))
    assert claimed(ask("/srv/vms/2.vhd", kind=Job.Kind.CHECK))
    assert claimed(ask("/srv/vms/3.vhd", kind=Job.Kind.UPDATE_PARENT))
    assert not claimed(ask("/srv/other/2.vhd", shared=["/srv/vms/base.vhd"]))  # it reads there


def test_a_paused_job_makes_room_and_waits_for_it_when_it_is_resumed(
    sent: list[int], django_capture_on_commit_callbacks: Any
) -> None:
    make_root("/srv/vms", jobs_at_once=1)
    in_place = {"parameters": {"in_place": True}}
    first, second = ask("/srv/vms/1.vhd", **in_place), ask("/srv/vms/2.vhd")
    assert (claimed(first), claimed(second)) == (True, False)
    first.refresh_from_db()
    with django_capture_on_commit_callbacks(execute=True):
        jobs.put_off(first, first.token, Job.Status.RUNNING, jobs.PAUSED)
    assert sent == [second.pk]
    assert claimed(second)
    stopping.resume(first, None)
    assert not claimed(first)
    assert said(first).startswith("Waits: 1 job already runs on ")


def test_the_reconciler_sends_those_whose_turn_it_is_and_no_others(settings: Any) -> None:
    settings.JOB_RESEND_SECONDS = 0
    root = make_root("/srv/vms", jobs_at_once=1)
    running, *waiting = (ask(f"/srv/vms/{n}.vhd") for n in range(4))
    for job in (running, *waiting):
        jobs.claim(job.pk)
    resend = lambda: reconciling.resend(lambda job_id: True, lambda: 0)  # noqa: E731
    assert resend() == []
    StorageRoot.objects.filter(pk=root.pk).update(jobs_at_once=3)
    assert resend() == [waiting[0].pk, waiting[1].pk]
    StorageRoot.objects.filter(pk=root.pk).update(jobs_at_once=0)
    assert resend() == [job.pk for job in waiting]
