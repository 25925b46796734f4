"""Merges in place as jobs: stopped, killed, swapped or out of room, they go on or say why not."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils.html import strip_tags

from disks.engine import faults
from disks.engine.errors import ImageError
from disks.forms.declarations import sealed
from disks.models import AuditEntry, Disk, DiskLock, Job, StorageRoot, TrashedJob
from disks.operations import journal, locks, merge, merge_in_place, verdicts
from disks.operations import recover as recovery
from disks.operations.merge_in_place import batches, step_zero
from disks.operations.paths import Roots
from disks.operations.progress import Cancelled, Progress, Stopped
from disks.operations.recover import recover
from disks.services import compacting, jobs, leases, merging, orphans, reconciling, stopping
from disks.services.errors import Refusal
from disks.services.work import JobContext
from disks.tests.builders import FAMILIES, MIB, VHD, Family
from disks.tests.factories import make_root, make_user
from disks.tests.operations import worlds
from disks.tests.operations.crashing import DONE, in_fork, with_fault
from disks.tests.operations.dying import DIED
from disks.tests.operations.test_merge_in_place_leaf_used import stopped, write_at_sector
from disks.tests.services.catalog import declare, key, scan
from disks.views import job_words

pytestmark = pytest.mark.django_db(transaction=True)


READABLE = (Disk.Health.HEALTHY, Disk.Health.NOTICE)  # blocks of a test's size are a notice


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    """Several batches of a small disk, and a worker that asks after each."""
    settings.JOB_PROGRESS_SECONDS = 0
    monkeypatch.setattr(batches, "BATCH_BYTES", 6 * 1024)


@dataclass
class Scene:
    """base ← middle ← leaf ← below, scanned, and what the leaf and its child read as."""

    folder: Path
    family: Family
    root: StorageRoot
    leaf_sha256: str
    below_sha256: str

    def path(self, stem: str) -> str:
        return str(self.folder / self.family.file(stem))

    def row(self, stem: str) -> Disk:
        return Disk.objects.get(name=self.family.file(stem))

    def ask(self, **more: Any) -> Job:
        return merging.request(
            self.row("leaf"), into_parent=True, user=None, idempotency_key=key(), **more
        )

    def assert_merged(self) -> None:
        """The files and the catalog: one level less, and everything reads as before."""
        assert worlds.content_of(self.path("middle")) == self.leaf_sha256
        assert worlds.content_of(self.path("below")) == self.below_sha256
        assert worlds.errors_in(self.path("middle")) == []
        assert not os.path.exists(self.path("leaf"))
        assert self.row("leaf").health_code == "N_PUT_AWAY"
        assert self.row("middle").health in READABLE
        below = self.row("below")
        assert (below.health in READABLE, below.chain_position) == (True, 3)
        assert below.parent_link.parent_id == self.row("middle").pk
        left = [name for name in os.listdir(self.folder) if name.endswith((".vdmerge", ".vdpages"))]
        assert left == []
        assert not DiskLock.objects.exists()


@pytest.fixture(params=FAMILIES, ids=lambda one: one.name)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    world = worlds.chain(tmp_path / "vms", family=request.param, grandchild=True)
    assert world.grandchild is not None
    new = request.param.file("new")
    request.param.differencing(world.folder, new, world.leaf, content=[(2, b"n" * 512)])
    os.rename(world.folder / new, tmp_path / new)  # a test may have it made later
    root = declare(tmp_path / "vms", "C:\\VMs")
    scan(root)
    leaf, below = (worlds.content_of(one.path) for one in (world.leaf, world.grandchild))
    return Scene(tmp_path / "vms", request.param, root, leaf, below)


def after_first_batch(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Have something happen once, when the first batch is complete."""
    one_batch = batches._Moving._batch
    calls: list[int] = []

    def counted(moving: batches._Moving, first: int) -> int | None:
        until = one_batch(moving, first)
        calls.append(1)
        if len(calls) == 1:
            do()
        return until

    monkeypatch.setattr(batches._Moving, "_batch", counted)


