"""Merge, compact, create, check and trash from the catalog: the rows are right afterwards."""

from __future__ import annotations

import hashlib
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from disks.engine.chain import open_chain
from disks.engine.errors import ImageError
from disks.engine.units import size_text
from disks.models import Disk, Job, StorageRoot, TrashedJob
from disks.operations import relink
from disks.operations.progress import Progress
from disks.services import (
    blockmap,
    compacting,
    creating,
    declarations,
    inspection,
    jobs,
    merging,
    overview,
    relocating,
    roots,
    sidecars,
    stopping,
    trash,
    trash_index,
)
from disks.services.errors import Refusal
from disks.services.stored_json import restored
from disks.services.work import JobContext
from disks.services.worker_progress import JobProgress
from disks.tests import builders
from disks.tests.builders import MIB
from disks.tests.factories import make_user
from disks.tests.operations import worlds
from disks.tests.operations.crashing import (
    in_fork,
    with_fault,
)
from disks.tests.operations.dying import DIED
from disks.tests.services.catalog import base, child, declare, disk, key, scan
from disks.views import job_words

pytestmark = pytest.mark.django_db(transaction=True)


def content(path: str) -> str:
    with open_chain(path, roots.operation_roots()) as chain:
        return hashlib.sha256(chain.read(0, chain.virtual_size_bytes // 512)).hexdigest()


@pytest.fixture
def chained(tmp_path: Path) -> StorageRoot:
    """base ← middle ← leaf."""
    root = declare(tmp_path / "vms", "C:\\VMs")
    bottom = base(tmp_path / "vms")
    middle = child(tmp_path / "vms", "middle.vhd", bottom)
    child(tmp_path / "vms", "leaf.vhd", middle)
    scan(root)
    return root


def done(job: Job) -> Job:
    job = jobs.run_now(job)
    assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)
    return job


def merge_by_copy(name: str) -> Job:
    """Only what was merged so can be restored."""
    return merging.request(
        disk(name), into_parent=True, in_place=False, user=None, idempotency_key=key()
    )


def test_merge_into_the_parent_and_restore_keep_the_catalog_right(chained: StorageRoot) -> None:
    middle = disk("middle.vhd")
    before = content(disk("leaf.vhd").path)
    planned = merging.plan(middle, into_parent=True).as_dict()
    assert planned["refused"] is None
    assert planned["grandchildren"] == [disk("leaf.vhd").path]
    user = make_user()
    job = done(merge_by_copy("middle.vhd"))
    assert job.sentence == "2 disks became one: base.vhd."
    leaf, bottom = disk("leaf.vhd"), disk("base.vhd")
    assert leaf.parent_link.parent_id == bottom.pk
    assert (leaf.chain_position, leaf.health) == (2, Disk.Health.HEALTHY)
    assert bottom.identity == middle.identity
    assert disk("middle.vhd").health_code == "N_PUT_AWAY"
    assert overview.totals().missing == 0
    assert content(leaf.path) == before
    item = TrashedJob.objects.get()
    assert (item.job_id, item.state) == (job.pk, TrashedJob.State.IN_TRASH)
    scan(chained)
    assert disk("middle.vhd").health_code == "N_PUT_AWAY"

    done(trash.request_restore(item, user=user, idempotency_key=key()))
    item.refresh_from_db()
    assert item.state == TrashedJob.State.RESTORED
    assert disk("middle.vhd").health == Disk.Health.HEALTHY
    assert disk("leaf.vhd").chain_position == 3
    assert disk("leaf.vhd").parent_link.parent_id == disk("middle.vhd").pk
    assert content(disk("leaf.vhd").path) == before


def test_a_merge_that_left_a_child_without_parent_says_so_in_its_sentence(
    chained: StorageRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaf = disk("leaf.vhd").path

    def refuses(*args: object, **options: object) -> relink.LinkPlan:
        raise ImageError("E_HARD_LINKS", "It has another name too.", file=leaf)

    monkeypatch.setattr(relink, "plan", refuses)
    asked = merging.request(disk("middle.vhd"), into_parent=True, user=None, idempotency_key=key())
    job = done(asked)
    assert job.sentence.startswith("Merged, but 1 disk below must be repaired")
    assert leaf in job.sentence
    (row,) = job_words.outcomes(job.result)
    assert (row["path"], row["failed"]) == (leaf, True)
    assert "another name" in row["words"]
    assert job.result["relinked"] == []
    assert disk("leaf.vhd").health == Disk.Health.BROKEN
    assert disk("leaf.vhd").health_code.startswith("E_PARENT")


def test_a_restore_that_would_orphan_a_newer_disk_is_refused_at_once(
    chained: StorageRoot, tmp_path: Path
) -> None:
    """bad-input D66, D67: by the catalog, by the job itself, and for a root that is offline."""
    done(merge_by_copy("leaf.vhd"))
    item = TrashedJob.objects.get()
    early = trash.request_restore(item, user=None, idempotency_key=key())
    other = declare(tmp_path / "other", "C:\\Other")
    path = str(tmp_path / "other" / "new.vhd")
    made: dict[str, Any] = {"disk_type": "differencing", "parent": disk("middle.vhd").path}
    done(creating.request(path=path, **made, user=make_user(), idempotency_key=key()))
    with pytest.raises(ImageError) as refused:
        trash.request_restore(item, user=None, idempotency_key=key())
    assert refused.value.code == "E_RESTORE_CHILDREN"
    assert path in refused.value.message
    Disk.objects.filter(name="new.vhd").delete()  # no scan has seen it
    job = jobs.run_now(early)
    assert (job.status, job.error["code"]) == (Job.Status.FAILED, "E_RESTORE_CHILDREN")
    assert path in job.error["message"]
    scan(other)
    os.rename(tmp_path / "other", tmp_path / "unmounted")
    with pytest.raises(ImageError):
        scan(other)
    with pytest.raises(Refusal) as hidden:
        trash.request_restore(item, user=None, idempotency_key=key())
    assert hidden.value.code == "E_ROOT_OFFLINE"
    assert "leave the job's result" in hidden.value.advice
    assert content(disk("middle.vhd").path)


def test_trash_is_never_emptied_while_it_is_restored(chained: StorageRoot) -> None:
    done(merge_by_copy("leaf.vhd"))
    item = TrashedJob.objects.get()
    restoring = trash.request_restore(item, user=None, idempotency_key=key())
    emptying = trash.request_empty([item], user=None, idempotency_key=key())
    claimed = jobs.claim(restoring.pk)
    assert claimed is not None
    assert jobs.claim(emptying.pk) is None
    emptying.refresh_from_db()
    assert emptying.waits_for_id == restoring.pk
    context = JobContext(claimed.job, claimed.token)
    shutil.rmtree(chained.path + "/.vdtrash")  # recovery asks the disks, not the trash
    assert sidecars.recover_by_sidecars(claimed.job, context).action == "nothing"


def test_a_restore_waits_while_the_trash_is_emptied(chained: StorageRoot) -> None:
    """bad-input E68: as jobs, not by an error."""
    done(merge_by_copy("leaf.vhd"))
    item = TrashedJob.objects.get()
    restoring = trash.request_restore(item, user=None, idempotency_key=key())
    emptying = trash.request_empty([item], user=None, idempotency_key=key())
    locks = restoring.parameters["locks"]
    assert locks["shared"] == emptying.parameters["locks"]["exclusive"]
    assert jobs.claim(emptying.pk) is not None
    assert jobs.claim(restoring.pk) is None
    restoring.refresh_from_db()
    assert restoring.waits_for_id == emptying.pk


def test_what_was_restored_meanwhile_does_not_become_emptied(chained: StorageRoot) -> None:
    done(merge_by_copy("leaf.vhd"))
    item = TrashedJob.objects.get()
    emptying = trash.request_empty([item], user=None, idempotency_key=key())
    done(trash.request_restore(item, user=None, idempotency_key=key()))
    done(emptying)
    item.refresh_from_db()
    assert item.state == TrashedJob.State.RESTORED
    assert disk("leaf.vhd").health == Disk.Health.HEALTHY


def test_merge_with_a_sibling_is_refused_also_when_it_came_after_the_scan(
    chained: StorageRoot, tmp_path: Path
) -> None:
    """bad-input D66: the other child is in another root, and no scan has seen it."""
    other = declare(tmp_path / "other")
    leaf = disk("leaf.vhd")
    job = merging.request(leaf, into_parent=True, user=make_user(), idempotency_key=key())
    built = base(tmp_path / "scratch")  # a stand-in for sizes; the header decides
    late = child(tmp_path / "other", "late.vhd", built, locators={"W2ru": "..\\vms\\middle.vhd"})
    late.patch_header(parent_unique_id=bytes.fromhex(disk("middle.vhd").identity.replace("-", "")))
    job = jobs.run_now(job)
    assert job.status == Job.Status.FAILED
    assert job.error["code"] == "E_SIBLINGS"
    assert "late.vhd" in job.error["message"]
    scan(other)
    assert merging.plan(leaf, into_parent=True).refused.code == "E_SIBLINGS"


def test_a_merge_warns_of_a_deleted_disk_that_builds_on_what_is_merged_into(tmp_path: Path) -> None:
    """It could be restored until then, and read; afterwards its parent is another disk."""
    root = declare(tmp_path / "vms", "C:\\VMs")
    middle = child(tmp_path / "vms", "middle.vhd", base(tmp_path / "vms"))
    for name in ("leaf.vhd", "other.vhd"):
        child(tmp_path / "vms", name, middle)
    scan(root)
    other = disk("other.vhd")
    deletion = done(
        relocating.request(other, relocating.plan_delete(other), user=None, idempotency_key=key())
    )
    (warning,) = merging.plan(disk("leaf.vhd"), into_parent=True).warnings
    assert warning.startswith("A disk in the trash builds on what is merged into")
    assert other.path in warning
    assert merging.plan(disk("middle.vhd"), into_parent=True).warnings == []
    item = TrashedJob.objects.get(job=deletion)
    done(trash.request_empty([item], user=None, idempotency_key=key()))
    assert merging.plan(disk("leaf.vhd"), into_parent=True).warnings == []


def test_a_merge_stops_at_what_became_unreadable_and_its_form_asks_about_it_then(
    chained: StorageRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bad-input D66: no scan has seen it, neither the folder nor the file of an odd name."""
    leaf = disk("leaf.vhd")
    job = merging.request(leaf, into_parent=True, user=make_user(), idempotency_key=key())
    (tmp_path / "vms" / "closed").mkdir()
    (tmp_path / "vms" / "odd.name").write_bytes(b"conectix" + bytes(4096))
    worlds.close_to_us(monkeypatch, "closed", "odd.name")
    job = jobs.run_now(job)
    assert (job.status, job.error["code"]) == (Job.Status.FAILED, "E_UNREAD_DISKS")
    assert jobs.needs_a_new_plan(job)
    asked = [str(tmp_path / "vms" / name) for name in ("closed", "odd.name")]
    planned = merging.plan(leaf, into_parent=True)
    assert sorted(planned.unread) == asked
    with pytest.raises(ImageError) as refused:
        merging.request(leaf, into_parent=True, user=None, idempotency_key=key())
    assert refused.value.code == "E_UNREAD_DISKS"
    done(merging.request(leaf, into_parent=True, unrelated=asked, user=None, idempotency_key=key()))


def test_a_scan_remembers_what_it_could_not_read_and_forgets_it_when_it_can(
    chained: StorageRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vms" / "closed").mkdir()
    odd = os.fsencode(tmp_path / "vms") + b"/odd\xff.name"
    Path(os.fsdecode(odd)).write_bytes(bytes(4096))
    with monkeypatch.context() as patched:
        worlds.close_to_us(patched, "closed", os.fsdecode(b"odd\xff.name"))
        scan(chained)
        closed = str(tmp_path / "vms" / "closed")
        assert declarations.unread_files() == [closed, os.fsdecode(odd)]
        assert sorted(merging.plan(disk("leaf.vhd"), into_parent=True).unread) == [
            closed,
            os.fsdecode(odd),
        ]
    scan(chained)
    assert declarations.unread_files() == []


def test_a_damaged_child_that_its_header_gives_away_is_a_sibling(
    chained: StorageRoot, tmp_path: Path
) -> None:
    """bad-input D66: both footers are gone, so nobody opens it; it could be repaired."""
    built = base(tmp_path / "scratch")
    torn = child(tmp_path / "vms", "torn.img", built)
    torn.patch_header(parent_unique_id=bytes.fromhex(disk("middle.vhd").identity.replace("-", "")))
    torn.path.write_bytes(bytes(512) + torn.path.read_bytes()[512:-512])
    scan(chained)
    found = disk("torn.img")
    assert (found.health, found.health_code) == (Disk.Health.DAMAGED, "E_FOOTERS_LOST")
    planned = merging.plan(disk("leaf.vhd"), into_parent=True)
    assert planned.siblings == [found.path]
    assert planned.refused is not None
    assert planned.refused.code == "E_SIBLINGS"


def test_no_merge_of_a_disk_whose_child_is_in_an_offline_root(
    chained: StorageRoot, tmp_path: Path
) -> None:
    """bad-input D67."""
    other = declare(tmp_path / "other")
    built = base(tmp_path / "scratch")
    late = child(tmp_path / "other", "late.vhd", built)
    late.patch_header(parent_unique_id=bytes.fromhex(disk("middle.vhd").identity.replace("-", "")))
    scan(other)
    os.rename(tmp_path / "other", tmp_path / "unmounted")
    with pytest.raises(ImageError):
        scan(other)
    with pytest.raises(Refusal) as refused:
        merging.plan(disk("leaf.vhd"), into_parent=True)
    assert refused.value.code == "E_ROOT_OFFLINE"
    to_new = merging.plan(disk("leaf.vhd"), to=str(tmp_path / "vms" / "new.vhd"))
    assert to_new.refused is None


def test_merge_to_a_new_disk_adds_it_to_the_catalog(chained: StorageRoot, tmp_path: Path) -> None:
    target = str(tmp_path / "vms" / "new.vhd")
    before = content(disk("leaf.vhd").path)
    job = done(
        merging.request(disk("leaf.vhd"), to=target, user=make_user(), idempotency_key=key())
    )
    assert job.sentence == "new.vhd holds what 3 disks hold together; they are as they were."
    new = disk("new.vhd")
    assert (new.disk_type, new.health) == ("dynamic", Disk.Health.HEALTHY)
    assert content(new.path) == before
    assert disk("leaf.vhd").health == Disk.Health.HEALTHY
    assert not TrashedJob.objects.exists()


def test_a_broken_chain_is_not_merged(chained: StorageRoot, tmp_path: Path) -> None:
    os.rename(tmp_path / "vms" / "base.vhd", tmp_path / "away.vhd")
    scan(chained)
    with pytest.raises(Refusal) as refused:
        merging.plan(disk("leaf.vhd"), into_parent=True)
    assert refused.value.code == "E_PARENT_MISSING"
    assert "parent path" in refused.value.advice


def test_a_job_whose_disk_changed_meanwhile_fails_untouched(chained: StorageRoot) -> None:
    """bad-input E73, E76."""
    leaf = disk("leaf.vhd")
    job = merging.request(leaf, into_parent=True, user=make_user(), idempotency_key=key())
    with open(leaf.path, "r+b") as file:
        file.seek(-700, os.SEEK_END)
        file.write(b"changed")
    changed = Path(leaf.path).read_bytes()
    job = jobs.run_now(job)
    assert (job.status, job.error["code"]) == (Job.Status.FAILED, "E_CHANGED")
    assert Path(leaf.path).read_bytes() == changed


def test_compact_frees_zero_blocks_and_warns_no_child(tmp_path: Path) -> None:
    root = declare(tmp_path / "vms")
    bottom = base(tmp_path / "vms", allocate=[1, 2])
    child(tmp_path / "vms", "leaf.vhd", bottom)
    scan(root)
    row = disk("base.vhd")
    assert row.blocks_allocated == 3
    before = content(disk("leaf.vhd").path)
    assert compacting.plan(row).as_dict()["refused"] is None
    done(compacting.request(row, in_place=False, user=make_user(), idempotency_key=key()))
    assert disk("base.vhd").blocks_allocated == 1
    assert disk("base.vhd").pk == row.pk
    assert disk("leaf.vhd").health == Disk.Health.HEALTHY
    assert content(disk("leaf.vhd").path) == before
    scan(root)
    assert disk("leaf.vhd").health == Disk.Health.HEALTHY
    item = TrashedJob.objects.get()
    job = done(trash.request_empty([item], user=make_user(), idempotency_key=key()))
    assert job.result["freed_bytes"] > 0
    item.refresh_from_db()
    assert item.state == TrashedJob.State.EMPTIED
    assert trash_index.given_back_bytes() == 0


def test_compact_in_place_keeps_the_file_and_needs_no_trash(tmp_path: Path) -> None:
    root = declare(tmp_path / "vms")
    bottom = base(tmp_path / "vms", allocate=[1, 2])
    child(tmp_path / "vms", "leaf.vhd", bottom)
    scan(root)
    row = disk("base.vhd")
    before, inode = content(disk("leaf.vhd").path), os.stat(row.path).st_ino
    job = done(compacting.request(row, user=make_user(), idempotency_key=key()))
    assert job.result["blocks_dropped"] == 2
    was, now = (size_text(size) for size in (row.file_size_bytes, os.stat(row.path).st_size))
    assert job.sentence == f"The file has {now} now, {was} before."
    assert (disk("base.vhd").blocks_allocated, disk("base.vhd").pk) == (1, row.pk)
    assert os.stat(row.path).st_ino == inode
    assert not TrashedJob.objects.exists()
    assert content(disk("leaf.vhd").path) == before
    assert disk("leaf.vhd").health == Disk.Health.HEALTHY


def test_a_compaction_in_place_whose_worker_died_says_that_it_may_go_on(tmp_path: Path) -> None:
    """bad-input F85: a step that recovery finishes is not the whole of it."""
    root = declare(tmp_path / "vms")
    base(tmp_path / "vms", allocate=[1, 2])
    scan(root)
    row = disk("base.vhd")
    before = content(row.path)
    job = compacting.request(row, user=make_user(), idempotency_key=key())
    context = JobContext(job, job.token)
    assert (
        in_fork(
            with_fault(
                "compact.done.unlink:1:kill",
                lambda: compacting.run_compact(restored(job.parameters), Progress(), context),
            )
        )
        == DIED
    )
    recovery = compacting.recover_compact(job, context)
    assert (recovery.action, recovery.sentence) == ("undone", compacting.STOPPED)
    assert content(row.path) == before
    assert compacting.plan(row).refused is None


def test_create_makes_a_row_and_a_child_joins_its_chain(
    chained: StorageRoot, tmp_path: Path
) -> None:
    path = str(tmp_path / "vms" / "fresh.vhd")
    user = make_user()
    job = done(
        creating.request(path=path, size_bytes=4 * 1024**2, user=user, idempotency_key=key())
    )
    assert disk("fresh.vhd").virtual_size_bytes == 4 * 1024**2
    job.refresh_from_db()
    assert job.disk_id == disk("fresh.vhd").pk
    with pytest.raises(ImageError) as refused:
        creating.request(path=path, size_bytes=4 * 1024**2, user=user, idempotency_key=key())
    assert refused.value.code == "E_EXISTS"
    done(
        creating.request(
            path=str(tmp_path / "vms" / "new-leaf.vhd"),
            disk_type="differencing",
            parent=disk("leaf.vhd").path,
            user=user,
            idempotency_key=key(),
        )
    )
    assert disk("new-leaf.vhd").chain_position == 4
    assert disk("leaf.vhd").child_count == 1


def test_check_finds_what_a_scan_did_not(chained: StorageRoot) -> None:
    job = done(
        inspection.request_check(
            list(Disk.objects.select_related("root")), user=None, idempotency_key=key()
        )
    )
    assert job.sentence == "3 disks checked: no errors."
    with open(disk("base.vhd").path, "r+b") as file:
        file.seek(-200, os.SEEK_END)
        file.write(b"torn")
    job = done(inspection.request_check([disk("base.vhd")], user=None, idempotency_key=key()))
    torn = disk("base.vhd")
    assert [row["code"] for row in torn.findings] == ["E_FOOTER_END"]
    assert (job.result["errors"], torn.health) == (1, Disk.Health.DAMAGED)
    assert len(job.result["disks"]) == 1


def test_check_of_a_file_that_is_gone_does_not_make_its_row_healthy(chained: StorageRoot) -> None:
    torn = disk("base.vhd")
    with open(torn.path, "r+b") as file:
        file.seek(-200, os.SEEK_END)
        file.write(b"torn")
    scan(chained)
    assert disk("base.vhd").own_health == Disk.Health.DAMAGED
    os.rename(torn.path, f"{torn.path}.away")
    job = done(inspection.request_check([torn], user=None, idempotency_key=key()))
    assert job.sentence == "1 disk checked: 1 with errors."
    gone = disk("base.vhd")
    assert (gone.health, gone.own_health) == (Disk.Health.MISSING, Disk.Health.DAMAGED)
    os.rename(f"{torn.path}.away", torn.path)
    done(inspection.request_check([torn], user=None, idempotency_key=key()))
    assert disk("base.vhd").own_health == Disk.Health.DAMAGED


def test_a_check_of_one_large_disk_hears_a_cancel_in_its_midst(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.JOB_PROGRESS_SECONDS = 0
    root = declare(tmp_path / "vms")
    content = [(first, b"x" * 512) for first in range(0, 64 * 2048, 4096)]  # the rest is clear
    builders.build_dynamic(tmp_path / "vms", "large.vhd", size=64 * 1024**2, content=content)
    scan(root)
    large = disk("large.vhd")
    told: list[tuple[int, int]] = []
    report = JobProgress.report

    def cancelled(self: JobProgress, done: int, total: int, sentence: str | None = None) -> None:
        told.append((done, total))
        if len(told) == 3:
            stopping.cancel(Job.objects.get(pk=self.lease.job_id), make_user())
        report(self, done, total, sentence)

    monkeypatch.setattr(JobProgress, "report", cancelled)
    job = jobs.run_now(inspection.request_check([large], user=None, idempotency_key=key()))
    assert job.status == Job.Status.CANCELLED
    assert job.sentence == "Cancelled. Every file is as it was."
    assert len(told) == 3
    assert 0 < told[1][0] < told[2][0] < large.file_size_bytes / 2
    assert {total for _, total in told} == {large.file_size_bytes}


def test_block_map_shows_where_data_lies(tmp_path: Path) -> None:
    root = declare(tmp_path / "vms")
    base(tmp_path / "vms", allocate=[2])
    scan(root)
    cells = blockmap.block_map(disk("base.vhd"))
    assert [cell.state for cell in cells] == ["allocated", "empty", "allocated", "empty"]
    coarse = blockmap.block_map(disk("base.vhd"), most=2)
    assert [(cell.count, cell.allocated, cell.shade) for cell in coarse] == [(2, 1, 2), (2, 1, 2)]


def test_block_map_of_a_vhdx_shows_what_hides_the_parent(tmp_path: Path) -> None:
    root = declare(tmp_path / "vms")
    parent = base(tmp_path / "vms", "base.vhdx", size=8 * MIB)
    child(tmp_path / "vms", "leaf.vhdx", parent, states={2: 2, 3: 2})
    scan(root)
    cells = blockmap.block_map(disk("leaf.vhdx"), most=4)
    assert [cell.state for cell in cells] == ["partial", "zeros", "empty", "empty"]
    assert (cells[1].zeros, cells[1].count) == (2, 2)
    # Where there is no parent to be hidden, zeros are not worth telling.
    assert {cell.zeros for cell in blockmap.block_map(disk("base.vhdx"))} == {0}


def test_the_overview_says_when_and_what_was_not_read(chained: StorageRoot) -> None:
    sentence = overview.complete_sentence()
    assert sentence.startswith("The one chain is complete, as of 20")
    declare(Path(chained.path).parent / "never", name="never")
    assert overview.complete_sentence().endswith("; 1 storage root never scanned.")


def test_roots_scanned_at_different_times_are_told_by_the_oldest() -> None:
    early = datetime(2026, 11, 22, 2, 10, tzinfo=UTC)
    late = early + timedelta(hours=7)
    assert overview.Scans(early, early).words == "as of 2026-11-22 02:10 UTC"
    assert overview.Scans(early, late).words == (
        "as of each storage root's last scan, the oldest of 2026-11-22 02:10 UTC"
    )
    assert overview.Scans(None, None).words == ""


def test_the_page_of_a_disk_reads_it_now(chained: StorageRoot, tmp_path: Path) -> None:
    document: dict[str, Any] = inspection.document(disk("leaf.vhd"))
    assert document["parent"]["status"] == "found"
    names = [region.name for region in inspection.raw_regions(disk("leaf.vhd"))]
    assert names[:3] == ["Footer", "Footer copy", "Dynamic disk header"]
