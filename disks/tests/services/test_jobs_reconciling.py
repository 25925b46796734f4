"""The reconciler, in one process: lost workers, recovery, lost messages, stray locks."""

from __future__ import annotations

import subprocess
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone
from kombu.exceptions import OperationalError

from disks import tasks
from disks.engine.errors import ImageError
from disks.models import AuditEntry, DiskLock, Job, JobLogLine
from disks.operations import copying, journal, locks, paths, recover, storage_roots
from disks.operations.journal import Sidecar
from disks.services import (
    jobs,
    leases,
    orphans,
    processes,
    reconciling,
    schedule,
    sidecars,
    stopping,
)
from disks.services.reconciling import Reconciler
from disks.services.work import WORK, JobContext, Recovery, Work
from disks.tests.factories import make_disk, make_root

pytestmark = pytest.mark.django_db

KIND = "practice"
READING = "practice-reading"


class Practice:
    """What the recovery of a test's job finds."""

    recovery: Any = Recovery("nothing")
    finished: list[dict[str, Any]] = []  # noqa: RUF012 - renewed by the fixture


def run_practice(parameters: dict[str, Any], progress: Any, context: Any) -> dict[str, Any]:
    return {}


def recover_practice(job: Job, context: JobContext) -> Recovery:
    if isinstance(Practice.recovery, Exception):
        raise Practice.recovery
    return Practice.recovery


def practice_finished(job: Job, result: dict[str, Any]) -> None:
    Practice.finished.append(result)


@pytest.fixture(autouse=True)
def practice_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    here = f"{__name__}."
    names = {
        "run": f"{here}run_practice",
        "recover": f"{here}recover_practice",
        "finished": f"{here}practice_finished",
    }
    monkeypatch.setitem(WORK, KIND, Work(**names))
    monkeypatch.setitem(WORK, READING, Work(**names, requeue_when_lost=True))
    monkeypatch.setattr(Practice, "recovery", Recovery("nothing"))
    monkeypatch.setattr(Practice, "finished", [])
    monkeypatch.setattr(jobs.Sender, "send", None)


def ask(**more: Any) -> Job:
    values: dict[str, Any] = {
        "kind": KIND,
        "parameters": {},
        "user": None,
        "summary": "Practise",
        "idempotency_key": uuid.uuid4().hex,
    }
    return jobs.request(**(values | more))


def taken(**more: Any) -> Job:
    """A running job whose worker is somewhere else, and alive as far as anybody knows."""
    claimed = jobs.claim(ask(**more).pk)
    assert claimed is not None
    Job.objects.filter(pk=claimed.job.pk).update(worker={"host": "elsewhere", "pid": 1})
    return fresh(claimed.job)


def lost(**more: Any) -> Job:
    job = taken(**more)
    Job.objects.filter(pk=job.pk).update(lease_until=leases.from_now(-1))
    assert reconciling.mark_lost() == [job.pk]
    return fresh(job)


def fresh(job: Job) -> Job:
    job.refresh_from_db()
    return job


def states(job: Job) -> list[str]:
    entries = AuditEntry.objects.filter(job=job, before__has_key="status").order_by("pk")
    return [entry.after["status"] for entry in entries]


# --- noticing ----------------------------------------------------------------------------


def test_a_job_whose_lease_is_over_is_lost_and_keeps_its_locks():
    job = lost(exclusive=["/a"])
    assert (job.status, job.sentence) == (Job.Status.LOST, "Its worker did not answer in time.")
    assert DiskLock.objects.get().job == job
    entry = AuditEntry.objects.filter(job=job).first()
    assert (entry.username, entry.action) == ("system", "job-lost")


