"""Piles of checkpoints: the order from the files alone, what is refused, the merge of all."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from disks.engine.codes import advice
from disks.engine.errors import ImageError
from disks.operations import concerned, space
from disks.operations.paths import Roots
from disks.operations.pile import PilePlan, Step, applying, planning
from disks.operations.progress import Cancelled, Progress
from disks.operations.recover import recover
from disks.operations.space import Space
from disks.operations.storage_roots import Root
from disks.operations.trash import restoring
from disks.tests.operations import worlds
from disks.tests.operations.crashing import killed
from disks.tests.operations.dying import DONE
from disks.tests.operations.piles import FORMATS, Pile, make, ring, roots_of
from disks.tests.operations.worlds import errors_in

every_format = pytest.mark.parametrize("format", FORMATS)


def planned(folder: Path, roots: Roots | None = None, **options: Any) -> PilePlan:
    return planning.plan(str(folder), roots or roots_of(folder), **options)


def merged(folder: Path, roots: Roots | None = None, **options: Any) -> list[dict[str, Any]]:
    roots = roots or roots_of(folder)
    plan = planned(folder, roots, **options)
    assert plan.refused is None, plan.refused
    return applying.apply(plan.steps(), roots, offline=True, job="7", token=1)


def content_of(path: str | Path, roots: Roots) -> str:
    return worlds.content_of(path, roots)


def orders(plan: PilePlan) -> list[list[str]]:
    return [[disk.path for disk in one.disks] for one in plan.piles]


# ---------------------------------------------------------------------- the order


@every_format
@pytest.mark.parametrize("seed", range(4))
def test_the_order_comes_from_the_files_whatever_their_names_and_times_say(
    tmp_path: Path, format: str, seed: int
) -> None:
    made = make(tmp_path, format, names="abcdefgh")
    made.shuffle(seed)
    (found,) = planned(tmp_path).piles
    assert [disk.path for disk in found.disks] == made.paths(*"hgfedcba", "vm")
    assert found.refused is None
    assert found.as_dict()["steps"][0] == {"merge": made.path("h"), "into": made.path("g")}
    assert all(disk.elsewhere for disk in found.disks[:-1])
    assert any("Windows would not find it" in warning for warning in found.warnings)


@every_format
@pytest.mark.parametrize("keep_name", ["parent", "child"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_the_merged_disk_reads_as_the_leaf_did(
    tmp_path: Path, format: str, keep_name: str, shuffled: bool
) -> None:
    made = make(tmp_path, format)
    if shuffled:
        made.shuffle(5)
    leaf = made.disks["e"]
    expected = hashlib.sha256(leaf.model).hexdigest()
    assert content_of(leaf.path, roots_of(tmp_path)) == expected
    output = made.path("e" if keep_name == "child" else "vm")
    (row,) = merged(tmp_path, keep_name=keep_name)
    assert row["output"] == output
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [Path(output).name]
    assert content_of(output, roots_of(tmp_path)) == expected
    assert errors_in(output) == []


@every_format
def test_one_pass_moves_less_than_pair_by_pair_and_the_figures_hold(
    tmp_path: Path, format: str
) -> None:
    made = make(tmp_path, format)
    before = sum(built.path.stat().st_blocks * 512 for built in made.disks.values())
    (found,) = planned(tmp_path).piles
    assert 0 < found.merge.amount.held_bytes < found.pairwise_bytes
    assert found.merge.space_back_bytes == before
    (row,) = merged(tmp_path)
    assert row["file_size_after_bytes"] <= found.merge.predicted_size_bytes
    assert row["space_back_when_trash_emptied_bytes"] == before


@every_format
def test_everything_can_be_brought_back_from_the_trash(tmp_path: Path, format: str) -> None:
    make(tmp_path, format)
    before = worlds.snapshot(tmp_path)
    (row,) = merged(tmp_path)
    restoring.restore(row["trash"], roots_of(tmp_path), offline=True)
    assert worlds.snapshot(tmp_path) == before


@every_format
def test_a_folder_below_belongs_to_it_and_a_base_elsewhere_is_merged_into(
    tmp_path: Path, format: str
) -> None:
    bases, snapshots = tmp_path / "bases", tmp_path / "snapshots"
    made = Pile(bases, format)
    snapshots.mkdir()
    (snapshots / "older").mkdir()
    made.base()
    made.child("a", "vm", folder=snapshots / "older")
    made.child("b", "a", folder=snapshots)
    roots = roots_of(snapshots, Root(str(bases)))
    plan = planned(snapshots, roots)
    assert orders(plan) == [made.paths("b", "a", "vm")]
    assert any("outside of the folder" in warning for warning in plan.piles[0].warnings)
    assert [row["outside"] for row in plan.as_dict()["piles"][0]["order"]] == [False, False, True]
    expected = made.disks["b"].sha256
    merged(snapshots, roots)
    assert content_of(made.path("vm"), roots) == expected


# ---------------------------------------------------------------------- what stands apart


def tree(folder: Path, format: str) -> Pile:
    """vm ← a ← b, and on b two ways up: c ← d ← e, and x."""
    made = Pile(folder, format)
    made.base()
    made.tower("a", "b", "c", "d", "e")
    made.child("x", "b")
    for day, name in enumerate(["vm", "a", "b", "c", "d", "x", "e"]):
        os.utime(made.path(name), (1_700_000_000 + day, 1_700_000_000 + day))
    return made


@every_format
def test_a_branch_is_told_with_its_leaves_and_the_one_probably_in_use(
    tmp_path: Path, format: str
) -> None:
    made = tree(tmp_path, format)
    plan = planned(tmp_path)
    (branch,) = plan.as_dict()["branches"]
    assert branch["parent"] == made.path("b")
    assert branch["children"] == sorted(made.paths("c", "x"))
    assert [leaf["path"] for leaf in branch["leaves"]] == made.paths("e", "x")
    assert branch["newest"] == made.path("e")
    assert "ruin the others" in branch["sentence"]
    assert "to a new disk" in branch["way_out"]
    assert orders(plan) == [made.paths("e", "d", "c"), made.paths("b", "a", "vm")]


@every_format
@pytest.mark.parametrize("keep_name", ["parent", "child"])
def test_piles_above_and_below_a_branch_are_merged_and_every_leaf_reads_as_before(
    tmp_path: Path, format: str, keep_name: str
) -> None:
    made = tree(tmp_path, format)
    upper, lower = ("e", "b") if keep_name == "child" else ("c", "vm")
    rows = merged(tmp_path, keep_name=keep_name)
    assert [row["output"] for row in rows] == made.paths(upper, lower)
    roots = Roots([Root(str(tmp_path), windows_views=("C:\\VMs",))])  # by the headers alone
    assert content_of(made.path(upper), roots) == made.disks["e"].sha256
    assert content_of(made.path("x"), roots) == made.disks["x"].sha256
    left = {path.name for path in tmp_path.iterdir() if path.suffix != ".vdundo"}
    kept = {Path(path).name for path in made.paths(upper, lower, "x")}
    assert left == kept | {".vdtrash"}
    assert planned(tmp_path, roots).piles == []


@every_format
def test_one_pile_can_be_chosen_by_its_leaf(tmp_path: Path, format: str) -> None:
    made = tree(tmp_path, format)
    plan = planned(tmp_path, leaves=[made.path("b")])
    assert orders(plan) == [made.paths("b", "a", "vm")]
    with pytest.raises(ImageError) as refused:
        planned(tmp_path, leaves=[made.path("a")])
    assert refused.value.code == "E_NO_PILE"
    assert made.path("e") in refused.value.message


@every_format
def test_an_orphan_is_told_with_its_reason_and_its_pile_is_refused(
    tmp_path: Path, format: str
) -> None:
    made = make(tmp_path, format, names="abc")
    made.disks["vm"].path.unlink()
    plan = planned(tmp_path)
    (orphan,) = plan.as_dict()["orphans"]
    assert (orphan["path"], orphan["code"]) == (made.path("a"), "E_PARENT_MISSING")
    assert "is not there" in orphan["reason"]
    assert orders(plan) == [made.paths("c", "b", "a")]
    assert plan.refused is not None
    assert plan.refused.code == "E_PARENT_MISSING"


@every_format
def test_disks_that_lead_to_each_other_are_told_and_refused(tmp_path: Path, format: str) -> None:
    made = ring(tmp_path, format)
    made.child("c", "b")
    plan = planned(tmp_path)
    assert [sorted(one) for one in plan.as_dict()["rings"]] == [sorted(made.paths("a", "b"))]
    assert plan.piles == []


@every_format
def test_a_copy_beside_the_leaf_is_refused_with_the_way_out(tmp_path: Path, format: str) -> None:
    made = make(tmp_path, format)
    copy = Path(made.path("e")).with_name("e - Copy" + made.kind.checkpoint_ending)
    shutil.copy2(made.path("e"), copy)
    plan = planned(tmp_path)
    assert plan.refused is not None
    assert plan.refused.code == "E_TWINS"
    assert str(copy) in plan.refused.message
    assert "Move the copy out" in advice(plan.refused.code)
    assert plan.as_dict()["branches"][0]["twins"] == sorted([made.path("e"), str(copy)])
    with pytest.raises(ImageError) as refused:
        plan.steps()
    assert refused.value is plan.refused


@every_format
def test_a_copy_in_the_middle_is_refused_on_both_sides(tmp_path: Path, format: str) -> None:
    made = make(tmp_path, format)
    shutil.copy2(made.path("c"), tmp_path / ("another" + made.kind.checkpoint_ending))
    plan = planned(tmp_path)
    assert orders(plan) == [made.paths("e", "d", "c"), made.paths("b", "a", "vm")]
    assert [one.refused.code for one in plan.piles if one.refused] == ["E_TWINS", "E_TWINS"]


@every_format
def test_a_copy_of_the_base_is_a_note_where_headers_decide_and_refused_where_not(
    tmp_path: Path, format: str
) -> None:
    made = make(tmp_path, format)
    copy = tmp_path / ("backup" + made.kind.base_ending)
    shutil.copy2(made.path("vm"), copy)
    plan = planned(tmp_path)
    assert plan.refused is None
    assert any("has the same identity" in warning for warning in plan.piles[0].warnings)
    assert [row["path"] for row in plan.as_dict()["strangers"]] == [str(copy)]
    moved = tmp_path / ("moved" + made.kind.base_ending)
    made.disks["vm"].path.rename(moved)
    plan = planned(tmp_path)
    assert plan.refused is not None
    assert plan.refused.code == "E_PARENT_AMBIGUOUS"
    assert str(moved) in plan.refused.message


@every_format
def test_strangers_are_listed_each_with_the_reason(tmp_path: Path, format: str) -> None:
    made = make(tmp_path, format, names="ab")
    made.base("alone")
    (tmp_path / ("notes" + made.kind.base_ending)).write_text("not a disk" * 100)
    (tmp_path / "notes.txt").write_text("not a disk" * 100)
    rows = planned(tmp_path).as_dict()["strangers"]
    assert [(Path(row["path"]).stem, row["code"]) for row in rows] == [
        ("alone", ""),
        ("notes", "E_NO_FOOTER"),
    ]
    assert "on which nothing builds" in rows[0]["reason"]


@every_format
def test_a_damaged_file_is_told_because_nobody_knows_what_it_builds_on(
    tmp_path: Path, format: str
) -> None:
    damaged = make(tmp_path, format, names="ab").damaged()
    (row,) = planned(tmp_path).as_dict()["unread"]
    assert row["file"] == str(damaged)


@every_format
def test_a_damaged_file_may_be_a_sibling_and_somebody_has_to_declare_that_it_is_none(
    tmp_path: Path, format: str
) -> None:
    """bad-input D66: it would be ruined, and lost for good once the trash is emptied."""
    made = make(tmp_path, format, names="ab")
    damaged = made.damaged()
    roots = roots_of(tmp_path)
    plan = planned(tmp_path, roots)
    assert (plan.refused, list(plan.unread)) == (None, [str(damaged)])
    before = worlds.snapshot(tmp_path)
    with pytest.raises(concerned.UnreadDisks) as caught:
        applying.apply(plan.steps(), roots, offline=True, unrelated=[made.path("a")])
    assert caught.value.paths == [str(damaged)]
    assert worlds.snapshot(tmp_path) == before
    applying.apply(plan.steps(), roots, offline=True, unrelated=[str(damaged)])
    assert content_of(made.path("vm"), roots) == made.disks["b"].sha256


@every_format
def test_a_damaged_file_whose_header_names_another_parent_is_no_question(
    tmp_path: Path, format: str
) -> None:
    made = make(tmp_path, format, names="ab")
    made.base("other")
    made.child("torn", "other")
    made.tear("torn")
    roots = roots_of(tmp_path)
    plan = planning.plan(str(tmp_path), roots, leaves=[made.path("b")])
    assert not plan.unread
    applying.apply(plan.steps(), roots, offline=True)
    assert content_of(made.path("vm"), roots) == made.disks["b"].sha256


@every_format
def test_a_disk_that_others_need_from_outside_keeps_them_readable(
    tmp_path: Path, format: str
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    made = Pile(here, format)
    there.mkdir()
    made.base()
    made.tower("a", "b")
    made.child("guest", "b", folder=there)
    root = Root(str(tmp_path), windows_views=("C:\\VMs",))
    roots = Roots([root], search=[str(tmp_path)], identity_leads=True)
    plan = planned(here, roots)
    assert plan.as_dict()["needed_outside"] == [
        {"path": made.path("b"), "children": [made.path("guest")]}
    ]
    assert orders(plan) == [made.paths("b", "a", "vm")]
    merged(here, roots)
    assert content_of(made.path("guest"), Roots([root])) == made.disks["guest"].sha256


@every_format
def test_a_checkpoint_that_keeps_its_name_is_warned_about(tmp_path: Path, format: str) -> None:
    make(tmp_path, format)
    (found,) = planned(tmp_path, keep_name="child").piles
    assert any("that of a checkpoint" in warning for warning in found.warnings)
    (found,) = planned(tmp_path).piles
    assert found.warnings == []


@every_format
def test_room_is_asked_for_all_results_together(
    tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(tmp_path, format)
    plan = planned(tmp_path)
    sizes = [one.merge.predicted_size_bytes for one in plan.piles]
    free = max(sizes) * 102 // 100  # each fits alone, and leaves the reserve
    monkeypatch.setattr(space, "space_of", lambda folder: Space(free, free))
    plan = planned(tmp_path)
    assert [one.refused for one in plan.piles] == [None, None]
    assert plan.refused is not None
    assert plan.refused.code == "E_NOSPC"
    assert plan.as_dict()["free_space_needed_bytes"] == sum(sizes)


# ---------------------------------------------------------------------- carrying out


@every_format
def test_a_disk_that_was_written_since_the_plan_stops_the_work(tmp_path: Path, format: str) -> None:
    made = tree(tmp_path, format)
    roots = roots_of(tmp_path)
    steps = planned(tmp_path, roots).steps()
    os.utime(made.path("a"))
    with pytest.raises(ImageError) as refused:
        applying.apply(steps, roots, offline=True, job="7", token=1)
    assert refused.value.code == "E_CHANGED"
    assert made.path("a") in refused.value.message
    # the pile above was merged, and is complete
    assert content_of(made.path("c"), roots) == made.disks["e"].sha256
    assert content_of(made.path("x"), roots) == made.disks["x"].sha256


@every_format
def test_begun_again_it_passes_over_what_is_merged(tmp_path: Path, format: str) -> None:
    made = tree(tmp_path, format)
    roots = roots_of(tmp_path)
    steps = [Step.from_dict(step.as_dict()) for step in planned(tmp_path, roots).steps()]
    first: list[dict[str, Any]] = []

    class StopAfterOne(Progress):
        def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
            if first:
                raise Cancelled

    with pytest.raises(Cancelled):
        applying.apply(
            steps, roots, offline=True, job="7", progress=StopAfterOne(), done=first.append
        )
    assert [row["output"] for row in first] == [made.path("c")]
    rows = applying.apply(steps, roots, offline=True, job="8")
    assert [row.get("was_done", False) for row in rows] == [True, False]
    again = applying.apply(steps, roots, offline=True, job="9")
    assert all(row["was_done"] for row in again)
    assert content_of(made.path("c"), roots) == made.disks["e"].sha256
    assert content_of(made.path("x"), roots) == made.disks["x"].sha256


@every_format
def test_progress_counts_all_piles_as_one(tmp_path: Path, format: str) -> None:
    tree(tmp_path, format)
    roots = roots_of(tmp_path)
    seen: list[tuple[int, int]] = []
    commits: list[str] = []

    class Told(Progress):
        def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
            seen.append((done_bytes, total_bytes))

        def commit_starts(self) -> None:
            commits.append("starts")

        def commit_ends(self) -> None:
            commits.append("ends")

    steps = planned(tmp_path, roots).steps()
    applying.apply(steps, roots, offline=True, progress=Told())
    whole = sum(2 * step.held_bytes for step in steps)
    assert {total for _, total in seen} == {whole}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == whole
    assert commits == ["starts", "ends", "starts", "ends"]


@every_format
def test_what_was_merged_before_is_told_as_no_progress_of_this_run(
    tmp_path: Path, format: str
) -> None:
    tree(tmp_path, format)
    roots = roots_of(tmp_path)
    begun: list[int] = []

    class StopInTheSecond(Progress):
        def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
            if done_bytes > 2 * steps[0].held_bytes:
                raise Cancelled

    class Told(Progress):
        def begins_at(self, done_bytes: int) -> None:
            begun.append(done_bytes)

    steps = planned(tmp_path, roots).steps()
    assert len(steps) == 2
    with pytest.raises(Cancelled):
        applying.apply(steps, roots, offline=True, job="7", progress=StopInTheSecond())
    applying.apply(steps, roots, offline=True, job="7", token=1, progress=Told())
    assert 2 * steps[0].held_bytes in begun
    assert min(begun) >= 2 * steps[0].held_bytes


@pytest.mark.slow
@every_format
@pytest.mark.parametrize("keep_name", ["parent", "child"])
def test_killed_anywhere_recovered_and_begun_again_it_comes_to_the_same_end(
    place: Path, format: str, keep_name: str
) -> None:
    """SIGKILL at every eleventh change of the storage, through the merges of both piles."""
    model = tree(place / "model", format)
    upper, lower = ("e", "b") if keep_name == "child" else ("c", "vm")
    deaths = 0
    for number in range(1, 2000, 11):
        folder = place / "run"
        shutil.rmtree(folder, ignore_errors=True)
        worlds.copy_tree(place / "model", folder)
        roots = roots_of(folder)
        steps = planned(folder, roots, keep_name=keep_name).steps()

        def work(roots: Roots = roots, steps: list[Step] = steps) -> object:
            return applying.apply(steps, roots, offline=True, job="7", token=1)

        code = killed(number, work)
        if code == DONE:
            break
        assert code == -signal.SIGKILL
        deaths += 1
        recover(str(folder), roots, assume_dead=True)
        applying.apply(steps, roots, offline=True, job="7", token=2)
        assert content_of(folder / Path(model.path(upper)).name, roots) == model.disks["e"].sha256
        assert content_of(folder / Path(model.path("x")).name, roots) == model.disks["x"].sha256
        assert worlds.strays(folder) == []
        left = {path.name for path in folder.iterdir() if path.is_file()}
        undo = {name for name in left if name.endswith(".vdundo")}
        assert left - undo == {Path(model.path(name)).name for name in (upper, lower, "x")}
    else:
        pytest.fail("the work never came to its end")
    assert deaths > 10


@every_format
def test_hostile_names_are_only_names(tmp_path: Path, format: str) -> None:
    made = Pile(tmp_path, format)
    made.base()
    names = ["it's", "a\nb", "$(calc)`x`", '"q"', "-rf", "‘’", "\u202egnp", "ÿ\udcff"]
    below = "vm"
    for name in names:
        made.child(name, below)
        below = name
    made.shuffle(1)
    expected = made.disks[below].sha256
    (row,) = merged(tmp_path)
    assert content_of(row["output"], roots_of(tmp_path)) == expected


def test_piles_of_two_formats_in_one_folder_are_merged_each_into_its_own(tmp_path: Path) -> None:
    made = [make(tmp_path, format, names="ab") for format in FORMATS]
    plan = planned(tmp_path)
    assert sorted(orders(plan)) == sorted(one.paths("b", "a", "vm") for one in made)
    merged(tmp_path)
    left = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert left == {Path(one.path("vm")).name for one in made}
    for one in made:
        assert content_of(one.path("vm"), roots_of(tmp_path)) == one.disks["b"].sha256
