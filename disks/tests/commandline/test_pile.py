"""`disk pile`: the contract's keys, exit codes and usage; what runs and what only tells."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from disks.operations.pile import applying
from disks.operations.progress import Progress
from disks.tests.commandline.running import Disk
from disks.tests.operations import worlds
from disks.tests.operations.piles import FORMATS, Pile, make

every_format = pytest.mark.parametrize("format", FORMATS)

PLAN_KEYS = {
    "folder", "disks", "differencing", "allocated_bytes", "keep_name", "in_place", "piles",
    "bytes_to_copy",
    "free_space_needed_bytes", "space_back_when_trash_emptied_bytes", "seconds", "branches",
    "orphans", "rings", "strangers", "needed_outside", "unread", "refused",
}  # fmt: skip
PILE_KEYS = {"order", "steps", "above", "pairwise_bytes", "merge", "output", "warnings", "refused"}
DISK_KEYS = {
    "path", "identity", "type", "virtual_size_bytes", "file_size_bytes", "allocated_bytes",
    "modified", "outside", "parent_found_by",
}  # fmt: skip
DONE_KEYS = {
    "folder", "merges", "sentence", "file_size_before_bytes", "file_size_after_bytes",
    "bytes_written", "space_back_when_trash_emptied_bytes", "seconds", "copy_seconds",
    "proof_seconds", "commands", "warnings", "relinked", "to_repair", "in_place",
}  # fmt: skip


@every_format
def test_the_plan_has_the_keys_of_the_contract_and_changes_nothing(
    disk: Disk, tmp_path: Path, format: str
) -> None:
    made = make(tmp_path, format)
    before = worlds.snapshot(tmp_path)
    for options in ([], ["--dry-run"], ["--dry-run", "--offline"]):
        told = disk.json("pile", tmp_path, *options)
        assert told.code == 0
        assert told.document.keys() == PLAN_KEYS
        assert told.document["refused"] is None
    (found,) = told.document["piles"]
    assert found.keys() == PILE_KEYS
    assert all(row.keys() == DISK_KEYS for row in found["order"])
    assert [row["path"] for row in found["order"]] == made.paths(*"edcba", "vm")
    assert found["steps"][-1] == {"merge": made.path("a"), "into": made.path("vm")}
    assert found["merge"]["free_space_needed_bytes"] > 0
    assert worlds.snapshot(tmp_path) == before


@every_format
def test_it_says_the_plan_in_words_and_how_to_go_on(
    disk: Disk, tmp_path: Path, format: str
) -> None:
    made = make(tmp_path, format)
    told = disk("pile", tmp_path)
    assert told.code == 0
    assert f"   1  {made.path('e')}  " in told.out
    assert f", into {Path(made.path('d')).name}\n" in told.out
    assert "in one pass" in told.out
    assert "Nothing was done. Merge with --offline" in told.out
    assert "5 disks: The disk is a Hyper-V checkpoint by its name" in told.out


@every_format
def test_it_merges_when_the_disks_are_declared_offline(
    disk: Disk, tmp_path: Path, format: str
) -> None:
    made = make(tmp_path, format)
    made.shuffle(3)
    expected = made.disks["e"].sha256
    done = disk.json("pile", tmp_path, "--offline")
    assert done.code == 0
    assert done.document.keys() == DONE_KEYS
    assert done.document["sentence"] == "Merged 1 pile: 6 disks became 1."
    assert [row["output"] for row in done.document["merges"]] == [made.path("vm")]
    assert worlds.content_of(made.path("vm")) == expected
    again = disk("pile", tmp_path, "--offline")
    assert (again.code, "no piles to merge" in again.out or "0 piles" in again.out) == (0, True)


@every_format
def test_the_leafs_name_can_be_kept(disk: Disk, tmp_path: Path, format: str) -> None:
    made = make(tmp_path, format)
    done = disk.json("pile", tmp_path, "--offline", "--keep-name", "child")
    assert [row["output"] for row in done.document["merges"]] == [made.path("e")]
    assert worlds.content_of(made.path("e")) == made.disks["e"].sha256


@every_format
def test_a_refused_plan_is_told_whole_and_nothing_is_merged(
    disk: Disk, tmp_path: Path, format: str
) -> None:
    """One pile is sound, but not all of what was asked for can be done."""
    made = make(tmp_path, format)
    made.base("other")
    made.child("o", "other")
    shutil.copy2(made.path("e"), tmp_path / ("copy" + made.kind.checkpoint_ending))
    before = worlds.snapshot(tmp_path)
    told = disk.json("pile", tmp_path, "--dry-run")
    assert (told.code, told.document["refused"]["code"]) == (1, "E_TWINS")
    assert told.document["refused"]["advice"].startswith("Move the copy out")
    assert len(told.document["piles"]) == 2
    text = disk("pile", tmp_path)
    assert (text.code, "refused           E_TWINS: " in text.out) == (1, True)
    real = disk.json("pile", tmp_path, "--offline")
    assert (real.code, real.document["error"]["code"]) == (1, "E_TWINS")
    assert worlds.snapshot(tmp_path) == before
    one = disk.json("pile", tmp_path, "--offline", "--leaf", made.path("o"))
    assert one.code == 0
    assert worlds.content_of(made.path("other")) == made.disks["o"].sha256


@every_format
def test_what_cannot_be_read_must_be_declared_unrelated(
    disk: Disk, tmp_path: Path, format: str
) -> None:
    """bad-input D66: refused, with what to add to the command."""
    made = make(tmp_path, format, names="ab")
    folder = tmp_path / "odd ones"
    folder.mkdir()
    damaged = made.damaged(folder=folder)
    assert f"--unrelated '{damaged}'" in disk("pile", tmp_path).out
    before = worlds.snapshot(tmp_path)
    refused = disk.json("pile", tmp_path, "--offline")
    assert (refused.code, refused.document["error"]["code"]) == (1, "E_UNREAD_DISKS")
    assert worlds.snapshot(tmp_path) == before
    assert disk("pile", tmp_path, "--offline", "--unrelated", folder).code == 0
    assert worlds.content_of(made.path("vm")) == made.disks["b"].sha256


@every_format
def test_a_deleted_disk_that_builds_on_what_is_merged_into_is_told_before(
    disk: Disk, tmp_path: Path, format: str
) -> None:
    """It could be restored until then; the plan says so, and so does the work before it begins."""
    made = make(tmp_path, format, names="abc")
    made.child("x", "a")
    made.child("y", "c")
    for name in "yx":  # the parent of y keeps its identity: y stays readable
        assert disk("delete", made.path(name), "--offline").code == 0
    warning = (
        "A disk in the trash builds on what is merged into, and cannot be read any more "
        f"afterwards, restored or not: {made.path('x')}. Restore what is still needed first."
    )
    (found,) = disk.json("pile", tmp_path).document["piles"]
    assert warning in found["warnings"]
    assert f"warning           {warning}" in disk("pile", tmp_path).out
    assert f"warning: {warning}" in disk("pile", tmp_path, "--offline").err


@every_format
def test_branch_orphan_circle_and_stranger_are_told(
    disk: Disk, tmp_path: Path, format: str
) -> None:
    made = make(tmp_path, format, names="a")
    made.child("x", "vm")
    made.base("gone")
    made.child("o", "gone")
    made.disks["gone"].path.unlink()
    made.base("alone")
    text = disk("pile", tmp_path).out
    assert f"branch            2 disks build on {made.path('vm')}. " in text
    assert f"orphan            {made.path('o')}: This disk names " in text
    assert f"stranger          {made.path('alone')}: A dynamic disk" in text


@every_format
def test_the_script_is_printed_and_nothing_done(disk: Disk, tmp_path: Path, format: str) -> None:
    made = make(tmp_path, format)
    before = worlds.snapshot(tmp_path)
    told = disk("pile", tmp_path, "--powershell", "--map", f"D:\\VMs={tmp_path}", "--offline")
    assert told.code == 0
    leaf, below = (Path(path).name for path in made.paths("e", "d"))
    assert f"    Merge-VHD -Path 'D:\\VMs\\{leaf}' -DestinationPath 'D:\\VMs\\{below}' " in told.out
    both = disk.json("pile", tmp_path, "--powershell", "--map", f"D:\\VMs={tmp_path}")
    assert both.document["powershell"] == told.out
    assert both.document.keys() == PLAN_KEYS | {"powershell"}
    assert worlds.snapshot(tmp_path) == before


@every_format
def test_no_script_where_nothing_could_be_merged(disk: Disk, tmp_path: Path, format: str) -> None:
    made = make(tmp_path, format)
    made.disks["vm"].path.unlink()
    told = disk.json("pile", tmp_path, "--powershell")
    assert (told.code, told.document["error"]["code"]) == (1, "E_PARENT_MISSING")


@every_format
def test_hostile_names_cannot_write_to_the_terminal(
    disk: Disk, tmp_path: Path, format: str
) -> None:
    made = Pile(tmp_path, format)
    made.base()
    made.child("\x1b]0;owned\x07", "vm")
    made.child("a\nb", "\x1b]0;owned\x07")
    for options in ([], ["--powershell"]):
        out = disk("pile", tmp_path, *options).out.removeprefix("\ufeff")
        assert all(line.isprintable() for line in out.split("\n"))


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["nowhere"],
        [".", "--keep-name", "base"],
        [".", "--powershell", "--keep-name", "child"],
    ],
)
def test_usage(disk: Disk, options: list[str]) -> None:
    assert disk("pile", *options).code == 2


def test_a_leaf_that_ends_no_pile_is_an_error_with_those_that_do(
    disk: Disk, tmp_path: Path
) -> None:
    made = make(tmp_path)
    told = disk.json("pile", tmp_path, "--leaf", made.path("c"))
    assert (told.code, told.document["error"]["code"]) == (1, "E_NO_PILE")
    assert made.path("e") in told.err


def test_stopped_between_two_piles_it_says_what_is_merged(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path, names="ab")
    made.base("other")
    made.child("o", "other")
    finished = applying.apply

    def interrupted(*args: object, **options: object) -> object:
        progress = options["progress"]
        assert isinstance(progress, Progress)
        ends = progress.commit_ends

        def ctrl_c() -> None:
            ends()
            os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(progress, "commit_ends", ctrl_c)
        return finished(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(applying, "apply", interrupted)
    told = disk.json("pile", tmp_path, "--offline", "--copy")
    assert (told.code, told.document["error"]["code"]) == (1, "E_CANCELLED")
    assert "1 pile was merged before" in told.document["error"]["message"]
    assert worlds.content_of(made.path("vm")) == made.disks["b"].sha256
    assert worlds.content_of(made.path("o")) == made.disks["o"].sha256


@pytest.mark.slow
@every_format
def test_kill_9_in_the_middle_then_recover_then_again(
    disk: Disk, tmp_path: Path, format: str
) -> None:
    """The whole command, killed while it puts away what it merged."""
    made = make(tmp_path, format, names="abcd")
    made.base("other")
    made.tower("o", "p", on="other")
    expected = {name: made.disks[leaf].sha256 for name, leaf in (("vm", "d"), ("other", "p"))}
    manage = Path(__file__).parents[3] / "manage.py"
    command = [sys.executable, str(manage), "disk", "pile", str(tmp_path), "--offline"]
    environment = {**os.environ, "VD_FAULT": "merge.end.rename:3:kill"}  # two disks are put away
    run = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert run.returncode == -signal.SIGKILL
    refused = disk.json("pile", tmp_path, "--offline")
    assert (refused.code, refused.document["error"]["code"]) == (1, "E_UNFINISHED")
    assert disk("recover", tmp_path).code == 0
    assert disk("pile", tmp_path, "--offline").code == 0
    assert worlds.content_of(made.path("vm")) == expected["vm"]
    assert worlds.content_of(made.path("other")) == expected["other"]
    assert worlds.strays(tmp_path) == []
