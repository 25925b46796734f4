"""What belongs together goes to one worker: tests of a module go on where others stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from disks.tests import parallel

TOP = Path(__file__).parents[2]
BROWSER = sorted(
    path.relative_to(TOP).as_posix() for path in TOP.glob("disks/tests/browser/test_*")
)


@pytest.mark.parametrize("module", BROWSER)
def test_a_browser_module_stays_on_one_worker(module: str) -> None:
    assert parallel.scope_of(f"{module}::test_one") == parallel.scope_of(f"{module}::test_two[a]")


@pytest.mark.parametrize("module", parallel.TOGETHER)
def test_every_module_that_begins_early_exists(module: str) -> None:
    assert (TOP / module).is_file()


def test_other_tests_go_wherever_there_is_time() -> None:
    module = "disks/tests/engine/test_files.py"
    assert parallel.scope_of(f"{module}::test_one") != parallel.scope_of(f"{module}::test_two")
