"""Content cut at the borders of the output's blocks: what each holds, and where it is read from."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from disks.engine.errors import ImageError, unreadable
from disks.engine.files import ImageFile
from disks.engine.units import KIB, MIB, SECTOR_BYTES, sectors
from disks.operations.content import View, all_runs

PIECE_BYTES = 2 * MIB
"""Largest output block, size of one buffer, and how much is read between two reports."""

SLICE_BYTES = 512 * KIB
"""What is read, judged, hashed and written in one go: it stays in the processor's cache."""

ZEROS = bytes(PIECE_BYTES)
_ZERO_SLICE = bytearray(SLICE_BYTES)  # bytearray == memoryview is a memcmp; the reverse is slow


def read_block(view: View, first_sector: int, data: memoryview) -> list[tuple[int, int]]:
    """Read a part of a view that need not lie inside of it: beyond its end there are zeros.

    Returns the held ranges, as (start, length) in bytes within data.
    """
    block = OutputBlock(first_sector, len(data))
    count_sectors = len(data) // SECTOR_BYTES
    inside = min(count_sectors, sectors(view.virtual_size_bytes) - first_sector)
    if inside > 0:
        for run in view.runs(first_sector, inside):
            block.add(run.first_sector, run.count_sectors, run.file, run.file_offset)
    block.read(data)
    return block.held()


def is_zero(data: memoryview) -> bool:
    """Whether all bytes are zero; stops at the first that is not."""
    if data[0]:
        return False
    zeros = _ZERO_SLICE if len(data) == SLICE_BYTES else bytearray(len(data))
    return bool(zeros == data)


def sectors_per_block(block_bytes: int) -> int:
    """Of an output block; larger blocks, and disks without blocks, are handled in pieces."""
    return min(block_bytes or PIECE_BYTES, PIECE_BYTES) // SECTOR_BYTES


def whole_blocks(first: int, end: int, block_sectors: int, total: int) -> set[int]:
    """Which of the blocks at both ends of a range of sectors lie wholly in it."""
    return {
        block
        for block in (first // block_sectors, (end - 1) // block_sectors)
        if block * block_sectors >= first and min((block + 1) * block_sectors, total) <= end
    }


class OutputBlock:
    """One output block in the making: where its sectors come from."""

    __slots__ = ("first_sector", "held_bytes", "length", "parts")

    def __init__(self, first_sector: int, length: int) -> None:
        self.first_sector = first_sector
        self.length = length
        self.held_bytes = 0
        self.parts: list[tuple[int, int, ImageFile | None, int]] = []

    def add(self, first_sector: int, count_sectors: int, file: ImageFile | None, at: int) -> None:
        start = (first_sector - self.first_sector) * SECTOR_BYTES
        length = count_sectors * SECTOR_BYTES
        self.held_bytes += length
        if self.parts:
            before, size, last_file, last_at = self.parts[-1]
            if last_file is file and before + size == start and last_at + size == at:
                self.parts[-1] = (before, size + length, file, last_at)
                return
        self.parts.append((start, length, file, at))

    def held(self) -> list[tuple[int, int]]:
        """The held ranges, joined: (start, length) in bytes within the block."""
        held: list[tuple[int, int]] = []
        for start, length, _file, _at in self.parts:
            if held and sum(held[-1]) == start:
                held[-1] = (held[-1][0], held[-1][1] + length)
            else:
                held.append((start, length))
        return held

    def pieces(self) -> list[tuple[int, int, bool]]:
        """As held(), apart by whether they are zeros that lie nowhere: (start, length, zeros)."""
        pieces: list[tuple[int, int, bool]] = []
        for start, length, file, _at in self.parts:
            zeros = file is None
            if pieces and pieces[-1][2] is zeros and pieces[-1][0] + pieces[-1][1] == start:
                pieces[-1] = (pieces[-1][0], pieces[-1][1] + length, zeros)
            else:
                pieces.append((start, length, zeros))
        return pieces

    @property
    def is_whole(self) -> bool:
        """Whether all of its sectors are held."""
        return self.held_bytes == self.length

    def slices(self, buffer: memoryview) -> Iterator[tuple[int, memoryview]]:
        """The block's content from its start on, in pieces that lie in buffer: (start, data)."""
        for start in range(0, self.length, len(buffer)):
            data = buffer[: min(len(buffer), self.length - start)]
            self.read(data, start)
            yield start, data

    def read(self, data: memoryview, begin: int = 0) -> None:
        """Fill data with the block's bytes from begin on, zeros where nothing is held."""
        end = begin + len(data)
        position = begin
        for start, length, file, at in self.parts:
            first, last = max(start, begin), min(start + length, end)
            if first >= last:
                continue
            if first > position:
                data[position - begin : first - begin] = ZEROS[: first - position]
            if file is None:
                data[first - begin : last - begin] = ZEROS[: last - first]
            else:
                try:
                    file.read_into(at + first - start, data[first - begin : last - begin])
                except ImageError as error:
                    sector = self.first_sector + start // SECTOR_BYTES
                    raise unreadable(error, sector, at) from error
            position = last
        if position < end:
            data[position - begin :] = ZEROS[: end - position]


def cut(view: View, block_sectors: int, tell: Callable[[int], None]) -> Iterator[OutputBlock]:
    """Cut the view's runs at the output's block borders."""
    size = view.virtual_size_bytes
    block: OutputBlock | None = None
    for run in all_runs(view, tell):
        first, left, offset = run.first_sector, run.count_sectors, run.file_offset
        while left:
            start = first - first % block_sectors
            part = min(left, start + block_sectors - first)
            if block is None or block.first_sector != start:
                if block is not None:
                    yield block
                length = min(block_sectors * SECTOR_BYTES, size - start * SECTOR_BYTES)
                block = OutputBlock(start, length)
            block.add(first, part, run.file, offset)
            first += part
            left -= part
            offset += part * SECTOR_BYTES
    if block is not None:
        yield block
