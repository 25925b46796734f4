"""Breaking the world around an operation: deaths and errors at every point.

Work dies at its n-th fault point, then the test looks at what the storage holds. What deaths
leave at every point comes from one run of the work (`moments.py`). Where one is to die by itself,
it is a forked child that SIGKILL ends, or, most times, a death within this process (`dying.py`);
`make prove` kills a child at every point. What a power cut leaves is in `power.py`.
"""

from __future__ import annotations

import errno
import gc
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from disks.engine import faults
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile, storage_error
from disks.tests.operations import worlds
from disks.tests.operations.dying import (
    DIED,
    DONE,
    FEWEST_POINTS,
    REFUSED,
    Work,
    die_at,
    few_collections,
)
from disks.tests.operations.moments import left_by_deaths

MOST_POINTS = 600
# Deaths come at every point; of the other faults, and of the deaths that are SIGKILL, a sample,
# unless `make prove` asks for all.
PROVING = "VD_PROVE" in os.environ
SAMPLE, SAMPLE_OF_KILLS = (1, 1) if PROVING else (8, 5)

# Runs work broken at its n-th point, whichever that is: DONE, REFUSED or DIED.
Breaking = Callable[[int, Work], int]


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


def outcome_of(work: Work) -> int:
    """Run work in this process: DONE or REFUSED (ImageError)."""
    try:
        work()
    except ImageError:
        return REFUSED
    return DONE


def outcome_with(fault: faults.Fault, work: Work) -> int:
    """outcome_of work that is broken so; the fault's countdown is 0 if it came to that."""
    faults.install(fault)
    try:
        return outcome_of(work)
    finally:
        faults.install(None)


def with_fault(text: str, work: Callable[[], object]) -> Callable[[], object]:
    """work, broken as VD_FAULT would break it."""

    def broken() -> None:
        faults.install(faults.parse(text))
        try:
            work()
        finally:
            faults.install(None)

    return broken


def faulty(kind: str) -> Breaking:
    """Breaks work at its n-th point with one kind of fault."""
    if kind in ("kill", "torn"):
        return killed if kind == "kill" else torn

    def failing(number: int, work: Work) -> int:
        fault = faults.Fault("*", number, kind)
        code = outcome_with(fault, work)
        assert code != DONE or fault.countdown, f"{kind} at {number} would end the loop too early"
        return code

    return failing


def killed(number: int, work: Work) -> int:
    """Run work, which dies at its n-th point: every few times by SIGKILL."""
    if number % SAMPLE_OF_KILLS == 0:
        return in_fork(with_fault(f"*:{number}:kill", work))
    return die_at(number, work)


def torn(number: int, work: Work) -> int:
    """Run work, which dies at its n-th point, half of a write done."""
    return in_fork(with_fault(f"*:{number}:torn", work))


def failing_from(number: int, work: Work) -> int:
    """Run work on a storage that answers every change with an error from the n-th on."""
    count = 0

    def fail(event: faults.Event) -> None:
        nonlocal count
        count += 1
        if count >= number:
            raise OSError(5, os.strerror(5), event.path)

    faults.watch(fail)
    try:
        code = outcome_of(work)
    finally:
        faults.watch(None)
    assert code != DONE or count < number, f"errors from {number} on would end the loop too early"
    return code


@contextmanager
def unreadable_once(path: str, number: int) -> Iterator[list[tuple[int, str]]]:
    """The number-th read of a file's data fails: where, and in which thread; empty if none did."""
    read, reads = ImageFile.read_into, itertools.count(1)
    failed: list[tuple[int, str]] = []

    def failing(self: ImageFile, offset: int, buffer: memoryview) -> None:
        if self.path == path and next(reads) == number:
            failed.append((offset, threading.current_thread().name))
            error = OSError(errno.EIO, os.strerror(errno.EIO))
            raise storage_error(error, path, offset=offset, verb="read")
        read(self, offset, buffer)

    with mock.patch.object(ImageFile, "read_into", failing):
        yield failed


def broken_at_every_point(
    fresh: Callable[[], Work],
    breaking: Breaking,
    *,
    expected: int,
    every: int = 1,
    folder: Path | None = None,
) -> Iterator[int]:
    """Run fresh work broken at its first point, the second, …, until it comes through.

    every   only one of so many of them
    folder  where all of it happens: deaths in it are taken from a single run, see `moments.py`

    Yields the number after each run that ended as expected (DIED, REFUSED), for the caller
    to look at what it left; what the last run left is there after the loop.
    """
    with few_collections(), worlds.remembering():
        if folder is not None and breaking in (killed, torn) and not PROVING:
            yield from left_by_deaths(folder, fresh(), torn=breaking is torn, every=every)
            return
        for number in range(1, MOST_POINTS, every):
            code = breaking(number, fresh())
            if code == DONE:
                assert number > FEWEST_POINTS
                return
            assert code == expected, f"broken at {number}"
            yield number
    raise AssertionError(f"it did not come through in {MOST_POINTS} runs")


def failing_at_every_point(
    fresh: Callable[[], Work], kind: str, *, every: int = SAMPLE, step: str = ""
) -> Iterator[int]:
    """Run fresh work whose first point fails, the second, …, until it passes untouched.

    kind  enospc, eio, or short, which is the writes' alone
    step  which points count, see `faults.py`; all of them, if nothing is said

    Yields how each run ended, DONE where the failure was harmless or made good, else REFUSED;
    what the last run left, which nothing broke, is there after the loop.
    """
    step = step or ("write" if kind == "short" else "*")
    with few_collections(), worlds.remembering():
        for number in range(1, MOST_POINTS, every):
            fault = faults.Fault(step, number, kind)
            code = outcome_with(fault, fresh())
            if fault.countdown:
                assert code == DONE
                assert number > 1
                return
            yield code
    raise AssertionError(f"it did not come through in {MOST_POINTS} runs")


def mended_at_every_point(
    fresh: Callable[[], Work],
    breaking: Breaking,
    *,
    expected: int,
    recover: Callable[[], list[dict[str, object]]],
    judge: Callable[[], str],
    every: int = 1,
    folder: Path | None = None,
) -> set[str]:
    """Broken at every point, each time recovery mends it by itself, at one go.

    judge asserts that the state is a good one and names it; all that were met are returned.
    """
    states = set()
    for number in broken_at_every_point(
        fresh, breaking, expected=expected, every=every, folder=folder
    ):
        rows = recover()
        left = [row for row in rows if row["action"] in ("busy", "needs-attention")]
        assert left == [], f"broken at {number}"
        states.add(judge())
        assert recover() == [], f"broken at {number}"
    return states


def met_at_every_point(
    fresh: Callable[[], Work],
    kind: str,
    *,
    recover: Callable[[], list[dict[str, object]]],
    judge: Callable[[], str],
    deaths_every: int,
    errors_every: int,
    folder: Path,
) -> set[tuple[int, str]]:
    """One kind of fault at every point, each mended by recovery: how the runs ended, and in what.

    A death by "kill", else an error of the storage. judge as for mended_at_every_point().
    """
    if kind == "kill":
        states = mended_at_every_point(
            fresh,
            faulty(kind),
            expected=DIED,
            recover=recover,
            judge=judge,
            every=deaths_every,
            folder=folder,
        )
        return {(DIED, state) for state in states}
    met = set()
    for code in failing_at_every_point(fresh, kind, every=errors_every):
        rows = recover()
        assert [row for row in rows if row["action"] in ("busy", "needs-attention")] == []
        met.add((code, judge()))
    return met
