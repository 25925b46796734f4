"""When a job runs and how fast: what was chosen for it, else what its storage roots say."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any

import pytest

from disks.models import AuditEntry, Disk, DiskLock, Job, StorageRoot
from disks.operations.pacing import Pacer
from disks.operations.progress import Cancelled, Stopped
from disks.services import (
    compacting,
    jobs,
    leases,
    reconciling,
    root_declarations,
    scanning,
    speed,
    stopping,
    timing,
)
from disks.services.errors import Refusal
from disks.services.leases import Lease
from disks.services.speed import Limit
from disks.services.timing import MIB, Choice
from disks.services.work import WORK, Work
from disks.services.worker_progress import JobCancelled, JobProgress
from disks.tests.builders import build_dynamic
from disks.tests.factories import make_root
from disks.tests.operations.worlds import content_of

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
    assert speed.of_job(ask("/srv/free/a.vhd")) == Limit()
    assert speed.of_job(ask("/srv/fast/a.vhd", "/srv/free/b.vhd")).bytes_per_second == 90 * MIB
    job = ask("/srv/fast/a.vhd", shared=["/srv/slow/base.vhd"])  # reading loads a storage, too
    assert speed.of_job(job).bytes_per_second == 20 * MIB


@pytest.mark.parametrize("limit", [0, 70 * MIB])
def test_what_is_chosen_for_a_job_counts_more_and_is_kept_when_it_is_tried_again(
    limit: int,
) -> None:
    make_root("/srv/slow", limit_bytes_per_second=20 * MIB)
    job = ask("/srv/slow/a.vhd")
    timing.choose(job, Choice(limit_bytes_per_second=limit), user=None)
    assert speed.of_job(job).bytes_per_second == limit
    entry = AuditEntry.objects.get(job=job, action="job-timed")
    assert entry.sentence.endswith("at most 70 MB/s." if limit else "no limit of speed.")
    timing.choose(job, Choice(limit_bytes_per_second=limit), user=None)  # the same form again
    assert AuditEntry.objects.filter(action="job-timed").count() == 1
    Job.objects.filter(pk=job.pk).update(status=Job.Status.FAILED)
    assert speed.of_job(jobs.retry(job, None)).bytes_per_second == limit


def test_jobs_that_run_on_a_root_share_its_limit() -> None:
    make_root("/srv/vms", name="vms", limit_bytes_per_second=60 * MIB)
    make_root("/srv/other", name="other", limit_bytes_per_second=40 * MIB)
    one, two, elsewhere = (ask(f"/srv/{at}.vhd") for at in ("vms/1", "vms/2", "other/3"))
    own, held_one, scan = (ask(f"/srv/vms/{n}.vhd", kind=kind) for n, kind in KINDS)
    timing.choose(own, Choice(limit_bytes_per_second=0), user=None)
    for job in (one, two, elsewhere, own, held_one, scan):
        assert claimed(job)
    Job.objects.filter(pk=held_one.pk).update(held_at=datetime.now(UTC))  # it moves nothing
    assert speed.of_job(one) == Limit(30 * MIB, "vms", 2)
    assert speed.of_job(own) == Limit(0)
    assert speed.of_job(elsewhere) == Limit(40 * MIB, "other", 1)
    ended(two)
    assert speed.of_job(one) == Limit(60 * MIB, "vms", 1)


KINDS = [(4, Job.Kind.MERGE), (5, Job.Kind.COPY), (6, Job.Kind.CHECK)]


def test_a_running_job_follows_the_limit_that_others_and_its_root_leave_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("disks.services.worker_progress.time.sleep", lambda seconds: None)
    root = make_root("/srv/vms", limit_bytes_per_second=60 * MIB)
    other = ask("/srv/vms/2.vhd")
    job, seen = ask("/srv/vms/1.vhd"), []

    def looked(progress: JobProgress) -> None:
        progress._stored_at = progress._rules_read_at = float("-inf")
        progress.report(1, 2)
        seen.append(progress._pacer.bytes_per_second // MIB)

    def work(progress: JobProgress) -> dict[str, Any]:
        progress.step("copy", "Copying.")
        looked(progress)
        assert claimed(other)
        looked(progress)
        StorageRoot.objects.filter(pk=root.pk).update(limit_bytes_per_second=100 * MIB)
        looked(progress)
        ended(other)
        looked(progress)
        Job.objects.filter(pk=job.pk).update(limit_bytes_per_second=7 * MIB)
        looked(progress)
        return {}

    works(monkeypatch, work)
    jobs.run(job.pk)
    assert (state(job)[0], seen) == (Job.Status.SUCCEEDED, [60, 30, 50, 100, 7])


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


def test_a_new_fixed_disk_takes_a_turn_as_it_may_be_written_whole(wall: Wall) -> None:
    """Storage that cannot reserve room gets it written; it moves no data, so hours let it be."""
    make_root("/srv/vms", jobs_at_once=1, hours_begin=time(22), hours_end=time(6))
    fixed, dynamic = ({"parameters": {"disk_type": one}} for one in ("fixed", "dynamic"))
    create = {"kind": Job.Kind.CREATE}
    assert claimed(ask("/srv/vms/1.vhd", **create, **fixed))
    assert claimed(ask("/srv/vms/2.vhd", **create, **dynamic))
    assert not claimed(ask("/srv/vms/3.vhd", **create, **fixed))


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


# --- when --------------------------------------------------------------------------------

IN_PLACE = {"parameters": {"in_place": True}}


@dataclass
class Wall:
    """The clock on the wall, in UTC, which is the console's time zone in tests."""

    now: datetime

    def __call__(self) -> datetime:
        return self.now

    def says(self, text: str) -> None:
        self.now = datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    clock = Wall(datetime(2026, 5, 4, 14, 0, tzinfo=UTC))
    monkeypatch.setattr("django.utils.timezone.now", clock)
    return clock


