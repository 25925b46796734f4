"""How much content there is, for a dry run: counted from the metadata alone.

Reading a chain asks, for every gap of a level, the level below. For the sum alone that is
too much: with thirty checkpoints each gap is looked up thirty times. So count_levels() asks
each level once, however long the chain is.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from disks.engine.images import DiskType, Image, Source
from disks.engine.units import GIB, SECTOR_BYTES, sectors
from disks.operations.content import View, all_runs
from disks.operations.output_blocks import sectors_per_block, whole_blocks
from disks.operations.progress import Progress

_WINDOW_SECTORS = 64 * GIB // SECTOR_BYTES  # a multiple of every block

Range = tuple[int, int]  # first sector, and the one behind the last


@dataclass(frozen=True, slots=True)
class Amount:
    """How much a view holds, counted from the metadata: blocks that need room, bytes held."""

    blocks: int
    held_bytes: int


class Counting:
    """Adds up the amount of runs that go by, ascending."""

    def __init__(self, block_bytes: int, virtual_size_bytes: int) -> None:
        self._block_sectors = sectors_per_block(block_bytes)
        self._total = sectors(virtual_size_bytes)
        self._blocks = self._held = 0
        self._last = -1  # the block counted last
        self.runs = 0

    @property
    def amount(self) -> Amount:
        return Amount(self._blocks, self._held * SECTOR_BYTES)

    def add(self, first_sector: int, count_sectors: int, *, zeros: bool) -> None:
        """zeros: they are held without being stored."""
        self.runs += 1
        self._held += count_sectors
        block_sectors = self._block_sectors
        end = first_sector + count_sectors
        first, final = first_sector // block_sectors, (end - 1) // block_sectors
        if zeros:
            whole = whole_blocks(first_sector, end, block_sectors, self._total)
            touched = {first, final} - whole
            self._blocks += len(touched - {self._last})
            self._last = max(touched, default=self._last)
        else:
            self._blocks += final - first + (first != self._last)
            self._last = final


def count(view: View, block_bytes: int, progress: Progress | None = None) -> Amount:
    """How many blocks of block_bytes the view touches: an upper bound for the output.

    Whole blocks of held zeros are none of them: a format that knows such zeros stores nothing.

    Reads metadata only. Block sizes above 2 MiB are counted as the copy writes them.
    """
    told = progress or Progress()
    counting = Counting(block_bytes, view.virtual_size_bytes)
    for run in all_runs(
        view, lambda first: told.report(first * SECTOR_BYTES, view.virtual_size_bytes)
    ):
        counting.add(run.first_sector, run.count_sectors, zeros=run.file is None)
    return counting.amount


def count_levels(
    images: Sequence[Image], block_bytes: int, progress: Progress | None = None
) -> Amount:
    """Blocks of block_bytes that some levels of a chain touch together, and the bytes to read.

    images: leaf first, none larger than the one before it. The same as `count` of
    these levels: what a level holds counts unless one above has zeros there. Without the
    chain's base, such zeros are held as well, but need no room where they fill a block. Reads
    metadata only; raises what damaged images raise, and Cancelled out of progress.
    """
    block_sectors = block_bytes // SECTOR_BYTES
    size_sectors = images[0].virtual_size_bytes // SECTOR_BYTES
    lowest = images[-1]
    partial = lowest.disk_type is DiskType.DIFFERENCING
    zeros_end = lowest.virtual_size_bytes // SECTOR_BYTES if partial else 0  # as ChainContent
    blocks = held = 0
    last = -1
    for first in range(0, size_sectors, _WINDOW_SECTORS):
        data, zeros = _held(images, first, min(size_sectors, first + _WINDOW_SECTORS))
        zeros = [(start, min(end, zeros_end)) for start, end in zeros if start < zeros_end]
        held += sum(end - start for start, end in _joined(heapq.merge(data, zeros)))
        edges = _edges(zeros, block_sectors, size_sectors)
        for start, end in _joined(heapq.merge(data, edges)):
            first_block, final_block = start // block_sectors, (end - 1) // block_sectors
            blocks += final_block - first_block + (first_block != last)
            last = final_block
        if progress is not None:
            progress.report(0, images[0].virtual_size_bytes)
    return Amount(blocks, held * SECTOR_BYTES)


def _edges(zeros: Sequence[Range], block_sectors: int, size_sectors: int) -> Iterator[Range]:
    """The parts of ranges of zeros that lie in blocks which hold something else as well."""
    for start, end in zeros:
        inner_start = -(-start // block_sectors) * block_sectors
        inner_end = end if end == size_sectors else end // block_sectors * block_sectors
        if inner_start >= inner_end:
            yield start, end
            continue
        if start < inner_start:
            yield start, inner_start
        if inner_end < end:
            yield inner_end, end


def _held(images: Sequence[Image], first: int, end: int) -> tuple[list[Range], list[Range]]:
    """What any level gives in a window, and the zeros that hide more: ascending and joined."""
    levels: list[list[Range]] = []
    hidden: list[Range] = []  # by zeros of the levels so far
    for image in images:
        stop = min(end, image.virtual_size_bytes // SECTOR_BYTES)
        if first >= stop:
            break
        data: list[Range] = []
        zeros: list[Range] = []
        for extent in image.extents(first, stop - first):
            if extent.source is Source.DATA:
                data.append((extent.first_sector, extent.first_sector + extent.count_sectors))
            elif extent.source is Source.ZERO:
                zeros.append((extent.first_sector, extent.first_sector + extent.count_sectors))
        levels.append(list(_without(data, hidden)) if hidden else data)
        if zeros:
            hidden = list(_joined(heapq.merge(hidden, zeros)))
    return list(_joined(heapq.merge(*levels))), hidden


def _joined(ranges: Iterable[Range]) -> Iterator[Range]:
    """Ranges sorted by their start, those that touch or overlap made one."""
    current: Range | None = None
    for start, end in ranges:
        if current is None:
            current = (start, end)
        elif start <= current[1]:
            if end > current[1]:
                current = (current[0], end)
        else:
            yield current
            current = (start, end)
    if current is not None:
        yield current


def _without(ranges: Iterable[Range], holes: Sequence[Range]) -> Iterator[Range]:
    """What is left of sorted ranges outside of sorted holes."""
    at = 0
    for start, end in ranges:
        while at < len(holes) and holes[at][1] <= start:
            at += 1
        hole = at
        while hole < len(holes) and holes[hole][0] < end:
            if holes[hole][0] > start:
                yield start, holes[hole][0]
            start = max(start, holes[hole][1])
            hole += 1
        if start < end:
            yield start, end