def test_a_job_whose_process_is_gone_is_lost_at_once():
    """bad-input F85: no need to wait for the lease on the worker's own host."""
    job = taken()
    child = subprocess.Popen(["sleep", "60"])
    try:
        worker = processes.this_process() | {
            "pid": child.pid,
            "started": processes._start_time(child.pid),
        }
        Job.objects.filter(pk=job.pk).update(worker=worker)
        assert reconciling.mark_lost() == []
    finally:
        child.kill()
        child.wait()
    assert reconciling.mark_lost() == [job.pk]
    assert fresh(job).sentence == "Its worker stopped."


def test_the_process_that_got_a_dead_ones_number_is_not_taken_for_it():
    mine = processes.this_process()
    assert not processes.is_dead(mine)
    assert processes.is_dead(mine | {"started": mine["started"] - 1})


@pytest.mark.parametrize("part", ["boot", "namespace"])
def test_nothing_is_known_of_processes_elsewhere(part):
    """Another host, or another container with the same host name: only the lease counts."""
    mine = processes.this_process()
    assert not processes.is_dead(mine | {"started": 1, part: "other"})
    assert not processes.is_dead({})


def test_a_living_worker_is_left_alone():
    job = taken()
    assert reconciling.mark_lost() == []
    assert fresh(job).status == Job.Status.RUNNING


def test_a_lease_renewed_between_the_look_and_the_update_counts(monkeypatch):
    job = taken()
    Job.objects.filter(pk=job.pk).update(lease_until=leases.from_now(-1))
    look = reconciling._lost

    def renew_first(still, seen, sentence):
        Job.objects.filter(pk=job.pk).update(lease_until=leases.from_now(30))
        return look(still, seen, sentence)

    monkeypatch.setattr(reconciling, "_lost", renew_first)
    assert reconciling.mark_lost() == []
    assert fresh(job).status == Job.Status.RUNNING


def test_a_reconciler_that_dies_in_a_recovery_is_noticed_too():
    """bad-input F87: a crash during recovery; the next one tries again."""
    job = lost()
    Job.objects.filter(pk=job.pk).update(
        status=Job.Status.RECOVERING, lease_until=leases.from_now(-1), recoveries=1
    )
    reconciling.mark_lost()
    reconciling.recover_lost()
    assert fresh(job).status == Job.Status.FAILED


# --- recovering --------------------------------------------------------------------------


def test_work_that_changed_nothing_has_failed_and_says_so():
    job = lost(exclusive=["/a"])
    reconciling.recover_lost()
    job = fresh(job)
    assert job.status == Job.Status.FAILED
    assert job.sentence == ("The worker stopped before the work was complete; nothing was changed.")
    assert job.error["code"] == "E_WORKER_LOST"
    assert job.token == 2
    assert not DiskLock.objects.exists()
    assert states(job) == ["running", "lost", "recovering", "failed"]


def test_work_that_was_past_its_commit_is_done():
    Practice.recovery = Recovery("finished", "Finished by recovery.", {"output": "/a"})
    job = lost(exclusive=["/a"])
    reconciling.recover_lost()
    job = fresh(job)
    assert (job.status, job.result) == (Job.Status.SUCCEEDED, {"output": "/a"})
    assert job.sentence == "Finished by recovery."
    assert Practice.finished == [{"output": "/a"}]


def test_reading_work_starts_again_three_times_at_most():
    job = ask(kind=READING)
    for attempt in (1, 2, 3):
        assert jobs.claim(job.pk) is not None
        Job.objects.filter(pk=job.pk).update(lease_until=leases.from_now(-1), worker={})
        reconciling.mark_lost()
        reconciling.recover_lost()
        assert fresh(job).attempts == attempt
        if attempt < 3:
            assert (job.status, job.sentence) == (
                Job.Status.QUEUED,
                "Its worker stopped; it starts again.",
            )
    assert job.status == Job.Status.FAILED
    assert job.sentence.startswith("Its worker stopped 3 times. ")


