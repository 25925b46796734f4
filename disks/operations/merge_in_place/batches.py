"""Moving what the levels above hold into base, batch by batch (crash-safety §2 "Batches").

Several levels are moved at once, as the leaf reads them: every sector moves once, whichever
level it comes from, and each one that base gets is hidden from the leaf by the very level that
gave it. So the leaf reads right at every moment, and nothing between has to be valid by itself.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from disks.engine import faults
from disks.engine.chain import ChainView
from disks.engine.changes import Write
from disks.engine.files import ImageFile
from disks.engine.formats import open_image
from disks.engine.holding import HoldPlan, Limits, Wanted
from disks.engine.images import Image
from disks.engine.units import MIB, SECTOR_BYTES, sectors, size_text
from disks.operations import unforeseen
from disks.operations.content import HeldContent, Run
from disks.operations.merge_in_place import old_pages
from disks.operations.merge_in_place.as_left import header_of, require_as_stopped
from disks.operations.merge_in_place.moving import move, prove
from disks.operations.merge_in_place.old_pages import Slot
from disks.operations.merge_in_place.refusals import PUT_BACK, another_file, attention
from disks.operations.merge_in_place.work import ENDING, Work, key, write
from disks.operations.paths import Roots
from disks.operations.progress import Cancelled, Lost, Progress, Stopped
from disks.operations.rollback import quietly
from disks.operations.windows import shown

_AT_FIRST = "before its first batch was complete"

BATCH_BYTES = 64 * MIB
"""Most that one batch moves: what a kill can cost, and what one flush has to wait for."""


def run(roots: Roots, work: Work, progress: Progress, total_bytes: int | None) -> Work:
    """Move everything, from where the work stands. Raises Stopped.

    total_bytes: what all levels hold together; None: it is counted.

    What goes wrong in a batch, and a wish to stop, takes that batch back and is a stop: the
    merge can go on when the reason is gone. E_NEEDS_ATTENTION where files are not as we left them.
    """
    with (
        Levels(roots, work) as levels,
        roots.open(work.base, writable=True) as file,
        roots.open(work.pages_path, writable=True) as journal_file,
    ):
        file.pass_memory_by()
        total = levels.held_bytes(0) if total_bytes is None else total_bytes
        done = total - levels.held_bytes(work.position) if work.position else 0
        moving = _Moving(roots, work, levels, file, journal_file, progress, done, total)
        moving.carry_out()
        work = moving.work
    seconds = round(moving.proof_seconds, 3)
    result = work.result | {"bytes_written": moving.done_bytes, "proof_seconds": seconds}
    work = work.at(ENDING, result=result, file=None)
    write(roots, work)
    return work


def prepare(roots: Roots, work: Work) -> Work:
    """Make the files consistent again after an interruption, and say where to go on."""
    with roots.open(work.base, writable=True) as file:
        if file.stat().st_ino != work.inodes[-1]:
            raise another_file(work.base)
        if not old_pages.is_there(roots, work.pages_path):
            gone = os.path.basename(work.pages_path)
            why = f"{gone} is gone or cut short, which knows what was half written"
            advice = "Bring that file back to where it was, then go on with the merge."
            raise attention(work.base, why, advice)
        slot = old_pages.newest(roots, work.pages_path, key(work), work.batch)
        if work.file is not None and slot is None:
            require_as_stopped(file, work)
        with faults.stage("merge.prepare"):
            work = _mend(roots, work, file, slot)
    for path, inode in zip(work.levels, work.inodes, strict=False):
        _replay(roots, path, inode)
    now = seen(roots, work.levels)
    # A machine that ran meanwhile may have written anywhere: what is held never becomes less.
    position = work.position if now == work.seen else 0
    work = replace(work, position=position, seen=now, file=None, garbled=())
    with faults.stage("merge.prepare"):
        write(roots, work)
    return work


def _replay(roots: Roots, path: str, inode: int) -> None:
    """What waits in the log of a level goes to its place: whoever used it may have died."""
    with roots.open(path) as file:
        if file.stat().st_ino != inode:
            raise another_file(path)
        if not open_image(file).log_waits:
            return
    with roots.open(path, writable=True) as file, faults.stage("merge.prepare"):
        open_image(file).replay_log()


def _mend(roots: Roots, work: Work, file: ImageFile, slot: Slot | None) -> Work:
    image: Image
    if slot is not None:
        foreign = {page.offset for page in slot.pages if old_pages.is_foreign(file, page)}
        if foreign - set(work.garbled):
            raise attention(work.base, "somebody else has written to it since", PUT_BACK)
        if file.size_bytes < slot.size_bytes:
            raise attention(work.base, "it is shorter than it was", PUT_BACK)
        # Remembered first: should this be cut off, too, half of such a page is as it was before.
        garbled = {page.offset for page in slot.pages if old_pages.is_garbled(file, page)}
        if garbled - set(work.garbled):
            work = replace(work, garbled=tuple(sorted(garbled | set(work.garbled))))
            write(roots, work)
        old_pages.put_back(file, slot)
        file.sync()
    # A VHDX says in its log whether the batch is there; the old pages are none of its metadata.
    if slot is not None and slot.size_bytes < file.size_bytes:
        logged = file.read_at(0, 8) == b"vhdxfile"
        if not logged:
            file.truncate(slot.size_bytes)
            file.sync()
    image = open_image(file)
    if image.log_waits:
        image.replay_log()
        image = open_image(file)
    if slot is not None and image.needed_bytes() <= slot.size_bytes < file.size_bytes:
        file.truncate(slot.size_bytes)
        file.sync()
        image = open_image(file)
    if image.identity != work.identity:
        raise attention(work.base, "it has another identity now", PUT_BACK)
    if slot is None:
        return work
    # The slots take turns: this batch's may be written over only by the one after the next.
    return replace(work, position=slot.position, batch=slot.batch)


def seen(roots: Roots, levels: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """What tells whether levels were written: inode, size, modification time, and headers.

    A power cut can lose the time of what a machine has written and made durable (`fdatasync`,
    mounts with lazytime). A VHDX says in its headers that it was opened for writing.
    """
    found = []
    for path in levels:
        with roots.open(path) as file:
            status = file.stat()
            header = header_of(file)
        found.append((status.st_ino, status.st_size, status.st_mtime_ns, header))
    return tuple(found)


class Levels:
    """The disks that are merged, opened, as the leaf reads what they hold. Owns their files."""

    def __init__(self, roots: Roots, work: Work) -> None:
        self._stack = contextlib.ExitStack()
        images: list[Image] = []
        try:
            for path, inode in zip(work.levels, work.inodes, strict=False):
                file = self._stack.enter_context(roots.open(path))
                if file.stat().st_ino != inode:
                    raise another_file(path)
                images.append(open_image(file))
            _require_links(work, images)
        except BaseException:
            self._stack.close()
            raise
        self.view = ChainView(images, work.levels)
        self._content = HeldContent(self.view)

    def runs(self, first_sector: int) -> Iterator[Run]:
        count = sectors(self.view.virtual_size_bytes) - first_sector
        return self._content.runs(first_sector, count) if count > 0 else iter(())

    def held_bytes(self, first_sector: int) -> int:
        """What is held from a sector on."""
        return sum(run.count_sectors for run in self.runs(first_sector)) * SECTOR_BYTES

    def __enter__(self) -> Levels:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _require_links(work: Work, images: Sequence[Image]) -> None:
    identities = [image.identity for image in images[1:]] + [work.identity]
    for image, identity in zip(images, identities, strict=True):
        if image.parent is None or image.parent.identity != identity:
            raise attention(
                image.file.path,
                "it is linked to another parent now",
                f"Its parent was {identity}: link it to that again, then go on with the merge.",
            )


@dataclass
class _Moving:
    """Batch after batch.

    work        its position is behind the last batch that is complete
    done_bytes  what is moved, by these
    """

    roots: Roots
    work: Work
    levels: Levels
    file: ImageFile
    journal_file: ImageFile
    progress: Progress
    done_bytes: int
    total_bytes: int
    proof_seconds: float = 0.0

    def carry_out(self) -> None:
        """Everything that is left. Raises Stopped."""
        ahead = size_text(self.total_bytes - self.done_bytes)
        first: int | None = self.work.position
        try:
            self.progress.step("merge", f"Moving {ahead} into {os.path.basename(self.work.base)}")
            while first is not None:
                self.progress.report(self.done_bytes, self.total_bytes)
                first = self._batch(first)
        except (Cancelled, Stopped) as asked:
            done = f"after {size_text(self.done_bytes)} of {size_text(self.total_bytes)}"
            self._stop(f"was stopped {done if self.done_bytes else _AT_FIRST}.", asked)
        except Lost:
            raise
        except Exception as error:
            why = unforeseen.typed(error, self.file.path)
            self._stop(f"stopped: {why.sentence}", why)

    def _batch(self, first: int) -> int | None:
        """One batch from plan to end; the sector that the next one begins at, None without one."""
        runs: list[Run] = []
        image = open_image(self.file)
        pages = old_pages.pages_in(self.journal_file) - old_pages.SPARE_PAGES
        limits = Limits(self.progress.at_once_bytes(BATCH_BYTES), pages)
        holding = image.plan_hold(self._wanted(first, runs), limits)
        until = holding.until_sector
        if holding.places or holding.beside or holding.steps:
            self._write(holding, runs)
            self.done_bytes += sum(place.count_sectors for place in holding.places) * SECTOR_BYTES
            self.work = replace(
                self.work,
                batch=self.work.batch + 1,
                position=self.work.position if until is None else until,
            )
        return until

    def _write(self, holding: HoldPlan, runs: Sequence[Run]) -> None:
        """Old pages, room, data, metadata, each durable before the next.

        The data is read back before anything of base refers to it.
        """
        file = self.file
        with faults.stage("merge.journal"):
            slot = Slot(
                self.work.batch + 1,
                self.work.position,
                file.size_bytes,
                old_pages.collect(file, _changed(holding)),
            )
            old_pages.write(self.journal_file, slot, key(self.work))
        if holding.size_after_bytes > file.size_bytes:
            with faults.stage("merge.room"):
                file.allocate(holding.size_after_bytes, from_bytes=file.size_bytes)
                self._write_all(holding.room)
                file.sync()
        with faults.stage("merge.data"):
            told = self._teller()
            digest = move(file, holding.places, runs, told)
            self._write_all(holding.beside)
            file.sync()
            began = time.monotonic()
            prove(file, holding.places, digest, told)
            self.proof_seconds += time.monotonic() - began
        with faults.stage("merge.table"):
            self.progress.commit_starts()
            for step in holding.steps:
                self._write_all(step)
                file.sync()
        self.progress.commit_ends()

    def _wanted(self, first: int, runs: list[Run]) -> Iterator[Wanted]:
        for run in self.levels.runs(first):
            runs.append(run)
            yield Wanted(run.first_sector, run.count_sectors, run.file is None)

    def _write_all(self, writes: Sequence[Write]) -> None:
        for one in writes:
            self.file.write_at(one.offset, one.data)

    def _teller(self) -> Callable[[int], None]:
        """Of a batch: each byte is copied and read back, so two of them are one that is done."""
        handled_bytes = 0

        def told(count_bytes: int) -> None:
            nonlocal handled_bytes
            handled_bytes += count_bytes
            self.progress.moved(count_bytes)
            self.progress.report(self.done_bytes + handled_bytes // 2, self.total_bytes)

        return told

    def _stop(self, why: str, error: Exception) -> NoReturn:
        """Take back the batch at hand, if that can be done, and stop here."""
        with faults.stage("merge.rollback"):
            quietly(self._take_back, self.file.path)
        raise Stopped(f"The merge {why}", how_to_go_on(self.work)) from error

    def _take_back(self) -> None:
        slot = old_pages.newest(self.roots, self.work.pages_path, key(self.work), self.work.batch)
        stopped(self.roots, _mend(self.roots, self.work, self.file, slot))


def _changed(holding: HoldPlan) -> Iterator[tuple[int, int, bool]]:
    """(offset, bytes, hidden) of what a batch writes over; see old_pages.collect()."""
    for place in holding.places:
        yield place.file_offset, place.count_sectors * SECTOR_BYTES, True
    steps = () if holding.logged else holding.steps
    for writes in (holding.room, holding.beside, *steps):
        for one in writes:
            yield one.offset, len(one.data), False


def stopped(roots: Roots, work: Work) -> None:
    """Remember how far it is, and the files as they are now, to notice who writes to them."""
    with roots.open(work.base) as file:
        now, header = file.identity(), header_of(file)
    with faults.stage("merge.stop"):
        write(roots, replace(work, file=now, header=header, stopped=True, garbled=()))


def how_to_go_on(work: Work) -> str:
    return (
        f"{how_to_resume(work.base)} Until then {shown(work.leaf)} reads as ever and may be "
        f"used; do not open {shown(work.base)} by itself."
    )


def how_to_resume(base: str) -> str:
    folder = shown(os.path.dirname(base))
    return f"Resume it later (“manage.py disk recover {folder}”, or the Jobs page)."
