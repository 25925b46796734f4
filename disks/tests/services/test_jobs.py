"""The rules of jobs, in one process: claiming, locks, ends, cancel, retry, audit."""

from __future__ import annotations

import json
import os
import uuid
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, Group
from django.core.management import call_command
from django.db import DatabaseError, OperationalError, connection
from django.test.utils import CaptureQueriesContext

from disks import tasks
from disks.engine.errors import ImageError
from disks.models import AuditEntry, DiskLock, Job, JobLogLine
from disks.operations.progress import Cancelled
from disks.services import audit, half_merged, jobs, leases, processes, stopping
from disks.services.errors import Refusal
from disks.services.jobs import ending, running
from disks.services.leases import Lease, LeaseLost
from disks.services.work import BEGUN_AS, WORK, Work
from disks.services.worker_progress import JobProgress
from disks.tests.factories import make_user

pytestmark = pytest.mark.django_db

KIND = "practice"


class Practice:
    """The work of the kind `practice`: what a test tells it to be."""

    def __init__(self) -> None:
        self.does: Any = lambda parameters, progress, context: {}
        self.calls: list[tuple[dict[str, Any], int]] = []
        self.finished: list[dict[str, Any]] = []


practice = Practice()


def run_practice(parameters: dict[str, Any], progress: Any, context: Any) -> dict[str, Any]:
    practice.calls.append((parameters, context.token))
    return practice.does(parameters, progress, context)


def practice_finished(job: Job, result: dict[str, Any]) -> None:
    practice.finished.append(result)
    if result.get("catalog") == "fails":
        raise RuntimeError("no catalog today")


