"""What death leaves at each fault point: taken down in one run of the work, brought back after it.

A process that dies leaves the storage as it was at that moment, and no lock. To run the work
again up to each point would take a time that grows with the square of their number.
`test_power.py` compares what is taken down, and what comes back, with what SIGKILL leaves.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from disks.engine import faults
from disks.tests.operations.dying import FEWEST_POINTS, Work
from disks.tests.operations.frozen import Contents, Frozen


def left_by_deaths(
    folder: Path, work: Work, *, torn: bool = False, every: int = 1
) -> Iterator[int]:
    """Run work, then make the folder, one after the other, what a death at its points leaves.

    folder  all that work changes is in it
    torn    half of a write reaches its file before
    every   only one of so many points

    Yields the number of each point, counted from one; after the last the folder is what
    work, undisturbed, made of it.
    """
    with tempfile.TemporaryDirectory(prefix=".moments-", dir=folder.parent) as spare:
        run = Run(folder, Path(spare), torn, every)
        faults.watch(run.see)
        try:
            work()
        finally:
            faults.watch(None)
        assert run.passed > FEWEST_POINTS
        end = run.moment()
        for number in list(run.moments):
            moment = run.moments.pop(number)
            assert moment.thaw(), "a file was taken away behind the fault points"
            with moment.kept():
                yield number
            moment.files.clear()  # a trace of an error may hold on to it for long
        assert end.thaw()
        end.files.clear()
        run.contents.forget_all_but(set())


@dataclass
class Run:
    """What the folder held at the fault points that were passed.

    spare  an empty folder on the same file system that nobody else looks into
    passed, moments  how many points there were, and what was held at which
    """

    folder: Path
    spare: Path
    torn: bool = False
    every: int = 1
    passed: int = 0
    moments: dict[int, Frozen] = field(default_factory=dict)
    contents: Contents = field(default_factory=Contents)
    needed: set[int] = field(default_factory=set)

    def see(self, event: faults.Event) -> None:
        """Look at the folder just before the event happens."""
        self.passed += 1
        if (self.passed - 1) % self.every == 0:
            if self.torn and event.data is not None:
                _write_half(event)
            self.moments[self.passed] = self.moment()
        self.moments[1].keep(event)

    def moment(self) -> Frozen:
        return Frozen((self.folder,), (self.spare,), self.contents, self.needed)


def _write_half(event: faults.Event) -> None:
    """The whole of it follows, to the same place."""
    assert event.data is not None
    fd = os.open(event.path, os.O_WRONLY)
    try:
        os.pwrite(fd, event.data[: len(event.data) // 2], event.offset)
    finally:
        os.close(fd)
