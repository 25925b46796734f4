"""Pausing and resuming: who may, where it ends, what stays locked, and who hears of it."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from disks.models import AuditEntry, DiskLock, Job, JobLogLine
from disks.operations.progress import Cancelled, Stopped
from disks.services import jobs, leases, reconciling, stopping
from disks.services.errors import Refusal
from disks.services.work import WORK, JobContext, Recovery, Work
from disks.views import job_words
from disks.views.jobs import pace

pytestmark = pytest.mark.django_db

READING, IN_PLACE, COPYING = "practice-reading", "practice-in-place", "practice-copying"
DISK = "/vm/a.vhd"


class Practice:
    """What the test's work does, and what its recovery finds."""

    does: Any = staticmethod(lambda progress, context: {})
    recovery = Recovery("nothing")
    tokens: list[int] = []  # noqa: RUF012 - renewed by the fixture


def run_practice(parameters: dict[str, Any], progress: Any, context: JobContext) -> dict[str, Any]:
    Practice.tokens.append(context.token)
    result: dict[str, Any] = Practice.does(progress, context)
    return result


def recover_practice(job: Job, context: JobContext) -> Recovery:
    return Practice.recovery


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch, settings: Any) -> list[int]:
    """The practice kinds; the ids that went to the broker."""
    settings.JOB_PROGRESS_SECONDS = 0
    work = {"run": f"{__name__}.run_practice", "recover": f"{__name__}.recover_practice"}
    monkeypatch.setitem(WORK, READING, Work(**work, requeue_when_lost=True))
    monkeypatch.setitem(WORK, IN_PLACE, Work(**work))
    monkeypatch.setitem(WORK, COPYING, Work(**work))
    monkeypatch.setattr(Practice, "does", staticmethod(lambda progress, context: {}))
    monkeypatch.setattr(Practice, "recovery", Recovery("nothing"))
    monkeypatch.setattr(Practice, "tokens", [])
    monkeypatch.setattr("disks.services.sidecars.left_unfinished", lambda job, context: False)
    monkeypatch.setattr("disks.services.sidecars.traces", lambda job, context: {})
    ids: list[int] = []
    monkeypatch.setattr(jobs.Sender, "send", staticmethod(ids.append))
    return ids


@pytest.fixture(autouse=True)
def _callbacks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django.db.transaction.on_commit", lambda call, *_, **__: call())


def ask(kind: str = READING, **more: Any) -> Job:
    return jobs.request(
        kind=kind,
        parameters={"in_place": True} if kind == IN_PLACE else {},
        user=None,
        summary="Practise",
        idempotency_key=uuid.uuid4().hex,
        exclusive=[DISK],
        **more,
    )


def fresh(job: Job) -> Job:
    job.refresh_from_db()
    return job


def pausing(progress: Any, context: JobContext) -> dict[str, Any]:
    stopping.pause(context.job, None)
    progress.report(1, 2)
    raise AssertionError("it should have stopped in report()")


def stopped_in_place(progress: Any, context: JobContext) -> dict[str, Any]:
    """As work in place does: its commits are short, and a wish to stop is heard after them."""
    progress.commit_starts()
    stopping.cancel(context.job, None)
    progress.report(1, 2)
    progress.commit_ends()
    try:
        progress.report(1, 2)
    except Cancelled:
        raise Stopped("Stopped after 1 of 2 bytes.") from None
    raise AssertionError("it should have stopped in report()")


def paused(kind: str = READING) -> Job:
    Practice.does = pausing if kind == READING else stopped_in_place
    job = ask(kind)
    jobs.run(job.pk)
    assert fresh(job).status == Job.Status.PAUSED
    Practice.does = lambda progress, context: {}
    return job


def lost(kind: str) -> Job:
    claimed = jobs.claim(ask(kind).pk)
    assert claimed is not None
    Job.objects.filter(pk=claimed.job.pk).update(
        worker={"host": "elsewhere", "pid": 1}, lease_until=leases.from_now(-1)
    )
    reconciling.mark_lost()
    return fresh(claimed.job)


def test_a_running_job_pauses_at_its_next_report_and_keeps_its_disks():
    job = paused()
    assert job.sentence == "Paused. It goes on where it stopped when it is resumed."
    assert (job.pause_requested_at, job.worker, job.finished_at) == (None, {}, None)
    assert DiskLock.objects.get().job == job
    actions = AuditEntry.objects.filter(job=job).order_by("pk").values_list("action", flat=True)
    assert list(actions)[-2:] == ["job-pause-requested", "job-paused"]