def test_a_lost_job_that_was_asked_to_stop_is_cancelled_not_repeated():
    """bad-input E79."""
    job = lost(kind=READING)
    stopping.cancel(job, None)
    reconciling.recover_lost()
    assert fresh(job).status == Job.Status.CANCELLED


def test_a_recovery_that_fails_three_times_needs_a_person(caplog):
    """bad-input F88: locks kept, the reason told, and nothing else touches the disk."""
    Practice.recovery = RuntimeError("poison")
    job = lost(exclusive=["/a"], summary="Merge a")
    for _ in range(5):
        reconciling.recover_lost()
    job = fresh(job)
    assert (job.status, job.recoveries) == (Job.Status.NEEDS_ATTENTION, 3)
    assert job.sentence.startswith("Recovery failed 3 times. Nothing else touches its disks")
    assert DiskLock.objects.get().path == "/a"
    assert JobLogLine.objects.filter(job=job, text__startswith="Recovery, try").count() == 3
    waiting = ask(exclusive=["/a"])
    jobs.run(waiting.pk)
    assert fresh(waiting).sentence == (f"Waits for job {job.pk} (Merge a), which needs attention.")
    assert reconciling.resend(lambda _: True, lambda: 0) == []

    Practice.recovery = Recovery("undone")
    assert jobs.retry(job, None).pk == job.pk
    reconciling.recover_lost()
    assert fresh(job).status == Job.Status.FAILED
    jobs.run(waiting.pk)
    assert fresh(waiting).status == Job.Status.SUCCEEDED


def test_a_failed_recovery_says_what_to_do_next():
    """Of a job that needs a person, its log is all there is to go by."""
    Practice.recovery = ImageError("E_NEEDS_ATTENTION", "It is torn.", advice="Make a copy.")
    job = lost(exclusive=["/a"])
    reconciling.recover_lost()
    line = JobLogLine.objects.filter(job=job).latest("pk")
    assert line.text == "Recovery, try 1 of 3, failed: It is torn. Make a copy."


def test_recovery_waits_for_a_paused_worker_without_counting():
    """bad-input E71: who still holds the lock on the storage is not dead."""
    Practice.recovery = ImageError("E_LOCKED", "It is in the hands of job 1.")
    job = lost(exclusive=["/a"])
    for _ in range(5):
        reconciling.recover_lost()
    job = fresh(job)
    assert (job.status, job.recoveries) == (Job.Status.LOST, 0)
    assert job.sentence == "Recovery waits: It is in the hands of job 1."
    assert states(job) == ["running", "lost", "recovering", "lost"]  # not once per round
    Practice.recovery = Recovery("undone")
    reconciling.recover_lost()
    assert fresh(job).status == Job.Status.FAILED


def test_an_error_that_left_something_half_done_goes_through_recovery(monkeypatch):
    """bad-input F81: the job's own error is what is told in the end."""
    monkeypatch.setattr(sidecars, "left_unfinished", lambda job, context: True)
    job = taken(exclusive=["/a"])
    jobs.fail(job, job.token, ImageError("E_NOSPC", "The storage is full.").as_dict())
    assert fresh(job).status == Job.Status.LOST
    reconciling.recover_lost()
    job = fresh(job)
    assert (job.status, job.sentence) == (Job.Status.FAILED, "The storage is full.")
    assert job.error["code"] == "E_NOSPC"


# --- what lies beside the disks ----------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> paths.Roots:
    make_root(tmp_path)
    return paths.Roots([storage_roots.Root(str(tmp_path))])


def by_sidecars(job: Job) -> Recovery:
    return sidecars.recover_by_sidecars(job, JobContext(job, job.token))


def draft_name(job: Job, name: str) -> str:
    return copying.temp_name(name, copying.job_word(str(job.pk)), job.token)