@pytest.fixture
def paused(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Stopped by somebody when data has moved."""
    job = scene.ask()
    after_first_batch(monkeypatch, lambda: stopping.cancel(Job.objects.get(pk=job.pk), None))
    job = jobs.run_now(job)
    assert job.status == Job.Status.PAUSED
    return job


def resumed(job: Job) -> Job:
    stopping.resume(job, None)
    return jobs.run_now(job)


def test_a_scan_of_a_merge_that_is_half_way_tells_of_the_disk_it_goes_into_alone(
    scene: Scene, paused: Job
) -> None:
    """What moved was written to the parent; the leaf, and what builds on it, read as ever."""
    scan(scene.root)
    for stem in ("middle", "leaf", "below"):
        assert scene.row(stem).health in READABLE, (stem, scene.row(stem).sentence)
    half_merged = [row.name for row in Disk.objects.filter(health_code="W_HALF_MERGED")]
    assert half_merged == [scene.row("middle").name]
    assert resumed(paused).status == Job.Status.SUCCEEDED
    assert not Disk.objects.filter(health_code="W_HALF_MERGED").exists()
    scene.assert_merged()


def test_a_scan_tells_the_child_of_a_half_merged_leaf_that_a_machine_wrote_to_that(
    tmp_path: Path,
) -> None:
    """The merge wrote to the leaf before it moved anything; what came later is not its doing."""
    world = worlds.chain(tmp_path / "vms", grandchild=True)
    root = declare(tmp_path / "vms", "C:\\VMs")
    scan(root)
    stopped(world.leaf.path, world.middle.path, world.roots)
    for written in (False, True):
        scan(root)
        link = Disk.objects.get(name="below.vhd").parent_link
        assert link.parent_written_after == written
        write_at_sector(world.leaf.path, world.roots, 64)
        os.utime(world.leaf.path)


def test_a_scan_calls_no_leaf_half_merged_that_lies_in_another_folder(tmp_path: Path) -> None:
    """The record beside it only leads to that of the merge."""
    (tmp_path / "vms" / "there").mkdir(parents=True)
    base = VHD.dynamic(tmp_path / "vms", "base.vhd", size=MIB, content=[(0, b"b" * 512)])
    leaf = VHD.differencing(
        tmp_path / "vms" / "there", "leaf.vhd", base, content=[(64, b"l" * 512)]
    )
    stopped(leaf.path, base.path, worlds.roots_of(tmp_path / "vms"))
    scan(declare(tmp_path / "vms", "C:\\VMs"))
    half_merged = [row.name for row in Disk.objects.filter(health_code="W_HALF_MERGED")]
    assert half_merged == ["base.vhd"]


def test_a_merge_is_in_place_and_its_page_and_catalog_say_so(scene: Scene) -> None:
    job = jobs.run_now(scene.ask())
    assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)
    scene.assert_merged()
    item = TrashedJob.objects.get(job=job)
    assert not item.can_be_restored
    rows = dict(job_words.result_rows(job.result))
    assert "Free when the trash is emptied" in rows
    assert "each batch read back" in rows["Content proof"]
    assert job.result["warnings"] == []


def test_with_the_leafs_name_the_parents_row_goes_and_the_leafs_is_the_merged_disk(
    scene: Scene,
) -> None:
    inode = os.stat(scene.path("middle")).st_ino
    job = jobs.run_now(scene.ask(keep_name="child"))
    assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)
    assert os.stat(scene.path("leaf")).st_ino == inode
    assert worlds.content_of(scene.path("leaf")) == scene.leaf_sha256
    assert worlds.content_of(scene.path("below")) == scene.below_sha256
    leaf, below = scene.row("leaf"), scene.row("below")
    assert (leaf.health in READABLE, leaf.chain_position) == (True, 2)
    assert (below.health in READABLE, below.chain_position) == (True, 3)
    assert scene.row("middle").health_code == "N_PUT_AWAY"


def test_stopped_it_is_paused_reads_as_before_and_goes_on(scene: Scene, paused: Job) -> None:
    assert worlds.content_of(scene.path("leaf")) == scene.leaf_sha256
    size = r"[\d.]+ (bytes|[KM]B)"
    assert re.fullmatch(rf"The merge was stopped after {size} of {size}\.", paused.sentence)
    leaf, base = (os.path.basename(scene.path(stem)) for stem in ("leaf", "middle"))
    assert job_words.what_now(paused).startswith(f"{leaf} and {base} belong together until")
    assert DiskLock.objects.filter(job=paused).exists()
    assert AuditEntry.objects.filter(job=paused, action="job-paused").exists()
    job = resumed(paused)
    assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)
    scene.assert_merged()


def when_it_has_begun(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Have something happen when its identities are changed, and nothing was moved yet."""
    tell = step_zero._tell

    def told(*args: Any) -> None:
        tell(*args)
        do()

    monkeypatch.setattr(step_zero, "_tell", told)


def test_cancelled_before_anything_moved_it_is_cancelled(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = scene.ask()
    when_it_has_begun(monkeypatch, lambda: stopping.cancel(Job.objects.get(pk=job.pk), None))
    job = jobs.run_now(job)
    assert (job.status, job.error) == (Job.Status.CANCELLED, None)
    assert worlds.content_of(scene.path("leaf")) == scene.leaf_sha256
    assert not list(scene.folder.glob(".*.vdmerge"))
    assert not DiskLock.objects.exists()


def test_paused_before_anything_moved_it_goes_on(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = scene.ask()
    when_it_has_begun(monkeypatch, lambda: stopping.pause(Job.objects.get(pk=job.pk), None))
    job = jobs.run_now(job)
    assert job.status == Job.Status.PAUSED
    assert "before its first batch was complete" in job.sentence
    job = resumed(job)
    assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)
    scene.assert_merged()


def test_plans_on_its_disks_send_to_the_paused_job_and_to_no_command(
    scene: Scene, paused: Job, client: Client
) -> None:
    client.force_login(make_user(is_superuser=True))
    for verb in ("compact", "convert", "merge"):
        page = client.get(f"/disks/{scene.row('leaf').pk}/{verb}").content.decode()
        assert page.count('id="error-panel"') == 1
        assert f'<a href="/jobs/{paused.pk}">Job {paused.pk}</a>' in page
        assert "disk recover" not in page


def test_of_a_merge_in_one_go_the_time_is_told_apart_and_of_parts_it_is_not(
    scene: Scene, paused: Job
) -> None:
    times = {"copy_seconds": 21.0, "proof_seconds": 20.0}
    whole = Job(token=1, result=times)
    assert job_words.time_shares(whole) == "21 s copying, 20 s the proof"
    parts = resumed(paused)
    parts.result |= times  # of the last part alone
    assert job_words.time_shares(parts) == ""


def test_what_recovery_finished_meanwhile_is_a_success(scene: Scene, paused: Job) -> None:
    """By the command line on any host, while the job waits to be resumed."""
    rows = recover(str(scene.folder), worlds.roots_of(scene.folder))
    assert [row["action"] for row in rows] == ["finished"]
    job = resumed(paused)
    assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)
    assert "recovery had finished it" in job.sentence
    scene.assert_merged()


def test_in_use_when_it_is_resumed_it_stays_paused(scene: Scene, paused: Job) -> None:
    """By a machine that runs on the leaf; another process would not know that it is ours."""
    scope = worlds.roots_of(scene.folder)
    with locks.hold(scope, [scene.path("leaf")], job="a machine"):
        held = locks._mine.set({})
        job = resumed(paused)
        locks._mine.reset(held)
    assert job.status == Job.Status.PAUSED
    assert job.sentence.startswith("The merge cannot go on now. ")
    assert "disk recover" not in job.sentence, "the page has a button for it"
    assert resumed(job).status == Job.Status.SUCCEEDED
    scene.assert_merged()


def test_another_file_under_the_name_of_the_leaf_is_not_gone_on_with(
    scene: Scene, paused: Job
) -> None:
    leaf = scene.path("leaf")
    shutil.copy2(leaf, f"{leaf}.aside")
    os.rename(f"{leaf}.aside", leaf)
    before = worlds.snapshot(scene.folder)
    job = resumed(paused)
    assert job.status == Job.Status.PAUSED
    assert "another file has its name now" in job.sentence
    after = worlds.snapshot(scene.folder)
    changed = {name for name in before if before[name] != after.get(name)}
    assert all(name.endswith(".vdmerge") for name in changed)


def test_a_disk_made_on_the_leaf_while_it_was_paused_follows_it(scene: Scene, paused: Job) -> None:
    made = scene.path("new")
    os.rename(scene.folder.parent / os.path.basename(made), made)
    wanted = worlds.content_of(made)
    job = resumed(paused)
    assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)
    scene.assert_merged()
    assert worlds.content_of(made) == wanted
    assert sorted(job.result["relinked"]) == sorted([made, scene.path("below")])


