"""What the command line put away, seen by the console."""

from __future__ import annotations

from pathlib import Path

import pytest

from disks.models import Disk, Job, StorageRoot, TrashedJob
from disks.operations import merge, paths, storage_roots
from disks.services import jobs, relocating, trash, trash_index
from disks.tests.builders import MIB, build_fixed
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


def make_holes(path: Path) -> None:
    """Store no pages of zeros."""
    data = path.read_bytes()
    with path.open("wb") as file:
        file.truncate(len(data))
        for offset in range(0, len(data), 4096):
            if data[offset : offset + 4096].strip(b"\0"):
                file.seek(offset)
                file.write(data[offset : offset + 4096])


def test_a_trash_beside_a_disk_is_listed_counted_and_restored(tmp_path: Path) -> None:
    root = declare(tmp_path / "vms", "C:\\VMs")
    folder = tmp_path / "vms" / "sales" / "web"
    merged_by_the_command_line(folder)
    scan(root)
    item = TrashedJob.objects.get(state=TrashedJob.State.IN_TRASH)
    assert item.folder.startswith("sales/web/.vdtrash/cli-abc")
    assert item.job is None
    assert trash_index.given_back_bytes() == item.size_bytes > 0
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
    assert trash_index.given_back_bytes() == 0


def test_what_comes_free_is_one_number_from_the_plan_to_the_emptying(tmp_path: Path) -> None:
    """Bytes on the storage: what a file with holes reads as is more than it gives back."""
    root = declare(tmp_path / "vms", "C:\\VMs")
    build_fixed(tmp_path / "vms", "holes.vhd", size=8 * MIB, content=[(3, b"h" * 512)])
    make_holes(tmp_path / "vms" / "holes.vhd")
    scan(root)
    planned = relocating.plan_delete(disk("holes.vhd"))
    foreseen = planned.as_dict()["space_back_when_trash_emptied_bytes"]
    assert 0 < foreseen < MIB
    job = relocating.request(disk("holes.vhd"), planned, user=None, idempotency_key=key())
    done(job)
    job.refresh_from_db()
    item = TrashedJob.objects.get()
    assert job.result["space_back_when_trash_emptied_bytes"] == foreseen
    assert item.size_bytes == sum(row["size_bytes"] for row in item.items) == foreseen
    assert trash_index.given_back_bytes() == trash_index.given_back_bytes(root) == foreseen
    emptying = trash.request_empty([item], user=None, idempotency_key=key())
    done(emptying)
    emptying.refresh_from_db()
    assert emptying.result["freed_bytes"] == foreseen
    assert trash_index.given_back_bytes() == 0


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