def test_a_draft_without_a_sidecar_is_swept(root, tmp_path):
    job = lost(exclusive=[str(tmp_path / "new.vhd")])
    draft = tmp_path / draft_name(job, "new.vhd")
    other = tmp_path / ".new.vhd.job-999999-1.vdtmp"
    draft.touch()
    other.touch()
    assert by_sidecars(job).action == "nothing"
    assert not draft.exists()
    assert other.exists()  # another job's


def test_a_draft_that_got_its_name_says_that_the_work_was_complete(root, tmp_path):
    """Killed after the rename, before the row could say so."""
    target = tmp_path / "new.vhd"
    job = lost(exclusive=[str(target)])
    draft = tmp_path / draft_name(job, "new.vhd")
    draft.touch()
    noted = sidecars.traces(job, JobContext(job, job.token))
    assert noted == {
        "drafts": [(str(draft), draft.stat().st_ino)],
        "records": [[str(target), None, None]],
    }
    Job.objects.filter(pk=job.pk).update(result=noted, cancellable=False)
    draft.rename(target)
    assert by_sidecars(fresh(job)) == Recovery("finished", result={"output": str(target)})


def test_a_commit_that_had_begun_without_an_end_has_changed_nothing(root, tmp_path):
    target = tmp_path / "new.vhd"
    target.touch()
    job = lost(exclusive=[str(target)])
    draft = tmp_path / draft_name(job, "new.vhd")
    draft.touch()
    noted = sidecars.traces(job, JobContext(job, job.token))
    Job.objects.filter(pk=job.pk).update(result=noted, cancellable=False)
    assert by_sidecars(fresh(job)).action == "nothing"
    assert not draft.exists()


def test_nothing_is_swept_while_the_disk_is_held(root, tmp_path):
    """bad-input E71."""
    target = tmp_path / "a.vhd"
    target.touch()
    job = lost(exclusive=[str(target)])
    draft = tmp_path / draft_name(job, "a.vhd")
    draft.touch()
    with locks.hold(root, [str(target)], job="paused"):
        locks._mine.set({})  # another process would not know that it is held
        with pytest.raises(ImageError) as refused:
            by_sidecars(job)
    assert refused.value.code == "E_LOCKED"
    assert draft.exists()


def test_a_link_record_that_changed_since_the_commit_began_says_it_was_complete(root, tmp_path):
    """Killed after the last write of an update, or of its undo, before the row could say so."""
    disk = str(tmp_path / "child.vhd")
    Path(disk).touch()
    job = lost(exclusive=[disk])
    context = JobContext(job, job.token)
    values = {"link_before": {"name": "a"}, "link_after": {"name": "b"}}
    earlier = Sidecar(journal.UNDO, disk, journal.DONE, job="999999", token=1)
    ours = Sidecar(journal.UNDO, disk, journal.DONE, str(job.pk), 2, record=values)
    journal.write(root, earlier)
    Job.objects.filter(pk=job.pk).update(result=sidecars.traces(job, context))
    job = fresh(job)
    assert by_sidecars(job).action == "nothing"
    assert sidecars.written_link(root, disk, context) is None

    journal.write(root, ours)
    recovery = by_sidecars(job)
    assert recovery.action == "finished"
    (row,) = recovery.result["links"]
    assert (row["child"], row["undo"]) == (disk, False)
    assert (row["before"], row["after"]) == ({"name": "a"}, {"name": "b"})
    assert sidecars.written_link(root, disk, context) == row

    journal.remove(root, ours)  # what an undo leaves
    (row,) = by_sidecars(job).result["links"]
    assert row["undo"] is True


def test_unfinished_records_are_handed_to_recovery(root, tmp_path, monkeypatch):
    disk = str(tmp_path / "child.vhd")
    Path(disk).touch()
    job = lost(exclusive=[disk])
    journal.write(root, Sidecar(journal.UNDO, disk, "writing", job=str(job.pk), token=1))
    assert sidecars.left_unfinished(job, JobContext(job, 1))
    row = {"path": disk, "action": recover.UNDONE, "code": None, "sentence": "Undone."}
    monkeypatch.setattr(recover, "recover_disk", lambda path, roots: [row | {"path": path}])
    assert by_sidecars(job) == Recovery("undone", "Undone.")
    row |= {"action": recover.FINISHED}
    assert by_sidecars(job).action == "finished"
    row |= {"action": recover.BUSY, "code": "E_LOCKED"}
    with pytest.raises(ImageError) as refused:
        by_sidecars(job)
    assert refused.value.code == "E_LOCKED"


