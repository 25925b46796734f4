"""Moving what the levels above hold into base, batch by batch (crash-safety §2 "Batches").

Several levels are moved at once, as the leaf reads them: every sector moves once, whichever
level it comes from, and each one that base gets is hidden from the leaf by the very level that
gave it. So the leaf reads right at every moment, and nothing between has to be valid by itself.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import xxhash

from disks.engine import faults
from disks.engine.chain import ChainView
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.formats import open_image
from disks.engine.holding import HoldPlan, Limits, Place, Wanted
from disks.engine.images import Image
from disks.engine.units import KIB, MIB, SECTOR_BYTES, sectors
from disks.operations.merge_in_place import old_pages
from disks.operations.merge_in_place.old_pages import Slot
from disks.operations.merge_in_place.work import ENDING, Work, write
from disks.operations.paths import Roots
from disks.operations.progress import Cancelled, Progress, Stopped
from disks.operations.rewriting import attention
from disks.operations.streaming import ChainContent, Run
from disks.operations.windows import shown

LIMITS = Limits(data_bytes=64 * MIB, pages=old_pages.MOST_PAGES - 96)
_BUFFER_BYTES = 512 * KIB
_ZEROS = bytes(_BUFFER_BYTES)


def run(roots: Roots, work: Work, progress: Progress) -> Work:
    """Move everything, from where the work stands. Raises Stopped between two batches.

    What goes wrong in a batch takes that batch back and is a stop, too: the merge can go on
    when the reason is gone. E_NEEDS_ATTENTION where files are not as we left them.
    """
    with Levels(roots, work) as levels, roots.open(work.base, writable=True) as file:
        total = sum(run.count_sectors for run in levels.runs(0)) * SECTOR_BYTES
        ahead = sum(run.count_sectors for run in levels.runs(work.position)) * SECTOR_BYTES
        progress.step("merge", f"Moving {ahead:,} bytes into {os.path.basename(work.base)}")
        done = total - ahead
        with roots.open(work.pages_path, writable=True) as journal_file:
            while True:
                _ask(roots, work, levels, progress, done, total)
                limits = replace(LIMITS, data_bytes=progress.at_once_bytes(LIMITS.data_bytes))
                batch = _Batch(work, levels, file, journal_file, limits)
                try:
                    until = batch.carry_out()
                    progress.commit_ends()
                except (ImageError, OSError) as error:
                    _give_up(roots, work, levels, file, error)
                done += batch.moved_bytes
                progress.moved(2 * batch.moved_bytes)  # each is read back
                if until is None:
                    break
                work = replace(work, position=until, batch=work.batch + 1)
    result = work.result | {"bytes_written": done}
    work = work.at(ENDING, result=result, file=None)
    write(roots, work)
    return work


def prepare(roots: Roots, work: Work) -> Work:
    """Make the files consistent again after an interruption, and say where to go on."""
    with roots.open(work.base, writable=True) as file:
        if file.stat().st_ino != work.inodes[-1]:
            raise attention(work.base, "another file has its name now")
        slot = old_pages.newest(roots, work.pages_path, key(work), work.batch)
        if work.file is not None and slot is None and not _same(file, work):
            raise attention(work.base, "somebody has written to it since the merge was stopped")
        with faults.stage("merge.prepare"):
            work = _mend(work, file, slot)
    for path, inode in zip(work.levels, work.inodes, strict=False):
        _replay(roots, path, inode)
    now = seen(roots, work.levels)
    # A machine that ran meanwhile may have written anywhere: what is held never becomes less.
    position = work.position if now == work.seen else 0
    work = replace(work, position=position, seen=now, file=None)
    with faults.stage("merge.prepare"):
        write(roots, work)
    return work


def _replay(roots: Roots, path: str, inode: int) -> None:
    """What waits in the log of a level goes to its place: whoever used it may have died."""
    with roots.open(path) as file:
        if file.stat().st_ino != inode:
            raise attention(path, "another file has its name now")
        if not open_image(file).log_waits:
            return
    with roots.open(path, writable=True) as file, faults.stage("merge.prepare"):
        open_image(file).replay_log()


def key(work: Work) -> int:
    """Tells this merge's old pages from those of any other on the same disk."""
    return zlib.crc32(f"{work.job} {work.inodes} {work.old_identity}".encode())


