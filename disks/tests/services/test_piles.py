"""Checkpoint piles from the catalog: where they are seen, what they come to, the one job."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from disks.engine import faults
from disks.engine.chain import open_chain
from disks.engine.errors import ImageError
from disks.models import AuditEntry, Disk, DiskLock, Job, JobLogLine, StorageRoot, TrashedJob
from disks.operations import concerned
from disks.operations import trash as trash_folders
from disks.operations.merge_in_place import batches
from disks.operations.paths import Roots
from disks.operations.pile import Step, applying, planning
from disks.operations.trash.manifests import Manifest
from disks.services import (
    half_merged,
    jobs,
    leases,
    orphans,
    pile_catalog,
    piles,
    reconciling,
    roots,
    stopping,
    trash,
)
from disks.services.errors import Refusal
from disks.services.stored_json import restored
from disks.services.work import JobContext
from disks.tests.operations.crashing import in_fork, with_fault
from disks.tests.operations.piles import FORMATS, Pile
from disks.tests.services.catalog import declare, key, scan
from disks.views import job_words

pytestmark = pytest.mark.django_db(transaction=True)
every_format = pytest.mark.parametrize("format", FORMATS)


def content(path: str) -> str:
    with open_chain(path, roots.operation_roots()) as chain:
        return chain.sha256()


def row(path: str) -> Disk:
    return Disk.objects.select_related("root").get(name=os.path.basename(path))


@pytest.fixture(params=FORMATS)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[StorageRoot, Pile]:
    """One pile of four, one of two in the same folder, and disks beside them."""
    made = Pile(tmp_path / "vms" / "srv", request.param)
    made.base()
    made.tower("a", "b", "c", "d")
    made.base("other")
    made.tower("o", "p", on="other")
    made.base("alone")
    root = declare(tmp_path / "vms", "C:\\VMs")
    scan(root)
    return root, made


def done(job: Job) -> Job:
    job = jobs.run_now(job)
    assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)
    return job


# ---------------------------------------------------------------------- seen by the catalog


def test_three_or_more_in_one_folder_are_seen_with_their_size(
    scene: tuple[StorageRoot, Pile],
) -> None:
    root, made = scene
    ((found,), _) = pile_catalog.forgotten()
    checkpoints = [row(path) for path in made.paths("a", "b", "c", "d")]
    assert (found.root, found.folder, found.count) == (root, "srv", 4)
    assert found.leaf == row(made.path("d"))
    assert found.allocated_bytes == sum(disk.allocated_bytes for disk in checkpoints)
    assert found.are_checkpoints


def test_what_a_manager_beside_them_claims_is_no_pile_without_a_host(
    scene: tuple[StorageRoot, Pile],
) -> None:
    root, made = scene
    (made.folder / "srv.vmcx").write_bytes(b"")
    scan(root)
    assert pile_catalog.forgotten() == ([], 0)
    assert {disk.managed_by for disk in Disk.objects.filter(name__startswith="a.")} == {
        "hyper-v-machine"
    }
    (made.folder / "srv.vmcx").unlink()
    (made.folder / (Path(made.path("d")).name + ".rct")).write_bytes(b"")  # a backup left this
    scan(root)
    assert [found.count for found in pile_catalog.forgotten()[0]] == [4]


def test_seeing_them_takes_the_same_queries_for_one_pile_and_for_three(tmp_path: Path) -> None:
    root = declare(tmp_path / "vms", "C:\\VMs")
    counts = []
    for number in range(3):
        made = Pile(tmp_path / "vms" / f"m{number}")
        made.base(f"vm{number}")
        made.tower(*(f"{name}{number}" for name in "abc"), on=f"vm{number}")
        scan(root)
        with CaptureQueriesContext(
            connection,
        ) as asked:
            assert pile_catalog.forgotten()[1] == number + 1
        counts.append(len(asked))
    assert len(set(counts)) == 1


def test_links_that_lead_in_a_circle_end(scene: tuple[StorageRoot, Pile]) -> None:
    """What a hostile folder between two scans can make of the catalog's numbers."""
    _, made = scene
    levels = pile_catalog._levels()
    a, b, d = (row(made.path(name)).pk for name in "abd")
    levels[a] = levels[a]._replace(parent=b)  # and b names a
    (run, *_) = [run for run in pile_catalog._runs(levels) if run[0].pk == d]
    assert [level.pk for level in run] == [row(path).pk for path in made.paths(*"dcba")]