@pytest.fixture(autouse=True)
def practice_kind(monkeypatch: pytest.MonkeyPatch) -> Practice:
    practice.__init__()  # type: ignore[misc]
    here = f"{__name__}."
    monkeypatch.setitem(
        WORK, KIND, Work(f"{here}run_practice", finished=f"{here}practice_finished")
    )
    return practice


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ids that went to the broker."""
    ids: list[int] = []
    monkeypatch.setattr(jobs.Sender, "send", staticmethod(ids.append))
    return ids


def ask(*, user: Any = None, key: str = "", **more: Any) -> Job:
    values: dict[str, Any] = {
        "kind": KIND,
        "parameters": {"x": 1},
        "user": user,
        "summary": "Practise",
        "idempotency_key": key or uuid.uuid4().hex,
    }
    return jobs.request(**(values | more))


def states(job: Job) -> list[str]:
    entries = AuditEntry.objects.filter(job=job, before__has_key="status").order_by("pk")
    return [entry.after["status"] for entry in entries]


def fresh(job: Job) -> Job:
    job.refresh_from_db()
    return job


# --- requesting --------------------------------------------------------------------------


def test_the_same_key_is_the_same_job():
    """bad-input E78: a double click, a replayed POST, the back button: one job, one audit row."""
    first = ask(key="form-1")
    again = ask(key="form-1", parameters={"x": 2})
    assert again.pk == first.pk
    assert again.parameters["x"] == 1
    assert AuditEntry.objects.filter(action="job-requested").count() == 1


def test_a_key_of_any_length_is_kept_apart():
    assert ask(key="k" * 100).pk == ask(key="k" * 100).pk
    assert ask(key="k" * 100).pk != ask(key="k" * 101).pk


def test_a_key_that_was_used_for_other_work_is_refused():
    earlier = ask(key="form-1")
    with pytest.raises(Refusal) as refused:
        ask(key="form-1", kind=Job.Kind.SCAN)
    assert refused.value.code == "E_IDEMPOTENCY"
    assert refused.value.message == (f"This form was already used for job {earlier.pk} (Practise).")


def test_a_request_is_audited_with_who_and_what():
    user = make_user("ada")
    job = ask(user=user, declared_offline=True, exclusive=["/a"], address="192.0.2.7")
    entry = AuditEntry.objects.get(job=job)
    assert (entry.username, entry.address, entry.action) == ("ada", "192.0.2.7", "job-requested")
    assert entry.sentence == "Practise: requested, declared offline."
    assert entry.after["locks"] == {"exclusive": ["/a"], "shared": []}


def test_names_that_are_not_utf8_reach_the_work_unchanged():
    name = os.fsdecode(b"/vm/caf\xe9.vhd")
    job = ask(parameters={"path": name, "list": [name, "C:\\x"]}, exclusive=[name])
    jobs.run(job.pk)
    parameters, _ = practice.calls[0]
    assert parameters["path"] == name
    assert parameters["list"] == [name, "C:\\x"]
    assert parameters["locks"]["exclusive"] == [name]
    assert jobs.document(fresh(job))["parameters"]["path"] == "/vm/caf\\udce9.vhd"


# --- running -----------------------------------------------------------------------------


def test_a_job_runs_and_tells_the_truth_about_itself():
    user = make_user("ada")
    seen = {}

    def work(parameters, progress, context):
        seen["locks"] = list(DiskLock.objects.values_list("path", "mode", "token"))
        seen["row"] = Job.objects.get(pk=context.job.pk)
        progress.step("copy", "Copying.")
        progress.report(5, 10, "copying block 1 of 2")
        progress.log("half of it")
        return {"bytes": 10}

    practice.does = work
    job = ask(user=user, exclusive=["/b", "/a"], shared=["/base"])
    jobs.run(job.pk)

    assert seen["locks"] == [
        ("/a", "exclusive", 1),
        ("/b", "exclusive", 1),
        ("/base", "shared", 1),
    ]
    assert seen["row"].status == Job.Status.RUNNING
    assert seen["row"].worker == processes.this_process()
    assert seen["row"].lease_until > seen["row"].heartbeat_at
    job = fresh(job)
    assert (job.status, job.result, job.error) == (Job.Status.SUCCEEDED, {"bytes": 10}, None)
    assert (job.step, job.done_bytes, job.total_bytes) == ("copy", 5, 10)
    assert job.finished_at >= job.started_at
    begin, line, end = JobLogLine.objects.filter(job=job).order_by("pk")
    assert (begin.text, line.text) == ("copy: Copying.", "half of it")
    assert end.text.startswith("copy: at 5 bytes of 10 bytes after ")  # a line per step
    assert not DiskLock.objects.exists()
    assert states(job) == ["running", "succeeded"]
    assert set(AuditEntry.objects.values_list("username", flat=True)) == {"ada"}
    assert practice.finished == [{"bytes": 10}]


def test_a_second_delivery_finds_nothing_to_do():
    """bad-input E70."""
    job = ask()
    for _ in range(10):
        tasks.run_job(job.pk)
    assert len(practice.calls) == 1
    assert states(job) == ["running", "succeeded"]


@pytest.mark.parametrize("message", ["1; drop", 10**30, -1, 0, True, None, {"pk": 1}, 4711])
def test_a_forged_message_gains_nothing(message):
    """bad-input G112."""
    ask()
    tasks.run_job(message)
    assert practice.calls == []


def raises(error: BaseException):
    def work(parameters, progress, context):
        raise error

    return work


def test_a_refusal_of_an_image_becomes_the_message_of_the_job():
    practice.does = raises(
        ImageError("E_NOSPC", "Needs 5 bytes, 3 are free.", file=os.fsdecode(b"/\xff"), value=3)
    )
    job = ask(exclusive=["/a"])
    jobs.run(job.pk)
    job = fresh(job)
    assert (job.status, job.sentence) == (Job.Status.FAILED, "Needs 5 bytes, 3 are free.")
    assert job.error == {
        "code": "E_NOSPC",
        "message": "Needs 5 bytes, 3 are free.",
        "advice": "",
        "file": "/\\udcff",
        "field": None,
        "offset": None,
        "value": 3,
    }
    assert not DiskLock.objects.exists()
    assert states(job) == ["running", "failed"]


def test_a_refusal_of_the_rules_becomes_the_message_of_the_job():
    practice.does = raises(Refusal("E_CHANGED", "It changed.", "Look again."))
    job = ask()
    jobs.run(job.pk)
    assert fresh(job).error["code"] == "E_CHANGED"
    assert job.error["advice"] == "Look again."


def test_any_other_error_is_internal_and_its_details_stay_in_the_log(caplog):
    """bad-input G113: no stack trace and no secret reaches a page."""
    practice.does = raises(RuntimeError("password=hunter2"))
    job = ask()
    jobs.run(job.pk)
    job = fresh(job)
    assert job.status == Job.Status.FAILED
    assert job.error["code"] == "E_INTERNAL"
    assert "hunter2" not in json.dumps(jobs.document(job), default=str)
    assert "hunter2" in caplog.text


def test_the_catalog_that_cannot_follow_does_not_fail_the_work(caplog):
    practice.does = lambda *_: {"catalog": "fails"}
    job = ask()
    jobs.run(job.pk)
    assert fresh(job).status == Job.Status.SUCCEEDED
    assert JobLogLine.objects.get(job=job).text == (
        "The catalog could not be brought up to date; the next scan will do it."
    )


def test_work_of_an_unknown_kind_or_version_stays_in_the_queue():
    """bad-input F97: an old worker leaves what it does not know to a newer one."""
    job = ask(kind="from-tomorrow")
    newer = ask()
    Job.objects.filter(pk=newer.pk).update(parameters_version=jobs.PARAMETERS_VERSION + 1)
    for each in (job, newer):
        jobs.run(each.pk)
        assert fresh(each).status == Job.Status.QUEUED
        assert each.sentence == "Waiting for a worker of a newer version."


def test_a_role_that_is_taken_away_meanwhile_does_not_break_a_job_off():
    """bad-input E80: it goes on under the grant that it was asked for with, and says for whom."""
    user = make_user("ada")
    user.groups.add(Group.objects.get(name="operator"))
    job = ask(user=user)

    def revoke(*_):
        user.groups.clear()
        user.is_active = False
        user.save()
        return {}

    practice.does = revoke
    jobs.run(job.pk)
    assert states(job) == ["running", "succeeded"]
    assert {entry.user for entry in AuditEntry.objects.filter(job=job)} == {user}


def test_run_now_does_the_same_in_the_calling_process():
    practice.does = lambda *_: {"sentence": "Updated."}
    job = jobs.run_now(ask())
    assert (job.status, job.sentence) == (Job.Status.SUCCEEDED, "Updated.")


# --- waiting for each other --------------------------------------------------------------


def hold(job: Job) -> jobs.Claim:
    claimed = jobs.claim(job.pk)
    assert claimed is not None
    return claimed


@pytest.mark.parametrize(
    ("first", "second", "waits"),
    [
        ({"exclusive": ["/a"]}, {"exclusive": ["/a"]}, True),
        ({"exclusive": ["/a"]}, {"shared": ["/a"]}, True),
        ({"shared": ["/a"]}, {"exclusive": ["/a"]}, True),
        ({"shared": ["/a"]}, {"shared": ["/a"]}, False),
        ({"exclusive": ["/a"]}, {"exclusive": ["/b"]}, False),
        ({"exclusive": ["/a"]}, {}, False),
    ],
)
def test_jobs_that_touch_one_disk_wait_and_say_for_whom(first, second, waits):
    """bad-input E68."""
    holder = ask(summary="Merge a.vhd", **first)
    hold(holder)
    job = ask(**second)
    jobs.run(job.pk)
    job = fresh(job)
    if waits:
        assert (job.status, job.waits_for) == (Job.Status.QUEUED, holder)
        assert job.sentence == f"Waits for job {holder.pk} (Merge a.vhd)."
        assert practice.calls == []
    else:
        assert job.status == Job.Status.SUCCEEDED


def test_those_who_waited_are_sent_when_the_holder_ends(sent, django_capture_on_commit_callbacks):
    claimed = hold(ask(exclusive=["/a"]))
    waiting = [ask(exclusive=["/a"]), ask(shared=["/a"])]
    for job in waiting:
        jobs.run(job.pk)
    with django_capture_on_commit_callbacks(execute=True):
        assert jobs.succeed(claimed.job, claimed.token, Job.Status.RUNNING, {})
    assert sent == [job.pk for job in waiting]
    assert fresh(waiting[0]).sentence == "Waiting for a worker."
    jobs.run(waiting[0].pk)
    assert fresh(waiting[0]).status == Job.Status.SUCCEEDED


def test_who_waits_longer_goes_first():
    """A stream of readers does not keep a writer waiting forever."""
    reader = hold(ask(shared=["/a"]))
    writer = ask(exclusive=["/a"], summary="Write a")
    jobs.run(writer.pk)
    late = ask(shared=["/a"])
    jobs.run(late.pk)
    assert fresh(late).sentence == f"Waits for job {writer.pk} (Write a)."
    jobs.succeed(reader.job, reader.token, Job.Status.RUNNING, {})
    jobs.run(writer.pk)
    jobs.run(late.pk)
    assert fresh(writer).status == fresh(late).status == Job.Status.SUCCEEDED


@pytest.mark.parametrize("path", ["/a", "/caf\udce9"])
def test_a_disk_that_the_last_of_many_waiting_jobs_is_for_names_that_one(path: str) -> None:
    """Its path may be in no encoding, and is stored escaped then."""
    ask(shared=[path])
    one = ask(exclusive=["/b"])
    many = (Job(pk=None, parameters=one.parameters, requested_at=one.requested_at,
                idempotency_key=str(number)) for number in range(250))  # fmt: skip
    Job.objects.bulk_create(many)
    last = ask(exclusive=["/b", path])
    ask(exclusive=[path])
    assert leases.first_waiting_for(path) == last
    assert leases.first_waiting_for("/c") is None


def test_the_names_of_open_jobs_are_asked_for_without_all_that_a_job_says_of_itself() -> None:
    """A repair of 100,000 links keeps each of them in its row."""
    own, over = ask(), ask()
    ask(parameters={BEGUN_AS: "cli-7"})
    stopping.cancel(over, None)
    with CaptureQueriesContext(connection) as queries:
        names = half_merged.names_of_jobs()
    assert names == {str(own.pk), f"job-{own.pk}", "cli-7"}
    assert not [one for one in queries if 'disks_job"."result"' in one["sql"]]


def test_who_waited_for_a_cancelled_job_is_sent(sent, django_capture_on_commit_callbacks):
    hold(ask(shared=["/a"]))
    writer, late = ask(exclusive=["/a"]), ask(shared=["/a"])
    jobs.run(writer.pk)
    jobs.run(late.pk)
    with django_capture_on_commit_callbacks(execute=True):
        stopping.cancel(writer, None)
    assert sent == [late.pk]


def test_a_blocked_run_now_stays_queued():
    hold(ask(exclusive=["/a"]))
    job = jobs.run_now(ask(exclusive=["/a"]))
    assert job.status == Job.Status.QUEUED


# --- stopping and trying again -----------------------------------------------------------


def test_a_queued_job_is_cancelled_at_once():
    user = make_user("ada")
    job = stopping.cancel(ask(), user, "192.0.2.7")
    assert job.status == Job.Status.CANCELLED
    assert job.sentence == "Cancelled before it started. Every file is as it was."
    jobs.run(job.pk)
    assert practice.calls == []
    entry = AuditEntry.objects.filter(job=job).first()
    assert (entry.username, entry.address) == ("ada", "192.0.2.7")


def test_a_running_job_stops_at_its_next_report(settings):
    settings.JOB_PROGRESS_SECONDS = 0
    cleaned = []

    def work(parameters, progress, context):
        stopping.cancel(context.job, None)
        assert fresh(context.job).status == Job.Status.RUNNING
        try:
            progress.report(1, 2)
        except Cancelled:
            cleaned.append(Job.objects.get(pk=context.job.pk).status)
            raise

    practice.does = work
    job = ask()
    jobs.run(job.pk)
    assert cleaned == [Job.Status.RUNNING]  # said only after the clean-up
    assert fresh(job).status == Job.Status.CANCELLED
    assert job.sentence == "Cancelled. Every file is as it was."


def test_a_cancel_that_came_before_the_commit_wins():
    def work(parameters, progress, context):
        stopping.cancel(context.job, None)
        progress.commit_starts()

    practice.does = work
    job = ask()
    jobs.run(job.pk)
    assert fresh(job).status == Job.Status.CANCELLED


def test_after_the_commit_has_begun_a_cancel_comes_too_late(settings):
    settings.JOB_PROGRESS_SECONDS = 0

    def work(parameters, progress, context):
        progress.commit_starts()
        with pytest.raises(Refusal) as refused:
            stopping.cancel(context.job, None)
        assert refused.value.code == "E_TOO_LATE"
        progress.report(1, 2)
        return {}

    practice.does = work
    job = ask()
    jobs.run(job.pk)
    assert fresh(job).status == Job.Status.SUCCEEDED


def test_an_ended_job_cannot_be_cancelled():
    job = jobs.run_now(ask())
    with pytest.raises(Refusal) as refused:
        stopping.cancel(job, None)
    assert refused.value.message == f"Job {job.pk} cannot be stopped: it is “Done”."


def test_trying_again_is_a_new_job_with_the_same_parameters():
    practice.does = raises(ImageError("E_NOSPC", "Full."))
    name = os.fsdecode(b"/\xff.vhd")
    job = jobs.run_now(ask(parameters={"path": name}, exclusive=["/a"], declared_offline=True))
    again = jobs.retry(job, None)
    assert again.pk != job.pk
    assert again.repeats == job
    assert again.parameters == job.parameters
    assert again.declared_offline
    assert jobs.retry(job, None).pk == again.pk  # pressed twice
    with pytest.raises(Refusal) as refused:
        jobs.retry(again, None)
    assert refused.value.code == "E_NOT_ENDED"


# --- leases and progress -----------------------------------------------------------------


def lease_of(claimed: jobs.Claim) -> Lease:
    return Lease(claimed.job.pk, claimed.token, Job.Status.RUNNING, claimed.claimed_at)


def test_a_worker_stops_by_its_own_clock_before_its_lease_ends(monkeypatch, settings):
    """bad-input E71: twenty seconds after the last renewal began, whatever the database says."""
    claimed = hold(ask())
    lease = lease_of(claimed)
    lease.check()
    later = leases.clock() + settings.JOB_STOP_WRITING_SECONDS
    monkeypatch.setattr(leases, "clock", lambda: later + 1)
    with pytest.raises(LeaseLost):
        JobProgress(lease).report(1, 2)
    monkeypatch.undo()
    with pytest.raises(LeaseLost):  # it stays lost
        lease.check()


def test_renewing_extends_job_and_locks_and_a_lease_that_is_over_stays_over():
    claimed = hold(ask(exclusive=["/a"]))
    lease = lease_of(claimed)
    before = claimed.job.lease_until
    lease.renew()
    assert fresh(claimed.job).lease_until > before
    assert DiskLock.objects.get().lease_until >= claimed.job.lease_until
    Job.objects.filter(pk=claimed.job.pk).update(lease_until=leases.from_now(-1))
    lease.renew()
    with pytest.raises(LeaseLost):
        lease.check()


def test_a_worker_whose_job_was_taken_over_changes_nothing():
    claimed = hold(ask())
    lease = lease_of(claimed)
    Job.objects.filter(pk=claimed.job.pk).update(status=Job.Status.LOST, sentence="gone")
    for act in (
        lambda: JobProgress(lease).report(1, 2),
        JobProgress(lease).commit_starts,
    ):
        with pytest.raises(LeaseLost):
            act()
    assert not jobs.succeed(claimed.job, claimed.token, Job.Status.RUNNING, {})
    assert fresh(claimed.job).sentence == "gone"


def test_a_lost_lease_ends_the_work_and_leaves_the_job_to_recovery():
    def work(parameters, progress, context):
        progress.lease._renewal_began -= 3600
        progress.report(1, 2)

    practice.does = work
    job = ask(exclusive=["/a"])
    jobs.run(job.pk)
    assert fresh(job).status == Job.Status.LOST
    assert DiskLock.objects.get().job == job


def test_progress_is_stored_at_most_once_a_second(django_assert_num_queries):
    claimed = hold(ask())
    progress = JobProgress(lease_of(claimed))
    with django_assert_num_queries(2):
        for done in range(1000):
            progress.report(done, 1000)
    progress.flush()
    assert fresh(claimed.job).done_bytes == 999


def test_a_busy_database_does_not_stop_the_work(monkeypatch, settings):
    """bad-input F90: progress is told later; the lease's own clock watches meanwhile."""
    settings.JOB_PROGRESS_SECONDS = 0
    claimed = hold(ask())
    lease = lease_of(claimed)

    class Busy:
        def update(self, **columns):
            raise DatabaseError("database is locked")

    monkeypatch.setattr(Lease, "ours", property(lambda self: Busy()))
    JobProgress(lease).report(1, 2)


