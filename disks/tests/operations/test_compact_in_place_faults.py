"""Compacting in place survives death, errors and power cuts at every point of it.

After each the disk reads as before, wherever its blocks lie by then, recovery leaves nothing
behind, and compacting it again comes to the same end as without the trouble.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from disks.operations import compact
from disks.operations.recover import recover
from disks.tests.builders import Built
from disks.tests.operations import worlds
from disks.tests.operations.crashing import (
    SAMPLE,
    Breaking,
    failing_at_every_point,
    failing_from,
    faulty,
    killed,
    mended_at_every_point,
)
from disks.tests.operations.dying import DIED, DONE, REFUSED, Work
from disks.tests.operations.power import cuts_of, survive_power_cuts
from disks.tests.operations.shrinking import SCENES, Scene
from disks.tests.operations.worlds import errors_in, essence_of, essence_of_bytes, roots_of

NAMES = [
    "dynamic",
    "dynamic, all zeros",
    "dynamic, last block cut short",
    "blktap",
    "differencing, packed",
    "vhdx, dynamic",
    "vhdx, differencing",
    "vhdx, differencing, whole blocks",
]

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def small_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rounds."""
    monkeypatch.setattr("disks.engine.compaction.ROUND_BYTES", 1)


@dataclass
class Running:
    scene: Scene
    built: Built
    model: Path  # the folder as it was made
    folder: Path  # where everything happens
    essence: str  # of the content
    goes_on_every: int = 0  # of so many judgements one compacts to the end
    judged: int = 0

    @property
    def cases(self) -> int:
        """How many of the layouts are of this format."""
        is_vhdx = self.scene.format_name == "vhdx"
        return sum(name.startswith("vhdx") == is_vhdx for name in NAMES)

    def fresh(self) -> Work:
        self.reset()
        return self.compact

    def reset(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        worlds.copy_tree(self.model, self.folder)

    @property
    def path(self) -> Path:
        return self.folder / self.built.path.name

    def compact(self) -> None:
        roots = roots_of(self.folder)
        compact.apply(compact.plan(str(self.path), roots), roots, offline=True)

    def recover(self) -> list[dict[str, object]]:
        return recover(str(self.folder), roots_of(self.folder))

    def judge(self) -> str:
        """Content and structure are right; says how far it came."""
        state = self._state()
        self.judged += 1
        if self.goes_on_every and self.judged % self.goes_on_every == 0:
            self.require_goes_on()
        return state

    def _state(self) -> str:
        assert essence_of(self.path) == self.essence
        assert errors_in(self.path) == []
        assert worlds.strays(self.folder) == []
        assert not list(self.folder.glob(".*.vd*"))
        size = self.path.stat().st_size
        if size == self.scene.size(self.built, self.scene.left):
            return "done"
        return "as it was" if size == self.built.path.stat().st_size else "between"

    def require_goes_on(self) -> None:
        """What was left is a disk like others: compacting it comes to the end."""
        self.compact()
        assert self._state() == "done"


@pytest.fixture(params=NAMES)
def running(request: pytest.FixtureRequest, place: Path) -> Running:
    scene = SCENES[request.param]
    model = place / "model"
    model.mkdir()
    built = scene.make(model)
    return Running(scene, built, model, place / "run", essence_of_bytes(bytes(built.model)))


@pytest.mark.parametrize(
    ("breaking", "expected", "every"),
    [
        (faulty("kill"), DIED, 1),
        (faulty("torn"), DIED, SAMPLE),
        (faulty("enospc"), REFUSED, SAMPLE),
        (faulty("eio"), REFUSED, SAMPLE),
        (failing_from, REFUSED, SAMPLE),
    ],
    ids=["kill", "torn", "enospc", "eio", "fails for good"],
)
def test_broken_at_any_point_the_disk_reads_as_before(
    running: Running, breaking: Breaking, expected: int, every: int
) -> None:
    """bad-input F81, F84, F85."""

    def fresh() -> Work:
        running.reset()
        return running.compact

    states = mended_at_every_point(
        fresh,
        breaking,
        expected=expected,
        recover=running.recover,
        judge=running.judge,
        every=every,
        folder=running.folder,
    )
    assert "as it was" in states
    assert running.judge() == "done"


def test_after_a_death_anywhere_compacting_goes_on(running: Running) -> None:
    """bad-input E79, F85."""
    for number in range(3, 200, 13):
        running.reset()
        code = killed(number, running.compact)
        running.recover()
        running.require_goes_on()
        if code == DONE:
            return
    raise AssertionError("it never came through")


def test_short_writes_are_continued(running: Running) -> None:
    """bad-input F84."""
    for code in failing_at_every_point(running.fresh, "short"):
        assert code == DONE
        assert running.judge() == "done"


@pytest.mark.power_cuts
def test_power_cuts_leave_the_same_disk(
    request: pytest.FixtureRequest, running: Running, place: Path
) -> None:
    """bad-input F86, F87: unsynced pages kept, lost or garbled; also in recovery."""
    running.goes_on_every = 5
    survive_power_cuts(
        running,
        operation="compact in place",
        format_name=running.scene.format_name,
        cuts=cuts_of(running.cases, 15),
        seed=request.node.name,
        aside=place / "aside",
        last_point_of_recovery=16,
    )


@pytest.mark.power_cuts
def test_a_power_cut_where_the_end_is_cut_off_garbles_nothing(
    request: pytest.FixtureRequest, running: Running, place: Path
) -> None:
    """bad-input F86, F87: cutting within a page writes the rest of that page once more."""
    survive_power_cuts(
        running,
        operation="compact in place",
        format_name=running.scene.format_name,
        cuts=cuts_of(10 * running.cases, 30),
        seed=request.node.name,
        aside=place / "aside",
        last_point_of_recovery=16,
        dies_at=["compact.header.truncate"],
    )
