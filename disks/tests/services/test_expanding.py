"""Expand and convert as jobs: the rows, the audit, and a worker that died at any moment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from disks.engine.errors import ImageError
from disks.models import AuditEntry, Disk, Job
from disks.operations import expand
from disks.services import converting, expanding, inspection, jobs, roots, sidecars
from disks.services.errors import Refusal
from disks.services.work import JobContext
from disks.tests.factories import make_user
from disks.tests.operations.moments import left_by_deaths
from disks.tests.operations.worlds import content_of, errors_in
from disks.tests.services.catalog import SIZE, base, child, declare, disk, key, scan
from disks.views import job_words

pytestmark = pytest.mark.django_db(transaction=True)

LARGE = 1024 * 1024 * 1024  # its table needs the room of the first block


@pytest.fixture
def leaf(tmp_path: Path) -> Disk:
    """A leaf whose first block lies right behind its table, and its base."""
    root = declare(tmp_path / "vms", "C:\\VMs")
    child(tmp_path / "vms", "leaf.vhd", base(tmp_path / "vms"), layout="packed")
    scan(root)
    return disk("leaf.vhd")


def requested(found: Disk, size: int = LARGE, **more: Any) -> Job:
    return expanding.request(
        found, size_bytes=size, user=make_user(), idempotency_key=key(), **more
    )


def test_the_job_makes_the_disk_larger_and_the_catalog_right_and_is_audited(leaf: Disk) -> None:
    job = jobs.run_now(requested(leaf))
    assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)
    assert "The disk has 1 GB now." in job.sentence
    assert any("becomes 1 GB" in line.text for line in job.log.all())
    assert "Written" not in dict(job_words.result_rows(job.result | {"bytes_written": 0}))
    found = disk("leaf.vhd")
    assert (found.virtual_size_bytes, found.identity) == (LARGE, leaf.identity)
    assert found.health in (Disk.Health.HEALTHY, Disk.Health.NOTICE)
    entry = AuditEntry.objects.get(action="disk-expanded")
    assert (entry.disk_id, entry.job_id) == (leaf.pk, job.pk)
    assert entry.before == {"virtual_size_bytes": SIZE}
    again = jobs.run_now(requested(found, LARGE * 2))
    assert again.status == Job.Status.SUCCEEDED
    assert AuditEntry.objects.filter(action="disk-expanded").count() == 2


def test_what_was_shown_must_be_what_is_there(leaf: Disk) -> None:
    with pytest.raises(ImageError) as refused:
        requested(leaf, seen={"another": "plan"})
    assert refused.value.code == "E_CHANGED"
    job = requested(leaf)
    os.utime(leaf.path)
    job = jobs.run_now(job)
    assert (job.status, (job.error or {})["code"]) == (Job.Status.FAILED, "E_CHANGED")
    assert jobs.needs_a_new_plan(job)


def test_disks_that_others_open_are_declared_offline_first(leaf: Disk) -> None:
    leaf.root.opened_by = "windows"
    leaf.root.save()
    with pytest.raises(Refusal) as refused:
        requested(leaf)
    assert refused.value.code == "E_NOT_OFFLINE"
    assert jobs.run_now(requested(leaf, declared_offline=True)).status == "succeeded"


def test_a_parent_is_refused_and_its_children_are_known_from_the_catalog(leaf: Disk) -> None:
    parent = disk("base.vhd")
    planned = expanding.plan(parent, size_bytes=LARGE)
    assert planned.refused is not None
    assert (planned.refused.code, planned.children) == ("E_CHILDREN", [leaf.path])
    with pytest.raises(ImageError):
        requested(parent)


def test_a_child_that_no_scan_has_seen_stops_the_job(leaf: Disk, tmp_path: Path) -> None:
    """bad-input D66: headers below all roots are read again, under lock."""
    child(tmp_path / "vms", "late.vhd", base(tmp_path / "scratch")).patch_header(
        parent_unique_id=bytes.fromhex(leaf.identity.replace("-", ""))
    )
    assert expanding.plan(leaf, size_bytes=LARGE).refused is None
    job = jobs.run_now(requested(leaf))
    assert (job.status, (job.error or {})["code"]) == (Job.Status.FAILED, "E_CHILDREN")
    assert "late.vhd" in job.sentence


@pytest.mark.slow
def test_recovery_tells_by_the_disk_what_became_of_it(leaf: Disk) -> None:
    """bad-input F85: killed anywhere, the job ends as the disk is; making room is no success."""
    job = requested(leaf)
    context = JobContext(job, 1)
    before = content_of(leaf.path)
    seen = set()

    def work() -> None:
        scope = roots.operation_roots()
        planned = expand.plan(leaf.path, LARGE, scope)
        expand.apply(planned, scope, offline=True, job=context.name, token=1)

    for number in left_by_deaths(Path(leaf.path).parent, work):
        recovery = expanding.recover_expand(job, context)
        larger = inspection.document(leaf)["virtual_size_bytes"] == LARGE
        assert (recovery.action == "finished") is larger, f"killed at {number}"
        if larger:
            assert recovery.result["virtual_size_bytes"] == LARGE
        else:
            assert content_of(leaf.path) == before
        assert errors_in(leaf.path) == []
        assert not sidecars.left_unfinished(job, context)
        seen.add((recovery.action, recovery.sentence == expanding.MADE_ROOM))
    assert number > 20
    assert seen == {
        ("nothing", False), ("undone", False), ("undone", True), ("finished", False),
    }  # fmt: skip


def test_what_recovery_finished_is_brought_to_catalog_and_audit_once(leaf: Disk) -> None:
    job = requested(leaf)
    scope = roots.operation_roots()
    planned = expand.plan(leaf.path, LARGE, scope)
    expand.apply(planned, scope, offline=True, job=str(job.pk), token=1)
    recovery = expanding.recover_expand(job, JobContext(job, 1))
    for _ in range(2):
        expanding.finished_expand(job, dict(recovery.result))
    assert disk("leaf.vhd").virtual_size_bytes == LARGE
    assert AuditEntry.objects.filter(action="disk-expanded").count() == 1


def test_converting_leaves_the_catalog_with_the_copy_and_the_sources_alone(leaf: Disk) -> None:
    output = leaf.path.replace("leaf.vhd", "copy.vhd")
    before = Path(leaf.path).read_bytes()
    job = jobs.run_now(
        converting.request(
            leaf,
            output=output,
            format_name="vhd",
            disk_type="fixed",
            user=make_user(),
            idempotency_key=key(),
        )
    )
    assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)
    made = disk("copy.vhd")
    assert (made.disk_type, made.health) == ("fixed", Disk.Health.HEALTHY)
    assert Path(leaf.path).read_bytes() == before
    assert content_of(output) == content_of(leaf.path)
    locks = job.parameters["locks"]
    assert locks == {"exclusive": [output], "shared": sorted([disk("base.vhd").path, leaf.path])}


def test_a_copy_into_a_read_only_root_is_refused(leaf: Disk, tmp_path: Path) -> None:
    declare(tmp_path / "other", read_only=True)
    with pytest.raises((ImageError, Refusal)) as refused:
        converting.request(
            leaf,
            output=str(tmp_path / "other" / "copy.vhd"),
            format_name="vhd",
            user=make_user(),
            idempotency_key=key(),
        )
    assert refused.value.code == "E_READ_ONLY"
    assert not Job.objects.exclude(kind=Job.Kind.SCAN).exists()


def test_a_plain_image_gets_no_row(leaf: Disk) -> None:
    output = leaf.path.replace("leaf.vhd", "leaf.raw")
    asked = converting.request(
        leaf, output=output, format_name="raw", user=make_user(), idempotency_key=key()
    )
    job = jobs.run_now(asked)
    assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)
    assert os.path.getsize(output) == SIZE
    scan(leaf.root)
    assert not Disk.objects.filter(name="leaf.raw").exists()