def _mend(work: Work, file: ImageFile, slot: Slot | None) -> Work:
    image: Image
    if slot is not None:
        if any(old_pages.is_foreign(file, page) for page in slot.pages):
            raise attention(work.base, "somebody else has written to it since")
        if file.size_bytes < slot.size_bytes:
            raise attention(work.base, "it is shorter than it was")
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
        raise attention(work.base, "it has another identity now")
    if slot is None:
        return work
    # The slots take turns: this batch's may be written over only by the one after the next.
    return replace(work, position=slot.position, batch=slot.batch)


def _same(file: ImageFile, work: Work) -> bool:
    now, then = file.identity(), work.file
    return then is not None and (now.size_bytes, now.mtime_ns) == (then.size_bytes, then.mtime_ns)


def seen(roots: Roots, levels: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """What tells whether levels were written: inode, size and modification time."""
    found = [roots.stat(path) for path in levels]
    return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in found)


class Levels:
    """The disks that are merged, opened, as the leaf reads what they hold. Owns their files."""

    def __init__(self, roots: Roots, work: Work) -> None:
        self._stack = contextlib.ExitStack()
        images: list[Image] = []
        try:
            for path, inode in zip(work.levels, work.inodes, strict=False):
                file = self._stack.enter_context(roots.open(path))
                if file.stat().st_ino != inode:
                    raise attention(path, "another file has its name now")
                images.append(open_image(file))
            _require_links(work, images)
        except BaseException:
            self._stack.close()
            raise
        self.view = ChainView(images, work.levels)
        self._content = ChainContent(self.view)

    def runs(self, first_sector: int) -> Iterator[Run]:
        count = sectors(self.view.virtual_size_bytes) - first_sector
        return self._content.runs(first_sector, count) if count > 0 else iter(())

    def __enter__(self) -> Levels:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _require_links(work: Work, images: Sequence[Image]) -> None:
    identities = [image.identity for image in images[1:]] + [work.identity]
    for image, identity in zip(images, identities, strict=True):
        if image.parent is None or image.parent.identity != identity:
            raise attention(image.file.path, "it is linked to another parent now")