def test_a_folder_is_told_as_the_files_alone_would_tell_it(
    scene: tuple[StorageRoot, Pile],
) -> None:
    """The catalog's forest and the command line's, which reads every file, are one."""
    root, made = scene
    made.child("x", "b")
    (made.folder / ("notes" + made.kind.base_ending)).write_text("no disk" * 100)
    made.damaged()
    made.base("gone")
    made.child("orphan", "gone")
    made.disks["gone"].path.unlink()
    scan(root)
    by_catalog = piles.plan(root, "srv").plan.as_dict()
    by_files = planning.plan(str(made.folder), roots.operation_roots(), in_place=True).as_dict()
    for one in (*by_catalog["piles"], *by_files["piles"]):
        del one["merge"]["free_space_bytes"]  # other tests write meanwhile
    for said in ("piles", "branches", "needed_outside", "rings", "disks", "allocated_bytes"):
        assert by_catalog[said] == by_files[said], said
    for list_, path in (("orphans", "path"), ("strangers", "path"), ("unread", "file")):
        assert [one[path] for one in by_catalog[list_]] == [one[path] for one in by_files[list_]]
    assert by_catalog["orphans"][0]["code"] == by_files["orphans"][0]["code"]


def test_a_chain_that_the_catalog_knows_to_be_broken_is_refused_with_what_to_do(
    scene: tuple[StorageRoot, Pile],
) -> None:
    root, made = scene
    made.disks["vm"].path.unlink()
    scan(root)
    planned = piles.plan(root, "srv", leaf=made.path("d"))
    refused = planned.plan.refused
    assert refused is not None
    assert refused.code == "E_PARENT_MISSING"
    assert "update the parent path" in refused.advice
    with pytest.raises(ImageError):
        piles.script(planned)


# ---------------------------------------------------------------------- the job


