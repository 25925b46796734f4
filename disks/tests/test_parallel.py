"""What belongs together goes to one worker; everything else wherever there is time."""

from __future__ import annotations

from pathlib import Path

import pytest

from disks.tests import parallel

TOP = Path(__file__).parents[2]


def test_all_browser_tests_share_one_console() -> None:
    modules = TOP.glob("disks/tests/browser/test_*.py")
    scopes = {
        parallel.scope_of(f"{module.relative_to(TOP).as_posix()}::test_one[{number}]")
        for number, module in enumerate(modules)
    }
    assert scopes == {"browser"}


@pytest.mark.parametrize("place", [one for places in parallel.TOGETHER.values() for one in places])
def test_everything_that_begins_early_exists(place: str) -> None:
    assert (TOP / place).exists()


def test_other_tests_go_wherever_there_is_time() -> None:
    module = "disks/tests/engine/test_files.py"
    assert parallel.scope_of(f"{module}::test_one") != parallel.scope_of(f"{module}::test_two")
