"""The wish that this worker ends, as its processes hear it (bad-input F98).

The worker's first process is told by a signal; those that do the jobs are its children and are
not. They share one byte of memory, made anew before they are started.
"""

from __future__ import annotations

import mmap


class _Told:
    flag: mmap.mmap | None = None


def prepare() -> None:
    """In the worker's first process, before it starts those that do the jobs."""
    _Told.flag = mmap.mmap(-1, 1)  # shared with children, and with nobody else


def announce() -> None:
    """From here jobs stop at their next safe place and wait for another worker."""
    if _Told.flag is not None:
        _Told.flag[0] = 1


def announced() -> bool:
    return _Told.flag is not None and _Told.flag[0] == 1
