"""Restoring from the trash and emptying it survive death, errors and power cuts at every point.

Either goes on when it is asked for again; the disks that stay read the same all the while.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from disks.operations import compact, delete, merge, trash
from disks.operations.paths import Roots
from disks.operations.recover import recover
from disks.operations.trash import emptying, restoring
from disks.tests.builders import Family
from disks.tests.operations import worlds
from disks.tests.operations.crashing import (
    SAMPLE,
    failing_at_every_point,
    faulty,
    mended_at_every_point,
)
from disks.tests.operations.dying import DIED, DONE, Work
from disks.tests.operations.power import cuts_of, survive_power_cuts
from disks.tests.operations.worlds import chain, errors_in, essence_of, names_in, roots_of

pytestmark = pytest.mark.slow

STEMS = ("base", "middle", "leaf", "below")


def _merge(paths: dict[str, str], roots: Roots) -> None:
    plan = merge.plan(paths["leaf"], roots, into_parent=True, in_place=False)
    merge.apply(plan, roots, offline=True, job="7", token=1)


def _delete(paths: dict[str, str], roots: Roots) -> None:
    plan = delete.plan(paths["leaf"], roots, breaks=[paths["below"]])
    delete.apply(plan, roots, offline=True, job="7", token=1)


def _compact(paths: dict[str, str], roots: Roots) -> None:
    compact.apply(compact.plan(paths["base"], roots, in_place=False), roots, offline=True, job="7")


def _restore(folder: str, roots: Roots) -> None:
    restoring.restore(folder, roots, offline=True)


@dataclass(frozen=True)
class Case:
    """put_away fills the trash, work is what is tried; stay: what is readable all the while."""

    put_away: Callable[[dict[str, str], Roots], None]
    work: Callable[[str, Roots], object]
    stay: tuple[str, ...]

    @property
    def operation(self) -> str:
        return "restore from the trash" if self.work is _restore else "empty the trash"


CASES = {
    "restore a merge": Case(_merge, _restore, ("base",)),
    "restore a deleted disk": Case(_delete, _restore, ("base", "middle")),
    "restore a compacted disk": Case(_compact, _restore, STEMS),
    "empty": Case(_merge, emptying.empty, ("base", "middle", "below")),
}


class Scene:
    """Built anew for every run: the trash knows its files by their inodes."""

    def __init__(self, place: Path, family: Family, case: Case) -> None:
        self.family, self.case = family, case
        self.folder = place / "run"
        self._build()
        self.before = self._read(STEMS)
        case.put_away(self._paths, self.roots)
        self.stay = self._read(case.stay)

    @property
    def roots(self) -> Roots:
        return roots_of(self.folder)

    @property
    def _paths(self) -> dict[str, str]:
        return {stem: str(self.folder / self.family.file(stem)) for stem in STEMS}

    def _build(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        chain(self.folder, family=self.family, grandchild=True)

    def _read(self, stems: tuple[str, ...]) -> dict[str, str]:
        return {stem: essence_of(self._paths[stem]) for stem in stems}

    def fresh(self) -> Work:
        self._build()
        self.case.put_away(self._paths, self.roots)
        return self._again

    def _again(self) -> None:
        for found in trash.list_trash(str(self.folder), self.roots):
            self.case.work(found.folder, self.roots)

    def recover(self) -> list[dict[str, object]]:
        return recover(str(self.folder), self.roots)

    def judge(self) -> str:
        """It is over, or comes to its end when it is asked for again."""
        assert self._read(self.case.stay) == self.stay
        waits = (self.folder / trash.TRASH_FOLDER).exists()
        self._again()
        assert not (self.folder / trash.TRASH_FOLDER).exists()
        assert worlds.strays(self.folder) == []
        stems = STEMS if self.case.work is _restore else self.case.stay
        expected = self.before if self.case.work is _restore else self.stay
        assert self._read(stems) == expected
        disks = {name for name in names_in(self.folder) if not name.startswith(".")}
        assert disks == {self.family.file(stem) for stem in stems}
        assert [error for name in disks for error in errors_in(self.folder / name)] == []
        return "waits" if waits else "over"


@pytest.fixture(params=list(CASES))
def scene(request: pytest.FixtureRequest, place: Path, family: Family) -> Scene:
    return Scene(place, family, CASES[request.param])


@pytest.mark.parametrize("kind", ["kill", "torn"])
def test_killed_at_every_point_it_goes_on_when_asked_again(scene: Scene, kind: str) -> None:
    """bad-input F85, F87."""
    states = mended_at_every_point(
        scene.fresh,
        faulty(kind),
        expected=DIED,
        recover=scene.recover,
        judge=scene.judge,
        every=1 if kind == "kill" else SAMPLE,
        folder=scene.folder,
    )
    assert "waits" in states
    assert scene.judge() == "over"


@pytest.mark.parametrize("kind", ["enospc", "eio", "short"])
def test_after_an_error_at_any_point_it_goes_on_when_asked_again(scene: Scene, kind: str) -> None:
    """bad-input F81, F84: what failed is not given up for good, a link of a child neither."""
    for code in failing_at_every_point(scene.fresh, kind):
        assert code == DONE or kind != "short"
        rows = scene.recover()
        assert [row for row in rows if row["action"] in ("busy", "needs-attention")] == []
        scene.judge()
    assert scene.judge() == "over"


@pytest.mark.power_cuts
def test_after_a_power_cut_it_goes_on_when_asked_again(
    request: pytest.FixtureRequest, scene: Scene, place: Path
) -> None:
    """bad-input F86, F87."""
    cases = sum(case.work is scene.case.work for case in CASES.values())
    seen = survive_power_cuts(
        scene,
        operation=scene.case.operation,
        format_name=scene.family.name,
        cuts=cuts_of(cases, 8),
        seed=request.node.name,
        aside=place / "aside",
    )
    assert set(seen) <= {"waits", "over"}
