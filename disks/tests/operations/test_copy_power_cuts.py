"""Power cuts while disks are copied, replaced and put away, and while recovery mends that.

bad-input F86: every page and every name that was not yet made durable is kept, lost or
garbled. The chain reads as before or as the finished result, the files are sound, and nothing
stays behind. `make prove` sets VD_PROVE to the full count; each cut is one run of the real code.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from disks.operations.recover import recover
from disks.tests.builders import Family
from disks.tests.operations.crashing import DIED, DONE, power_cut
from disks.tests.operations.test_copy_faults import CASES, Prepared, points_of
from disks.tests.operations.worlds import roots_of

CUTS = int(os.environ.get("VD_PROVE", "12"))


@pytest.mark.power_cuts
@pytest.mark.parametrize("name", list(CASES))
def test_a_power_cut_leaves_the_old_files_or_the_finished_job(
    place: Path, family: Family, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bad-input F86, F87: also when the power fails again during recovery."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # the model decides what is durable
    prepared = Prepared(CASES[name], place, family)
    most = points_of(prepared)
    chance = random.Random(f"{name} {family.name}")
    aside = place / "aside"
    aside.mkdir()
    for _ in range(CUTS):
        folder = prepared.fresh()
        seed = chance.randrange(2**32)
        number = chance.randrange(1, most + 2)

        def again(folder: Path = folder) -> object:
            return recover(str(folder), roots_of(folder))

        code = power_cut(number, lambda: prepared.work(folder), seed, aside)  # noqa: B023
        assert code in (DIED, DONE)
        if code == DIED and chance.random() < 0.5:
            power_cut(chance.randrange(1, 24), again, seed + 1, aside)
        rows = recover(str(folder), roots_of(folder))
        said = f"cut at {number} of {most}, seed {seed}: {rows}"
        assert [row for row in rows if row["action"] in ("busy", "needs-attention")] == [], said
        prepared.check(finished=code == DONE)
        assert recover(str(folder), roots_of(folder)) == [], said
