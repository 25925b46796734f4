"""Moves the content of a chain into a new image, block by block, with its digest.

One pass does it all: what a block holds is read, slice by slice, into a buffer that is
used again and again and so stays in the processor's cache, judged (all zero?), hashed and
written. Memory does not depend on the disk's size.

The digest (crash-safety §4) covers position and data of every block that holds anything
but zeros; for a differencing output, of every block that holds sectors, with the list of
the sectors held. It depends on content alone, not on how source or output are cut.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

import xxhash

from disks.engine.chain import ChainExtent
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile, storage_error
from disks.engine.images import DiskType, Image, Source
from disks.engine.new_image import Holding, ImageWriter
from disks.engine.units import GIB, KIB, MIB, SECTOR_BYTES, round_up, sectors
from disks.operations.progress import Progress

PIECE_BYTES = 2 * MIB
"""Largest output block, size of one buffer, and how much is read between two reports."""

SLICE_BYTES = 512 * KIB
"""What is read, judged, hashed and written in one go: it stays in the processor's cache."""

_WINDOW_SECTORS = 1 * GIB // SECTOR_BYTES  # looked up between two reports, if all is empty
_ZEROS = bytes(PIECE_BYTES)
_ZERO_SLICE = bytearray(SLICE_BYTES)  # bytearray == memoryview is a memcmp; the reverse is slow
_POSITION = struct.Struct(">QQ")


@dataclass(frozen=True, slots=True)
class Run:
    """Sectors that hold something. file None: zeros that are held all the same."""

    first_sector: int
    count_sectors: int
    file: ImageFile | None
    file_offset: int


class View(Protocol):
    """Anything that reads like one disk: its size, and its content as runs."""

    @property
    def virtual_size_bytes(self) -> int: ...

    def runs(self, first_sector: int, count_sectors: int) -> Iterator[Run]:
        """What is held in the range, ascending; gaps are zeros, or the parent's."""
        ...


class ChainExtents(Protocol):
    """A chain, or some levels of it (`engine.chain`)."""

    @property
    def images(self) -> list[Image]: ...
    @property
    def virtual_size_bytes(self) -> int: ...
    def extents(self, first_sector: int, count_sectors: int) -> Iterator[ChainExtent]: ...


class ChainContent:
    """A chain, or some levels of it, as one disk.

    Where levels below are left out, zeros that a level states (a VHDX block in the state ZERO)
    are held: they hide what the parent has. In a whole chain, and behind the end of the lowest
    level, where no parent has anything, they are gaps like others.
    """

    def __init__(self, chain: ChainExtents) -> None:
        self._chain = chain
        self._files = [image.file for image in chain.images]
        lowest = chain.images[-1]
        partial = lowest.disk_type is DiskType.DIFFERENCING
        self._zeros_end = sectors(lowest.virtual_size_bytes) if partial else 0

    @property
    def virtual_size_bytes(self) -> int:
        return self._chain.virtual_size_bytes

    def runs(self, first_sector: int, count_sectors: int) -> Iterator[Run]:
        files = self._files
        for extent in self._chain.extents(first_sector, count_sectors):
            if extent.level is None or extent.file_offset is None:
                count = min(extent.count_sectors, self._zeros_end - extent.first_sector)
                if extent.source is Source.ZERO and count > 0:
                    yield Run(extent.first_sector, count, None, 0)
                continue
            yield Run(
                extent.first_sector, extent.count_sectors, files[extent.level], extent.file_offset
            )


