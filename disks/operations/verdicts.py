"""Which blocks of a disk say nothing that would not be read without them, and what the rest holds.

A block of a disk without parent goes when all of it is zero. One of a differencing disk goes
when it holds no sector, or when each sector that it holds equals what the parent chain gives
there: held zeros may hide the parent's data. Where the format can say “zeros” without storing
them, a block that is nothing but held zeros goes as well.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from disks.engine.chain import Chain
from disks.engine.errors import ImageError, unreadable
from disks.engine.images import DiskType, Source
from disks.engine.units import KIB, SECTOR_BYTES
from disks.operations.content import ChainContent
from disks.operations.output_blocks import SLICE_BYTES, is_zero, read_block
from disks.operations.progress import Progress

_GLANCE_BYTES = 16 * KIB  # most blocks of data show themselves as such in their first bytes
_PIECE_BYTES = 4 * KIB  # what is counted as zeros inside of a block that stays
_TOLD_BYTES = 8 * 1024 * KIB
_ZERO_PIECE = bytearray(_PIECE_BYTES)
_Z_95 = 1.96  # two-sided 95 % of the normal distribution


class Verdict(StrEnum):
    """The reasons to go, then the reasons to stay."""

    ZERO = "zero"
    UNWRITTEN = "unwritten"
    SAME = "same"
    STATED = "stated"  # zeros that are kept, without their room
    DATA = "data"
    HIDING = "hiding"
    PARTLY = "partly-zero"


GOES = (Verdict.ZERO, Verdict.UNWRITTEN, Verdict.SAME, Verdict.STATED)
STAYS = (Verdict.DATA, Verdict.PARTLY, Verdict.HIDING)


@dataclass
class Judged:
    """What was found.

    absent, zeros  blocks that go: to nothing, or to a statement of zeros; ascending
    counts         blocks by verdict
    zero_bytes     zeros in whole pieces of 4 KiB inside of blocks that stay as partly zero
    total, read    blocks with room in the file, and how many of them were looked at
    read_bytes     of this disk, without its parents
    needed_bytes   of these, what a look that is not thorough reads
    """

    absent: array[int] = field(default_factory=lambda: array("Q"))
    zeros: array[int] = field(default_factory=lambda: array("Q"))
    counts: dict[Verdict, int] = field(default_factory=lambda: dict.fromkeys(Verdict, 0))
    zero_bytes: int = 0
    total: int = 0
    read: int = 0
    read_bytes: int = 0
    needed_bytes: int = 0

    @property
    def complete(self) -> bool:
        return self.read == self.total

    @property
    def going(self) -> int:
        return sum(self.counts[verdict] for verdict in GOES)


def judge(
    chain: Chain,
    *,
    thorough: bool = True,
    time_budget_seconds: float | None = None,
    progress: Progress | None = None,
) -> Judged:
    """Look at every block of the leaf that has room in its file.

    thorough  also tell what stays apart, for people; else a block of data costs one short read
    time_budget_seconds  stop then, having looked at blocks spread evenly over the disk

    Raises what reading raises, and Cancelled out of progress.
    """
    progress = progress or Progress()
    image = chain.images[0]
    blocks = array("Q")
    for first, count, source in image.block_runs():
        if source is Source.DATA:
            blocks.extend(range(first, first + count))
    result = Judged(total=len(blocks))
    judging = _Judging(chain, thorough=thorough)
    deadline = None if time_budget_seconds is None else time.monotonic() + time_budget_seconds
    order: Iterable[int] = blocks
    if deadline is not None:
        order = (blocks[index] for index in spread(len(blocks)))
    told = 0
    for block in order:
        verdict = judging.verdict(block)
        result.counts[verdict] += 1
        result.read += 1
        if verdict is Verdict.STATED:
            result.zeros.append(block)
        elif verdict in GOES:
            result.absent.append(block)
        if judging.read_bytes - told >= _TOLD_BYTES:
            progress.moved(judging.read_bytes - told)
            told = judging.read_bytes
            words = f"looking at block {result.read:,} of {result.total:,}"
            size = image.block_size_bytes
            progress.report(result.read * size, result.total * size, words)
        if deadline is not None and time.monotonic() >= deadline:
            break
    progress.moved(judging.read_bytes - told)
    result.read_bytes, result.needed_bytes = judging.read_bytes, judging.needed_bytes
    result.zero_bytes = judging.zero_bytes
    return result


class _Judging:
    """Reads blocks of a chain's leaf, each once, through one buffer."""

    def __init__(self, chain: Chain, *, thorough: bool) -> None:
        self._image = chain.images[0]
        self._below: ChainContent | None = None
        if self._image.disk_type is DiskType.DIFFERENCING:
            self._below = ChainContent(chain.levels(1, len(chain.images) - 1))
        self._thorough = thorough
        self._sectors = self._image.block_size_bytes // SECTOR_BYTES
        self._buffer = memoryview(bytearray(SLICE_BYTES))
        self._other = memoryview(bytearray(SLICE_BYTES))
        self.read_bytes = 0
        self.needed_bytes = 0
        self.zero_bytes = 0

    def verdict(self, block: int) -> Verdict:
        first = block * self._sectors
        size = min(self._sectors, self._image.virtual_size_bytes // SECTOR_BYTES - first)
        held = zero_bytes = 0
        zero = same = True
        is_data = False
        for sector, data in self._slices(first, size):
            self.needed_bytes += 0 if is_data else len(data)
            held += len(data) // SECTOR_BYTES
            zero_here = is_zero(data)
            zero = zero and zero_here
            if same and self._below is not None:
                same = self._is_given(sector, data)
            is_data = not zero and (self._below is None or not same)
            if self._thorough:
                zero_bytes += len(data) if zero_here else _zeros_in(data)
            elif is_data:
                return Verdict.DATA
        if not held:
            return Verdict.UNWRITTEN
        if self._below is None:
            if zero:
                return Verdict.ZERO
        elif same:
            return Verdict.SAME
        elif zero:
            whole = held == size and self._image.states_zeros
            return Verdict.STATED if whole else Verdict.HIDING
        if zero_bytes:
            self.zero_bytes += zero_bytes
            return Verdict.PARTLY
        return Verdict.DATA

    def _slices(self, first: int, size: int) -> Iterator[tuple[int, memoryview]]:
        """What the block holds, as (sector, data); the first slice is a short one."""
        longest = _GLANCE_BYTES
        for extent in self._image.extents(first, size):
            if extent.source is not Source.DATA or extent.file_offset is None:
                continue
            length = extent.count_sectors * SECTOR_BYTES
            at = 0
            while at < length:
                data = self._buffer[: min(longest, length - at)]
                try:
                    self._image.file.read_into(extent.file_offset + at, data)
                except ImageError as error:
                    raise unreadable(error, extent.first_sector, extent.file_offset) from error
                self.read_bytes += len(data)
                yield extent.first_sector + at // SECTOR_BYTES, data
                at += len(data)
                longest = SLICE_BYTES

    def _is_given(self, sector: int, data: memoryview) -> bool:
        """Whether the parent chain gives the same there."""
        assert self._below is not None  # noqa: S101 - of differencing disks only
        other = self._other[: len(data)]
        read_block(self._below, sector, other)
        return bytearray(data) == other


def _zeros_in(data: memoryview) -> int:
    """Bytes of zeros in whole pieces; what is left over at the end does not count."""
    whole = range(0, len(data) - _PIECE_BYTES + 1, _PIECE_BYTES)
    # bytearray == memoryview is a plain memory comparison; the reverse is slow.
    return sum(_PIECE_BYTES for at in whole if _ZERO_PIECE == data[at : at + _PIECE_BYTES])  # noqa: SIM300


def spread(total: int) -> list[int] | range:
    """All numbers below total, each prefix spread evenly: multiples of the golden section."""
    if total < 2:
        return range(total)
    step = round(total * 0.6180339887498949) or 1
    while math.gcd(step, total) > 1:
        step += 1
    return [(index * step) % total for index in range(total)]


def likely(part: int, read: int, total: int) -> tuple[int, int]:
    """Between which numbers of `part` among total the truth lies (Wilson score interval, 95 %).

    Never outside what was seen: what was found is there, what was not there is not.
    """
    if read == 0:
        return 0, total
    if read == total:
        return part, part
    share, z2 = part / read, _Z_95**2
    middle = (share + z2 / (2 * read)) / (1 + z2 / read)
    half = _Z_95 / (1 + z2 / read) * (share * (1 - share) / read + z2 / (4 * read**2)) ** 0.5
    low = max(part, int(total * (middle - half)))
    high = min(total - (read - part), -int(-total * (middle + half)))
    return low, max(low, high)
