"""A worker that is shut down (bad-input F98): its jobs stop at a safe place, and are put back."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from disks.models import AuditEntry, DiskLock, Job
from disks.operations.progress import Cancelled, Stopped
from disks.services import jobs, shutdown, stopping
from disks.services.work import WORK, Work
from disks.services.worker_progress import JobProgress

pytestmark = pytest.mark.django_db

COPYING = "practice-copying"


class Practice:
    does: Any = None


def run_practice(parameters: dict[str, Any], progress: Any, context: Any) -> dict[str, Any]:
    result: dict[str, Any] = Practice.does(progress)
    return result


@pytest.fixture(autouse=True)
def _kind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    work = Work(f"{__name__}.run_practice", recover="", moves_data=True)
    monkeypatch.setitem(WORK, COPYING, work)
    monkeypatch.setattr("disks.services.sidecars.traces", lambda job, context: {})
    monkeypatch.setattr("disks.services.worker_progress.time.sleep", lambda seconds: None)
    shutdown.prepare()
    yield
    shutdown._Told.flag = None


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    ids: list[int] = []
    monkeypatch.setattr(jobs.Sender, "send", staticmethod(ids.append))
    monkeypatch.setattr("django.db.transaction.on_commit", lambda call, *_, **__: call())
    return ids


def ask(**parameters: Any) -> Job:
    return jobs.request(
        kind=COPYING,
        parameters=parameters,
        user=None,
        summary="Copy a",
        idempotency_key=uuid.uuid4().hex,
        exclusive=["/vm/a.vhd"],
    )


def run(job: Job, work: Callable[[JobProgress], Any]) -> Job:
    Practice.does = staticmethod(work)
    jobs.run(job.pk)
    return Job.objects.get(pk=job.pk)


def leaving(progress: JobProgress) -> dict[str, Any]:
    progress.report(1, 3)
    shutdown.announce()
    progress.report(2, 3)  # at once, not only when the row is due again
    raise AssertionError("it went on")


def test_a_copy_is_cleaned_up_and_put_back_for_the_next_worker(sent: list[int]) -> None:
    job = run(ask(), leaving)
    assert (job.status, job.sentence) == (Job.Status.QUEUED, jobs.SHUT_DOWN)
    assert (job.attempts, job.worker, job.lease_until) == (0, {}, None)
    assert not DiskLock.objects.exists()
    assert sent == [job.pk]
    assert AuditEntry.objects.get(job=job, action="job-queued").username == "system"
    shutdown.prepare()
    assert run(job, lambda progress: {"done": 1}).status == Job.Status.SUCCEEDED


def test_work_that_has_moved_data_keeps_its_locks_and_is_gone_on_with(sent: list[int]) -> None:
    def in_place(progress: JobProgress) -> None:
        try:
            leaving(progress)
        except Cancelled as asked:
            raise Stopped("Stopped after 1 of 3 bytes.") from asked

    job = run(ask(in_place=True), in_place)
    assert (job.status, job.cancellable) == (Job.Status.QUEUED, False)
    assert DiskLock.objects.get().job_id == job.pk
    shutdown.prepare()
    assert run(job, lambda progress: {"done": 1}).status == Job.Status.SUCCEEDED
    assert not DiskLock.objects.exists()


def test_what_is_being_put_in_place_is_finished_first() -> None:
    def committing(progress: JobProgress) -> dict[str, Any]:
        progress.commit_starts()
        shutdown.announce()
        progress.report(3, 3)
        return {"done": 1}

    assert run(ask(), committing).status == Job.Status.SUCCEEDED


def test_somebody_who_cancels_is_heard_before_the_end_of_the_worker() -> None:
    job = ask()

    def cancelled(progress: JobProgress) -> dict[str, Any]:
        stopping.cancel(Job.objects.get(pk=job.pk), None)
        return leaving(progress)

    assert run(job, cancelled).status == Job.Status.CANCELLED


def test_a_held_copy_stays_paused(sent: list[int]) -> None:
    """It would begin anew: whoever paused it says when."""
    job = ask()

    def held(progress: JobProgress) -> dict[str, Any]:
        stopping.pause(Job.objects.get(pk=job.pk), None)
        shutdown.announce()
        progress.report(2, 3)
        raise AssertionError("it went on")

    job = run(job, held)
    assert (job.status, job.sentence) == (Job.Status.PAUSED, jobs.HELD_SHUT_DOWN)
    assert sent == []
    shutdown.prepare()
    stopping.resume(job, None)
    assert run(job, lambda progress: {"done": 1}).status == Job.Status.SUCCEEDED


@pytest.mark.parametrize("in_place", [True, False])
def test_who_pauses_a_job_while_it_stops_for_its_worker_is_heard(
    sent: list[int], in_place: bool
) -> None:
    job = ask(in_place=in_place)

    def paused_late(progress: JobProgress) -> None:
        try:
            leaving(progress)
        except Cancelled as asked:
            stopping.pause(Job.objects.get(pk=job.pk), None)  # as it takes back
            if in_place:
                raise Stopped("Stopped after 1 of 3 bytes.") from asked
            raise

    sentence = "Stopped after 1 of 3 bytes." if in_place else jobs.HELD_SHUT_DOWN
    row = run(job, paused_late)
    assert (row.status, row.sentence) == (Job.Status.PAUSED, sentence)
    assert (row.cancellable, row.pause_requested_at, sent) == (not in_place, None, [])
    assert DiskLock.objects.get().job_id == job.pk
    shutdown.prepare()
    stopping.resume(row, None)
    assert run(job, lambda progress: {"done": 1}).status == Job.Status.SUCCEEDED


def test_a_child_hears_what_its_parent_is_told() -> None:
    child = os.fork()
    if child == 0:
        shutdown.announce()
        os._exit(0)
    os.waitpid(child, 0)
    assert shutdown.announced()
    shutdown.prepare()  # the next worker knows nothing of it
    assert not shutdown.announced()
