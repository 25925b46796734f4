"""Work on many disks at once survives faults: piles of checkpoints, links of a whole folder.

What was done before the fault stays done; recovery mends the disk that was worked on, and the same
work begun again does the rest.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from disks.engine.errors import ImageError
from disks.operations import relink
from disks.operations.merge_in_place import batches
from disks.operations.pile import applying, planning
from disks.operations.progress import Stopped
from disks.operations.recover import recover
from disks.tests.builders import Family
from disks.tests.operations import piles, worlds
from disks.tests.operations.crashing import (
    SAMPLE,
    met_at_every_point,
)
from disks.tests.operations.dying import DIED, REFUSED, Work
from disks.tests.operations.power import cuts_of, survive_power_cuts

pytestmark = pytest.mark.slow

GOES_ON_EVERY = 5  # of so many states one is worked on to the end
FAULTY_EVERY = SAMPLE**2  # there are hundreds of points, each passed by merges that others test
LINKS_EVERY = 2 * SAMPLE - 1


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several of them for a small disk."""
    monkeypatch.setattr(batches, "BATCH_BYTES", 48 * 1024)


TOPS = {"b": "vm", "d": "other"}  # of the piles, and the lowest disk below each


class Piles:
    """Two piles of three disks in one folder, merged as one job."""

    def __init__(self, place: Path, family: Family, *, in_place: bool) -> None:
        self.folder, self.in_place, self.format = place / "run", in_place, family.name
        self.made = piles.Pile(place / "model", self.format)
        self.made.base("vm")
        self.made.tower("a", "b", on="vm")
        self.made.base("other")
        self.made.tower("c", "d", on="other")
        roots = piles.roots_of(self.made.folder)
        self.contents = {top: worlds.essence_of(self.made.disks[top].path, roots) for top in TOPS}
        self.judged = 0

    def _path(self, name: str) -> Path:
        return self.folder / self.made.disks[name].path.name

    def fresh(self) -> Work:
        shutil.rmtree(self.folder, ignore_errors=True)
        worlds.copy_tree(self.made.folder, self.folder)
        return self.work

    def work(self) -> None:
        roots = piles.roots_of(self.folder)
        steps = planning.plan(str(self.folder), roots, in_place=self.in_place).steps()
        try:
            applying.apply(steps, roots, offline=True, job="7", token=1)
        except Stopped as stopped:  # as a job sees it: refused, whether it may be resumed or not
            raise ImageError("E_STOPPED", stopped.sentence) from stopped

    def recover(self) -> list[dict[str, object]]:
        return recover(str(self.folder), piles.roots_of(self.folder))

    def judge(self) -> str:
        merged = self._merged()
        self.judged += 1
        if self.judged % GOES_ON_EVERY == 0:
            self.work()
            assert self._merged() == 2
        return f"{merged} merged"

    def _merged(self) -> int:
        """How many are; all read as ever, and nothing else lies in the folder."""
        merged, expected = 0, set()
        for top, base in TOPS.items():
            there = [name for name in self._levels(top, base) if self._path(name).exists()]
            assert there in ([base], self._levels(top, base))
            merged += there == [base]
            expected |= {self._path(name).name for name in there}
            content = worlds.essence_of(self._path(there[-1]), piles.roots_of(self.folder))
            assert content == self.contents[top]
            assert [one for name in there for one in worlds.errors_in(self._path(name))] == []
        found = set(worlds.names_in(self.folder))
        assert {name for name in found if not name.startswith(".")} == expected
        assert worlds.strays(self.folder) == []
        return merged

    @staticmethod
    def _levels(top: str, base: str) -> list[str]:
        return [base, chr(ord(top) - 1), top]


@pytest.mark.parametrize("kind", ["kill", "enospc", "eio", "short"])
@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "by copy"])
def test_a_fault_at_any_point_leaves_each_pile_as_it_was_or_merged(
    place: Path, family: Family, in_place: bool, kind: str
) -> None:
    """bad-input F81, F84, F85: what broke off goes on, or is taken back, and the rest is done."""
    scene = Piles(place, family, in_place=in_place)
    met = met_at_every_point(
        scene.fresh,
        kind,
        recover=scene.recover,
        judge=scene.judge,
        deaths_every=SAMPLE,
        errors_every=FAULTY_EVERY,
        folder=scene.folder,
    )
    if kind == "kill":
        assert (DIED, "0 merged") in met
    else:
        assert all(state == "2 merged" or code == REFUSED for code, state in met)
    assert scene.judge() == "2 merged"