def test_the_end_is_stored_as_soon_as_the_database_answers(monkeypatch, settings):
    """bad-input F90: hours of work are not thrown away for a locked database."""
    settings.JOB_PROGRESS_SECONDS = 0
    monkeypatch.setattr(running.connection, "close", lambda: None)  # the test's own transaction
    errors = [OperationalError("database is locked"), OperationalError("server closed")]
    end = jobs.end

    def fails_twice(*args, **columns):
        if errors:
            raise errors.pop()
        return end(*args, **columns)

    monkeypatch.setattr(ending, "end", fails_twice)
    job = jobs.run_now(ask())
    assert job.status == Job.Status.SUCCEEDED
    assert states(job) == ["running", "succeeded"]


# --- audit and the command ---------------------------------------------------------------


def test_the_audit_names_who_or_the_system():
    user = make_user("ada")
    name = os.fsdecode(b"/\xff\x00.vhd")
    audit.record(user=user, action="a", sentence=name, before={"p": name}, after=[name])
    audit.record(user=AnonymousUser(), action="b", sentence="x")
    first, second = AuditEntry.objects.order_by("pk")
    assert (first.username, first.user) == ("ada", user)
    assert first.sentence == "/\\udcff\\x00.vhd"
    assert first.before == {"p": "/\\udcff\\x00.vhd"}
    assert (second.username, second.user) == ("system", None)