def test_without_room_it_is_paused_with_the_reason_and_goes_on_later(scene: Scene) -> None:
    job = scene.ask()
    faults.install(faults.parse("merge.data.write:2:enospc"))
    try:
        job = jobs.run_now(job)
    finally:
        faults.install(None)
    assert job.status == Job.Status.PAUSED
    assert job.sentence.startswith("The merge stopped:")
    assert "disk recover" not in job.sentence  # the page has a button
    assert worlds.content_of(scene.path("leaf")) == scene.leaf_sha256
    assert resumed(job).status == Job.Status.SUCCEEDED
    scene.assert_merged()


def killed(
    job: Job, fault: str, before: Callable[[], object] = lambda: None, code: int = DIED
) -> None:
    """A worker that died in the middle of the job's work; it is recovered afterwards.

    before: what happened until then; code: what the work itself came to
    """
    claimed = jobs.claim(job.pk)
    assert claimed is not None
    context = JobContext(claimed.job, claimed.token)
    keep_name = job.parameters["keep_name"]
    planned = merging.plan(job.disk, into_parent=True, keep_name=keep_name)
    with_roots = context.roots()

    def work() -> None:
        merge.apply(planned, with_roots, job=context.name, token=context.token)

    before()
    assert in_fork(with_fault(fault, work)) == code
    Job.objects.filter(pk=job.pk).update(lease_until=leases.from_now(-1), worker={})
    reconciling.mark_lost()
    reconciling.recover_lost()
    job.refresh_from_db()


@pytest.mark.parametrize("fault", ["merge.data.write:2:kill", "merge.end.write:1:kill"])
def test_a_worker_that_died_is_followed_by_another_that_goes_on(scene: Scene, fault: str) -> None:
    job = scene.ask()
    killed(job, fault)
    assert job.status == Job.Status.QUEUED
    assert DiskLock.objects.filter(job=job).exists()
    assert worlds.content_of(scene.path("below")) == scene.below_sha256 or "end" in fault
    job = jobs.run_now(job)
    assert (job.status, job.error, job.attempts) == (Job.Status.SUCCEEDED, None, 2)
    scene.assert_merged()


@pytest.mark.parametrize(
    "fault",
    ["merge.begin.rename:4:kill", "identity.done.unlink:1:kill", "identity.done.unlink:2:kill"],
    ids=["begun", "parent changed", "leaf changed"],
)
def test_what_had_only_begun_is_taken_back(scene: Scene, fault: str) -> None:
    """Of a header that was all but changed recovery first finishes the change, then undoes it."""
    job = scene.ask()
    before = {stem: worlds.content_of(scene.path(stem)) for stem in ("middle", "leaf", "below")}
    killed(job, fault)
    assert job.status == Job.Status.QUEUED
    assert not DiskLock.objects.filter(job=job).exists()
    assert before == {stem: worlds.content_of(scene.path(stem)) for stem in before}
    job = jobs.run_now(job)
    assert (job.status, job.error["code"]) == (Job.Status.FAILED, "E_CHANGED")
    assert job.sentence.startswith("Its worker stopped before anything was moved. ")
    assert "If nobody else has written to them meanwhile" in job.sentence
    assert "every disk reads as it did" in job.sentence
    assert "start the merge anew" in job.error["advice"]
    assert jobs.needs_a_new_plan(job)
    scan(scene.root)
    assert jobs.run_now(scene.ask()).status == Job.Status.SUCCEEDED
    scene.assert_merged()