def nightly(path: str = "/srv/vms", **fields: Any) -> StorageRoot:
    return make_root(path, hours_begin=time(22), hours_end=time(6), **fields)


def works(monkeypatch: pytest.MonkeyPatch, work: Any) -> None:
    """What a merge does in these tests."""
    monkeypatch.setattr(f"{__name__}._does", work)
    monkeypatch.setitem(
        WORK, Job.Kind.MERGE, Work(f"{__name__}.run_it", recover="", moves_data=True)
    )


_does: Any = None


def run_it(parameters: dict[str, Any], progress: Any, context: Any) -> Any:
    return _does(progress)


def state(job: Job) -> tuple[str, str]:
    job.refresh_from_db()
    return job.status, job.sentence


def test_a_job_waits_for_the_hours_of_its_roots(wall: Wall, settings: Any) -> None:
    settings.JOB_RESEND_SECONDS = 0
    nightly(name="vms")
    job = ask("/srv/vms/a.vhd")
    assert not claimed(job)
    assert state(job) == (Job.Status.QUEUED, "Starts at 22:00 on 4 May (UTC).")
    assert not DiskLock.objects.exists()
    resend = lambda: reconciling.resend(lambda job_id: True, lambda: 0)  # noqa: E731
    wall.says("2026-05-04 21:59:59")
    assert resend() == []
    wall.says("2026-05-04 22:00:01")
    assert resend() == [job.pk]
    assert claimed(job)
    job.refresh_from_db()
    assert job.resume_at is None


@pytest.mark.parametrize("kind", [Job.Kind.SCAN, Job.Kind.CHECK, Job.Kind.UPDATE_PARENT])
def test_what_moves_no_data_runs_at_any_time(wall: Wall, kind: str) -> None:
    nightly()
    assert claimed(ask("/srv/vms/a.vhd", kind=kind))


def test_a_start_that_was_chosen_comes_before_and_within_the_hours(wall: Wall) -> None:
    nightly("/srv/vms")
    later = datetime(2026, 5, 6, 9, 0, tzinfo=UTC)
    elsewhere, here = ask("/srv/x/a.vhd"), ask("/srv/vms/a.vhd")
    outside = ask("/srv/vms/b.vhd")
    for job, choice in (
        (elsewhere, Choice(not_before=later)),
        (here, Choice(not_before=later)),
        (outside, Choice(not_before=later, outside_hours=True)),
    ):
        timing.choose(job, choice, user=None)
        assert not claimed(job)
    assert state(elsewhere)[1] == "Starts at 09:00 on 6 May (UTC)."
    assert state(here)[1] == "Starts at 22:00 on 6 May (UTC)."
    assert state(outside)[1] == "Starts at 09:00 on 6 May (UTC)."


