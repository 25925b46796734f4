"""A merge in place that was stopped goes on, and survives faults and power cuts in that.

What others did meanwhile is taken in: they enlarged the leaf, wrote to it, left a log in it, or
made a disk on it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from disks.engine.formats import open_image
from disks.engine.units import SECTOR_BYTES
from disks.operations import journal
from disks.operations.merge_in_place import batches
from disks.operations.recover import recover
from disks.tests.builders import MIB, VHD, VHDX, BuiltVhdx, Family
from disks.tests.operations import worlds
from disks.tests.operations.crashing import (
    SAMPLE,
    met_at_every_point,
)
from disks.tests.operations.dying import Work
from disks.tests.operations.power import cuts_of, survive_power_cuts
from disks.tests.operations.test_merge_in_place_leaf_used import (
    enlarge,
    stopped,
    write_at_sector,
)

pytestmark = pytest.mark.slow

FAULTY_EVERY = SAMPLE**2  # a run of these takes a tenth of a second, and power cuts kill it, too


def _enlarged(by_bytes: int) -> Callable[[worlds.World, Family], None]:
    def enlarged(world: worlds.World, family: Family) -> None:
        size = enlarge(world.leaf.path, world.roots, by_bytes)
        write_at_sector(world.leaf.path, world.roots, size // SECTOR_BYTES - 8)

    return enlarged


def _written(world: worlds.World, family: Family) -> None:
    """Into a block that the leaf had not, and into one that it had."""
    write_at_sector(world.leaf.path, world.roots, 130 if family is VHD else 8200)
    with world.roots.open(str(world.leaf.path), writable=True) as file:
        extents = open_image(file).extents(0, 16)
        file.write_at(next(one.file_offset for one in extents if one.file_offset), b"g" * 512)


def _written_all_over(world: worlds.World, family: Family) -> None:
    """In so many places that their old pages need more room than the merge had planned for."""
    write_at_sector(world.leaf.path, world.roots, *range(3, 4000, 16))


def _left_with_a_log(world: worlds.World, family: Family) -> None:
    assert isinstance(world.leaf, BuiltVhdx)
    world.leaf.move_into_log(world.leaf.table_offset)


def _trimmed(world: worlds.World, family: Family) -> None:
    """A block that was moved, and lies behind the end of the level below the leaf."""
    with world.leaf.path.open("r+b") as file:
        file.seek(world.leaf.table_offset + 6 * 8)
        file.write((3).to_bytes(8, "little"))
    os.utime(world.leaf.path)


def _built_upon(world: worlds.World, family: Family) -> None:
    family.differencing(
        world.folder, family.file("new"), world.leaf, content=[(2, worlds.noise(5, 3))]
    )


@dataclass(frozen=True)
class Case:
    """A merge into base that was stopped.

    meanwhile    what happens to its leaf then
    dies_at      where the power fails; anywhere, where nothing is said
    options      of the chain
    after_bytes  what was moved before; 0: nothing
    """

    family: Family
    meanwhile: Callable[[worlds.World, Family], None]
    base: str = "middle"
    base_type: str = "dynamic"
    dies_at: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    after_bytes: int = 0

    @property
    def of_many_batches(self) -> bool:
        """So many that each of its points is one that the other cases pass, too."""
        return bool(self.dies_at)

    @property
    def batch_bytes(self) -> int:
        """All of a fixed disk is moved that was added to it, zeros, too."""
        return (12 if self.base_type == "dynamic" else 128) * 1024


# The journal's file is made anew, larger, and takes the other's name.
MORE_ROOM = tuple(
    f"merge.prepare.{operation}"
    for operation in ("create", "allocate", "write", "fsync", "rename", "fsync-folder")
)

_SMALLER_LEVEL = {
    "leaf_size": 8 * MIB,
    "leaf_more": [(6 * 2048, worlds.noise(5, 8)), (7 * 2048, worlds.noise(6, 16))],
}

CASES = {
    "vhd, enlarged, table and all": Case(VHD, _enlarged(8 * MIB)),
    "vhd, enlarged, blocks make room": Case(VHD, _enlarged(96 * MIB), "base"),
    "vhd, enlarged over a fixed base": Case(VHD, _enlarged(MIB), "base", "fixed"),
    "vhd, written": Case(VHD, _written),
    "vhd, written all over": Case(
        VHD, _written_all_over, options={"size": 2 * MIB}, dies_at=MORE_ROOM
    ),
    "vhd, built upon": Case(VHD, _built_upon),
    "vhdx, enlarged": Case(VHDX, _enlarged(8 * MIB)),
    "vhdx, enlarged over a fixed base": Case(VHDX, _enlarged(MIB), "base", "fixed"),
    "vhdx, written": Case(VHDX, _written),
    "vhdx, written all over": Case(VHDX, _written_all_over, dies_at=MORE_ROOM),
    "vhdx, left with a log": Case(VHDX, _left_with_a_log),
    "vhdx, built upon": Case(VHDX, _built_upon),
    "vhdx, trimmed behind a smaller level": Case(
        VHDX, _trimmed, "base", options=_SMALLER_LEVEL, after_bytes=40 * 1024
    ),
}


class Scene:
    """The merge was stopped; recovery is what goes on with it."""

    def __init__(self, place: Path, case: Case) -> None:
        self.case, self.folder = case, place / "run"
        self.leaf, self.base, self.new = (
            self.folder / case.family.file(stem) for stem in ("leaf", case.base, "new")
        )
        self.contents: dict[Path, str] = {}

    def fresh(self) -> Work:
        shutil.rmtree(self.folder, ignore_errors=True)
        world = worlds.chain(
            self.folder,
            family=self.case.family,
            base_type=self.case.base_type,
            **self.case.options,
        )
        stopped(self.leaf, self.base, world.roots, self.case.after_bytes)
        self.case.meanwhile(world, self.case.family)
        self.contents = {self.base: worlds.essence_of(self.leaf)}
        if self.new.exists():
            self.contents[self.new] = worlds.essence_of(self.new)
        return self.recover

    def recover(self) -> list[dict[str, object]]:
        return recover(str(self.folder), worlds.roots_of(self.folder))

    def judge(self) -> str:
        assert not self.leaf.exists()
        for path, content in self.contents.items():
            assert worlds.essence_of(path) == content
            assert worlds.errors_in(path) == []
        assert worlds.strays(self.folder) == []
        left = [name for name in worlds.names_in(self.folder) if name.endswith(_UNFINISHED)]
        assert left == []
        roots = worlds.roots_of(self.folder)
        assert journal.pending(roots, [str(path) for path in self.contents]) == []
        return "merged"


_UNFINISHED = (".vdmerge", ".vdpages", ".vdtmp")


@pytest.mark.parametrize("kind", ["kill", "enospc", "eio", "short"])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.of_many_batches])
def test_a_fault_at_any_point_where_it_goes_on_leaves_what_goes_on_again(
    place: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bad-input F81, F84, F85."""
    scene = Scene(place, CASES[name])
    monkeypatch.setattr(batches, "BATCH_BYTES", scene.case.batch_bytes)
    met_at_every_point(
        scene.fresh,
        kind,
        recover=scene.recover,
        judge=scene.judge,
        deaths_every=SAMPLE,
        errors_every=FAULTY_EVERY,
        folder=scene.folder,
    )
    assert scene.judge() == "merged"


@pytest.mark.power_cuts
@pytest.mark.parametrize("name", CASES)
def test_power_cuts_while_it_goes_on_lose_nothing(
    request: pytest.FixtureRequest, place: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bad-input F86, F87: also when the power fails again while that is mended."""
    case = CASES[name]
    monkeypatch.setattr(batches, "BATCH_BYTES", case.batch_bytes)
    cases = sum(one.family is case.family for one in CASES.values())
    survive_power_cuts(
        Scene(place, case),
        operation="merge in place goes on",
        format_name=case.family.name,
        cuts=cuts_of(cases, 8),
        seed=request.node.name,
        aside=place / "aside",
        last_point_of_recovery=60,
        dies_at=case.dies_at,
    )