def test_the_trash_is_looked_into_once_for_all_piles_of_a_folder(
    scene: tuple[StorageRoot, Pile], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, made = scene
    list_trash = trash_folders.list_trash
    looked_into: list[str] = []

    def counted(folder: str, scope: Roots) -> list[Manifest]:
        looked_into.append(folder)
        return list_trash(folder, scope)

    monkeypatch.setattr(trash_folders, "list_trash", counted)
    assert len(piles.plan(root, "srv").piles) == 2
    assert sorted(looked_into) == [root.path, str(made.folder)]


def test_one_pile_is_a_merge_like_any_other(scene: tuple[StorageRoot, Pile]) -> None:
    root, made = scene
    job = piles.request(
        root, "srv", leaf=made.path("d"), user=None, idempotency_key=key(), declared_offline=True
    )
    assert job.kind == Job.Kind.MERGE
    done(job)
    assert content(made.path("vm")) == made.disks["d"].sha256
    assert content(made.path("p")) == made.disks["p"].sha256


def test_several_piles_are_one_job_that_tells_of_each(scene: tuple[StorageRoot, Pile]) -> None:
    root, made = scene
    job = piles.request(root, "srv", user=None, idempotency_key=key(), declared_offline=True)
    assert (job.kind, job.summary) == (
        Job.Kind.PILE,
        "Merge 2 checkpoint piles of 8 disks in place in srv",
    )
    job = done(job)
    assert content(made.path("vm")) == made.disks["d"].sha256
    assert content(made.path("other")) == made.disks["p"].sha256
    assert job.sentence == "Merged 2 piles: 8 disks became 2."
    told = job_words.outcomes(job.result)
    assert [(one["path"], one["failed"]) for one in told] == [
        (made.path("vm"), False),
        (made.path("other"), False),
    ]
    assert "5 disks became this one" in told[0]["words"]
    assert job.result["bytes_written"] > 0
    assert row(made.path("vm")).disk_type == "dynamic"
    assert row(made.path("d")).health_code == "N_PUT_AWAY"
    assert TrashedJob.objects.filter(job=job, state=TrashedJob.State.IN_TRASH).count() == 2
    lines = list(JobLogLine.objects.filter(job=job).values_list("text", flat=True))
    assert any(line.startswith("pile 1 of 2: merged 5 disks into ") for line in lines)


def test_what_it_replaced_comes_back_from_the_trash(scene: tuple[StorageRoot, Pile]) -> None:
    root, made = scene
    done(piles.request(root, "srv", in_place=False, user=None, idempotency_key=key(),
                       declared_offline=True))  # fmt: skip
    for item in TrashedJob.objects.all():
        done(trash.request_restore(item, user=None, idempotency_key=key(), declared_offline=True))
    for name in ("d", "p"):
        assert content(made.path(name)) == made.disks[name].sha256
    assert row(made.path("d")).chain_position == 5
    assert [found.count for found in pile_catalog.forgotten()[0]] == [4]


def lost(job: Job, fault: str) -> None:
    """Its worker is killed at a fault point; recovery has it begun again."""
    claimed = jobs.claim(job.pk)
    assert claimed is not None
    context = JobContext(claimed.job, claimed.token)
    steps = [Step.from_dict(one) for one in restored(job.parameters)["steps"]]
    scope = roots.operation_roots()

    def work() -> None:
        applying.apply(steps, scope, offline=True, job=context.name, token=context.token)

    assert in_fork(with_fault(f"{fault}:kill", work)) == -signal.SIGKILL
    Job.objects.filter(pk=job.pk).update(lease_until=leases.from_now(-1), worker={})
    reconciling.mark_lost()
    reconciling.recover_lost()
    job.refresh_from_db()
    assert job.status == Job.Status.QUEUED


@every_format
def test_a_worker_that_is_lost_before_anything_moved_has_its_job_say_so(
    tmp_path: Path, format: str
) -> None:
    """What was begun is taken back, which writes to the files: the plan fits to them no more."""
    made = Pile(tmp_path / "vms", format)
    made.base()
    made.tower("a", "b", "c", "d", "e")
    made.child("x", "c")
    root = declare(tmp_path / "vms", "C:\\VMs")
    scan(root)
    job = piles.request(root, "", user=None, idempotency_key=key(), declared_offline=True)
    lost(job, "merge.begin.rename:4")
    job = jobs.run_now(job)
    assert (job.status, job.error["code"]) == (Job.Status.FAILED, "E_CHANGED")
    assert job.sentence.startswith("Its worker stopped before anything was moved. ")
    for name in "ex":
        assert content(made.path(name)) == made.disks[name].sha256


@pytest.mark.parametrize(
    ("in_place", "fault"),
    [
        (False, "write:3"),
        (False, "forward.rename:2"),
        (False, "forward.rename:6"),
        (True, "merge.data.write:1"),
        (True, "merge.data.write:3"),
        (True, "merge.end.rename:2"),
    ],
)
@every_format
def test_a_killed_worker_leaves_a_job_that_goes_on_by_itself(
    tmp_path: Path, format: str, in_place: bool, fault: str
) -> None:
    """Before a commit, in the first one, in the second: recovery, then the rest."""
    made = Pile(tmp_path / "vms", format)
    made.base()
    made.tower("a", "b", "c", "d", "e")
    made.child("x", "c")
    root = declare(tmp_path / "vms", "C:\\VMs")
    scan(root)
    job = piles.request(
        root, "", in_place=in_place, user=None, idempotency_key=key(), declared_offline=True
    )
    lost(job, fault)
    job = done(job)
    assert job.attempts == 2
    assert content(made.path("d")) == made.disks["e"].sha256
    assert content(made.path("x")) == made.disks["x"].sha256
    assert {path.name for path in made.folder.iterdir() if path.suffix != ".vdundo"} == {
        ".vdroot", ".vdtrash", *(Path(path).name for path in made.paths("vm", "d", "x")),
    }  # fmt: skip
    assert not Disk.objects.filter(missing_since=None, health="broken").exists()


@pytest.mark.parametrize("wish", [stopping.cancel, stopping.pause], ids=["stop", "pause"])
def test_stopped_when_data_has_moved_and_no_batch_is_at_work_it_is_paused(
    scene: tuple[StorageRoot, Pile],
    monkeypatch: pytest.MonkeyPatch,
    settings: Any,
    wish: Callable[..., Job],
) -> None:
    """A new step of one of its merges is where that is heard."""
    settings.JOB_PROGRESS_SECONDS = 0
    root, made = scene
    job = piles.request(root, "srv", user=None, idempotency_key=key(), declared_offline=True)
    prepare = batches.prepare

    def asked_meanwhile(*args: Any) -> Any:
        work = prepare(*args)
        wish(Job.objects.get(pk=job.pk), None)
        return work

    with monkeypatch.context() as patch:
        patch.setattr(batches, "prepare", asked_meanwhile)
        job = jobs.run_now(job)
    assert (job.status, job.cancellable) == (Job.Status.PAUSED, False)
    assert job.sentence == "The merge was stopped before its first batch was complete."
    assert DiskLock.objects.filter(job=job).exists()
    assert orphans.recover_orphans() == []
    leaf = os.path.basename(made.path("d"))
    assert f"a machine may use {leaf} until the job is resumed" in job_words.what_now(job)
    stopping.resume(job, None)
    done(job)
    assert content(made.path("vm")) == made.disks["d"].sha256


def test_a_pile_whose_base_was_only_touched_is_resumed_by_who_says_so_at_a_terminal(
    scene: tuple[StorageRoot, Pile],
) -> None:
    root, made = scene
    job = piles.request(root, "srv", user=None, idempotency_key=key(), declared_offline=True)
    faults.install(faults.parse("merge.data.write:1:enospc"))
    try:
        job = jobs.run_now(job)
    finally:
        faults.install(None)
    half = half_merged.half_done(job)
    assert half is not None
    os.utime(half[1], ns=(1, 1))
    stopping.resume(job, None)
    assert jobs.run_now(job).status == Job.Status.PAUSED
    call_command("job", "resume", str(job.pk), "--only-touched", stdout=StringIO())
    done(job)
    assert content(made.path("vm")) == made.disks["d"].sha256


def test_a_pile_that_is_paused_while_names_change_lets_no_machine_use_its_leaf(
    scene: tuple[StorageRoot, Pile],
) -> None:
    root, _ = scene
    job = piles.request(root, "srv", user=None, idempotency_key=key(), declared_offline=True)
    faults.install(faults.parse("merge.end.rename:1:eio"))
    try:
        job = jobs.run_now(job)
    finally:
        faults.install(None)
    assert job.status == Job.Status.PAUSED
    told = job_words.what_now(job)
    assert "machine may use" not in told
    assert "may not be readable" in told
    stopping.resume(job, None)
    done(job)


def test_cancelled_between_two_piles_the_first_is_in_the_catalog(
    scene: tuple[StorageRoot, Pile], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, made = scene
    job = piles.request(root, "srv", user=None, idempotency_key=key(), declared_offline=True)
    original = applying.apply

    def stopped_after_one(*args: Any, **options: Any) -> Any:
        told = options["done"]

        def done_and_stop(one: dict[str, Any]) -> None:
            told(one)
            stopping.cancel(Job.objects.get(pk=job.pk), None)

        return original(*args, **options | {"done": done_and_stop})

    monkeypatch.setattr(applying, "apply", stopped_after_one)
    monkeypatch.setattr("django.conf.settings.JOB_PROGRESS_SECONDS", 0.0)
    job = jobs.run_now(job)
    assert job.status == Job.Status.CANCELLED
    assert "Piles that were merged before that stay merged" in job.sentence
    assert content(made.path("vm")) == made.disks["d"].sha256
    assert row(made.path("d")).health_code == "N_PUT_AWAY"
    assert content(made.path("p")) == made.disks["p"].sha256
    monkeypatch.setattr(applying, "apply", original)
    again = done(jobs.retry(job, None))
    assert [one.get("was_done", False) for one in again.result["merges"]] == [True, False]
    assert content(made.path("other")) == made.disks["p"].sha256


def test_an_error_in_the_second_pile_leaves_the_first_merged_and_says_why(
    scene: tuple[StorageRoot, Pile],
) -> None:
    root, made = scene
    job = piles.request(root, "srv", user=None, idempotency_key=key(), declared_offline=True)
    os.utime(made.path("o"))
    job = jobs.run_now(job)
    assert (job.status, job.error["code"]) == (Job.Status.FAILED, "E_CHANGED")
    assert made.path("o") in job.error["message"]
    assert content(made.path("vm")) == made.disks["d"].sha256
    assert row(made.path("vm")).disk_type == "dynamic"
    assert jobs.needs_a_new_plan(job)


def test_what_cannot_be_read_is_asked_about_and_said_in_the_audit(
    scene: tuple[StorageRoot, Pile],
) -> None:
    """bad-input D66: one pile or several, no merge before each unread file is declared."""
    root, made = scene
    damaged = made.damaged()
    scan(root)
    for leaf in ("", made.path("d")):
        with pytest.raises(concerned.UnreadDisks) as refused:
            piles.request(
                root, "srv", leaf=leaf, user=None, idempotency_key=key(), declared_offline=True
            )
        assert refused.value.paths == [str(damaged)]
    job = piles.request(
        root, "srv", user=None, idempotency_key=key(), declared_offline=True,
        unrelated=[str(damaged)],
    )  # fmt: skip
    entry = AuditEntry.objects.get(job=job, action="job-requested")
    assert entry.after["declared_unrelated"] == [str(damaged)]
    done(job)
    assert content(made.path("vm")) == made.disks["d"].sha256
    assert content(made.path("other")) == made.disks["p"].sha256


def test_what_became_unreadable_meanwhile_stops_the_job_and_the_form_asks_about_it(
    scene: tuple[StorageRoot, Pile],
) -> None:
    root, made = scene
    job = piles.request(root, "srv", user=None, idempotency_key=key(), declared_offline=True)
    late = made.damaged("late")
    job = jobs.run_now(job)
    assert (job.status, job.error["code"]) == (Job.Status.FAILED, "E_UNREAD_DISKS")
    assert jobs.needs_a_new_plan(job)
    assert list(piles.plan(root, "srv").plan.unread) == [str(late)]
    assert content(made.path("d")) == made.disks["d"].sha256


def test_what_changed_since_it_was_shown_is_refused(scene: tuple[StorageRoot, Pile]) -> None:
    root, made = scene
    seen = piles.plan(root, "srv").fingerprint
    os.utime(made.path("b"))
    with pytest.raises(ImageError) as refused:
        piles.request(
            root, "srv", user=None, idempotency_key=key(), declared_offline=True, seen=seen
        )
    assert refused.value.code == "E_CHANGED"


def test_it_asks_for_the_declaration_and_obeys_a_read_only_root(
    scene: tuple[StorageRoot, Pile],
) -> None:
    root, _made = scene
    StorageRoot.objects.update(opened_by="hyper-v")
    with pytest.raises(Refusal) as refused:
        piles.request(root, "srv", user=None, idempotency_key=key())
    assert refused.value.code == "E_NOT_OFFLINE"
    StorageRoot.objects.update(read_only=True)
    root.refresh_from_db()
    with pytest.raises(ImageError) as read_only:
        piles.request(root, "srv", user=None, idempotency_key=key(), declared_offline=True)
    assert read_only.value.code == "E_READ_ONLY"


def test_twins_are_refused_and_the_other_pile_is_not(scene: tuple[StorageRoot, Pile]) -> None:
    root, made = scene
    shutil.copy2(made.path("d"), made.folder / ("copy" + made.kind.checkpoint_ending))
    scan(root)
    with pytest.raises(ImageError) as refused:
        piles.request(
            root, "srv", leaf=made.path("c"), user=None, idempotency_key=key(),
            declared_offline=True,
        )  # fmt: skip
    assert refused.value.code == "E_TWINS"
    done(piles.request(root, "srv", user=None, idempotency_key=key(), declared_offline=True))
    assert content(made.path("other")) == made.disks["p"].sha256
    assert content(made.path("d")) == made.disks["d"].sha256
    assert os.path.exists(made.path("a"))