def test_a_job_on_two_roots_waits_until_the_hours_of_both_meet(wall: Wall) -> None:
    nightly("/srv/vms", name="vms")
    late = make_root("/srv/late", name="late", hours_begin=time(4), hours_end=time(8))
    job = ask("/srv/vms/a.vhd", "/srv/late/b.vhd")
    assert not claimed(job)
    assert state(job)[1] == "Starts at 04:00 on 5 May (UTC)."
    StorageRoot.objects.filter(pk=late.pk).update(hours_begin=time(10), hours_end=time(11))
    assert not claimed(job)
    assert "the hours of late and vms never meet" in state(job)[1]
    assert timing.decides(job)
    stopping.start_now(job, None)
    assert claimed(job)


def test_hours_that_are_changed_count_for_those_that_wait(
    wall: Wall, settings: Any, tmp_path: Path
) -> None:
    settings.JOB_RESEND_SECONDS = 0
    root = nightly(str(tmp_path))
    job = ask(f"{tmp_path}/a.vhd")
    assert not claimed(job)
    wall.says("2026-05-04 14:00:01")
    root_declarations.change(root, says=root_declarations.Declaration(hours="13:00-15:00"))
    assert reconciling.resend(lambda job_id: True, lambda: 0) == [job.pk]
    assert claimed(job)


def test_start_now_does_not_wait_for_the_hours_and_is_audited(wall: Wall, sent: list[int]) -> None:
    nightly()
    job = ask("/srv/vms/a.vhd")
    assert not claimed(job)
    stopping.start_now(job, None)
    assert claimed(job)
    entry = AuditEntry.objects.get(job=job, action="job-start-now")
    assert entry.after["outside_hours"] is True
    with pytest.raises(Refusal, match="does not wait for the clock"):
        stopping.start_now(job, None)


def test_start_now_keeps_the_time_that_it_is_to_stop_by(wall: Wall, sent: list[int]) -> None:
    nightly()
    job = ask("/srv/vms/a.vhd")
    stop_by = datetime(2026, 5, 4, 20, tzinfo=UTC)
    later = datetime(2026, 5, 4, 16, tzinfo=UTC)
    timing.choose(job, Choice(not_before=later, stop_by=stop_by), user=None)
    stopping.start_now(job, None)
    assert claimed(job)
    job.refresh_from_db()
    assert (job.stop_by, job.not_before) == (stop_by, None)
    told = AuditEntry.objects.get(job=job, action="job-start-now").sentence
    assert told.endswith(
        "not to wait for the clock any more; to stop by 20:00 on 4 May (UTC), also outside the "
        "hours of its storage roots."
    )


def test_start_now_does_not_go_on_with_what_somebody_has_paused(
    wall: Wall, sent: list[int]
) -> None:
    nightly()
    job = ask("/srv/vms/a.vhd")
    assert not claimed(job)
    stopping.pause(job, None)
    with pytest.raises(Refusal) as refused:
        stopping.start_now(job, None)
    assert (refused.value.code, refused.value.advice) == (
        "E_NOT_PAUSED",
        "Resume it: then it goes on.",
    )
    assert (fresh(job).status, job.outside_hours) == (Job.Status.PAUSED, False)


def test_start_now_asked_twice_is_asked_once(wall: Wall, sent: list[int]) -> None:
    nightly()
    job = ask("/srv/vms/a.vhd")
    assert not claimed(job)
    stopping.start_now(job, None)
    stopping.start_now(job, None)
    assert AuditEntry.objects.filter(job=job, action="job-start-now").count() == 1


def run_until(wall: Wall, monkeypatch: pytest.MonkeyPatch, job: Job, until: str) -> list[str]:
    """The job works until the clock says so, and on for two more reports; what it did."""
    did: list[str] = []

    def work(progress: JobProgress) -> dict[str, Any]:
        progress.step("move", "Moving.")
        wall.says(until)
        for number in range(2):
            progress._stored_at = float("-inf")
            progress.report(number, 2)
            did.append("moved")
        return {}

    works(monkeypatch, work)
    jobs.run(job.pk)
    return did