def swapped(path: str) -> None:
    shutil.copy2(path, f"{path}.aside")
    os.rename(f"{path}.aside", path)


@pytest.mark.parametrize("stem", ["leaf", "middle"])
@pytest.mark.parametrize("change", [swapped, os.utime], ids=["swapped", "written"])
def test_what_somebody_changed_is_not_said_to_be_the_lost_workers_doing(
    scene: Scene, stem: str, change: Callable[[str], object]
) -> None:
    job = scene.ask()
    killed(job, "merge.begin.rename:4:kill")
    change(scene.path(stem))
    job = jobs.run_now(job)
    assert (job.status, job.error["code"]) == (Job.Status.FAILED, "E_CHANGED")
    assert "Its worker" not in job.sentence
    assert job.sentence.startswith(os.path.realpath(scene.folder))


def test_a_file_swapped_before_recovery_came_is_not_the_lost_workers_doing(scene: Scene) -> None:
    job = scene.ask()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconciling, "recover_lost", lambda: None)
        killed(job, "merge.begin.rename:4:kill")
    swapped(scene.path("middle"))
    reconciling.recover_lost()
    job = jobs.run_now(job)
    assert (job.status, job.error["code"]) == (Job.Status.FAILED, "E_CHANGED")
    assert "Its worker" not in job.sentence


def test_a_worker_lost_before_it_began_is_not_blamed_for_what_somebody_changed(
    scene: Scene,
) -> None:
    job = scene.ask()
    assert jobs.claim(job.pk) is not None
    Job.objects.filter(pk=job.pk).update(lease_until=leases.from_now(-1), worker={})
    reconciling.mark_lost()
    reconciling.recover_lost()
    os.utime(scene.path("leaf"))
    job = jobs.run_now(Job.objects.get(pk=job.pk))
    assert (job.attempts, job.error["code"]) == (2, "E_CHANGED")
    assert "Its worker" not in job.sentence


def test_a_job_that_was_paused_when_its_worker_was_lost_knows_that_when_it_is_resumed(
    scene: Scene,
) -> None:
    job = scene.ask()
    killed(job, "merge.begin.rename:4:kill", before=lambda: stopping.pause(job, None))
    assert (job.status, job.cancellable) == (Job.Status.PAUSED, True)
    job = resumed(job)
    assert (job.status, job.attempts) == (Job.Status.FAILED, 1)
    assert job.sentence.startswith("Its worker stopped before anything was moved. ")


class CtrlC(Progress):
    asked = False

    def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
        if self.asked:
            raise Cancelled


