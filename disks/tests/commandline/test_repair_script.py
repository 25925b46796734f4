"""The documented script repairs every broken child below a folder, and only those."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from disks.tests.builders import build_differencing, build_fixed
from disks.tests.commandline.running import Disk

PROJECT = Path(__file__).parents[3]
SCRIPT = PROJECT / "docs" / "scripts" / "repair-folder.sh"
SIZE = 256 * 1024
BLOCK = 64 * 1024
ODD = ("one.vhd", "two 'odd' $(name).vhd", "-rf; echo `x` > pwned & \n.vhd")


def repair(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DISK": f"{sys.executable} {PROJECT}/manage.py disk"}
    command = [str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """Three children of a moved base with odd names, a whole one, a lost one, one with twins."""
    for name in ("vms", "bases", "gone"):
        (tmp_path / name).mkdir()
    vms, bases = tmp_path / "vms", tmp_path / "bases"
    moved = build_fixed(vms, "moved base.vhd", size=SIZE)
    for name in ODD:
        build_differencing(vms, name, moved, block_size=BLOCK)
    shutil.move(moved.path, bases)
    here = build_fixed(vms, "here.vhd", size=SIZE)
    build_differencing(vms, "whole.vhd", here, block_size=BLOCK)
    lost = build_fixed(tmp_path / "gone", "lost.vhd", size=SIZE)
    build_differencing(vms, "lost child.vhd", lost, block_size=BLOCK)
    twin = build_fixed(vms, "twin.vhd", size=SIZE)
    build_differencing(vms, "twins child.vhd", twin, block_size=BLOCK)
    for name in ("twin-a.vhd", "twin-b.vhd"):
        shutil.copy(twin.path, bases / name)
    twin.path.unlink()
    (vms / "readme.txt").write_text("no disk\n" * 100)
    return tmp_path


def test_the_script_repairs_what_has_exactly_one_parent(disk: Disk, share: Path) -> None:
    """bad-input G106: no name is an option, an expression or two words to anything."""
    before = {path: path.read_bytes() for path in (share / "vms").iterdir()}
    dry = repair("--dry-run", share / "vms", share / "bases")
    assert dry.stdout.splitlines()[-1] == "1 whole, 3 could be repaired, 2 still broken"
    assert {path: path.read_bytes() for path in (share / "vms").iterdir()} == before
    run = repair("--offline", share / "vms", share / "bases")
    assert run.returncode == 1
    assert run.stdout.splitlines()[-1] == "1 whole, 3 repaired, 2 still broken"
    assert "0 disks have the right identity" in run.stdout
    assert "2 disks have the right identity" in run.stdout
    again = repair(share / "vms", share / "bases")
    assert again.stdout.splitlines()[-1] == "4 whole, 0 repaired, 2 still broken"
    for name in ODD:
        document = disk.json("inspect", share / "vms" / name, "--root", share).document
        assert document["parent"]["path"] == str(share / "bases" / "moved base.vhd")
        assert disk("undo-update", share / "vms" / name).code == 0
    assert repair("/no/such/folder").returncode == 2
    assert repair("--colour", share).returncode == 2
