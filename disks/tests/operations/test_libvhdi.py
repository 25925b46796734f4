"""libvhdi, which shares no code with anything here, accepts every disk that we write."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from disks.engine.formats import open_image
from disks.operations import compact, create, expand, merge, relink
from disks.tests.builders import MIB, VHDX, Family
from disks.tests.operations.worlds import chain, roots_of

SIZE = 64 * MIB
pytestmark = pytest.mark.skipif(not shutil.which("vhdiinfo"), reason="libvhdi is not installed")


def info(path: Path | str) -> dict[str, str]:
    """What vhdiinfo says, label to value."""
    run = subprocess.run(["vhdiinfo", str(path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = [line.strip().split(":", 1) for line in run.stdout.splitlines() if ":" in line]
    return {label.strip(): value.strip() for label, value in rows}


def identity_of(path: Path) -> str:
    with roots_of(path.parent).open(str(path)) as file:
        return open_image(file).identity


@pytest.mark.parametrize("kind", ["fixed", "dynamic", "differencing"])
def test_disks_of_every_type_that_we_create(tmp_path: Path, family: Family, kind: str) -> None:
    roots = roots_of(tmp_path)
    first = tmp_path / family.file("first")
    type_of_first = "dynamic" if kind == "differencing" else kind
    create.apply(create.plan(str(first), roots, disk_type=type_of_first, size_bytes=SIZE), roots)
    made = first
    if kind == "differencing":
        made = tmp_path / family.file("second")
        create.apply(create.plan(str(made), roots, parent=str(first)), roots)
    said = info(made)
    assert said["Disk type"] == {"differencing": "Differential"}.get(kind, kind.capitalize())
    assert f"({SIZE} bytes)" in said["Media size"]
    assert said["Identifier"] == identity_of(made)
    if kind == "differencing":
        assert said["Parent identifier"] == identity_of(first)
        assert said["Parent filename"].endswith(first.name)


def test_what_merge_compact_expand_and_a_new_link_leave(tmp_path: Path, family: Family) -> None:
    world = chain(tmp_path / "vms", family=family, grandchild=True)
    roots = world.roots
    merge.apply(merge.plan(str(world.leaf.path), roots, into_parent=True), roots, offline=True)
    compact.apply(compact.plan(str(world.middle.path), roots), roots, offline=True)
    assert world.grandchild is not None
    below = world.grandchild.path
    moved = world.folder / family.file("moved")
    world.middle.path.rename(moved)
    relink.apply(relink.plan(str(below), str(moved), roots), roots, offline=True)
    size = 512 * 1024 * 16
    expand.apply(expand.plan(str(below), size, roots), roots, offline=True)
    said = info(below)
    assert said["Parent identifier"] == identity_of(moved) == info(moved)["Identifier"]
    assert said["Parent filename"].endswith(moved.name)
    # Of a VHD libvhdi tells the size at creation, which an expansion leaves alone.
    told = size if family is VHDX else len(world.grandchild.model)
    assert f"({told} bytes)" in said["Media size"]