def test_what_somebody_stopped_on_the_command_line_does_not_go_on_by_itself(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted one does: then nobody has said that it shall wait."""
    progress = CtrlC()
    after_first_batch(monkeypatch, lambda: setattr(progress, "asked", True))
    planned = merging.plan(scene.row("leaf"), into_parent=True)
    with pytest.raises(Stopped):
        merge.apply(planned, worlds.roots_of(scene.folder), progress=progress)
    assert orphans.recover_orphans() == []
    assert not Job.objects.filter(kind=Job.Kind.MERGE).exists()
    record = merge_in_place.pending(worlds.roots_of(scene.folder), scene.path("middle"))
    assert record is not None
    journal.write(
        worlds.roots_of(scene.folder), replace(record, record=record.record | {"stopped": False})
    )
    assert [row["action"] for row in orphans.recover_orphans()] == ["handed-over"]


def killed_on_the_command_line(scene: Scene, fault: str, **more: Any) -> None:
    planned = merging.plan(scene.row("leaf"), into_parent=True, **more)

    def work() -> None:
        merge.apply(planned, worlds.roots_of(scene.folder))

    assert in_fork(with_fault(fault, work)) == -signal.SIGKILL


@pytest.mark.parametrize("keep_name", ["parent", "child"])
@pytest.mark.parametrize(
    "fault",
    ["merge.data.write:2:kill", "merge.end.rename:1:kill", "face.header.write:1:kill"],
    ids=["data", "end", "header"],
)
def test_a_job_goes_on_with_what_was_killed_on_the_command_line(
    scene: Scene, fault: str, keep_name: str
) -> None:
    """The reconciler moves nothing itself: that may take hours, and nobody could stop it."""
    killed_on_the_command_line(scene, fault, keep_name=keep_name)
    before = worlds.snapshot(scene.folder)
    (row,) = orphans.recover_orphans()
    assert (row["action"], row["path"]) == ("handed-over", scene.path("middle"))
    assert worlds.snapshot(scene.folder) == before
    job = Job.objects.get(kind=Job.Kind.MERGE)
    assert f"job {job.pk} goes on" in row["sentence"]
    assert (job.status, job.cancellable) == (Job.Status.QUEUED, False)
    assert "in place into" in job.summary
    assert job.disk == scene.row("leaf")
    assert AuditEntry.objects.filter(action="orphan-recovery").count() == 1
    assert orphans.recover_orphans() == []
    job = jobs.run_now(job)
    assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)
    if keep_name == "parent":
        scene.assert_merged()
    else:
        assert worlds.content_of(scene.path("leaf")) == scene.leaf_sha256
        assert not os.path.exists(scene.path("middle"))


def test_what_somebody_stops_just_when_it_is_found_stays_stopped(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only its locks tell that nobody is at it any more: the record may be another by then."""
    killed_on_the_command_line(scene, "merge.data.write:1:kill")
    held = recovery.held

    def held_after_a_stop(merge: journal.Sidecar, roots: Roots) -> Any:
        journal.write(roots, replace(merge, record=merge.record | {"stopped": True}))
        return held(merge, roots)

    monkeypatch.setattr(recovery, "held", held_after_a_stop)
    assert orphans.recover_orphans() == []
    assert not Job.objects.filter(kind=Job.Kind.MERGE).exists()


def test_such_a_job_is_paused_and_resumed_and_never_cancelled(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_on_the_command_line(scene, "merge.data.write:1:kill")
    orphans.recover_orphans()
    job = stopping.cancel(Job.objects.get(kind=Job.Kind.MERGE), None)
    assert job.status == Job.Status.PAUSED
    with pytest.raises(Refusal) as refused:
        stopping.cancel(job, None)
    assert refused.value.code == "E_TOO_LATE"
    assert orphans.recover_orphans() == []
    with monkeypatch.context() as patch:
        after_first_batch(patch, lambda: stopping.pause(Job.objects.get(pk=job.pk), None))
        job = resumed(job)
    assert job.status == Job.Status.PAUSED
    assert DiskLock.objects.filter(job=job).exists()
    job = resumed(job)
    assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)
    scene.assert_merged()


def test_what_lives_on_the_command_line_is_left_to_it(scene: Scene) -> None:
    """Its record looks like that of a dead one; its locks do not."""
    killed_on_the_command_line(scene, "merge.data.write:2:kill")
    with locks.hold(worlds.roots_of(scene.folder), [scene.path("middle")], job="the owner"):
        held = locks._mine.set({})
        (row,) = orphans.recover_orphans()
        locks._mine.reset(held)
    assert (row["action"], row["code"]) == ("busy", "E_LOCKED")
    assert not Job.objects.filter(kind=Job.Kind.MERGE).exists()
    assert not AuditEntry.objects.filter(action="orphan-recovery").exists()


def test_what_was_finished_on_the_command_line_before_its_job_began_is_a_success(
    scene: Scene,
) -> None:
    killed_on_the_command_line(scene, "merge.data.write:2:kill")
    orphans.recover_orphans()
    rows = recover(str(scene.folder), worlds.roots_of(scene.folder))
    assert [row["action"] for row in rows] == ["finished"]
    job = jobs.run_now(Job.objects.get(kind=Job.Kind.MERGE))
    assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)
    assert job.result["file_size_before_bytes"] > 0
    scene.assert_merged()


def test_what_the_command_line_put_away_beside_the_disks_is_found_from_a_root_above(
    tmp_path: Path,
) -> None:
    """It knows no storage roots: its trash is the one in the folder of the disks."""
    world = worlds.chain(tmp_path / "vms", family=VHD, grandchild=True)
    assert world.grandchild is not None
    scene = Scene(
        tmp_path / "vms", VHD, declare(tmp_path, "C:\\"),
        worlds.content_of(world.leaf.path), worlds.content_of(world.grandchild.path),
    )  # fmt: skip
    scan(scene.root)
    killed_on_the_command_line(scene, "merge.data.write:2:kill")
    orphans.recover_orphans()
    rows = recover(str(scene.folder), worlds.roots_of(scene.folder))
    assert [row["action"] for row in rows] == ["finished"]
    job = jobs.run_now(Job.objects.get(kind=Job.Kind.MERGE))
    assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)
    scene.assert_merged()


def test_a_job_that_went_on_and_lost_its_worker_goes_on_again(scene: Scene) -> None:
    killed_on_the_command_line(scene, "merge.data.write:1:kill")
    orphans.recover_orphans()
    job = Job.objects.get(kind=Job.Kind.MERGE)
    claimed = jobs.claim(job.pk)
    assert claimed is not None
    Job.objects.filter(pk=job.pk).update(lease_until=leases.from_now(-1), worker={})
    reconciling.mark_lost()
    reconciling.recover_lost()
    job.refresh_from_db()
    assert job.status == Job.Status.QUEUED
    assert orphans.recover_orphans() == []
    job = jobs.run_now(job)
    assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)
    scene.assert_merged()


def test_what_had_only_begun_on_the_command_line_is_taken_back_at_once(scene: Scene) -> None:
    killed_on_the_command_line(scene, "merge.begin.rename:4:kill")
    assert [row["action"] for row in orphans.recover_orphans()] == ["undone"]
    assert not Job.objects.filter(kind=Job.Kind.MERGE).exists()
    assert worlds.content_of(scene.path("leaf")) == scene.leaf_sha256


