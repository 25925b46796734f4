"""How far a long look at a file is, told often enough that a wish to stop is heard at once."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic as clock

from disks.engine.files import ImageFile
from disks.engine.units import MIB

_REPORT_BYTES = 4 * MIB
_REPORT_SECONDS = 0.5  # storage that is slow, or busy with others
_SEEK_BYTES = 64 * 1024  # a read elsewhere takes slow storage as long as these many more


Report = Callable[[int, int], None]
"""Long functions call it as (done_bytes, total_bytes), every few MiB at least and only
while every file is consistent; it may raise to stop them."""


def unreported(done_bytes: int, total_bytes: int) -> None:
    """The Report of who does not ask for one."""


class Walk:
    """Where in the file a check is."""

    def __init__(self, file: ImageFile, report: Report) -> None:
        self._size_bytes = file.size_bytes
        self._report = report
        self._untold_bytes = 0
        self._told_at = clock()

    def reads(self, offset: int, count_bytes: int) -> None:
        """Some bytes at an offset are read next. Raises what report raises."""
        self._untold_bytes += count_bytes + _SEEK_BYTES
        now = clock()
        if self._untold_bytes >= _REPORT_BYTES or now - self._told_at >= _REPORT_SECONDS:
            self._untold_bytes, self._told_at = 0, now
            self._report(offset, self._size_bytes)
