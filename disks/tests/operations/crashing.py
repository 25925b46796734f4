"""Breaking the world around an operation: deaths, errors and power cuts at every point.

A forked child does the work and dies at the n-th fault point; the parent looks at what
the storage holds then. A power cut is the same death, after which every 4 KiB page and
every name that was not yet made durable is kept, lost or garbled, as a seed decides.
"""

from __future__ import annotations

import os
import pickle
import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from disks.engine import faults
from disks.engine.errors import ImageError

PAGE = 4096
DONE, REFUSED, DIED = 0, 7, -signal.SIGKILL
FEWEST_POINTS, MOST_POINTS = 8, 400
# Kills come at every point; of the other faults a sample, unless `make prove` asks for all.
SAMPLE = 1 if "VD_PROVE" in os.environ else 4

Work = Callable[[], object]


def in_fork(work: Callable[[], object]) -> int:
    """Run work in a forked process: DONE, REFUSED (ImageError), or -SIGKILL when it died."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
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


@dataclass(frozen=True)
class NameChange:
    """What happened to a name, and the other one of it; kept: where the replaced file still is."""

    kind: str
    path: str
    other: str = ""
    kept: str | None = None

    def take_back(self) -> None:
        """As if it had never happened, where the names are as it left them."""
        path = self.path
        if self.kind == "rename" and os.path.exists(self.other):
            os.rename(self.other, path)
            if self.kept is not None:
                os.rename(self.kept, self.other)
        elif self.kind == "unlink" and self.kept is not None and not os.path.exists(path):
            os.rename(self.kept, path)
        elif self.kind in ("create", "link") and os.path.exists(path):
            os.unlink(path)
        elif self.kind == "mkdir" and os.path.isdir(path):
            shutil.rmtree(path)


@dataclass
class Storage:
    """What was changed since it was last made durable: enough to take any of it back.

    keep     a folder for what loses its last name: it may come back as the very same file
    pages    path -> page offset -> durable content (shorter at the end of the file)
    sizes    path -> durable size
    tails    as pages, of what was cut off: not written to, so it is there whole or is gone
    names    changes of names, oldest first
    """

    keep: str
    pages: dict[str, dict[int, bytes]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    tails: dict[str, dict[int, bytes]] = field(default_factory=dict)
    names: list[NameChange] = field(default_factory=list)

    def event(self, event: faults.Event) -> None:
        """Look at the storage just before the event happens."""
        path = event.path
        if event.operation == "write" and event.data is not None:
            self.sizes.setdefault(path, os.path.getsize(path))
            pages = self.pages.setdefault(path, {})
            with open(path, "rb") as file:
                first = event.offset // PAGE * PAGE
                for offset in range(first, event.offset + len(event.data), PAGE):
                    if offset not in pages:
                        file.seek(offset)
                        pages[offset] = file.read(PAGE)
        elif event.operation == "truncate":
            self.sizes.setdefault(path, os.path.getsize(path))
            pages, tail = self.pages.setdefault(path, {}), self.tails.setdefault(path, {})
            with open(path, "rb") as file:
                for offset in range(event.offset // PAGE * PAGE, os.path.getsize(path), PAGE):
                    if offset not in pages:
                        file.seek(offset)
                        (pages if offset < event.offset else tail)[offset] = file.read(PAGE)
        elif event.operation == "allocate":
            self.sizes.setdefault(path, os.path.getsize(path))
        elif event.operation == "fsync":
            for known in (self.pages, self.sizes, self.tails):
                known.pop(path, None)
        elif event.operation == "rename":
            self.names.append(NameChange("rename", path, event.target, self._kept(event.target)))
            for known in (self.pages, self.sizes, self.tails):
                known.pop(event.target, None)
                if path in known:
                    known[event.target] = known.pop(path)
        elif event.operation == "link":
            self.names.append(NameChange("link", event.target, path))
        elif event.operation == "unlink":
            self.names.append(NameChange("unlink", path, "", self._kept(path)))
        elif event.operation in ("create", "mkdir"):
            self.names.append(NameChange(event.operation, path))
        elif event.operation == "fsync-folder":
            self.names = [one for one in self.names if os.path.dirname(one.path) != path]

    def _kept(self, path: str) -> str | None:
        """Another name, elsewhere, for a file that is about to lose this one."""
        if not os.path.isfile(path):
            return None
        name = os.path.join(self.keep, str(len(os.listdir(self.keep))))
        os.link(path, name)
        return name

    def cut(self, chance: random.Random) -> None:
        """The power fails: what is not durable survives by chance."""
        for path, pages in self.pages.items():
            if not os.path.exists(path):
                continue
            size, now = self.sizes[path], os.path.getsize(path)
            with open(path, "r+b") as file:
                for offset, durable in pages.items():
                    _garble(file, offset, durable, chance)
                grown_back = now != size and chance.random() < 0.5
                file.truncate(size if grown_back else now)
                if grown_back:
                    for offset, durable in self.tails.get(path, {}).items():
                        file.seek(offset)
                        file.write(durable)
        # Names are lost from the last one backwards: file systems keep their order.
        for change in reversed(self.names):
            if chance.random() < 0.5:
                break
            change.take_back()


def power_cut(number: int, work: Callable[[], object], seed: int, near: Path) -> int:
    """Run work until its number-th fault point, cut the power there; the fork's exit code.

    near: a folder on the same file system that work never looks into.
    """
    read_end, write_end = os.pipe()
    keep = tempfile.TemporaryDirectory(dir=near)
    storage = Storage(keep.name)

    def watched() -> None:
        os.close(read_end)
        count = 0

        def see(event: faults.Event) -> None:
            nonlocal count
            count += 1
            if count == number:
                with os.fdopen(write_end, "wb") as out:
                    pickle.dump(storage, out)
                os.kill(os.getpid(), signal.SIGKILL)
            storage.event(event)

        faults.watch(see)
        work()

    # The pipe is drained while the child runs, so that it never waits for room.
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            watched()
            code = DONE
        except ImageError:
            code = REFUSED
        finally:
            os._exit(code)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as source:
        data = source.read()
    _, status = os.waitpid(pid, 0)
    if data:
        pickle.loads(data).cut(random.Random(seed))
    keep.cleanup()
    return os.waitstatus_to_exitcode(status)


def _garble(file: object, offset: int, durable: bytes, chance: random.Random) -> None:
    fate = chance.choice(["kept", "lost", "garbage", "torn"])
    file.seek(offset)  # type: ignore[attr-defined]
    now = file.read(PAGE)  # type: ignore[attr-defined]
    if fate == "kept":
        return
    if fate == "lost":
        # Past the durable end of the file a lost page reads as zeros.
        data = durable + bytes(max(0, len(now) - len(durable)))
    elif fate == "garbage":
        data = chance.randbytes(len(now))
    else:
        lost = durable + bytes(max(0, len(now) - len(durable)))
        data = b"".join(
            (now if chance.random() < 0.5 else lost)[at : at + 512]
            for at in range(0, len(now), 512)
        )
    file.seek(offset)  # type: ignore[attr-defined]
    file.write(data)  # type: ignore[attr-defined]
