"""Repair footer as a job: the rows, the audit, and a worker that died at the worst moment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from disks.engine.errors import ImageError
from disks.models import AuditEntry, Disk, Job
from disks.operations import journal, repair, rewriting
from disks.services import jobs, parent_paths, repairing, roots, sidecars
from disks.services.errors import Refusal
from disks.services.work import JobContext
from disks.tests.factories import make_user
from disks.tests.services.catalog import base, child, declare, disk, key, scan

pytestmark = pytest.mark.django_db(transaction=True)


def damage(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-512, os.SEEK_END)
        file.write(b"\xde\xad\xbe\xef" * 16)


@pytest.fixture
def damaged(tmp_path: Path) -> Disk:
    """A base with a damaged footer, and a child that cannot be read because of it."""
    root = declare(tmp_path / "vms")
    built = base(tmp_path / "vms")
    child(tmp_path / "vms", "child.vhd", built)
    damage(built.path)
    scan(root)
    found = disk("base.vhd")
    assert (found.health, found.health_code) == ("damaged", "E_FOOTER_END")
    assert disk("child.vhd").health == "broken"
    return found


def requested(found: Disk, **more: object) -> Job:
    return repairing.request(found, user=make_user(), idempotency_key=key(), **more)  # type: ignore[arg-type]


def test_the_job_mends_the_disk_and_the_catalog_and_is_audited(damaged: Disk) -> None:
    """bad-input A4: what was damaged is sound, what was broken by it is complete."""
    job = jobs.run_now(requested(damaged))
    assert (job.status, job.sentence) == (Job.Status.SUCCEEDED, repairing.DONE)
    assert disk("base.vhd").health == Disk.Health.HEALTHY
    assert disk("child.vhd").health == Disk.Health.HEALTHY  # and not suspect: no content changed
    entry = AuditEntry.objects.get(action="footer-repaired")
    assert entry.disk_id == damaged.pk
    assert entry.job_id == job.pk
    assert entry.after["footer at the end"] == "as its copy at byte 0"
    assert not repairing.is_damaged(disk("base.vhd"))
    with pytest.raises(ImageError) as nothing:
        requested(disk("base.vhd"))
    assert nothing.value.code == repair.NOTHING


def test_what_was_shown_must_be_what_is_there(damaged: Disk) -> None:
    with pytest.raises(ImageError) as refused:
        requested(damaged, fingerprint="another plan")
    assert refused.value.code == "E_CHANGED"
    job = requested(damaged)
    os.utime(damaged.path)
    job = jobs.run_now(job)
    assert job.status == Job.Status.FAILED
    assert (job.error or {})["code"] == "E_CHANGED"


def test_disks_that_others_open_are_declared_offline_first(damaged: Disk) -> None:
    damaged.root.opened_by = "windows"
    damaged.root.save()
    with pytest.raises(Refusal) as refused:
        requested(damaged)
    assert refused.value.code == "E_NOT_OFFLINE"
    assert jobs.run_now(requested(damaged, declared_offline=True)).status == "succeeded"


@pytest.mark.parametrize("moment", ["before", "within", "after"])
def test_recovery_tells_by_the_disk_what_became_of_it(damaged: Disk, moment: str) -> None:
    """bad-input F85: a repair that is complete leaves no record; the disk itself tells."""
    job = requested(damaged)
    context = JobContext(job, 1)
    job.result = sidecars.traces(job, context) if moment != "before" else {}
    with_roots = roots.operation_roots()
    if moment == "within":
        _stop_within(damaged.path, context)
    elif moment == "after":
        planned = repair.plan(damaged.path, with_roots)
        repair.apply(planned, with_roots, offline=True, job=context.name, token=1)
    recovery = repairing.recover_repair(job, context)
    expected = {"before": "nothing", "within": "finished", "after": "finished"}[moment]
    assert recovery.action == expected
    if recovery.action == "finished":
        result = dict(recovery.result)
        repairing.finished_repair(job, result)
        repairing.finished_repair(job, result)
        assert "links" not in result
        assert disk("base.vhd").health == Disk.Health.HEALTHY
        assert AuditEntry.objects.filter(action="footer-repaired").count() == 1
    with_roots.close()


def _stop_within(path: str, context: JobContext) -> None:
    """As a worker that dies when the footer is written and its record still open."""
    scope = roots.operation_roots()
    kept = rewriting.finished
    rewriting.finished = lambda *_: None  # type: ignore[assignment]
    try:
        planned = repair.plan(path, scope)
        repair.apply(planned, scope, offline=True, job=context.name, token=1)
    finally:
        rewriting.finished = kept
        scope.close()
    record = journal.of(roots.operation_roots(), path, journal.UNDO)
    assert record is not None
    assert record.unfinished


def test_the_times_that_children_store_come_from_the_catalog(damaged: Disk) -> None:
    assert len(parent_paths.recorded_times(damaged.path)) == 1
