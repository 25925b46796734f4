"""Power cuts: a death at a fault point, after which what was not durable survives by chance.

Every 4 KiB page and every name that was not yet made durable is kept, lost or garbled, as a
seed decides. One run of the real code up to a point serves several seeds: what it left is put
back as it was, inodes and all, and cut anew.
"""

from __future__ import annotations

import json
import math
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from disks.engine import faults
from disks.tests.operations import worlds
from disks.tests.operations.dying import DIED, FEWEST_POINTS, Work, die_at, few_collections
from disks.tests.operations.frozen import Contents, Frozen, forget_second_names

PAGE = 4096
MOST_CUTS_OF_A_RUN = 10
CUTS_OF_A_ROW = 500  # so often a row of the log says how far it is

Rows = list[dict[str, object]]


@dataclass(frozen=True)
class NameChange:
    """What happened to a name, and the other one of it; kept: where the replaced file still is."""

    kind: str
    path: str
    other: str = ""
    kept: str | None = None

    def take_back(self, keep: str) -> None:
        """As if it had never happened, where the names are as it left them.

        What is gone by that is in the folder keep.
        """
        path = self.path
        if self.kind == "rename" and os.path.exists(self.other):
            os.rename(self.other, path)
            if self.kept is not None:
                os.rename(self.kept, self.other)
        elif self.kind == "unlink" and not os.path.exists(path):
            if self.kept is not None:
                os.rename(self.kept, path)
            elif os.path.exists(self.other):
                os.link(self.other, path)
        elif self.kind in ("create", "link", "mkdir") and os.path.exists(path):
            os.rename(path, os.path.join(keep, f"never{len(os.listdir(keep))}"))