def test_a_folder_that_cannot_be_looked_at_keeps_no_other_from_being_looked_after(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_on_the_command_line(scene, "merge.begin.rename:4:kill")
    look = journal.sidecars_in

    def looks(roots: Roots, folder: str, **more: Any) -> Iterator[tuple[str, Any]]:
        if folder == "/first":
            raise ValueError("nobody foresaw it")
        return look(roots, folder, **more)

    monkeypatch.setattr(journal, "sidecars_in", looks)
    monkeypatch.setattr(orphans, "_catalogued_folders", lambda: ["/first", str(scene.folder)])
    assert [row["action"] for row in orphans.recover_orphans()] == ["undone"]


@pytest.mark.parametrize("wish", [stopping.cancel, stopping.pause], ids=["stop", "pause"])
@pytest.mark.parametrize(
    "fault",
    [
        "merge.journal.write:2:kill",
        "merge.data.write:2:kill",
        "merge.table.write:1:kill",
        "face.sidecar.write:1:kill",
    ],
)
def test_asked_to_stop_before_its_worker_died_it_is_paused(
    scene: Scene, fault: str, wish: Callable[..., Job]
) -> None:
    job = scene.ask()
    killed(job, fault, before=lambda: wish(job, None))
    assert (job.status, job.cancellable) == (Job.Status.PAUSED, False)
    assert job.sentence == "The merge was interrupted; what has moved stays so."
    assert "a machine may use" in job_words.what_now(job)
    for _ in range(2):  # nothing wakes it
        reconciling.mark_lost()
        reconciling.recover_lost()
        assert orphans.recover_orphans() == []
    assert Job.objects.get().status == Job.Status.PAUSED
    assert resumed(job).status == Job.Status.SUCCEEDED
    scene.assert_merged()


@pytest.mark.parametrize("wish", [stopping.cancel, stopping.pause], ids=["stop", "pause"])
@pytest.mark.parametrize(
    ("keep_name", "fault"),
    [
        ("parent", "face.header.write:1:kill"),
        ("parent", "face.header.fsync:2:kill"),
        ("child", "merge.end.rename:1:kill"),
        ("parent", "merge.end.rename:2:kill"),
    ],
)
def test_when_names_are_changing_it_is_too_late_to_stop(
    scene: Scene, keep_name: str, fault: str, wish: Callable[..., Job]
) -> None:
    """As for the worker that lives: between them the leaf cannot be read."""
    job = scene.ask(keep_name=keep_name)
    killed(job, fault, before=lambda: wish(job, None))
    assert job.status == Job.Status.QUEUED
    job = jobs.run_now(job)
    assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)
    assert worlds.content_of(job.result["output"]) == scene.leaf_sha256


def test_paused_by_an_error_while_names_change_its_page_lets_no_machine_use_the_leaf(
    scene: Scene,
) -> None:
    faults.install(faults.parse("merge.end.rename:1:eio"))
    try:
        job = jobs.run_now(scene.ask())
    finally:
        faults.install(None)
    assert (job.status, job.cancellable) == (Job.Status.PAUSED, False)
    with pytest.raises(ImageError):
        worlds.content_of(scene.path("leaf"))
    assert_leaf_not_to_be_used(job)
    faults.install(faults.parse("merge.end.rename:1:eio"))
    try:
        job = resumed(job)  # and refused once more: its page knows it still
    finally:
        faults.install(None)
    assert job.status == Job.Status.PAUSED
    assert_leaf_not_to_be_used(job)
    assert resumed(job).status == Job.Status.SUCCEEDED
    scene.assert_merged()


def assert_leaf_not_to_be_used(job: Job) -> None:
    told = job_words.what_now(job)
    assert "a machine may use" not in told
    assert "may not be readable" in told


def test_paused_it_lets_no_machine_use_the_leaf_once_somebody_wrote_to_the_base(
    scene: Scene, paused: Job
) -> None:
    assert "a machine may use" in job_words.what_now(paused)
    os.utime(scene.path("middle"))
    told = job_words.what_now(paused)
    assert f"Somebody has written to {scene.family.file('middle')}" in told
    assert "a machine may use" not in told


def test_asked_to_stop_when_all_was_done_it_is_no_cancelled_job(scene: Scene) -> None:
    """Its worker died before it could say so: every file is as it shall be, not as it was."""
    job = scene.ask()
    killed(job, "kill.never:1:kill", before=lambda: stopping.cancel(job, None), code=DONE)
    assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)
    assert job.sentence == "Merged: recovery had finished it meanwhile."
    scene.assert_merged()