def told(*arguments: str) -> Any:
    out = StringIO()
    call_command("job", *arguments, stdout=out, stderr=StringIO())
    return json.loads(out.getvalue())


def test_the_command_lists_shows_cancels_and_retries():
    practice.does = raises(ImageError("E_NOSPC", "Full."))
    failed, queued = jobs.run_now(ask()), ask()
    JobLogLine.objects.create(job=failed, at=failed.requested_at, text="a line")
    assert [row["id"] for row in told("list")["jobs"]] == [queued.pk, failed.pk]
    assert [row["id"] for row in told("list", "--status", "failed")["jobs"]] == [failed.pk]
    shown = told("show", str(failed.pk))
    assert shown["error"]["code"] == "E_NOSPC"
    assert shown["log"][0]["text"] == "a line"
    assert told("cancel", str(queued.pk))["status"] == "cancelled"
    assert told("retry", str(failed.pk))["repeats"] == failed.pk
    entry = AuditEntry.objects.filter(job=queued).first()
    assert entry.address == "command line"


def test_the_command_waits_and_tells_by_its_exit_code():
    practice.does = raises(ImageError("E_NOSPC", "Full."))
    failed = jobs.run_now(ask())
    for job, code, more in ((failed, 1, []), (ask(), 3, ["--timeout", "0.01"])):
        with pytest.raises(SystemExit) as ended:
            told("wait", str(job.pk), *more)
        assert ended.value.code == code
    practice.does = lambda *_: {}
    assert told("wait", str(jobs.run_now(ask()).pk))["status"] == "succeeded"


def test_the_command_refuses_in_words():
    job = jobs.run_now(ask())
    out, err = StringIO(), StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("job", "cancel", str(job.pk), stdout=out, stderr=err)
    assert ended.value.code == 1
    assert json.loads(out.getvalue())["error"]["code"] == "E_NOT_ACTIVE"
    assert err.getvalue().startswith("error: E_NOT_ACTIVE: ")
