"""Death at a fault point within this process, so that no fork is needed for it.

An exception passes through everything, while nothing that is still done on its way reaches the
storage, and what it had open is closed: the same as SIGKILL in a process of its own, which
`test_power.py` compares, but without the fork, which took most of the time.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn
from unittest import mock

from disks.engine import faults
from disks.engine.errors import ImageError

DONE, REFUSED, DIED = 0, 7, -signal.SIGKILL
FEWEST_POINTS = 5  # of any work that is worth breaking

Work = Callable[[], object]


class Died(BaseException):
    """The process is gone: no handler may take it for an error of the work."""


# What changes the storage: all that the dead may still call on their way out, also behind the
# fault points. (Files are created through a fault point only, locks never on the way out.)
_CHANGES = [
    "chmod",
    "fchmod",
    "fchown",
    "ftruncate",
    "link",
    "mkdir",
    "posix_fallocate",
    "pwrite",
    "removexattr",
    "rename",
    "rmdir",
    "setxattr",
    "unlink",
    "utime",
]


def die_at(
    number: int, work: Work, before: Callable[[faults.Event], object] = lambda event: None
) -> int:
    """Run work, which dies at its number-th fault point: DIED, or how it ended before that.

    before is told of each fault point that it passes alive, just before it happens.
    """
    count = 0

    def see(event: faults.Event) -> None:
        nonlocal count
        count += 1
        if count < number:
            before(event)
            return
        if count == number:
            for name in _CHANGES:
                of_the_dead.enter_context(mock.patch.object(os, name, _die))
        raise Died

    code = DONE
    with _leaving_nothing_open(), contextlib.ExitStack() as of_the_dead:
        faults.watch(see)
        try:
            work()
        except ImageError:
            code = REFUSED
        except Died:
            code = DIED
        finally:
            faults.watch(None)
    return DIED if count >= number else code


def _die(*_: object, **__: object) -> NoReturn:
    raise Died


@contextlib.contextmanager
def few_collections() -> Iterator[None]:
    """What was there before is not looked through again and again for garbage."""
    gc.collect()
    gc.freeze()  # for good: to thaw what is frozen would cost every later collection
    yield


@contextlib.contextmanager
def _leaving_nothing_open() -> Iterator[None]:
    """Like the kernel at a process's death: its threads are over, its files closed."""
    threads, files = set(threading.enumerate()), set(_open_files())
    yield
    for thread in set(threading.enumerate()) - threads:
        thread.join()
    if set(_open_files()) - files:
        gc.collect()  # who closes a file when it is collected shall not close another's later
        for left in set(_open_files()) - files:
            os.close(left)


def _open_files() -> Iterator[int]:
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # of the listing itself
            os.fstat(int(name))
            yield int(name)
