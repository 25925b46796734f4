"""Named points where a test can break the world: between any two changes of the storage.

`VD_FAULT=step:n:kind` breaks the n-th matching point of this process. A point is called
`stage.operation`: the operation is `create`, `write`, `fsync`, `truncate`, `allocate`,
`rename`, `link`, `unlink`, `mkdir`, `rmdir`, `fsync-folder`, `utime`, `chmod`, `chown`,
`setxattr` or `removexattr`, the stage is what stage() says (`relink.header`). step is a
point's whole name, its stage, its operation, or `*`.

kinds: kill    the process dies before the operation (SIGKILL)
       torn    half of a write reaches the file, then the process dies
       enospc  the operation fails, storage full
       eio     the operation fails, input/output error
       short   a write takes only half of its bytes (nothing else breaks: the rest follows)
       pause   the process stops (SIGSTOP) until somebody continues it

Without VD_FAULT and without a test that watches, all of it costs one comparison per call.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

KINDS = ("kill", "torn", "enospc", "eio", "short", "pause")


@dataclass(slots=True)
class Fault:
    """The plan: break the countdown-th point that matches step."""

    step: str
    countdown: int
    kind: str

    def matches(self, point: str) -> bool:
        stage, _, operation = point.rpartition(".")
        return self.step in ("*", point, stage, operation)


@dataclass(frozen=True, slots=True)
class Event:
    """An operation that is about to happen, for a test that models the storage.

    path    what it works on; target: the other name of a rename or link
    offset  of a write, or the new size of truncate and allocate, in bytes
    data    what a write will put there
    """

    point: str
    operation: str
    path: str
    target: str = ""
    offset: int = 0
    data: bytes | None = None


Watcher = Callable[[Event], None]


class _State:
    def __init__(self) -> None:
        self.fault: Fault | None = None
        self.watcher: Watcher | None = None
        self.stage = ""
        self.active = False

    def update(self) -> None:
        self.active = self.fault is not None or self.watcher is not None


_state = _State()


def parse(text: str) -> Fault:
    """`step:n:kind`; ValueError says what is wrong with it."""
    pieces = text.rsplit(":", 2)
    if len(pieces) != 3 or not pieces[0] or not pieces[1].isdigit() or int(pieces[1]) < 1:
        raise ValueError(f"VD_FAULT must look like step:n:kind, not {text!r}")
    if pieces[2] not in KINDS:
        raise ValueError(f"VD_FAULT knows {', '.join(KINDS)}, not {pieces[2]!r}")
    return Fault(pieces[0], int(pieces[1]), pieces[2])


def install(fault: Fault | None) -> None:
    """Break something later; None: break nothing."""
    _state.fault = fault
    _state.update()


def watch(watcher: Watcher | None) -> None:
    """Tell watcher of every operation before it happens; None: tell nobody."""
    _state.watcher = watcher
    _state.update()


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Name the stage of the work; the innermost one counts."""
    before = _state.stage
    _state.stage = name
    try:
        yield
    finally:
        _state.stage = before


def reached(operation: str, path: str = "", *, target: str = "", offset: int = 0) -> None:
    """An operation is about to happen. Raises OSError, or does not return, if it shall break."""
    if _state.active:
        _reached(operation, path, target, offset, None)


def writing(fd: int, path: str, offset: int, data: memoryview) -> int:
    """As reached(), for a write: how many bytes of data may be given to the kernel now."""
    if not _state.active:
        return len(data)
    kind = _reached("write", path, "", offset, data)
    if kind == "torn":
        os.pwrite(fd, data[: len(data) // 2], offset)
        _die()
    return max(1, len(data) // 2) if kind == "short" else len(data)


def _reached(operation: str, path: str, target: str, offset: int, data: memoryview | None) -> str:
    point = f"{_state.stage}.{operation}" if _state.stage else operation
    if _state.watcher is not None:
        content = None if data is None else bytes(data)
        _state.watcher(Event(point, operation, path, target, offset, content))
    fault = _state.fault
    if fault is None or not fault.matches(point):
        return ""
    fault.countdown -= 1
    if fault.countdown:
        return ""
    install(None)
    if fault.kind == "kill" or (fault.kind == "torn" and data is None):
        _die()
    if fault.kind == "pause":
        os.kill(os.getpid(), signal.SIGSTOP)
    if fault.kind in _ERRORS:
        number = _ERRORS[fault.kind]
        raise OSError(number, os.strerror(number), path)
    return fault.kind


_ERRORS = {"enospc": errno.ENOSPC, "eio": errno.EIO}


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if os.environ.get("VD_FAULT"):
    install(parse(os.environ["VD_FAULT"]))
