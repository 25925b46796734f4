"""Breaking the world around an operation: deaths and errors at every point.

A forked child does the work and dies at the n-th fault point; the parent looks at what
the storage holds then. What a power cut leaves of it is in `power.py`.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator

from disks.engine import faults
from disks.engine.errors import ImageError

DONE, REFUSED, DIED = 0, 7, -signal.SIGKILL
FEWEST_POINTS, MOST_POINTS = 5, 400
# Kills come at every point; of the other faults a sample, unless `make prove` asks for all.
SAMPLE = 1 if "VD_PROVE" in os.environ else 4

Work = Callable[[], object]


def in_fork(work: Callable[[], object]) -> int:
    """Run work in a forked process: DONE, REFUSED (ImageError), or -SIGKILL when it died."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            gc.disable()  # it would only copy every page of the parent
            work()
            code = DONE
        except ImageError:
            code = REFUSED
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def with_fault(text: str, work: Callable[[], object]) -> Callable[[], object]:
    """work, broken as VD_FAULT would break it."""

    def broken() -> None:
        faults.install(faults.parse(text))
        try:
            work()
        finally:
            faults.install(None)

    return broken


def faulty(kind: str) -> Callable[[int, Work], Work]:
    """Breaks work at its n-th point, whichever that is, with one kind of fault."""
    return lambda number, work: with_fault(f"*:{number}:{kind}", work)


def broken_at_every_point(
    fresh: Callable[[], Work],
    breaking: Callable[[int, Work], Work],
    *,
    expected: int,
    every: int = 1,
) -> Iterator[int]:
    """Run fresh work broken at its first point, the second, …, until it comes through.

    every: only one of so many of them

    Yields the number after each run that ended as expected (DIED, REFUSED), for the caller
    to look at what it left; what the last run left is there after the loop.
    """
    for number in range(1, MOST_POINTS, every):
        code = in_fork(breaking(number, fresh()))
        if code == DONE:
            assert number > FEWEST_POINTS
            return
        assert code == expected
        yield number
    raise AssertionError(f"it did not come through in {MOST_POINTS} runs")


def mended_at_every_point(
    fresh: Callable[[], Work],
    breaking: Callable[[int, Work], Work],
    *,
    expected: int,
    recover: Callable[[], list[dict[str, object]]],
    judge: Callable[[], str],
    every: int = 1,
) -> set[str]:
    """Broken at every point, each time recovery mends it by itself, at one go.

    judge asserts that the state is a good one and names it; all that were met are returned.
    """
    states = set()
    for number in broken_at_every_point(fresh, breaking, expected=expected, every=every):
        rows = recover()
        left = [row for row in rows if row["action"] in ("busy", "needs-attention")]
        assert left == [], f"broken at {number}"
        states.add(judge())
        assert recover() == [], f"broken at {number}"
    return states


def failing_from(number: int, work: Callable[[], object]) -> Callable[[], object]:
    """work on a storage that answers every change with an error from the n-th on."""

    def broken() -> None:
        count = 0

        def fail(event: faults.Event) -> None:
            nonlocal count
            count += 1
            if count >= number:
                raise OSError(5, os.strerror(5), event.path)

        faults.watch(fail)
        try:
            work()
        finally:
            faults.watch(None)

    return broken