@pytest.mark.parametrize("wish", [stopping.cancel, stopping.pause], ids=["stop", "pause"])
def test_asked_to_stop_while_it_is_resumed_it_is_paused_again(
    scene: Scene, paused: Job, wish: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = batches.prepare

    def asked_meanwhile(*args: Any) -> Any:
        wish(Job.objects.get(pk=paused.pk), None)
        return prepare(*args)

    with monkeypatch.context() as patch:
        patch.setattr(batches, "prepare", asked_meanwhile)
        job = resumed(paused)
    assert (job.status, job.cancellable) == (Job.Status.PAUSED, False)
    assert orphans.recover_orphans() == []
    record = merge_in_place.pending(worlds.roots_of(scene.folder), scene.path("middle"))
    assert record is not None
    assert merge_in_place.was_stopped(record)  # for another console, too
    assert resumed(job).status == Job.Status.SUCCEEDED
    scene.assert_merged()


def test_a_compaction_goes_on_with_the_disk_that_it_has_changed_itself(tmp_path: Path) -> None:
    """As it left it when it was paused; but not with another file of that name."""
    folder = tmp_path / "vms"
    folder.mkdir()
    block = 512 * 1024
    built = VHD.dynamic(
        folder, "zeros.vhd", size=8 * block, block_size=block,
        content=[(0, bytes(block)), (1024, b"\1" * block), (2048, b"\2" * 512)],
    )  # fmt: skip
    scan(declare(folder, "C:\\VMs"))
    wanted = worlds.content_of(built.path)
    row = Disk.objects.get()

    def asked() -> Job:
        return compacting.request(row, user=None, idempotency_key=key())

    job = asked()
    context = jobs.claim(job.pk)
    assert context is not None
    Job.objects.filter(pk=job.pk).update(lease_until=leases.from_now(-1), worker={})
    os.utime(built.path)  # what a step of the work does, too
    reconciling.mark_lost()
    reconciling.recover_lost()
    job.refresh_from_db()
    assert job.status == Job.Status.QUEUED
    job = jobs.run_now(job)
    assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)
    assert job.result["freed_bytes"] > 0
    assert worlds.content_of(built.path) == wanted

    scan(StorageRoot.objects.get())
    job = asked()
    assert jobs.claim(job.pk) is not None
    Job.objects.filter(pk=job.pk).update(lease_until=leases.from_now(-1), worker={})
    shutil.copy2(built.path, folder / "other.vhd")
    os.rename(folder / "other.vhd", built.path)
    reconciling.mark_lost()
    reconciling.recover_lost()
    job = jobs.run_now(job)
    assert (job.status, job.error["code"]) == (Job.Status.FAILED, "E_CHANGED")


def test_a_compaction_that_is_paused_while_it_looks_says_that_it_will_look_anew(
    tmp_path: Path,
) -> None:
    """A machine may write to the disk meanwhile: what held nothing may hold something then."""
    folder = tmp_path / "vms"
    folder.mkdir()
    block = 512 * 1024
    built = VHD.dynamic(
        folder, "zeros.vhd", size=32 * block, block_size=block,
        content=[(number * 1024, bytes(block)) for number in range(32)],
    )  # fmt: skip
    scan(declare(folder, "C:\\VMs"))
    job = compacting.request(Disk.objects.get(), user=None, idempotency_key=key())
    judged = verdicts._Judging.verdict

    def asked_meanwhile(self: Any, number: int) -> Any:
        stopping.pause(Job.objects.get(pk=job.pk), None)
        return judged(self, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdicts._Judging, "verdict", asked_meanwhile)
        job = jobs.run_now(job)
    assert (job.status, job.step) == (Job.Status.PAUSED, "look")
    assert job.sentence == "Paused while it looked at the disk: it looks anew when it is resumed."
    job = resumed(job)
    assert (job.status, job.result["blocks_dropped"]) == (Job.Status.SUCCEEDED, 32)
    assert os.path.getsize(built.path) < block