def test_what_interrupted_a_job_is_in_its_own_log_too():
    job = paused(IN_PLACE)
    stopping.resume(job, None)
    stopping.pause(job, None)
    stopping.resume(job, None)
    jobs.run(job.pk)
    assert list(JobLogLine.objects.filter(job=job).values_list("text", flat=True)) == [
        "Stopped after 1 of 2 bytes.",
        "Resumed.",
        "Paused. It goes on where it stopped when it is resumed.",
        "Resumed.",
    ]


def test_a_job_that_lost_its_worker_tells_so_in_its_log(sent):
    job = lost(IN_PLACE)
    Practice.recovery = Recovery("stopped", "Stopped after 1 of 2 bytes.")
    reconciling.recover_lost()
    assert list(JobLogLine.objects.filter(job=job).values_list("text", flat=True)) == [
        "Its worker did not answer in time.",
        "It goes on.",
    ]


def test_a_job_on_the_same_disk_waits_for_a_paused_one():
    earlier, later = paused(), ask()
    jobs.run(later.pk)
    assert fresh(later).status == Job.Status.QUEUED
    assert later.sentence == f"Waits for job {earlier.pk} (Practise), which is paused."


def test_resuming_goes_on_with_the_same_job_and_its_locks(sent):
    job = paused()
    stopping.resume(job, None)
    assert (fresh(job).status, sent) == (Job.Status.QUEUED, [job.pk])
    reconciling.sweep_locks()
    assert DiskLock.objects.filter(job=job).count() == 1
    jobs.run(job.pk)
    assert fresh(job).status == Job.Status.SUCCEEDED
    assert Practice.tokens == [1, 2]
    assert not DiskLock.objects.exists()


def test_resuming_twice_is_resuming_once(sent):
    job = paused()
    stopping.resume(job, None)
    stopping.resume(job, None)
    assert sent == [job.pk]


def test_a_wish_to_pause_can_be_withdrawn():
    def changes_its_mind(progress: Any, context: JobContext) -> dict[str, Any]:
        stopping.pause(context.job, None)
        stopping.resume(context.job, None)
        progress.report(1, 2)
        return {}

    Practice.does = changes_its_mind
    job = jobs.run_now(ask())
    assert job.status == Job.Status.SUCCEEDED


def test_a_waiting_job_is_paused_at_once_and_claimed_by_nobody():
    job = stopping.pause(ask(), None)
    assert (job.status, job.sentence) == (Job.Status.PAUSED, "Paused before it started.")
    jobs.run(job.pk)
    assert Practice.tokens == []


def test_what_could_not_be_gone_on_with_is_not_paused():
    refusals = []

    def work(progress: Any, context: JobContext) -> dict[str, Any]:
        with pytest.raises(Refusal) as refused:
            stopping.pause(context.job, None)
        refusals.append(refused.value.code)
        return {}

    Practice.does = work
    job = jobs.run_now(ask(COPYING))
    assert (job.status, refusals) == (Job.Status.SUCCEEDED, ["E_NOT_PAUSABLE"])


def test_only_a_paused_job_is_resumed():
    with pytest.raises(Refusal) as refused:
        stopping.resume(jobs.run_now(ask()), None)
    assert refused.value.code == "E_NOT_PAUSED"


def test_a_paused_job_that_only_reads_can_be_cancelled():
    job = stopping.cancel(paused(), None)
    assert job.status == Job.Status.CANCELLED
    assert not DiskLock.objects.exists()


def test_what_had_begun_is_not_cancelled_as_if_it_had_not():
    """Resuming counts attempts anew; the work that was done before stays done."""
    job = stopping.resume(paused(), None)
    assert job_words.if_cancelled(job) != "It has not started: cancelling changes nothing."
    assert stopping.pause(job, None).sentence == jobs.PAUSED
    job = stopping.cancel(stopping.resume(job, None), None)
    assert job.sentence == WORK[READING].cancelled


def test_what_was_paused_before_it_started_has_no_disks_locked_and_is_as_it_was():
    job = stopping.pause(ask(IN_PLACE), None)
    assert not DiskLock.objects.exists()
    assert job_words.what_now(job) == ""
    assert stopping.cancel(job, None).sentence.startswith("Cancelled before it started.")


@pytest.mark.parametrize(("in_place", "stays"), [(True, True), (False, False)])
def test_only_compacting_in_place_leaves_something_given_back(in_place, stays):
    told = WORK[Job.Kind.COMPACT].after_cancel({"in_place": in_place})
    assert ("given back" in told) is stays
    assert ("Every file is as it was" in told) is not stays


def test_stopping_work_in_place_pauses_it_even_between_commits():
    """bad-input E79: in place it is Stop → PAUSED."""
    job = paused(IN_PLACE)
    assert job.sentence == "Stopped after 1 of 2 bytes."
    assert not job.cancellable
    with pytest.raises(Refusal) as refused:
        stopping.cancel(job, None)
    assert refused.value.code == "E_TOO_LATE"


