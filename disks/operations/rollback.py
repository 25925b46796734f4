"""What an error leaves half done is taken back while the error is on its way."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from disks.operations import unforeseen
from disks.operations.progress import Lost


@contextlib.contextmanager
def rolling_back(undo: Callable[[], object], path: str) -> Iterator[None]:
    """Whatever ends the block early calls undo, as recovery does after a kill.

    After Lost nothing is taken back: records and disks may be another's by now.

    path: of the disk, for the log
    """
    try:
        yield
    except Lost:
        raise
    except BaseException:
        quietly(undo, path)
        raise


def quietly(undo: Callable[[], object], path: str) -> bool:
    """Take something back while an error is on its way; whether that succeeded.

    An error of this must not hide the first: recovery tries again, and the log tells what nobody
    foresaw.
    """
    try:
        undo()
    except Exception as error:
        unforeseen.typed(error, path)
        return False
    return True
