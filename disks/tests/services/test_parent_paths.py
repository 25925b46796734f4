"""Updating parent paths from the catalog: one child, many children, and back."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from disks.engine import formats
from disks.engine.errors import ImageError
from disks.models import AuditEntry, Disk, Job, LinkUndo, ParentLink, StorageRoot
from disks.services import (
    jobs,
    overview,
    parent_candidates,
    parent_paths,
    repair_plans,
    root_declarations,
)
from disks.services.errors import Refusal
from disks.tests.builders import VHDX, Built, Family
from disks.tests.engine.world import open_file
from disks.tests.factories import make_user
from disks.tests.services.catalog import base, child, declare, disk, key, named, scan, touch

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("either_format")]


@pytest.fixture
def broken(tmp_path: Path) -> tuple[StorageRoot, Built]:
    """base in archive/, middle beside where it was, leaf on top of middle."""
    root = declare(tmp_path / "vms", "C:\\VMs")
    bottom = base(tmp_path / "vms" / "archive")
    middle = child(tmp_path / "vms", "middle.vhd", bottom)
    child(tmp_path / "vms", "leaf.vhd", middle)
    scan(root)
    return root, bottom


def administrator() -> Any:
    return make_user(is_superuser=True)


def test_update_mends_the_chain_above_and_can_be_undone(
    broken: tuple[StorageRoot, Built],
) -> None:
    user = administrator()
    middle = disk("middle.vhd")
    found = parent_candidates.candidates_for(middle)
    assert (found[0].path, found[0].verdict) == (disk("base.vhd").path, "match")
    assert "in the same root" in found[0].reasons
    planned = parent_paths.plan(middle, found[0].path)
    job = parent_paths.request_update(
        middle, found[0].path, user=user, idempotency_key=key(), fingerprint=planned.fingerprint
    )
    assert (job.status, job.error) == (Job.Status.SUCCEEDED, None)
    assert job.sentence.endswith("1 disk above this one is readable again, too.")
    assert disk("middle.vhd").health == Disk.Health.HEALTHY
    assert disk("leaf.vhd").health == Disk.Health.HEALTHY
    assert disk("leaf.vhd").chain_position == 3
    undo = LinkUndo.objects.get(disk=middle)
    assert undo.state == LinkUndo.State.AVAILABLE
    line = AuditEntry.objects.get(action="parent-updated")
    assert (line.username, line.disk_id) == (user.username, middle.pk)
    assert line.sentence == f"Updated the parent path of {named('middle.vhd')}."
    assert line.before["locators"] != line.after["locators"]

    with pytest.raises(ImageError, match="was changed since the plan was made"):
        parent_paths.request_undo(
            disk("middle.vhd"), user=user, idempotency_key=key(), fingerprint="another"
        )
    job = parent_paths.request_undo(disk("middle.vhd"), user=user, idempotency_key=key())
    assert job.status == Job.Status.SUCCEEDED
    assert disk("middle.vhd").health_code == "E_PARENT_MISSING"
    assert disk("leaf.vhd").health == Disk.Health.BROKEN
    undo.refresh_from_db()
    assert undo.state == LinkUndo.State.UNDONE


def test_our_own_update_does_not_make_children_suspect(
    broken: tuple[StorageRoot, Built],
) -> None:
    root, _ = broken
    parent_paths.request_update(
        disk("middle.vhd"), disk("base.vhd").path, user=administrator(), idempotency_key=key()
    )
    scan(root)
    assert not disk("leaf.vhd").parent_link.parent_written_after


def test_typed_windows_paths_are_mapped_and_others_say_nothing(
    broken: tuple[StorageRoot, Built], tmp_path: Path
) -> None:
    """bad-input G103: the answer does not say whether outside files exist."""
    assert (
        parent_candidates.located(f"c:\\vms\\ARCHIVE\\{named('base.vhd')}") == disk("base.vhd").path
    )
    assert parent_candidates.located(disk("base.vhd").path) == disk("base.vhd").path
    (tmp_path / "there.vhd").write_bytes(b"x")
    answers = set()
    for text in ("/etc/passwd", "/no/such", str(tmp_path / "there.vhd"), "D:\\x.vhd"):
        with pytest.raises(Refusal) as refused:
            parent_candidates.located(text)
        answers.add((refused.value.code, refused.value.message))
    assert len(answers) == 1


def test_a_changed_child_is_refused(broken: tuple[StorageRoot, Built]) -> None:
    """bad-input E77."""
    middle = disk("middle.vhd")
    planned = parent_paths.plan(middle, disk("base.vhd").path)
    touch(Path(middle.path))
    with pytest.raises(ImageError) as refused:
        parent_paths.request_update(
            middle,
            disk("base.vhd").path,
            user=administrator(),
            idempotency_key=key(),
            fingerprint=planned.fingerprint,
        )
    assert refused.value.code == "E_CHANGED"


def test_a_double_click_is_one_job(broken: tuple[StorageRoot, Built]) -> None:
    """bad-input E78."""
    user, same = administrator(), key()
    middle, target = disk("middle.vhd"), disk("base.vhd").path
    first = parent_paths.request_update(middle, target, user=user, idempotency_key=same)
    second = parent_paths.request_update(middle, target, user=user, idempotency_key=same)
    assert first.pk == second.pk
    assert LinkUndo.objects.count() == 1


def test_siblings_are_not_offered_as_a_parent(broken: tuple[StorageRoot, Built]) -> None:
    """They name the same parent, so none of them is it; in a VHDX they are of the same chain."""
    root, bottom = broken
    child(Path(root.path), "sibling.vhd", bottom)
    scan(root)
    middle = disk("middle.vhd")
    offered = [one.path for one in parent_candidates.candidates_for(middle)]
    assert disk("base.vhd").path in offered
    assert disk("sibling.vhd").path not in offered


def test_descendants_and_cycles_are_refused(broken: tuple[StorageRoot, Built]) -> None:
    """bad-input D60."""
    middle = disk("middle.vhd")
    offered = [one.path for one in parent_candidates.candidates_for(middle)]
    assert disk("leaf.vhd").path not in offered
    with pytest.raises(ImageError) as refused:
        parent_paths.plan(middle, disk("leaf.vhd").path, ignore_identity=True)
    assert refused.value.code == "E_CYCLE"


def test_another_identity_needs_an_administrator(
    broken: tuple[StorageRoot, Built], tmp_path: Path
) -> None:
    """bad-input D55, D58."""
    root, _ = broken
    base(tmp_path / "vms", "other.vhd")
    scan(root)
    middle, other = disk("middle.vhd"), disk("other.vhd").path
    with pytest.raises(ImageError) as refused:
        parent_paths.plan(middle, other)
    assert refused.value.code == "E_PARENT_IDENTITY"
    with pytest.raises(Refusal) as denied:
        parent_paths.request_update(
            middle, other, user=make_user(), idempotency_key=key(), ignore_identity=True
        )
    assert denied.value.code == "E_NOT_ALLOWED"
    job = parent_paths.request_update(
        middle, other, user=administrator(), idempotency_key=key(), ignore_identity=True
    )
    assert job.status == Job.Status.SUCCEEDED
    assert disk("middle.vhd").parent_link.parent_id == disk("other.vhd").pk


def test_writing_needs_a_declaration_where_somebody_opens_the_root(
    broken: tuple[StorageRoot, Built],
) -> None:
    root, _ = broken
    root_declarations.change(root, says=root_declarations.Declaration(opened_by="hyper-v"))
    with pytest.raises(Refusal) as refused:
        parent_paths.request_update(
            disk("middle.vhd"), disk("base.vhd").path, user=administrator(), idempotency_key=key()
        )
    assert refused.value.code == "E_NOT_OFFLINE"
    root_declarations.change(root, says=root_declarations.Declaration(read_only=True))
    with pytest.raises(Refusal) as denied:
        parent_paths.request_update(
            disk("middle.vhd"),
            disk("base.vhd").path,
            user=administrator(),
            idempotency_key=key(),
            declared_offline=True,
        )
    assert denied.value.code == "E_READ_ONLY"


def test_a_repair_plan_mends_many_reports_each_and_is_undone(tmp_path: Path) -> None:
    folder = tmp_path / "vms"
    root = declare(folder)
    bottom = base(folder / "moved")
    stranger = base(tmp_path / "elsewhere", "lost.vhd")
    for number in range(12):
        child(folder, f"leaf-{number:02}.vhd", bottom)
    child(folder, "orphan.vhd", stranger)
    scan(root)
    groups = overview.broken_groups()
    assert [(group.count, group.found) for group in groups] == [
        (12, disk("base.vhd")),
        (1, None),
    ]
    assert groups[0].sentence == f"12 disks name one missing base: C:\\VMs\\{named('base.vhd')}"
    plan = repair_plans.repair_plan()
    assert [(len(group.matched), len(group.unmatched)) for group in plan] == [(12, 0), (0, 1)]
    assert "No disk with the identity" in plan[1].unmatched[0].why
    rows = repair_plans.chosen_rows(row.value for row in plan[0].matched)
    assert len(rows) == 12
    os.unlink(folder / named("leaf-03.vhd"))
    user = administrator()
    job = jobs.run_now(repair_plans.request_repair(rows, user=user, idempotency_key=key()))
    assert job.status == Job.Status.SUCCEEDED
    assert job.sentence == "11 of 12 parent paths updated; 1 was not, see the list."
    failed = [row for row in job.result["rows"] if not row["ok"]]
    assert [row["code"] for row in failed] == ["E_NOT_FOUND"]
    found = ParentLink.objects.filter(status="found", child__missing_since=None)
    assert found.count() == 11
    assert Disk.objects.filter(name__startswith="leaf", health="healthy").count() == 11

    back = jobs.run_now(repair_plans.request_undo_plan(job, user=user, idempotency_key=key()))
    assert back.status == Job.Status.SUCCEEDED
    assert not ParentLink.objects.filter(status="found").exists()
    assert repair_plans.undoable(job) == []


def _stored_link(path: Path) -> dict[str, Any]:
    """The parent link as it stands in the file, byte for byte."""
    with open_file(path) as file:
        return formats.open_image(file).recorded_link()


@pytest.mark.slow
def test_two_hundred_children_of_one_moved_base_are_mended_by_one_job_and_undone(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "vms"
    root = declare(folder)
    bottom = base(folder / "moved")
    before = {}
    for number in range(200):
        built = child(folder / f"machine-{number % 20:02}", f"leaf-{number:03}.vhd", bottom)
        before[built.path.name] = _stored_link(built.path)
    scan(root)
    (group,) = overview.broken_groups()
    assert (group.count, group.found) == (200, disk("base.vhd"))
    (plan,) = repair_plans.repair_plan()
    rows = repair_plans.chosen_rows(row.value for row in plan.matched)
    user = administrator()
    job = jobs.run_now(repair_plans.request_repair(rows, user=user, idempotency_key=key()))
    assert (job.sentence, job.error) == ("200 of 200 parent paths updated.", None)
    assert Disk.objects.filter(name__startswith="leaf", health="healthy").count() == 200
    assert overview.broken_groups() == []
    back = jobs.run_now(repair_plans.request_undo_plan(job, user=user, idempotency_key=key()))
    assert (back.sentence, back.error) == ("200 of 200 parent paths taken back.", None)
    assert Disk.objects.filter(name__startswith="leaf", health="broken").count() == 200
    assert repair_plans.undoable(job) == []
    found = folder.glob("machine-*/leaf-*")
    assert {path.name: _stored_link(path) for path in found} == before


def test_repair_plan_asks_a_constant_number_of_queries(
    tmp_path: Path, django_assert_num_queries: Any
) -> None:
    folder = tmp_path / "vms"
    root = declare(folder)
    bottom = base(folder / "moved")
    counts = []
    for number in range(2):
        for more in range(1 + 4 * number):
            child(folder, f"leaf-{number}-{more}.vhd", bottom)
        scan(root)
        with django_assert_num_queries(2):
            repair_plans.repair_plan()
        with django_assert_num_queries(3):
            overview.broken_groups()
        counts.append(Disk.objects.count())
    assert counts[1] > counts[0]


def test_a_parent_that_was_written_can_be_trusted(tmp_path: Path, either_format: Family) -> None:
    """A VHD shows it by its time; a VHDX keeps its identity only in the hands of rude tools."""
    folder = tmp_path / "vms"
    root = declare(folder)
    bottom = base(folder)
    child(folder, "leaf.vhd", bottom)
    scan(root)
    touch(bottom.path)
    if either_format is VHDX:
        scan(root)
        assert disk("leaf.vhd").health == Disk.Health.HEALTHY
        base(folder, unique_id=bottom.unique_id, allocate=[1])
    scan(root)
    assert disk("leaf.vhd").health == Disk.Health.SUSPECT
    assert overview.suspects().count() == 1
    parent_paths.trust_parent(disk("leaf.vhd"), user=administrator())
    assert disk("leaf.vhd").health == Disk.Health.HEALTHY
    scan(root)
    assert disk("leaf.vhd").health == Disk.Health.HEALTHY


@pytest.mark.parametrize(
    "value", ["9" * 30 + ":1", "1:" + "9" * 30, "\u00b2:1", "\u0663:\u0664", ":"]
)
def test_rows_with_impossible_numbers_are_none(value: str) -> None:
    """bad-input 101: ids that no database takes are no error of ours."""
    assert repair_plans.chosen_rows([value]) == []


def test_undoing_a_repair_leaves_a_later_update_alone(
    broken: tuple[StorageRoot, Built], tmp_path: Path
) -> None:
    """The undo was asked for, then somebody updated the disk again: that is not taken back."""
    user = administrator()
    rows = repair_plans.chosen_rows(
        row.value for group in repair_plans.repair_plan() for row in group.matched
    )
    repair = jobs.run_now(repair_plans.request_repair(rows, user=user, idempotency_key=key()))
    undoing = repair_plans.request_undo_plan(repair, user=user, idempotency_key=key())
    later = shutil.copy(disk("base.vhd").path, tmp_path / "vms" / named("newer.vhd"))
    parent_paths.request_update(disk("middle.vhd"), str(later), user=user, idempotency_key=key())
    done = jobs.run_now(undoing)
    assert done.sentence == "0 of 1 parent paths taken back; 1 was not, see the list."
    assert [row["code"] for row in done.result["rows"]] == ["E_CHANGED"]
    assert disk("middle.vhd").parent_link.named_path.endswith(named("newer.vhd"))