@pytest.mark.power_cuts
@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "by copy"])
def test_power_cuts_leave_each_pile_as_it_was_or_merged(
    request: pytest.FixtureRequest, place: Path, family: Family, in_place: bool
) -> None:
    """bad-input F86, F87."""
    survive_power_cuts(
        Piles(place, family, in_place=in_place),
        operation="merge piles in place" if in_place else "merge piles by copy",
        format_name=family.name,
        cuts=cuts_of(1, 12),
        seed=request.node.name,
        aside=place / "aside",
        last_point_of_recovery=60 if in_place else 24,
    )


class Links:
    """Three children whose parent lies elsewhere now; all of their links are updated in a row."""

    stems = ("one", "two", "three")
    ended = "3 updated"

    def __init__(self, place: Path, family: Family) -> None:
        self.model, self.folder, self.family = place / "model", place / "run", family
        self.model.mkdir()
        size, block = (128 * 1024, 16 * 1024) if family.name == "vhd" else (4 << 20, 1 << 20)
        base = family.dynamic(
            self.model, family.file("base"), size=size, block_size=block,
            content=[(0, worlds.noise(1, 30))],
        )  # fmt: skip
        self.contents = {
            stem: family.differencing(
                self.model, family.file(stem), base, size=size, block_size=block,
                content=[(3 * number, worlds.noise(number, 5))],
            ).sha256
            for number, stem in enumerate(self.stems)
        }  # fmt: skip
        (self.model / "moved").mkdir()
        shutil.copy(base.path, self.model / "moved")

    @property
    def _links(self) -> list[tuple[str, str]]:
        parent = str(self.folder / "moved" / self.family.file("base"))
        return [(str(self.folder / self.family.file(stem)), parent) for stem in self.stems]

    def fresh(self) -> Work:
        shutil.rmtree(self.folder, ignore_errors=True)
        worlds.copy_tree(self.model, self.folder)
        return self.update

    def update(self) -> None:
        roots = worlds.roots_of(self.folder)
        for child, parent in self._links:
            relink.apply(relink.plan(child, parent, roots), roots, offline=True)

    def recover(self) -> list[dict[str, object]]:
        return recover(str(self.folder), worlds.roots_of(self.folder))

    def judge(self) -> str:
        """A state, and how many links lead to the new place, from the first on."""
        moved = self._moved()
        assert moved == sorted(moved, reverse=True)
        return f"{sum(moved)} updated"

    def judge_and_end(self) -> str:
        state = self.judge()
        self.again()
        assert self.judge() == self.ended
        return state

    def again(self) -> None:
        self.update()

    def _moved(self) -> list[bool]:
        roots = worlds.roots_of(self.folder)
        for child, _ in self._links:
            content = self.contents[Path(child).stem]
            assert worlds.content_of(child, roots) == content
            assert worlds.errors_in(child) == []
        assert worlds.strays(self.folder) == []
        return [worlds.parent_of(child, roots) == parent for child, parent in self._links]


class LinksTakenBack(Links):
    """One undo for all of them, the last one first."""

    ended = "0 updated"

    def fresh(self) -> Work:
        super().fresh()
        self.update()
        return self.undo

    def undo(self) -> None:
        for child, _ in reversed(self._links):
            relink.undo(child, worlds.roots_of(self.folder), offline=True)

    def again(self) -> None:
        """Of those that are left."""
        for (child, _), moved in reversed([*zip(self._links, self._moved(), strict=True)]):
            if moved:
                relink.undo(child, worlds.roots_of(self.folder), offline=True)


@pytest.mark.parametrize("kind", ["kill", "enospc", "eio", "short"])
@pytest.mark.parametrize("kind_of_scene", [Links, LinksTakenBack])
def test_a_fault_at_any_point_leaves_each_link_as_it_was_or_updated(
    place: Path, family: Family, kind_of_scene: Callable[[Path, Family], Links], kind: str
) -> None:
    """bad-input F81, F84, F85: what is done stays done, and the rest is done when begun again."""
    scene = kind_of_scene(place, family)
    met = met_at_every_point(
        scene.fresh,
        kind,
        recover=scene.recover,
        judge=scene.judge_and_end,
        deaths_every=SAMPLE,
        errors_every=LINKS_EVERY,
        folder=scene.folder,
    )
    if kind != "kill":
        assert all(state == scene.ended or code == REFUSED for code, state in met)
    assert scene.judge() == scene.ended


@pytest.mark.power_cuts
@pytest.mark.parametrize("scene", [Links, LinksTakenBack])
def test_power_cuts_leave_each_link_as_it_was_or_updated(
    request: pytest.FixtureRequest,
    place: Path,
    family: Family,
    scene: Callable[[Path, Family], Links],
) -> None:
    """bad-input F86, F87."""
    survive_power_cuts(
        scene(place, family),
        operation="update a folder's links, undo all",
        format_name=family.name,
        cuts=cuts_of(2, 12),
        seed=request.node.name,
        aside=place / "aside",
    )