def test_a_damaged_record_is_left_for_a_person(root, tmp_path):
    """bad-input F88: what nobody can read, nobody acts upon."""
    disk = tmp_path / "child.vhd"
    disk.touch()
    job = lost(exclusive=[str(disk)])
    Path(journal.sidecar_path(str(disk), journal.UNDO)).write_bytes(b"VDADMIN-SIDECAR 1 undo")
    assert sidecars.left_unfinished(job, JobContext(job, 1))
    with pytest.raises(ImageError) as refused:
        by_sidecars(job)
    assert refused.value.code == "E_SIDECAR"


def test_a_sidecar_of_no_job_of_ours_is_recovered_and_audited_once(root, tmp_path, monkeypatch):
    """bad-input F91: of a command line that died, or of a database before its restore."""
    disk = tmp_path / "child.vhd"
    disk.touch()
    mine = tmp_path / "mine.vhd"
    mine.touch()
    for each in (disk, mine):
        make_disk(each.name)
    job = lost(exclusive=[str(mine)])
    journal.write(root, Sidecar(journal.UNDO, str(disk), "writing", job="", token=0))
    journal.write(root, Sidecar(journal.UNDO, str(mine), "writing", job=str(job.pk), token=1))
    seen = []

    def attention(path, roots):
        seen.append(path)
        return [{"path": path, "action": recover.ATTENTION, "code": "E_X", "sentence": "Look."}]

    monkeypatch.setattr(recover, "recover_disk", attention)
    orphans.recover_orphans()
    orphans.recover_orphans()
    assert seen == [str(disk), str(disk)]
    entry = AuditEntry.objects.get(action="orphan-recovery")
    assert (entry.path, entry.sentence) == (str(disk), "Look.")


# --- messages that got lost --------------------------------------------------------------


def aged(job: Job, **seconds: float) -> Job:
    now = timezone.now()
    Job.objects.filter(pk=job.pk).update(
        **{name: now - timedelta(seconds=value) for name, value in seconds.items()}
    )
    return fresh(job)


def test_queued_jobs_that_nobody_took_are_sent_again():
    """bad-input F89."""
    never = aged(ask(), requested_at=60)
    long_ago = aged(ask(), requested_at=60, sent_at=60)
    aged(ask(), requested_at=60, sent_at=1)
    aged(ask(), requested_at=1)
    jobs.run_now(ask())
    sent: list[int] = []
    assert reconciling.resend(lambda pk: not sent.append(pk), lambda: 0) == [never.pk, long_ago.pk]
    assert sent == [never.pk, long_ago.pk]


def test_a_full_queue_is_not_filled_further():
    """A long wait behind busy workers is no loss."""
    for _ in range(3):
        aged(ask(), requested_at=60, sent_at=60)
    sent: list[int] = []
    assert reconciling.resend(lambda pk: not sent.append(pk), lambda: 3) == []
    assert len(reconciling.resend(lambda pk: not sent.append(pk), lambda: 2)) == 3
    assert len(reconciling.resend(lambda pk: not sent.append(pk), lambda: None)) == 3


def test_nothing_more_is_tried_while_the_broker_is_away():
    for _ in range(3):
        aged(ask(), requested_at=60)
    tried: list[int] = []
    assert reconciling.resend(lambda pk: bool(tried.append(pk)), lambda: None) == []
    assert len(tried) == 1