def test_a_resumed_job_that_has_moved_data_is_stopped_back_into_its_pause():
    job = stopping.resume(paused(IN_PLACE), None)
    assert stopping.cancel(job, None).status == Job.Status.PAUSED
    assert not fresh(job).cancellable
    assert DiskLock.objects.get().job == job


def test_interrupted_work_in_place_goes_on_by_itself_and_keeps_its_disks(sent):
    job = lost(IN_PLACE)
    Practice.recovery = Recovery("stopped", "Stopped after 1 of 2 bytes.")
    reconciling.recover_lost()
    assert (fresh(job).status, job.sentence) == (
        Job.Status.QUEUED,
        "Its worker stopped; it goes on.",
    )
    assert (job.cancellable, sent) == (False, [job.pk])
    assert DiskLock.objects.get().job == job


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"cancel_requested_at": leases.from_now(0)}, "Stopped after 1 of 2 bytes."),
        ({"error": {"code": "E_NOSPC", "message": "Full."}}, "Full."),
        ({"attempts": 3}, "Stopped after 1 of 2 bytes."),
    ],
    ids=["asked to stop", "an error", "three workers lost"],
)
def test_interrupted_work_in_place_waits_for_a_person(columns, sentence):
    job = lost(IN_PLACE)
    Job.objects.filter(pk=job.pk).update(**columns)
    Practice.recovery = Recovery("stopped", "Stopped after 1 of 2 bytes.")
    reconciling.recover_lost()
    assert (fresh(job).status, job.sentence) == (Job.Status.PAUSED, sentence)
    assert not job.cancellable


def test_a_job_whose_worker_dies_while_it_should_pause_is_paused():
    job = lost(READING)
    Job.objects.filter(pk=job.pk).update(pause_requested_at=leases.from_now(0))
    reconciling.recover_lost()
    assert (fresh(job).status, job.cancellable) == (Job.Status.PAUSED, True)


# --- how long, and how fast ----------------------------------------------------------------


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock of the worker; its one item is changed by the tests."""
    now = [100.0]
    monkeypatch.setattr("disks.services.worker_progress.clock", lambda: now[0])
    return now


def test_a_resumed_step_is_as_fast_as_it_is_since_it_was_resumed():
    job = paused(IN_PLACE)
    stopping.resume(job, None)
    seen: list[Job] = []

    def goes_on(progress: Any, context: JobContext) -> dict[str, Any]:
        progress.step("merge", "Moving 500 bytes.")
        progress.report(500, 1000)
        progress.report(520, 1000)
        seen.append(Job.objects.get(pk=job.pk))
        progress.step("commit", "Putting it in place.")
        seen.append(Job.objects.get(pk=job.pk))
        return {}

    Practice.does = goes_on
    jobs.run(job.pk)
    moving, committing = seen
    assert (moving.done_bytes, moving.step_start_bytes) == (520, 500)
    assert moving.step_started_at is not None
    told = pace(moving, moving.step_started_at + timedelta(seconds=10))
    assert (told.bytes_per_second, told.seconds_left) == (2.0, 240.0)
    assert (committing.done_bytes, committing.step_start_bytes) == (0, 0)


def test_how_long_it_worked_is_the_sum_of_all_its_starts(seconds):
    def for_seconds(count: float, then: Any) -> Any:
        def work(progress: Any, context: JobContext) -> Any:
            seconds[0] += count
            return then(progress, context)

        return work

    Practice.does = for_seconds(60.0, pausing)
    job = ask()
    jobs.run(job.pk)
    assert (fresh(job).status, job.worked_seconds) == (Job.Status.PAUSED, 60.0)
    seconds[0] += 3600  # while it is paused
    stopping.resume(job, None)
    Practice.does = for_seconds(5.0, lambda progress, context: {"seconds": 5.0})
    jobs.run(job.pk)
    assert (fresh(job).worked_seconds, job.result["seconds"]) == (65.0, 65.0)
    assert pace(job).seconds_so_far == 65.0


def test_work_that_failed_tells_how_long_it_took(seconds):
    def fails(progress: Any, context: JobContext) -> None:
        seconds[0] += 7.0
        raise Refusal("E_CHANGED", "Something is not as it was.")

    Practice.does = fails
    job = jobs.run_now(ask())
    assert (job.status, job.worked_seconds) == (Job.Status.FAILED, 7.0)


def test_a_job_of_before_that_was_counted_tells_the_time_from_its_start_to_its_end():
    job = Job(started_at=timezone.now() - timedelta(seconds=30), finished_at=timezone.now())
    assert pace(job).seconds_so_far == pytest.approx(30, abs=0.1)