@pytest.fixture
def begun_at_a_terminal(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Stopped there by Ctrl-C when data has moved."""
    progress = CtrlC()
    planned = merging.plan(scene.row("leaf"), into_parent=True)
    with monkeypatch.context() as patch:
        after_first_batch(patch, lambda: setattr(progress, "asked", True))
        with pytest.raises(Stopped):
            merge.apply(planned, worlds.roots_of(scene.folder), progress=progress)
    return scene


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(make_user("opal", is_superuser=True))
    return client


def finishing(client: Client, disk: Disk) -> dict[str, str]:
    """What the form that finishes it sends."""
    page = client.get(f"/disks/{disk.pk}/finish-merge").content.decode()
    hidden = re.findall(r'<input type="hidden" name="(key|seen)" value="([^"]*)"', page)
    assert len(hidden) == 2, page
    return dict(hidden)


def test_a_merge_stopped_at_a_terminal_is_finished_in_the_browser(
    begun_at_a_terminal: Scene, operator: Client
) -> None:
    scene = begun_at_a_terminal
    for stem in ("leaf", "middle", "below"):
        page = operator.get(f"/disks/{scene.row(stem).pk}").content.decode()
        assert "An unfinished merge has this disk" in page
        assert "was begun at a terminal and was stopped half-way" in re.sub(r"\s+", " ", page)
        assert f"/disks/{scene.row(stem).pk}/finish-merge" in page
    assert (
        "An unfinished merge" not in operator.get(f"/disks/{scene.row('base').pk}").content.decode()
    )
    plan = operator.get(f"/disks/{scene.row('leaf').pk}/merge").content.decode()
    assert f"/disks/{scene.row('leaf').pk}/finish-merge" in plan
    assert "manage.py" not in plan

    sent = finishing(operator, scene.row("leaf"))
    answer = operator.post(f"/disks/{scene.row('leaf').pk}/finish-merge", sent)
    job = Job.objects.get(kind=Job.Kind.MERGE)
    assert answer["Location"] == f"/jobs/{job.pk}"
    assert job.requested_by is not None
    assert (job.requested_by.username, job.cancellable) == ("opal", False)
    page = operator.get(f"/disks/{scene.row('leaf').pk}").content.decode()
    assert "An unfinished merge" not in page  # it has its job
    job = jobs.run_now(job)
    assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)
    scene.assert_merged()


def test_no_page_lets_a_machine_use_the_leaf_of_a_merge_that_goes_on_by_itself(
    scene: Scene, operator: Client
) -> None:
    killed_on_the_command_line(scene, "merge.data.write:2:kill")
    disk = scene.row("leaf").pk
    for address in (f"/disks/{disk}", f"/disks/{disk}/finish-merge"):
        page = operator.get(address).content.decode()
        assert "it goes on by itself" in page
        assert "Leave machines that use these disks switched off" in page
        assert "reads as ever" not in page
        assert "a machine may use" not in page


def test_a_merge_stopped_at_a_terminal_is_found_also_while_an_ancestor_lies_in_an_offline_root(
    begun_at_a_terminal: Scene, operator: Client
) -> None:
    scene = begun_at_a_terminal
    away = make_root("/away", state=StorageRoot.State.OFFLINE)
    Disk.objects.filter(pk=scene.row("base").pk).update(root=away)
    page = operator.get(f"/disks/{scene.row('leaf').pk}").content.decode()
    assert f"/disks/{scene.row('leaf').pk}/finish-merge" in page


def test_what_has_gone_on_since_it_was_shown_is_not_asked_for_again(
    begun_at_a_terminal: Scene, operator: Client
) -> None:
    scene = begun_at_a_terminal
    sent = finishing(operator, scene.row("leaf"))
    recover(str(scene.folder), worlds.roots_of(scene.folder))
    answer = operator.post(f"/disks/{scene.row('leaf').pk}/finish-merge", sent)
    assert answer.status_code == 409
    assert "There is no merge to finish" in answer.content.decode()
    assert not Job.objects.filter(kind=Job.Kind.MERGE).exists()


def test_what_somebody_is_at_is_not_finished_by_another(
    begun_at_a_terminal: Scene, operator: Client
) -> None:
    scene = begun_at_a_terminal
    address = f"/disks/{scene.row('leaf').pk}/finish-merge"
    sent = finishing(operator, scene.row("leaf"))
    with locks.hold(worlds.roots_of(scene.folder), [scene.path("middle")], job="the owner"):
        held = locks._mine.set({})
        page, answer = operator.get(address), operator.post(address, sent)
        locks._mine.reset(held)
    assert page.context["refused"]["code"] == "E_LOCKED"
    assert answer.status_code == 422
    assert not Job.objects.filter(kind=Job.Kind.MERGE).exists()


def test_a_root_that_machines_open_asks_for_the_declaration_before_a_merge_is_finished(
    begun_at_a_terminal: Scene, operator: Client
) -> None:
    """Its leaf may have been used since: it was allowed to."""
    scene = begun_at_a_terminal
    StorageRoot.objects.update(opened_by=StorageRoot.OpenedBy.HYPER_V)
    address = f"/disks/{scene.row('leaf').pk}/finish-merge"
    sent = finishing(operator, scene.row("leaf"))
    assert operator.post(address, sent).status_code == 422
    assert operator.post(address, sent | {"offline": "on"}).status_code == 302
    assert Job.objects.get(kind=Job.Kind.MERGE).declared_offline


def test_a_paused_merge_whose_base_was_only_touched_is_resumed_by_who_says_so(
    scene: Scene, paused: Job, operator: Client
) -> None:
    address, base = f"/jobs/{paused.pk}", os.path.basename(scene.path("middle"))
    assert "only its times were changed" not in operator.get(address).content.decode()
    os.utime(scene.path("middle"), ns=(1, 1))
    operator.post(f"{address}/resume", {})
    of_another_form = {"only_touched": "on", "touched": sealed(["something else"])}
    assert operator.post(f"{address}/resume", of_another_form).status_code == 302
    job = jobs.run_now(Job.objects.get(pk=paused.pk))
    assert job.status == Job.Status.PAUSED
    assert "tick that" in job.sentence
    page = operator.get(address).content.decode()
    assert f"Nobody has written to {base}; only its times were changed." in strip_tags(page)
    hidden = re.findall(r'name="touched" value="([^"]*)"', page)
    operator.post(f"{address}/resume", {"only_touched": "on", "touched": hidden[0]})
    audited = AuditEntry.objects.filter(job=job, action="job-queued").first()
    assert audited is not None
    assert "declared that nobody has written" in audited.sentence
    job = jobs.run_now(Job.objects.get(pk=paused.pk))
    assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)
    scene.assert_merged()


def test_a_merge_of_a_terminal_whose_base_was_only_touched_is_finished_by_who_says_so(
    begun_at_a_terminal: Scene, operator: Client
) -> None:
    scene = begun_at_a_terminal
    os.utime(scene.path("middle"), ns=(1, 1))
    address = f"/disks/{scene.row('leaf').pk}/finish-merge"
    assert "only its times were changed" in operator.get(address).content.decode()
    sent = finishing(operator, scene.row("leaf"))
    refused = operator.post(address, sent)
    assert (refused.status_code, Job.objects.exclude(kind=Job.Kind.SCAN).count()) == (422, 0)
    assert "Say that nobody has written to it." in refused.content.decode()
    os.utime(scene.path("middle"), ns=(2, 2))
    assert operator.post(address, sent | {"only_touched": "on"}).status_code == 409
    sent = finishing(operator, scene.row("leaf"))
    assert operator.post(address, sent | {"only_touched": "on"}).status_code == 302
    job = jobs.run_now(Job.objects.get(kind=Job.Kind.MERGE))
    assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)
    audited = AuditEntry.objects.get(job=job, action="job-requested")
    assert "declared to be written by nobody" in audited.sentence
    scene.assert_merged()