def test_jobs_that_wait_for_a_running_one_are_not_sent():
    holder = taken(exclusive=["/a"])
    waiting = ask(exclusive=["/a"])
    jobs.run(waiting.pk)
    aged(waiting, requested_at=60, sent_at=60)
    assert reconciling.resend(lambda _: True, lambda: 0) == []
    # the holder ended without releasing them: a claim finds out
    DiskLock.objects.all().delete()
    Job.objects.filter(pk=holder.pk).update(status=Job.Status.FAILED)
    assert reconciling.resend(lambda _: True, lambda: 0) == [waiting.pk]


def test_a_broker_that_is_away_leaves_the_job_queued_and_says_so(monkeypatch):
    """bad-input F89."""
    job = ask()

    def refuse(*args, **options):
        raise OperationalError("Connection refused")

    monkeypatch.setattr(tasks.run_job, "apply_async", refuse)
    assert tasks.send(job.pk) is False
    assert (fresh(job).status, job.sentence, job.sent_at) == (
        Job.Status.QUEUED,
        "The queue cannot be reached; the job is sent as soon as it answers.",
        None,
    )
    monkeypatch.setattr(tasks.run_job, "apply_async", lambda *args, **options: None)
    assert tasks.send(job.pk) is True
    assert fresh(job).sentence == "Waiting for a worker."
    assert job.sent_at is not None


def test_enqueue_sends_after_the_commit(monkeypatch, django_capture_on_commit_callbacks):
    sent: list[Any] = []
    monkeypatch.setattr(tasks.run_job, "apply_async", lambda args, **options: sent.append(args))
    with django_capture_on_commit_callbacks(execute=True):
        job = ask()
        tasks.enqueue(job)
        assert sent == []
    assert sent == [(job.pk,)]


# --- locks, rounds, the clock ------------------------------------------------------------


def test_locks_of_jobs_that_hold_none_are_swept():
    running, ended = taken(exclusive=["/a"]), ask()
    for job, path in ((ended, "/b"), (running, "/c")):
        DiskLock.objects.create(
            path=path, mode="exclusive", job=job, token=1, lease_until=leases.from_now(-1)
        )
    assert reconciling.sweep_locks() == 1
    assert sorted(DiskLock.objects.values_list("path", flat=True)) == ["/a", "/c"]


def test_a_part_that_fails_does_not_keep_the_round_from_the_rest(monkeypatch, caplog):
    def broken():
        raise RuntimeError("database away")

    monkeypatch.setattr(reconciling, "mark_lost", broken)
    job = aged(ask(), requested_at=60)
    sent: list[int] = []
    Reconciler(lambda pk: not sent.append(pk), lambda: 0).round()
    assert sent == [job.pk]
    assert "database away" in caplog.text


def test_a_root_is_scanned_when_it_is_due_and_once():
    now = timezone.now()
    new = make_root(scan_every_minutes=60)
    make_root(scan_every_minutes=0)
    make_root(scan_every_minutes=60, last_scan_at=now - timedelta(minutes=59))
    due = make_root(scan_every_minutes=60, last_scan_at=now - timedelta(minutes=61))
    requested = schedule.request_due_scans(now)
    assert {job.root for job in requested} == {new, due}
    assert requested[0].parameters["root"] == requested[0].root_id
    assert schedule.request_due_scans(now) == []


def test_jobs_are_forgotten_long_after_their_end_and_the_audit_is_not():
    old = jobs.run_now(ask())
    recent = jobs.run_now(ask())
    scan = jobs.run_now(ask(kind=READING))
    Job.objects.filter(pk=scan.pk).update(kind=Job.Kind.SCAN)
    aged(old, finished_at=401 * 86400)
    aged(scan, finished_at=31 * 86400)
    lines = AuditEntry.objects.count()
    assert schedule.forget_old_jobs() == 2
    assert list(Job.objects.all()) == [recent]
    assert AuditEntry.objects.count() == lines
