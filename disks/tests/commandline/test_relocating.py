"""`disk copy`, `disk move`, `disk delete`: documents, refusals and exit codes."""

from __future__ import annotations

import os
from pathlib import Path

from disks.tests.builders import Family
from disks.tests.commandline.running import Disk
from disks.tests.operations.worlds import chain, content_of, roots_of, snapshot


def test_copy_makes_a_set_that_opens_by_itself(tmp_path: Path, family: Family, disk: Disk) -> None:
    world = chain(tmp_path / "vms", family=family)
    far = tmp_path / "far"
    far.mkdir()
    foreseen = disk.json("copy", world.leaf.path, far, "--chain", "--dry-run")
    assert foreseen.code == 0
    assert [row["target"] for row in foreseen.document["files"]] == [
        str(far / family.file(stem)) for stem in ("leaf", "middle", "base")
    ]
    size = sum(os.path.getsize(row["path"]) for row in foreseen.document["files"])
    assert foreseen.document["free_space_needed_bytes"] == size
    assert os.listdir(far) == []
    done = disk.json("copy", world.leaf.path, far, "--chain")
    assert done.code == 0
    assert done.document["output"] == str(far / family.file("leaf"))
    assert content_of(far / family.file("leaf")) == content_of(world.leaf.path)
    chained = disk.json("chain", far / family.file("leaf"), "--root", far)
    assert chained.document["status"] == "complete"
    assert disk("copy", world.leaf.path, far, "--chain").code == 1


def test_copy_of_one_disk_says_why_its_link_cannot_be_right(
    tmp_path: Path, family: Family, disk: Disk
) -> None:
    world = chain(tmp_path / "vms", family=family)
    (tmp_path / "far").mkdir()
    outcome = disk.json(
        "copy",
        world.leaf.path,
        tmp_path / "far",
        "--map",
        f"C:\\VMs={tmp_path / 'vms'}",
        "--map",
        f"D:\\Far={tmp_path / 'far'}",
    )
    assert outcome.code == 0  # an absolute path leads there
    (after,) = outcome.document["links"]
    assert after["windows_will_look_at"] == [f"C:\\VMs\\middle.{family.name}"]


def test_move_asks_for_leave_to_relink(tmp_path: Path, family: Family, disk: Disk) -> None:
    world = chain(tmp_path, family=family)
    before = snapshot(tmp_path)
    target = tmp_path / family.file("other")
    outcome = disk.json("move", world.base.path, target, "--dry-run")
    assert outcome.code == 1
    assert outcome.document["refused"]["code"] == "E_RELINK"
    assert [row["disk"] for row in outcome.document["links"]] == [str(world.middle.path)]
    assert (
        disk("move", world.base.path, target).err.splitlines()[-1].startswith("error: E_RELINK: ")
    )
    assert snapshot(tmp_path) == before
    done = disk.json("move", world.base.path, target, "--relink", "--offline")
    assert done.code == 0
    assert done.document["relinked"] == [str(world.middle.path)]
    assert content_of(world.leaf.path)


def test_move_into_a_directory_keeps_the_name(tmp_path: Path, family: Family, disk: Disk) -> None:
    world = chain(tmp_path, family=family)
    (tmp_path / "a").mkdir()
    outcome = disk("move", world.leaf.path, tmp_path / "a", "--relink", "--root", tmp_path)
    assert outcome.code == 0, outcome.err
    assert content_of(tmp_path / "a" / family.file("leaf"), roots_of(tmp_path))


def test_delete_names_who_depends_on_it(tmp_path: Path, family: Family, disk: Disk) -> None:
    world = chain(tmp_path, family=family)
    refused = disk.json("delete", world.middle.path)
    assert refused.code == 1
    assert refused.document["error"]["code"] == "E_CHILDREN"
    assert str(world.leaf.path) in refused.document["error"]["message"]
    done = disk.json("delete", world.middle.path, "--breaks", world.leaf.path)
    assert done.code == 0
    assert done.document["breaks"] == [str(world.leaf.path)]
    assert not world.middle.path.exists()
    (folder,) = done.document["trash"]
    assert os.path.exists(os.path.join(folder, family.file("middle")))


def test_a_merge_warns_of_a_deleted_disk_that_it_makes_unreadable(
    tmp_path: Path, family: Family, disk: Disk
) -> None:
    """In the plan, before the work; not after it, nor of an old copy of what is merged."""
    world = chain(tmp_path, family=family)
    other = family.differencing(tmp_path, family.file("other"), world.middle)
    assert disk("delete", other.path).code == 0
    assert disk("compact", world.leaf.path, "--rewrite").code == 0
    assert len(os.listdir(tmp_path / ".vdtrash")) == 2  # the old leaf, too
    warning = (
        "A disk in the trash builds on what is merged into, and cannot be read any more "
        f"afterwards, restored or not: {other.path}. Restore what is still needed first."
    )
    merge = ("merge", world.leaf.path, "--into-parent")
    foreseen = disk.json(*merge, "--dry-run")
    assert warning in foreseen.document["warnings"]
    assert f"warning: {warning}\n" in foreseen.err
    assert warning not in disk.json("merge", world.middle.path, "--into-parent", "--dry-run").err
    done = disk.json(*merge)
    assert done.code == 0
    assert done.err.count(warning) == 1
    assert warning not in done.document["warnings"]
