"""What undoes itself on an error does so once, hides no first error, and leaves lost work alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from disks.engine.errors import ImageError
from disks.operations import journal, merge
from disks.operations.progress import Cancelled, Lost, Progress
from disks.operations.recover import recover
from disks.operations.rollback import rolling_back
from disks.tests.operations import worlds


@pytest.mark.parametrize("error", [ImageError("E_IO", "no"), Cancelled(), KeyboardInterrupt()])
def test_an_error_is_told_after_the_undoing(error: BaseException) -> None:
    undone: list[str] = []
    with pytest.raises(type(error)) as raised, rolling_back(lambda: undone.append("all"), "a.vhd"):
        raise error
    assert (raised.value, undone) == (error, ["all"])


def test_work_without_an_error_stays() -> None:
    undone: list[str] = []
    with rolling_back(lambda: undone.append("all"), "a.vhd"):
        pass
    assert undone == []


def test_an_undoing_that_fails_does_not_hide_why_it_was_needed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails() -> None:
        raise IndexError("list index out of range")

    with pytest.raises(ImageError) as raised, rolling_back(fails, "a.vhd"):
        raise ImageError("E_NOSPC", "The storage is full.")
    assert raised.value.code == "E_NOSPC"
    assert "list index out of range" in caplog.text


def test_who_has_lost_a_merge_by_copy_leaves_it_to_the_next(tmp_path: Path) -> None:
    world = worlds.chain(tmp_path)
    before = worlds.snapshot(tmp_path)
    record = Path(journal.sidecar_path(str(world.middle.path), journal.JOB))
    plan = merge.plan(str(world.leaf.path), world.roots, into_parent=True, in_place=False)

    class Gone(Progress):
        def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
            if record.exists():
                raise Lost

    with pytest.raises(Lost):
        merge.apply(plan, world.roots, offline=True, job="7", progress=Gone())
    assert record.exists()
    assert [row["action"] for row in recover(str(tmp_path), world.roots)] == ["undone"]
    assert worlds.snapshot(tmp_path) == before
