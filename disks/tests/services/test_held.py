"""A copy is paused by holding it: its worker waits with it, and not too many may."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from disks.models import AuditEntry, DiskLock, Job, JobLogLine
from disks.services import jobs, leases, stopping
from disks.services.errors import Refusal
from disks.services.work import WORK, Work
from disks.services.worker_progress import JobProgress

pytestmark = pytest.mark.django_db

COPYING, HEADER = "practice-copying", "practice-header"


class Practice:
    does: Any = None


def run_practice(parameters: dict[str, Any], progress: Any, context: Any) -> dict[str, Any]:
    result: dict[str, Any] = Practice.does(progress)
    return result


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    settings.JOB_PROGRESS_SECONDS = 0
    run = f"{__name__}.run_practice"
    monkeypatch.setitem(WORK, COPYING, Work(run, recover="", moves_data=True))
    monkeypatch.setitem(WORK, HEADER, Work(run, recover=""))
    monkeypatch.setattr("disks.services.sidecars.traces", lambda job, context: {})
    monkeypatch.setattr(jobs.Sender, "send", staticmethod(lambda job_id: True))


@pytest.fixture
def asleep(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """asleep(one, two, …): what happens in each sleep of the held worker, in turn."""
    steps: list[Callable[[], object]] = []
    time_slept: list[float] = []

    def sleep(seconds: float) -> None:
        time_slept.append(seconds)
        assert len(time_slept) < 100, "it waits for ever"
        if steps:
            steps.pop(0)()

    monkeypatch.setattr("disks.services.worker_progress.time.sleep", sleep)
    return lambda *wanted: steps.extend(wanted)


def ask(name: str = "a", kind: str = COPYING) -> Job:
    return jobs.request(
        kind=kind,
        parameters={},
        user=None,
        summary=f"Copy {name}",
        idempotency_key=uuid.uuid4().hex,
        exclusive=[f"/vm/{name}.vhd"],
    )


def fresh(job: Job) -> Job:
    return Job.objects.select_related("disk").get(pk=job.pk)


def copying(job: Job) -> Callable[[JobProgress], dict[str, Any]]:
    """Work that is paused after its first report."""

    def work(progress: JobProgress) -> dict[str, Any]:
        progress.step("copy", "Copying.")
        progress.report(1, 10)
        stopping.pause(fresh(job), None)
        progress.report(2, 10)
        progress.report(10, 10)
        progress.commit_starts()
        return {"bytes": 10}

    return work


def test_a_held_copy_keeps_everything_and_goes_on_where_it_is(asleep: Any) -> None:
    job = ask()
    seen: list[Any] = []

    def look() -> None:
        row = fresh(job)
        locks = DiskLock.objects.filter(job=job).count()
        seen.append((row.status, row.is_held, row.done_bytes, locks, row.worker != {}))

    asleep(look, look, lambda: stopping.resume(fresh(job), None))
    Practice.does = staticmethod(copying(job))
    jobs.run(job.pk)
    assert seen == [(Job.Status.RUNNING, True, 2, 1, True)] * 2
    row = fresh(job)
    done = {key: row.result[key] for key in row.result if key != "waited_seconds"}  # if it is busy
    assert (row.status, row.held_at, done) == (Job.Status.SUCCEEDED, None, {"bytes": 10})
    words = " ".join(JobLogLine.objects.filter(job=job).values_list("text", flat=True))
    assert "held: it waits here" in words
    assert "resumed after" in words
    asked = AuditEntry.objects.get(job=job, action="job-pause-requested")
    assert asked.sentence == "Copy a: asked to pause; its worker waits with it."


def test_a_held_copy_is_cancelled_as_ever(asleep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job, now = ask(), [0.0]
    monkeypatch.setattr("disks.services.worker_progress.clock", lambda: now[0])

    def an_hour_later() -> None:
        now[0] += 3600
        stopping.cancel(fresh(job), None)

    asleep(an_hour_later)
    Practice.does = staticmethod(copying(job))
    jobs.run(job.pk)
    assert fresh(job).status == Job.Status.CANCELLED
    assert fresh(job).worked_seconds == 0.0  # holding is no work
    assert not DiskLock.objects.exists()


def test_a_held_copy_that_loses_its_lease_stops(asleep: Any) -> None:
    """Somebody else may own the job by now: nothing more is written."""
    job = ask()
    asleep(lambda: Job.objects.filter(pk=job.pk).update(token=99))
    Practice.does = staticmethod(copying(job))
    jobs.run(job.pk)
    row = fresh(job)
    assert (row.status, row.token, row.result) == (Job.Status.RUNNING, 99, {})


def test_no_more_are_held_than_may_be_and_the_refusal_names_them(settings: Any) -> None:
    settings.JOBS_HELD_AT_MOST = 1
    first, second = ask("a"), ask("b")
    assert jobs.claim(first.pk) is not None
    assert jobs.claim(second.pk) is not None
    stopping.pause(fresh(first), None)
    stopping.pause(fresh(first), None)  # asked twice, it is the same wish
    with pytest.raises(Refusal) as refused:
        stopping.pause(fresh(second), None)
    assert refused.value.code == "E_HELD"
    assert f"job {first.pk} does so already, and no more than 1 may" in refused.value.message
    assert f"Resume or cancel job {first.pk} first" in refused.value.advice
    stopping.resume(fresh(first), None)
    stopping.pause(fresh(second), None)
    settings.JOBS_HELD_AT_MOST = 0
    stopping.resume(fresh(second), None)
    with pytest.raises(Refusal, match="there is no other"):
        stopping.pause(fresh(first), None)


def test_what_ends_by_itself_in_a_moment_is_not_held() -> None:
    job = ask(kind=HEADER)
    assert jobs.claim(job.pk) is not None
    with pytest.raises(Refusal) as refused:
        stopping.pause(fresh(job), None)
    assert refused.value.code == "E_NOT_PAUSABLE"


def test_it_is_too_late_once_the_result_is_being_put_in_place() -> None:
    job = ask()
    assert jobs.claim(job.pk) is not None
    Job.objects.filter(pk=job.pk).update(cancellable=False)
    with pytest.raises(Refusal) as refused:
        stopping.pause(fresh(job), None)
    assert refused.value.code == "E_TOO_LATE"


def test_a_pause_that_was_heard_last_holds_before_the_commit(asleep: Any) -> None:
    job = ask()

    def work(progress: JobProgress) -> dict[str, Any]:
        progress.report(9, 10)
        stopping.pause(fresh(job), None)
        progress.step("commit", "Putting it in place")
        asleep(lambda: held.append(fresh(job).is_held), lambda: stopping.resume(fresh(job), None))
        progress.commit_starts()
        return {}

    held: list[bool] = []
    Practice.does = staticmethod(work)
    jobs.run(job.pk)
    assert held == [True]
    assert fresh(job).status == Job.Status.SUCCEEDED


def test_the_lease_is_renewed_while_it_is_held(settings: Any) -> None:
    """By the thread of its own, as ever: nothing of it depends on reports."""
    job = ask()
    claimed = jobs.claim(job.pk)
    assert claimed is not None
    lease = leases.Lease(job.pk, claimed.token, Job.Status.RUNNING, claimed.claimed_at)
    before = fresh(job).lease_until
    Job.objects.filter(pk=job.pk).update(pause_requested_at=leases.from_now(0), held_at=before)
    lease.renew()
    row = fresh(job)
    assert row.lease_until is not None
    assert before is not None
    assert row.lease_until >= before