class ImageContent:
    """What one image holds by itself."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._holds_zeros = image.disk_type is DiskType.DIFFERENCING

    @property
    def virtual_size_bytes(self) -> int:
        return self._image.virtual_size_bytes

    def runs(self, first_sector: int, count_sectors: int) -> Iterator[Run]:
        file = self._image.file
        for extent in self._image.extents(first_sector, count_sectors):
            if extent.source is Source.DATA and extent.file_offset is not None:
                yield Run(extent.first_sector, extent.count_sectors, file, extent.file_offset)
            elif self._holds_zeros and extent.source is Source.ZERO:
                yield Run(extent.first_sector, extent.count_sectors, None, 0)


class PlainContent:
    """A plain image: the file's bytes are the disk's. Its holes are passed over as zeros."""

    def __init__(self, file: ImageFile) -> None:
        self._file = file

    @property
    def virtual_size_bytes(self) -> int:
        return self._file.size_bytes

    def runs(self, first_sector: int, count_sectors: int) -> Iterator[Run]:
        position, end = first_sector * SECTOR_BYTES, (first_sector + count_sectors) * SECTOR_BYTES
        while position < end:
            start = self._seek(position, os.SEEK_DATA, end)
            start = max(position, start - start % SECTOR_BYTES)
            if start >= end:
                return
            stop = min(end, round_up(self._seek(start, os.SEEK_HOLE, end), SECTOR_BYTES))
            stop = max(stop, start + SECTOR_BYTES)
            sector = start // SECTOR_BYTES
            yield Run(sector, (stop - start) // SECTOR_BYTES, self._file, start)
            position = stop

    def _seek(self, offset: int, what: int, end: int) -> int:
        """Where data or a hole begins from offset on; end where there is none any more."""
        try:
            return os.lseek(self._file.fd, offset, what)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data behind offset
                return end
            if error.errno == errno.EINVAL:  # storage that does not tell: all of it is data
                return offset if what == os.SEEK_DATA else end
            raise storage_error(error, self._file.path, offset=offset, verb="read") from error


@dataclass(frozen=True, slots=True)
class Amount:
    """How much a view holds, counted from the metadata: blocks that need room, bytes held."""

    blocks: int
    held_bytes: int


class Fate(Enum):
    """What becomes of a block: nothing, a state that says zeros, or room with its bytes."""

    LEFT_OUT = auto()
    STATED = auto()
    STORED = auto()


@dataclass(slots=True)
class Streamed:
    """What a pass found.

    blocks        stored
    zero_blocks   left out
    bitmaps       that take room apart from the blocks (`images.Holding`)
    read_bytes    held by the view
    kept_bytes    of these, in blocks that were not left out
    stored_bytes  of these, in blocks that are stored
    """

    blocks: int = 0
    zero_blocks: int = 0
    bitmaps: int = 0
    read_bytes: int = 0
    kept_bytes: int = 0
    stored_bytes: int = 0
    digest: str = ""


Verdict = Callable[[int, memoryview, list[tuple[int, int]]], bool]
"""keep(first_sector, data, held): decides about one block of a differencing output."""


class Counting:
    """Adds up the amount of runs that go by, ascending."""

    def __init__(self, block_bytes: int, virtual_size_bytes: int) -> None:
        self._block_sectors = _block_sectors(block_bytes)
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
    for run in _all_runs(
        view, lambda first: told.report(first * SECTOR_BYTES, view.virtual_size_bytes)
    ):
        counting.add(run.first_sector, run.count_sectors, zeros=run.file is None)
    return counting.amount


def stream(
    view: View,
    block_bytes: int,
    *,
    holding: Holding | None,
    writer: ImageWriter | None = None,
    keep: Verdict | None = None,
    progress: Progress | None = None,
    expected: Amount | None = None,
    verb: str = "copying",
) -> Streamed:
    """Read a view once, in ascending blocks; write what it holds where a writer is given.

    block_bytes   block size of the output; the unit of the digest (2 MiB for a fixed disk)
    holding       of a differencing output: held sectors are data even when they are zero, and
                  whole blocks of zeros are kept; None: blocks of zeros are left out
    keep          asked for each block of a differencing disk that has held sectors
    expected      for progress: what `count` said

    Raises what reading and writing raise, and Cancelled out of progress; the output is
    unfinished then and must be thrown away.
    """
    progress = progress or Progress()
    total = expected.held_bytes if expected else view.virtual_size_bytes
    total_blocks = expected.blocks if expected else 0
    digest = _Digest()
    found = Streamed()
    since_report = seen = told_bytes = 0
    bitmap = -1  # the last one that is needed
    buffer = memoryview(bytearray(PIECE_BYTES if keep else SLICE_BYTES))

    def tell(_: int = 0) -> None:
        nonlocal told_bytes
        progress.moved(found.read_bytes - told_bytes)
        told_bytes = found.read_bytes
        progress.report(found.read_bytes, total, _sentence(verb, seen, total_blocks))

    for block in _blocks(view, _block_sectors(block_bytes), tell):
        found.read_bytes += block.held_bytes
        since_report += block.length
        seen += 1
        if holding is None:
            fate = _pass_unless_zero(block, buffer, digest, writer)
        elif keep is None:
            fate = _pass_held(block, buffer, digest, writer, holding)
        else:
            fate = _pass_if_kept(block, buffer, keep, digest, writer, holding)
        kept_bytes = block.length if holding is None else block.held_bytes
        if fate is Fate.LEFT_OUT:
            found.zero_blocks += 1
        else:
            found.kept_bytes += kept_bytes
        if fate is Fate.STORED:
            found.blocks += 1
            found.stored_bytes += kept_bytes
            if holding and holding.bitmap_sectors and not block.is_whole:
                found.bitmaps += block.first_sector // holding.bitmap_sectors != bitmap
                bitmap = block.first_sector // holding.bitmap_sectors
        if since_report >= PIECE_BYTES:
            since_report = 0
            tell()
    tell()
    found.digest = digest.text()
    return found


def _pass_unless_zero(
    block: _Block, buffer: memoryview, digest: _Digest, writer: ImageWriter | None
) -> Fate:
    """Hash and write a block slice by slice; left out if all of it is zero.

    Slices of zeros are hashed but not written: the room reserved for a block reads as zeros.
    """
    begun = False
    for start, data in block.slices(buffer):
        zero = is_zero(data)
        if not begun:
            if zero:
                continue
            begun = True
            digest.begin(block, None)
            digest.update(memoryview(_ZEROS)[:start])
        digest.update(data)
        if writer is not None and not zero:
            writer.write(block.first_sector + start // SECTOR_BYTES, data)
    return Fate.STORED if begun else Fate.LEFT_OUT


def _pass_held(
    block: _Block,
    buffer: memoryview,
    digest: _Digest,
    writer: ImageWriter | None,
    holding: Holding,
) -> Fate:
    """Hash a block slice by slice, write the sectors it holds, whatever they contain.

    Where zeros can be stated, slices of zeros wait for the first that is none.
    """
    digest.begin(block, block.held())
    waiting = holding.states_zeros and block.is_whole
    for start, data in block.slices(buffer):
        digest.update(data)
        if waiting and is_zero(data):
            continue
        if writer is not None:
            if waiting:
                writer.hold_zeros(block.first_sector, start // SECTOR_BYTES)
            _write_held(writer, block, start, data)
        waiting = False
    return _stated(block, writer) if waiting else Fate.STORED


def _stated(block: _Block, writer: ImageWriter | None) -> Fate:
    """A block that is held as a whole, and zeros, in a format that says so by a state."""
    if writer is not None:
        writer.hold_zeros(block.first_sector, block.length // SECTOR_BYTES)
    return Fate.STATED


def _pass_if_kept(
    block: _Block,
    buffer: memoryview,
    keep: Verdict,
    digest: _Digest,
    writer: ImageWriter | None,
    holding: Holding,
) -> Fate:
    """As _pass_held, once the whole block was looked at."""
    data = buffer[: block.length]
    block.read(data)
    held = block.held()
    if not keep(block.first_sector, data, held):
        return Fate.LEFT_OUT
    digest.begin(block, held)
    digest.update(data)
    if holding.states_zeros and block.is_whole and is_zero(data):
        return _stated(block, writer)
    if writer is not None:
        _write_held(writer, block, 0, data)
    return Fate.STORED


def _write_held(writer: ImageWriter, block: _Block, start: int, data: memoryview) -> None:
    """Write what is held of the part of a block that begins at start."""
    end = start + len(data)
    for at, length, is_zero in block.pieces():
        first, last = max(at, start), min(at + length, end)
        if first >= last:
            continue
        sector = block.first_sector + first // SECTOR_BYTES
        if is_zero:
            writer.hold_zeros(sector, (last - first) // SECTOR_BYTES)
        else:
            writer.write(sector, data[first - start : last - start])


def read_block(view: View, first_sector: int, data: memoryview) -> list[tuple[int, int]]:
    """Read a part of a view that need not lie inside of it: beyond its end there are zeros.

    Returns the held ranges, as (start, length) in bytes within data.
    """
    block = _Block(first_sector, len(data))
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


def _sentence(verb: str, block: int, total: int) -> str:
    return f"{verb} block {block:,} of {total:,}" if total else f"{verb} block {block:,}"


def _block_sectors(block_bytes: int) -> int:
    return min(block_bytes or PIECE_BYTES, PIECE_BYTES) // SECTOR_BYTES


def whole_blocks(first: int, end: int, block_sectors: int, total: int) -> set[int]:
    """Which of the blocks at both ends of a range of sectors lie wholly in it."""
    return {
        block
        for block in (first // block_sectors, (end - 1) // block_sectors)
        if block * block_sectors >= first and min((block + 1) * block_sectors, total) <= end
    }


def _all_runs(view: View, tell: Callable[[int], None]) -> Iterator[Run]:
    """All runs of a view, asked for in windows, so that a cancel is heard in long gaps.

    tell(first_sector) is called between windows and may raise.
    """
    total = sectors(view.virtual_size_bytes)
    for first in range(0, total, _WINDOW_SECTORS):
        if first:
            tell(first)
        yield from view.runs(first, min(_WINDOW_SECTORS, total - first))


class _Block:
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
                data[position - begin : first - begin] = _ZEROS[: first - position]
            if file is None:
                data[first - begin : last - begin] = _ZEROS[: last - first]
            else:
                try:
                    file.read_into(at + first - start, data[first - begin : last - begin])
                except ImageError as error:
                    raise self._located(error, start, at) from error
            position = last
        if position < end:
            data[position - begin :] = _ZEROS[: end - position]

    def _located(self, error: ImageError, start: int, at: int) -> ImageError:
        """The same error with the sector of the virtual disk that it concerns."""
        inside = max(0, error.offset - at) if error.offset is not None else 0
        sector = self.first_sector + (start + inside) // SECTOR_BYTES
        return ImageError(
            error.code,
            f"Sector (LBA) {sector:,} cannot be read. {error.message}",
            file=error.file,
            field="LBA",
            offset=error.offset,
            value=sector,
        )


def _blocks(view: View, block_sectors: int, tell: Callable[[int], None]) -> Iterator[_Block]:
    """Cut the view's runs at the output's block borders."""
    size = view.virtual_size_bytes
    block: _Block | None = None
    for run in _all_runs(view, tell):
        first, left, offset = run.first_sector, run.count_sectors, run.file_offset
        while left:
            start = first - first % block_sectors
            part = min(left, start + block_sectors - first)
            if block is None or block.first_sector != start:
                if block is not None:
                    yield block
                length = min(block_sectors * SECTOR_BYTES, size - start * SECTOR_BYTES)
                block = _Block(start, length)
            block.add(first, part, run.file, offset)
            first += part
            left -= part
            offset += part * SECTOR_BYTES
    if block is not None:
        yield block


class _Digest:
    """XXH3-128 over (position, data) of blocks."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()

    def begin(self, block: _Block, held: list[tuple[int, int]] | None) -> None:
        """A block follows, with these sectors held (None: all of it counts)."""
        self._hash.update(_POSITION.pack(block.first_sector, block.length))
        for start, length in held or ():
            self._hash.update(_POSITION.pack(start, length))

    def update(self, data: memoryview) -> None:
        self._hash.update(data)

    def text(self) -> str:
        return f"xxh3-128:{self._hash.hexdigest()}"