@dataclass
class _Batch:
    """One batch from plan to end."""

    work: Work
    levels: Levels
    file: ImageFile
    journal_file: ImageFile
    limits: Limits
    moved_bytes: int = 0

    def carry_out(self) -> int | None:
        """Returns the sector that the next batch begins at; None: there is none."""
        runs: list[Run] = []
        image = open_image(self.file)
        holding = image.plan_hold(self._wanted(runs), self.limits)
        if not holding.places and not holding.beside and not holding.steps:
            return holding.until_sector
        with faults.stage("merge.journal"):
            slot = Slot(
                self.work.batch + 1,
                self.work.position,
                self.file.size_bytes,
                old_pages.collect(self.file, _changed(holding)),
            )
            old_pages.write(self.journal_file, slot, key(self.work))
        if holding.size_after_bytes > self.file.size_bytes:
            with faults.stage("merge.room"):
                self.file.allocate(holding.size_after_bytes, from_bytes=self.file.size_bytes)
                self._write_all(holding.room)
                self.file.sync()
        with faults.stage("merge.data"):
            digest = self._move(holding.places, runs)
            self._write_all(holding.beside)
            self.file.sync()
            self._compare(holding.places, digest)
        with faults.stage("merge.table"):
            for step in holding.steps:
                self._write_all(step)
                self.file.sync()
        return holding.until_sector

    def _wanted(self, runs: list[Run]) -> Iterator[Wanted]:
        for run in self.levels.runs(self.work.position):
            runs.append(run)
            yield Wanted(run.first_sector, run.count_sectors, run.file is None)

    def _write_all(self, writes: Sequence[object]) -> None:
        for write_ in writes:
            self.file.write_at(write_.offset, write_.data)  # type: ignore[attr-defined]

    def _move(self, places: Sequence[Place], runs: Sequence[Run]) -> str:
        """Copy what the places shall hold; the digest of it, in the order of the file."""
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        digest = xxhash.xxh3_128()
        at = 0
        for first, count, offset, zeros in places:
            length = count * SECTOR_BYTES
            while runs[at].first_sector + runs[at].count_sectors <= first:
                at += 1
            run = runs[at]
            source = run.file_offset + (first - run.first_sector) * SECTOR_BYTES
            for start in range(0, length, _BUFFER_BYTES):
                piece = buffer[: min(_BUFFER_BYTES, length - start)]
                if zeros or run.file is None:
                    piece[:] = _ZEROS[: len(piece)]
                else:
                    run.file.read_into(source + start, piece)
                digest.update(piece)
                self.file.write_at(offset + start, piece)
            self.moved_bytes += length
        return digest.hexdigest()

    def _compare(self, places: Sequence[Place], wanted: str) -> None:
        """Read what was written again, from the storage. E_VERIFY if it is something else."""
        with contextlib.suppress(OSError):  # advice only; some file systems know none
            os.posix_fadvise(self.file.fd, 0, 0, os.POSIX_FADV_DONTNEED)
            for place in places:
                length = place.count_sectors * SECTOR_BYTES
                os.posix_fadvise(self.file.fd, place.file_offset, length, os.POSIX_FADV_WILLNEED)
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        digest = xxhash.xxh3_128()
        for _, count, offset, _ in places:
            length = count * SECTOR_BYTES
            for start in range(0, length, _BUFFER_BYTES):
                piece = buffer[: min(_BUFFER_BYTES, length - start)]
                self.file.read_into(offset + start, piece)
                digest.update(piece)
        if digest.hexdigest() != wanted:
            raise ImageError(
                "E_VERIFY",
                f"What was written into {shown(self.file.path)} reads otherwise. The storage may "
                "be failing.",
                file=self.file.path,
            )


def _changed(holding: HoldPlan) -> Iterator[tuple[int, int, bool]]:
    """(offset, bytes, hidden) of what a batch writes over; see old_pages.collect()."""
    for place in holding.places:
        yield place.file_offset, place.count_sectors * SECTOR_BYTES, True
    steps = () if holding.logged else holding.steps
    for writes in (holding.room, holding.beside, *steps):
        for one in writes:
            yield one.offset, len(one.data), False


def _ask(
    roots: Roots, work: Work, levels: Levels, progress: Progress, done: int, total: int
) -> None:
    """Between two batches: how far it is, and whether to stop here. Else the next one begins."""
    try:
        progress.report(done, total)
        progress.commit_starts()
    except (Cancelled, Stopped) as asked:
        stopped(roots, work)
        raise Stopped(
            f"The merge was stopped after {done:,} of {total:,} bytes. {how_to_go_on(work)}"
        ) from asked


def stopped(roots: Roots, work: Work) -> None:
    """Remember how far it is, and the files as they are now, to notice who writes to them."""
    with roots.open(work.base) as file:
        now = file.identity()
    with faults.stage("merge.stop"):
        write(roots, replace(work, file=now))


def how_to_go_on(work: Work) -> str:
    return (
        f"Resume it later (“manage.py disk recover {shown(os.path.dirname(work.base))}”, or the "
        f"Jobs page). Until then {shown(work.leaf)} reads as ever and may be used; do not open "
        f"{shown(work.base)} by itself."
    )


def _give_up(
    roots: Roots, work: Work, levels: Levels, file: ImageFile, error: ImageError | OSError
) -> None:
    """A batch failed: take it back if that can be done, and stop here."""
    why = error.message if isinstance(error, ImageError) else f"{error.strerror}."
    with contextlib.suppress(ImageError, OSError), faults.stage("merge.rollback"):
        slot = old_pages.newest(roots, work.pages_path, key(work), work.batch)
        stopped(roots, _mend(work, file, slot))
    raise Stopped(f"The merge stopped: {why} {how_to_go_on(work)}") from error
