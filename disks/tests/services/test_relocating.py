"""Move, delete and copy as jobs whose worker died: the job ends as the files are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.db import transaction

from disks.models import Disk, Job
from disks.operations.progress import Progress
from disks.services import jobs, relocating, sidecars
from disks.services.stored_json import restored
from disks.services.work import JobContext, function
from disks.tests.factories import make_user
from disks.tests.operations.moments import left_by_deaths
from disks.tests.operations.worlds import content_of
from disks.tests.services.catalog import base, child, declare, disk, key, scan

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.mark.parametrize("kind", ["move", "delete", "copy"])
def test_a_job_killed_at_any_point_ends_as_the_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """bad-input F85: finished or undone, and never said to be the other."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    folder = tmp_path / "vms"
    root = declare(folder, "C:\\VMs")
    child(folder, "leaf.vhd", base(folder))
    (folder / "far").mkdir()
    scan(root)
    was = content_of(folder / "leaf.vhd")
    job = _requested(kind, folder)
    context = JobContext(job, 1)
    run = function(f"disks.services.relocating.run_{kind}")
    recover = sidecars.recover_by_sidecars if kind == "copy" else relocating.recover_job

    def work() -> None:
        with _catalog_as_before():
            run(restored(job.parameters), Progress(), context)

    @_catalog_as_before()
    def recovered() -> tuple[bool, bool]:
        recovery = recover(job, context)
        done = {
            "move": (folder / "far" / "base.vhd").exists(),
            "delete": not (folder / "leaf.vhd").exists(),
            "copy": (folder / "far" / "leaf.vhd").exists(),
        }[kind]
        if kind != "delete":
            assert content_of(folder / "leaf.vhd") == was
        assert not sidecars.left_unfinished(job, context)
        return recovery.action == "finished", done

    by_point = {number: recovered() for number in left_by_deaths(folder, work)}
    assert len(by_point) > 8
    outcomes = {*by_point.values()}
    assert {(True, True), (False, False)} <= outcomes
    if kind != "copy":  # whose traces are noted by the running worker
        assert outcomes | {recovered()} == {(True, True), (False, False)}


@contextmanager
def _catalog_as_before() -> Iterator[None]:
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def _requested(kind: str, folder: Path) -> Job:
    found = disk("base.vhd" if kind == "move" else "leaf.vhd")
    plan = {
        "move": lambda: relocating.plan_move(found, target=str(folder / "far" / "base.vhd")),
        "delete": lambda: relocating.plan_delete(found),
        "copy": lambda: relocating.plan_copy(found, folder=str(folder / "far"), whole=True),
    }[kind]()
    return relocating.request(found, plan, user=make_user(), idempotency_key=key())


def test_what_recovery_finished_is_brought_to_the_catalog_once(tmp_path: Path) -> None:
    folder = tmp_path / "vms"
    root = declare(folder, "C:\\VMs")
    child(folder, "leaf.vhd", base(folder))
    (folder / "far").mkdir()
    scan(root)
    job = _requested("move", folder)
    number = job.disk_id
    relocating.run_move(restored(job.parameters), Progress(), JobContext(job, 1))
    recovery = relocating.recover_job(job, JobContext(job, 1))
    assert recovery.action == "finished"
    for _ in range(2):
        relocating.finished_move(job, dict(recovery.result))
    assert Disk.objects.get(pk=number).relative_path == "far/base.vhd"
    assert Disk.objects.count() == 2
    assert {Job.Kind.MOVE, Job.Kind.DELETE, Job.Kind.COPY} <= jobs.PLANNED_KINDS
