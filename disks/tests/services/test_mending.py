"""Repair and replay as jobs: the rows, the audit, and a worker that died at the worst moment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from disks.engine.errors import ImageError
from disks.models import AuditEntry, Disk, Job
from disks.operations import journal, rewriting
from disks.operations import mending as operation
from disks.services import (
    declarations,
    jobs,
    leases,
    mending,
    parent_updates,
    reconciling,
    roots,
    sidecars,
)
from disks.services.errors import Refusal
from disks.services.mending import MENDINGS, Mending
from disks.services.work import JobContext
from disks.tests.builders import Built, BuiltVhdx
from disks.tests.factories import make_user
from disks.tests.operations.crashing import (
    in_fork,
    with_fault,
)
from disks.tests.operations.dying import DONE
from disks.tests.services.catalog import base, child, declare, disk, key, scan

pytestmark = pytest.mark.django_db(transaction=True)

REPAIR, REPLAY = MENDINGS["repair-headers"], MENDINGS["replay-log"]


def damage_footer(built: Built) -> None:
    with built.path.open("r+b") as file:
        file.seek(-512, os.SEEK_END)
        file.write(b"\xde\xad\xbe\xef" * 16)


def damage_header(built: Built) -> None:
    assert isinstance(built, BuiltVhdx)
    built.patch_header(3 - built.current, wrong=True)


def damage_table(built: Built) -> None:
    assert isinstance(built, BuiltVhdx)
    built.patch_table(2, 0, b"", wrong=True)


def fill_log(built: Built) -> None:
    assert isinstance(built, BuiltVhdx)
    built.move_into_log(built.table_offset)


# extension, what is done to the file, what mends it, and how the catalog sees it until then
KINDS = {
    "footer": ("vhd", damage_footer, REPAIR, "damaged", "E_FOOTER_END"),
    "header": ("vhdx", damage_header, REPAIR, "notice", "W_HEADER_COPY"),
    "region table": ("vhdx", damage_table, REPAIR, "notice", "W_REGION_COPY"),
    "log": ("vhdx", fill_log, REPLAY, "notice", "W_LOG"),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def what(kind: str) -> Mending:
    return KINDS[kind][2]


@pytest.fixture
def damaged(kind: str, tmp_path: Path) -> Disk:
    """A base with something to mend, and a child."""
    extension, damage, what, health, code = KINDS[kind]
    root = declare(tmp_path / "vms")
    built = base(tmp_path / "vms", f"base.{extension}")
    child(tmp_path / "vms", f"child.{extension}", built)
    damage(built)
    scan(root)
    found = disk(built.path.name)
    assert (found.health, found.health_code) == (health, code)
    assert disk(f"child.{extension}").health == ("broken" if health == "damaged" else "healthy")
    assert what.is_needed(found)
    return found


def requested(what: Mending, found: Disk, **more: object) -> Job:
    return mending.request(what, found, user=make_user(), idempotency_key=key(), **more)  # type: ignore[arg-type]


def test_the_job_mends_the_disk_and_the_catalog_and_is_audited(
    damaged: Disk, what: Mending
) -> None:
    """bad-input A4, C39, C41: what was damaged is sound, what was broken by it is complete."""
    job = jobs.run_now(requested(what, damaged))
    assert (job.status, job.sentence) == (Job.Status.SUCCEEDED, what.words_for(damaged).done)
    assert disk(damaged.name).health == Disk.Health.HEALTHY
    # and not suspect: no content changed
    assert disk(damaged.name.replace("base", "child")).health == Disk.Health.HEALTHY
    entry = AuditEntry.objects.get(action=what.action)
    assert entry.disk_id == damaged.pk
    assert entry.job_id == job.pk
    assert entry.before.keys() == entry.after.keys() != set()
    assert not what.is_needed(disk(damaged.name))
    with pytest.raises(ImageError) as nothing:
        requested(what, disk(damaged.name))
    assert nothing.value.code == what.mend.nothing


def test_what_was_shown_must_be_what_is_there(damaged: Disk, what: Mending) -> None:
    with pytest.raises(ImageError) as refused:
        requested(what, damaged, fingerprint="another plan")
    assert refused.value.code == "E_CHANGED"
    job = requested(what, damaged)
    Path(damaged.path + ".new").write_bytes(Path(damaged.path).read_bytes())
    os.rename(damaged.path + ".new", damaged.path)
    job = jobs.run_now(job)
    assert job.status == Job.Status.FAILED
    assert (job.error or {})["code"] == "E_CHANGED"
    assert jobs.needs_a_new_plan(job)


def test_disks_that_others_open_are_declared_offline_first(damaged: Disk, what: Mending) -> None:
    damaged.root.opened_by = "windows"
    damaged.root.save()
    with pytest.raises(Refusal) as refused:
        requested(what, damaged)
    assert refused.value.code == "E_NOT_OFFLINE"
    assert jobs.run_now(requested(what, damaged, declared_offline=True)).status == "succeeded"


@pytest.mark.parametrize("moment", ["before", "within", "after"])
def test_recovery_tells_by_the_disk_what_became_of_it(
    damaged: Disk, what: Mending, moment: str
) -> None:
    """bad-input F85: a repair that is complete leaves no record; the disk itself tells."""
    if what is REPLAY and moment == "within":
        moment = "after"  # a replay has no record; halfway it is done again, see below
    job = requested(what, damaged)
    context = JobContext(job, 1)
    job.result = sidecars.traces(job, context) if moment != "before" else {}
    if moment == "within":
        _stop_within(what, damaged.path, context)
    elif moment == "after":
        with_roots = roots.operation_roots()
        planned = operation.plan(what.mend, damaged.path, with_roots)
        operation.apply(what.mend, planned, with_roots, offline=True, job=context.name, token=1)
        with_roots.close()
    recovery = mending.recover(job, context)
    expected = {"before": "nothing", "within": "finished", "after": "finished"}[moment]
    assert recovery.action == expected
    if recovery.action == "finished":
        result = dict(recovery.result)
        mending.finished(job, result)
        mending.finished(job, result)
        assert "links" not in result
        assert disk(damaged.name).health == Disk.Health.HEALTHY
        assert AuditEntry.objects.filter(action=what.action).count() == 1


def _stop_within(what: Mending, path: str, context: JobContext) -> None:
    """As a worker that dies when the header is written and its record still open."""
    scope = roots.operation_roots()
    kept = rewriting.finished
    rewriting.finished = lambda *_: None  # type: ignore[assignment]
    try:
        planned = operation.plan(what.mend, path, scope)
        operation.apply(what.mend, planned, scope, offline=True, job=context.name, token=1)
    finally:
        rewriting.finished = kept
        scope.close()
    record = journal.of(roots.operation_roots(), path, journal.UNDO)
    assert record is not None
    assert record.unfinished


@pytest.mark.parametrize("point", ["replay.write:2", "replay.fsync:3", "replay.fsync:4", "none"])
@pytest.mark.parametrize("kind", ["log"], indirect=True)
def test_a_replay_whose_worker_died_is_done_again(damaged: Disk, point: str) -> None:
    """bad-input F85: before the log is empty, when it just is, and when all of it was over."""
    job = requested(REPLAY, damaged)
    claimed = jobs.claim(job.pk)
    assert claimed is not None
    scope = roots.operation_roots()
    planned = operation.plan(REPLAY.mend, damaged.path, scope)

    def work() -> None:
        operation.apply(REPLAY.mend, planned, scope, offline=True, job=str(job.pk), token=1)

    code = in_fork(with_fault(f"{point}:kill", work) if point != "none" else work)
    assert code == (DONE if point == "none" else -9)
    Job.objects.filter(pk=job.pk).update(lease_until=leases.from_now(-1), worker={})
    assert reconciling.mark_lost() == [job.pk]
    reconciling.recover_lost()
    job.refresh_from_db()
    assert job.status == Job.Status.QUEUED
    jobs.run(job.pk)
    job.refresh_from_db()
    assert (job.status, job.sentence) == (
        Job.Status.SUCCEEDED,
        REPLAY.words_for(damaged).done,
    )
    assert disk(damaged.name).health == Disk.Health.HEALTHY
    entry = AuditEntry.objects.get(action="log-replayed")
    assert entry.before["log"] == "1 entry with 1 update, 4,096 bytes"
    scope.close()


@pytest.mark.parametrize("kind", ["footer"], indirect=True)
def test_the_times_that_children_store_come_from_the_catalog(damaged: Disk) -> None:
    assert len(parent_updates.recorded_times(damaged.path)) == 1


def test_a_log_is_replayed_before_anything_else(tmp_path: Path) -> None:
    """The verdict says so first, whatever else there is; and the repair waits."""
    root = declare(tmp_path / "vms")
    built = base(tmp_path / "vms", "base.vhdx")
    fill_log(built)
    damage_header(built)
    lonely = child(tmp_path / "vms", "lonely.vhdx", base(tmp_path / "vms", "gone.vhdx"))
    fill_log(lonely)
    (tmp_path / "vms" / "gone.vhdx").unlink()
    scan(root)
    found = disk("base.vhdx")
    assert (found.health_code, found.log_waits) == ("W_LOG", True)
    assert found.sentence.startswith("The log waits to be replayed: it holds 1 entry of changes")
    assert REPAIR.why_not(found) == declarations.LOG_WAITS
    broken = disk("lonely.vhdx")
    assert broken.health == "broken"
    assert broken.sentence.endswith(" Its log waits to be replayed; that comes first.")
    assert REPLAY.is_needed(Disk.objects.defer("findings").get(pk=broken.pk))
    jobs.run_now(requested(REPLAY, broken))
    assert not disk("lonely.vhdx").log_waits
    jobs.run_now(requested(REPLAY, found))
    assert disk("base.vhdx").health_code == ""