@dataclass
class Storage:
    """What was changed since it was last made durable: enough to take any of it back.

    keep     a folder for what loses its last name: it may come back as the very same file
    pages    path -> page offset -> durable content (shorter at the end of the file)
    sizes    path -> durable size
    tails    as pages, of what was cut off: not written to, so it is there whole or is gone
    names    changes of names, oldest first; second_names: first ones to those
    """

    keep: str
    pages: dict[str, dict[int, bytes]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    tails: dict[str, dict[int, bytes]] = field(default_factory=dict)
    names: list[NameChange] = field(default_factory=list)
    second_names: dict[str, str] = field(default_factory=dict)

    def event(self, event: faults.Event) -> None:
        """Look at the storage just before the event happens."""
        path = event.path
        if event.operation == "write" and event.data is not None:
            self.sizes.setdefault(path, os.path.getsize(path))
            pages = self.pages.setdefault(path, {})
            first = event.offset // PAGE * PAGE
            with open(path, "rb", buffering=0) as file:
                for offset in range(first, event.offset + len(event.data), PAGE):
                    if offset not in pages:
                        pages[offset] = os.pread(file.fileno(), PAGE, offset)
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
            self.second_names[path] = event.target
        elif event.operation == "unlink":
            other = self.second_names.get(path, "")
            lives_on = os.path.exists(path) and os.path.exists(other)
            lives_on = lives_on and os.path.samefile(path, other)
            kept = None if lives_on else self._kept(path)
            self.names.append(NameChange("unlink", path, other, kept))
        elif event.operation in ("create", "mkdir"):
            self.names.append(NameChange(event.operation, path))
        elif event.operation == "fsync-folder":
            self.names = [one for one in self.names if os.path.dirname(one.path) != path]

    def _kept(self, path: str) -> str | None:
        """Another name, elsewhere, for a file that is about to lose this one."""
        if not os.path.isfile(path):
            return None
        name = os.path.join(self.keep, f"lost{len(os.listdir(self.keep))}")
        os.link(path, name)
        return name

    def cut(self, chance: random.Random) -> None:
        """The power fails: what is not durable survives by chance."""
        for path, pages in self.pages.items():
            if not os.path.exists(path):
                continue
            size, now = self.sizes[path], os.path.getsize(path)
            with open(path, "r+b", buffering=0) as file:
                for offset, durable in pages.items():
                    _garble(file.fileno(), offset, durable, chance)
                grown_back = now != size and chance.random() < 0.5
                file.truncate(size if grown_back else now)
                if grown_back:
                    for offset, durable in self.tails.get(path, {}).items():
                        os.pwrite(file.fileno(), durable, offset)
        # Names are lost from the last one backwards: file systems keep their order.
        for change in reversed(self.names):
            if chance.random() < 0.5:
                break
            change.take_back(self.keep)


def run_until(number: int, work: Work, keep: Path) -> tuple[int, Storage | None]:
    """Run work, which dies at its number-th fault point.

    keep: an empty folder on the same file system that work never looks into

    Returns how it ended, and, if it died, what was not yet durable then.
    """
    storage = Storage(str(keep))
    code = die_at(number, work, storage.event)
    return code, storage if code == DIED else None


class Scene(Protocol):
    """What an operation is tried on, always in the same folder."""

    @property
    def folder(self) -> Path:
        """Where everything happens."""

    def fresh(self) -> Work:
        """Build the folder anew; the work that is to be done in it."""

    def recover(self) -> Rows:
        """What an administrator does after the power is back."""

    def judge(self) -> str:
        """Assert that the state is a good one, and name it."""


def points_of(scene: Scene) -> list[str]:
    """The names of the fault points that one undisturbed run passes."""
    names: list[str] = []
    work = scene.fresh()
    faults.watch(lambda event: names.append(event.point))
    try:
        work()
    finally:
        faults.watch(None)
    assert len(names) > FEWEST_POINTS
    return names


def survive_power_cuts(
    scene: Scene,
    *,
    operation: str,
    format_name: str,
    cuts: int,
    seed: str,
    aside: Path,
    last_point_of_recovery: int = 24,
    dies_at: Sequence[str] = (),
) -> Counter[str]:
    """Cut the power under the scene's work this often; recovery mends it by itself each time.

    Half of the time the power fails again during recovery.

    operation  what is cut, as docs/proof.md calls it
    seed       where chance begins; VD_PROVE_SEED is added to it
    aside      a folder on the same file system, for our own files
    dies_at    names of points; it dies where one of them is reached, or at the next two

    Returns how often each of the judge's states was met. A run of the work up to a point
    serves several cuts when there are many more of them than points.
    """
    seed += os.environ.get("VD_PROVE_SEED", "")
    chance, seen = random.Random(seed), Counter[str]()
    aside.mkdir(exist_ok=True)
    began = time.process_time()
    names = points_of(scene)
    points = len(names)
    chosen = [
        number
        for number in range(1, points + 1)
        if not dies_at or {*names[max(0, number - 3) : number]} & {*dies_at}
    ]
    each = max(2, min(MOST_CUTS_OF_A_RUN, cuts // len(chosen)))

    def log(wrong: int = 0) -> None:
        counted = {"cuts": seen.total() + wrong, "wrong": wrong, "states": dict(seen)}
        seconds = round(time.process_time() - began, 1)
        told = {"operation": operation, "format": format_name, "seed": seed, "points": points}
        _log(told | counted | {"cpu_seconds": seconds})

    with tempfile.TemporaryDirectory(dir=aside) as own, few_collections(), worlds.remembering():
        keep, spare = Path(own, "keep"), Path(own, "spare")
        keep.mkdir()
        spare.mkdir()
        contents = Contents()
        work = scene.fresh()
        start = Frozen((scene.folder,), (keep, spare), contents)
        while seen.total() < cuts:
            number = chance.choice(chosen)
            code, storage = run_until(number, work, keep)
            assert code == DIED, f"it did not die at point {number} of {points}"
            assert storage is not None
            frozen = Frozen((scene.folder, keep), (spare,), contents)
            for _ in range(min(each, cuts - seen.total())):
                one = chance.randrange(2**32)
                again = chance.randrange(1, last_point_of_recovery) if one % 2 else 0
                try:
                    storage.cut(random.Random(one))
                    forget_second_names(keep)
                    if again:
                        _, left = run_until(again, scene.recover, spare)
                        if left is not None:
                            left.cut(random.Random(one + 1))
                        forget_second_names(spare)
                    with frozen.kept():
                        seen[_mended(scene)] += 1
                except Exception as error:
                    error.add_note(f"cut at {number} of {points} with {one}, again at {again}")
                    log(wrong=1)
                    raise
                if seen.total() % CUTS_OF_A_ROW == 0 and seen.total() < cuts:
                    log()
                if not frozen.thaw():
                    break
            if not start.thaw():
                work = scene.fresh()
                start = Frozen((scene.folder,), (keep, spare), contents)
            contents.forget_all_but(start.files.keys())
    log()
    return seen


def _mended(scene: Scene) -> str:
    rows = scene.recover()
    assert [row for row in rows if row["action"] in ("busy", "needs-attention")] == []
    state = scene.judge()
    assert scene.recover() == []
    return state


def cuts_of(cases: int, sample: int) -> int:
    """The cuts for each of an operation's cases of one format.

    VD_PROVE says how many an operation and a format get together; without it: sample for each.
    """
    wanted = os.environ.get("VD_PROVE")
    return math.ceil(int(wanted) / cases) if wanted else sample


def _log(row: dict[str, object]) -> None:
    """A line for whoever waits for the long proof: `VD_PROVE_LOG` names the file.

    What a test says last, with the same seed, takes the place of what it said before.
    """
    if path := os.environ.get("VD_PROVE_LOG"):
        test = os.environ.get("PYTEST_CURRENT_TEST", "").removesuffix(" (call)")
        with open(path, "a") as file:
            file.write(json.dumps({"test": test, **row}, ensure_ascii=False) + "\n")


def _garble(fd: int, offset: int, durable: bytes, chance: random.Random) -> None:
    fate = chance.choice(["kept", "lost", "garbage", "torn"])
    if fate == "kept":
        return
    now = os.pread(fd, PAGE, offset)
    # Past the durable end of the file a lost page reads as zeros.
    lost = durable + bytes(max(0, len(now) - len(durable)))
    if fate == "lost":
        data = lost
    elif fate == "garbage":
        data = chance.randbytes(len(now))
    else:
        data = b"".join(
            (now if chance.random() < 0.5 else lost)[at : at + 512]
            for at in range(0, len(now), 512)
        )
    os.pwrite(fd, data, offset)
