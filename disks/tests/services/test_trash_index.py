"""What the command line put away, seen by the console."""

from __future__ import annotations

from pathlib import Path

import pytest

from disks.models import Disk, Job, StorageRoot, TrashedJob
from disks.operations import merge, paths, storage_roots
from disks.services import jobs, overview, trash
from disks.tests.services.catalog import base, child, declare, disk, key, scan

pytestmark = pytest.mark.django_db(transaction=True)


def merged_by_the_command_line(folder: Path) -> None:
    """As the command line does it: the disk's own folder is all that it knows."""
    child(folder, "leaf.vhd", base(folder))
    alone = paths.Roots([storage_roots.Root(path=str(folder))])
    plan = merge.plan(str(folder / "leaf.vhd"), alone, into_parent=True)
    merge.apply(plan, alone, offline=True, job="cli-abc")
    alone.close()


def done(job: Job) -> None:
    job = jobs.run_now(job)
    assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)


def test_a_trash_beside_a_disk_is_listed_counted_and_restored(tmp_path: Path) -> None:
    root = declare(tmp_path / "vms", "C:\\VMs")
    folder = tmp_path / "vms" / "sales" / "web"
    merged_by_the_command_line(folder)
    scan(root)
    item = TrashedJob.objects.get(state=TrashedJob.State.IN_TRASH)
    assert item.folder.startswith("sales/web/.vdtrash/cli-abc")
    assert item.job is None
    assert overview.trash_bytes() == item.size_bytes > 0
    scan(root)
    assert TrashedJob.objects.get().state == TrashedJob.State.IN_TRASH
    done(trash.request_restore(item, user=None, idempotency_key=key()))
    item.refresh_from_db()
    assert item.state == TrashedJob.State.RESTORED
    assert disk("leaf.vhd").health == Disk.Health.HEALTHY


def test_a_trash_beside_a_disk_is_emptied(tmp_path: Path) -> None:
    root = declare(tmp_path / "vms", "C:\\VMs")
    merged_by_the_command_line(tmp_path / "vms" / "sales")
    scan(root)
    done(trash.request_empty([TrashedJob.objects.get()], user=None, idempotency_key=key()))
    assert TrashedJob.objects.get().state == TrashedJob.State.EMPTIED
    assert not (tmp_path / "vms" / "sales" / ".vdtrash").exists()
    scan(root)
    assert overview.trash_bytes() == 0


def test_what_is_free_is_measured_after_a_job_and_by_a_scan(tmp_path: Path) -> None:
    root = declare(tmp_path / "vms", "C:\\VMs")
    merged_by_the_command_line(tmp_path / "vms")
    scan(root)
    StorageRoot.objects.update(free_bytes=1, total_bytes=2)
    done(trash.request_empty([TrashedJob.objects.get()], user=None, idempotency_key=key()))
    root.refresh_from_db()
    assert root.total_bytes > root.free_bytes > 2
    StorageRoot.objects.update(free_bytes=1, total_bytes=2)
    scan(root)
    root.refresh_from_db()
    assert root.total_bytes > root.free_bytes > 2