def test_work_in_place_pauses_when_the_hours_end_and_goes_on_in_the_next(
    wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    nightly(name="vms")
    wall.says("2026-05-04 22:30")
    job = ask("/srv/vms/a.vhd", **IN_PLACE)
    assert run_until(wall, monkeypatch, job, "2026-05-05 06:00:01") == []
    sentence = "Paused: the hours of vms are over. It goes on at 22:00 on 5 May (UTC)."
    assert state(job) == (Job.Status.PAUSED, sentence)
    assert DiskLock.objects.filter(job=job).count() == 1
    wall.says("2026-05-05 21:59")
    assert reconciling.go_on_by_the_clock() == []
    wall.says("2026-05-05 22:00")
    assert reconciling.go_on_by_the_clock() == [job.pk]
    assert state(job)[0] == Job.Status.QUEUED
    assert run_until(wall, monkeypatch, job, "2026-05-05 23:00") == ["moved", "moved"]
    assert state(job)[0] == Job.Status.SUCCEEDED
    told = AuditEntry.objects.filter(job=job, action="job-paused").get()
    assert sentence in told.sentence


def test_one_that_was_stopped_between_two_batches_tells_both(
    wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    nightly(name="vms")
    wall.says("2026-05-05 05:59")
    job = ask("/srv/vms/a.vhd", **IN_PLACE)

    def work(progress: JobProgress) -> None:
        wall.says("2026-05-05 06:00")
        progress._stored_at = float("-inf")
        try:
            progress.report(1, 2)
        except Cancelled as asked:
            raise Stopped("Stopped after 1 of 2 bytes.") from asked

    works(monkeypatch, work)
    jobs.run(job.pk)
    status, sentence = state(job)
    assert (status, job.cancellable) == (Job.Status.PAUSED, False)
    assert sentence.startswith("Paused: the hours of vms are over. It goes on at 22:00 on 5 May")
    assert sentence.endswith(" Stopped after 1 of 2 bytes.")
    assert job.resume_at == datetime(2026, 5, 5, 22, tzinfo=UTC)


def test_who_pauses_it_keeps_it_from_going_on_by_itself(
    wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    nightly()
    wall.says("2026-05-04 22:30")
    job = ask("/srv/vms/a.vhd", **IN_PLACE)
    run_until(wall, monkeypatch, job, "2026-05-05 06:00:01")
    stopping.pause(job, None)
    wall.says("2026-05-06 22:30")
    assert reconciling.go_on_by_the_clock() == []
    assert state(job)[0] == Job.Status.PAUSED
    stopping.resume(job, None)
    assert claimed(job)


def test_hours_that_are_changed_count_for_those_that_run(
    wall: Wall, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = make_root(str(tmp_path), name="vms")
    job = ask(f"{tmp_path}/a.vhd", **IN_PLACE)

    def work(progress: JobProgress) -> None:
        progress.step("move", "Moving.")
        root_declarations.change(
            root, says=root_declarations.Declaration(name="vms", hours="22:00-06:00")
        )
        progress._stored_at = progress._rules_read_at = float("-inf")
        progress.report(1, 2)
        raise AssertionError("it went on")

    works(monkeypatch, work)
    jobs.run(job.pk)
    sentence = "Paused: the hours of vms are over. It goes on at 22:00 on 4 May (UTC)."
    assert state(job) == (Job.Status.PAUSED, sentence)


def test_longer_hours_count_for_one_that_runs_also_at_the_last_moment(
    wall: Wall, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = nightly(str(tmp_path), name="vms")
    wall.says("2026-05-04 22:30")
    job = ask(f"{tmp_path}/a.vhd", **IN_PLACE)

    def work(progress: JobProgress) -> dict[str, Any]:
        progress.step("move", "Moving.")
        root_declarations.change(
            root, says=root_declarations.Declaration(name="vms", hours="22:00-08:00")
        )
        wall.says("2026-05-05 06:00:01")
        progress._stored_at = float("-inf")
        progress.report(1, 2)
        return {}

    works(monkeypatch, work)
    jobs.run(job.pk)
    assert state(job)[0] == Job.Status.SUCCEEDED


# --- a copy whose hours end --------------------------------------------------------------


@pytest.fixture
def asleep(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Any:
    """asleep(one, two, …): what happens in each sleep of the worker that waits, in turn."""
    settings.JOB_PROGRESS_SECONDS = 0
    settings.JOBS_HELD_AT_MOST = 1
    steps: list[Any] = []

    def sleep(seconds: float) -> None:
        assert steps, "it waits for ever"
        steps.pop(0)()

    monkeypatch.setattr("disks.services.worker_progress.time.sleep", sleep)
    return lambda *wanted: steps.extend(wanted)


def copy_until(wall: Wall, monkeypatch: pytest.MonkeyPatch, job: Job, until: str) -> None:
    """A copy that is at its proof when the clock says so."""

    def work(progress: JobProgress) -> dict[str, Any]:
        progress.step("copy", "Copying.")
        progress.report(1, 2)
        progress.step("proof", "Reading it again.")
        wall.says(until)
        progress.report(1, 2)
        progress.step("commit", "Putting it in place.")
        progress.commit_starts()
        return {"done": 1}

    works(monkeypatch, work)
    jobs.run(job.pk)


def test_a_copy_waits_with_its_worker_from_the_end_of_its_hours_until_the_next(
    wall: Wall, monkeypatch: pytest.MonkeyPatch, asleep: Any
) -> None:
    nightly(name="vms")
    wall.says("2026-05-05 05:50")
    job = ask("/srv/vms/a.vhd")
    seen: list[Any] = []

    def look() -> None:
        seen.append((*state(job), job.is_held, job.step, timing.decides(job), job.resume_at))

    asleep(lambda: None, look, lambda: wall.says("2026-05-05 22:00"))
    copy_until(wall, monkeypatch, job, "2026-05-05 06:00")
    begins = datetime(2026, 5, 5, 22, tzinfo=UTC)
    sentence = "Paused: the hours of vms are over. It goes on at 22:00 on 5 May (UTC)."
    assert seen == [(Job.Status.RUNNING, sentence, True, "proof", True, begins)]
    assert state(job)[0] == Job.Status.SUCCEEDED
    assert (job.held_at, job.resume_at) == (None, None)


def test_a_result_is_not_put_in_place_after_the_hours(
    wall: Wall, monkeypatch: pytest.MonkeyPatch, asleep: Any
) -> None:
    nightly()
    wall.says("2026-05-05 05:50")
    job = ask("/srv/vms/a.vhd")
    held_before_the_commit: list[bool] = []

    def work(progress: JobProgress) -> dict[str, Any]:
        progress.step("proof", "Reading it again.")
        wall.says("2026-05-05 06:00")
        progress.step("commit", "Putting it in place.")
        asleep(
            lambda: held_before_the_commit.append(fresh(job).is_held),
            lambda: wall.says("2026-05-05 22:00"),
        )
        progress.commit_starts()
        return {}

    works(monkeypatch, work)
    jobs.run(job.pk)
    assert held_before_the_commit == [True]
    assert state(job)[0] == Job.Status.SUCCEEDED


def test_a_copy_that_waits_for_its_hours_is_started_now_or_cancelled(
    wall: Wall, monkeypatch: pytest.MonkeyPatch, asleep: Any
) -> None:
    nightly()
    first, second = ask("/srv/vms/a.vhd"), ask("/srv/vms/b.vhd")
    wall.says("2026-05-05 05:50")
    asleep(lambda: None, lambda: stopping.start_now(fresh(first), None))
    copy_until(wall, monkeypatch, first, "2026-05-05 06:00")
    assert (state(first)[0], first.outside_hours) == (Job.Status.SUCCEEDED, True)
    wall.says("2026-05-06 05:50")
    asleep(lambda: None, lambda: stopping.cancel(fresh(second), None))
    copy_until(wall, monkeypatch, second, "2026-05-06 06:00")
    assert (state(second)[0], second.resume_at) == (Job.Status.CANCELLED, None)


def test_who_keeps_a_copy_paused_that_waits_for_its_hours_is_obeyed_when_they_begin(
    wall: Wall, monkeypatch: pytest.MonkeyPatch, asleep: Any
) -> None:
    nightly()
    job = ask("/srv/vms/a.vhd")
    wall.says("2026-05-05 05:50")
    seen: list[Any] = []
    asleep(
        lambda: None,
        lambda: stopping.pause(fresh(job), None),
        lambda: wall.says("2026-05-05 22:00"),
        lambda: seen.append((fresh(job).is_held, timing.decides(job))),
        lambda: stopping.resume(fresh(job), None),
    )
    copy_until(wall, monkeypatch, job, "2026-05-05 06:00")
    assert seen == [(True, False)]
    assert state(job)[0] == Job.Status.SUCCEEDED


def test_a_copy_goes_on_after_its_hours_where_no_more_workers_may_wait(
    wall: Wall, monkeypatch: pytest.MonkeyPatch, asleep: Any
) -> None:
    nightly()
    wall.says("2026-05-05 05:50")
    held_one, job = ask("/srv/vms/b.vhd"), ask("/srv/vms/a.vhd")
    assert claimed(held_one)
    stopping.pause(fresh(held_one), None)
    copy_until(wall, monkeypatch, job, "2026-05-05 06:00")
    assert state(job)[0] == Job.Status.SUCCEEDED
    assert job.log.filter(text__contains="no other worker may wait").count() == 1


@pytest.mark.parametrize("in_place", [True, False])
def test_by_the_time_that_was_chosen_it_stops(
    wall: Wall, monkeypatch: pytest.MonkeyPatch, in_place: bool
) -> None:
    """In place it pauses, and does not go on by itself; a copy is cancelled."""
    nightly()
    wall.says("2026-05-04 22:30")
    job = ask("/srv/vms/a.vhd", parameters={"in_place": in_place})
    timing.choose(job, Choice(stop_by=datetime(2026, 5, 5, 4, 30, tzinfo=UTC)), user=None)
    assert run_until(wall, monkeypatch, job, "2026-05-05 04:30:00") == []
    status, sentence = state(job)
    assert job.resume_at is None
    if in_place:
        words = "Paused at 04:30 on 5 May (UTC), as asked. It goes on when it is resumed."
        assert (status, sentence) == (Job.Status.PAUSED, words)
        stopping.resume(job, None)
        assert run_until(wall, monkeypatch, job, "2026-05-05 05:00") == ["moved", "moved"]
        assert state(job)[0] == Job.Status.SUCCEEDED
    else:
        assert status == Job.Status.CANCELLED
        assert sentence.startswith("Stopped at 04:30 on 5 May (UTC), as asked. Cancelled.")
        assert not DiskLock.objects.exists()


def test_a_job_that_could_not_run_before_its_end_is_paused_and_says_so(wall: Wall) -> None:
    job = ask("/srv/vms/a.vhd")
    timing.choose(job, Choice(stop_by=datetime(2026, 5, 4, 15, tzinfo=UTC)), user=None)
    wall.says("2026-05-04 15:00")
    assert not claimed(job)
    status, sentence = state(job)
    assert status == Job.Status.PAUSED
    assert sentence.startswith("Paused: it could not run before 15:00 on 4 May (UTC)")
    stopping.resume(job, None)
    assert claimed(job)


def test_one_that_missed_its_night_is_not_woken_by_the_moment_it_waited_for(wall: Wall) -> None:
    nightly()
    job = ask("/srv/vms/a.vhd")
    timing.choose(job, Choice(stop_by=datetime(2026, 5, 5, 6, tzinfo=UTC)), user=None)
    assert not claimed(job)
    assert state(job)[1].startswith("Starts at 22:00 on 4 May")
    wall.says("2026-05-05 07:00")  # no worker was free all night
    assert not claimed(job)
    assert reconciling.go_on_by_the_clock() == []
    assert state(job)[0] == Job.Status.PAUSED
    assert not timing.decides(job)


def test_once_another_job_is_in_its_way_it_does_not_wait_for_the_clock_any_more(
    wall: Wall,
) -> None:
    nightly()
    first, second = ask("/srv/vms/a.vhd"), ask("/srv/vms/a.vhd")
    assert (claimed(first), claimed(second)) == (False, False)
    wall.says("2026-05-04 22:00")
    assert (claimed(first), claimed(second)) == (True, False)
    assert not timing.decides(fresh(second))


def test_what_somebody_keeps_paused_is_not_woken_by_a_reconciler_that_saw_it_before(
    wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    nightly()
    wall.says("2026-05-04 22:30")
    job = ask("/srv/vms/a.vhd", **IN_PLACE)
    run_until(wall, monkeypatch, job, "2026-05-05 06:00:01")
    wall.says("2026-05-05 22:00")
    seen = timing.due()
    stopping.pause(job, None)
    monkeypatch.setattr(timing, "due", lambda: seen)
    assert reconciling.go_on_by_the_clock() == []
    assert state(job)[0] == Job.Status.PAUSED


def test_a_paused_job_tells_the_hours_as_they_were_changed(
    wall: Wall, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = nightly(str(tmp_path), name="vms")
    wall.says("2026-05-04 22:30")
    job = ask(f"{tmp_path}/a.vhd", **IN_PLACE)
    run_until(wall, monkeypatch, job, "2026-05-05 06:00:01")
    root_declarations.change(
        root, says=root_declarations.Declaration(name="vms", hours="20:00-05:00")
    )
    assert state(job)[1].endswith("It goes on at 20:00 on 5 May (UTC).")
    assert job.resume_at == datetime(2026, 5, 5, 20, tzinfo=UTC)


def test_what_a_running_job_has_ahead_is_foreseen(wall: Wall, settings: Any) -> None:
    nightly()
    wall.says("2026-05-04 23:00")
    copy, in_place = ask("/srv/vms/a.vhd"), ask("/srv/vms/b.vhd", **IN_PLACE)
    assert (claimed(copy), claimed(in_place)) == (True, True)
    for job in (copy, in_place):
        job.refresh_from_db()
    settings.JOBS_HELD_AT_MOST = 0
    assert timing.foreseen(copy).startswith("The hours of its storage root end at 06:00 on 5 May")
    settings.JOBS_HELD_AT_MOST = 1
    assert timing.foreseen(copy).startswith("It waits from 06:00 on 5 May (UTC) by itself")
    assert timing.foreseen(in_place).startswith("It pauses at 06:00 on 5 May (UTC) by itself")
    Job.objects.filter(pk=copy.pk).update(stop_by=datetime(2026, 5, 5, 1, tzinfo=UTC))
    assert timing.foreseen(fresh(copy)) == "It will be cancelled at 01:00 on 5 May (UTC), as asked."


def fresh(job: Job) -> Job:
    job.refresh_from_db()
    return job


def test_a_real_compaction_is_done_in_two_nights(
    wall: Wall, monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Path
) -> None:
    settings.JOB_PROGRESS_SECONDS = 0
    monkeypatch.setattr("disks.engine.compaction.ROUND_BYTES", 1)
    content = [(n * 4096, bytes([n]) * 2 * MIB) for n in range(6)]  # those of number 0 are zeros
    content += [(n * 4096, bytes(2 * MIB)) for n in (1, 2)]
    built = build_dynamic(tmp_path, "disk.vhd", size=12 * MIB, content=content)
    wanted, before = content_of(built.path), built.path.stat().st_size
    root = nightly(str(tmp_path))
    scanning.scan(root)
    wall.says("2026-05-04 22:30")
    job = compacting.request(Disk.objects.get(), user=None, idempotency_key="k")
    moved = JobProgress.moved

    def slowly(self: JobProgress, count_bytes: int) -> None:
        moved(self, count_bytes)
        if self._step == "move":
            wall.says("2026-05-05 06:00")

    monkeypatch.setattr(JobProgress, "moved", slowly)
    jobs.run(job.pk)
    assert state(job)[0] == Job.Status.PAUSED
    assert job.resume_at == datetime(2026, 5, 5, 22, tzinfo=UTC)
    assert content_of(built.path) == wanted
    wall.says("2026-05-05 22:00")
    monkeypatch.setattr(JobProgress, "moved", moved)
    assert reconciling.go_on_by_the_clock() == [job.pk]
    jobs.run(job.pk)
    assert state(job)[0] == Job.Status.SUCCEEDED, job.error
    assert content_of(built.path) == wanted
    assert built.path.stat().st_size <= before - 3 * 2 * MIB
