"""Moves the content of a chain into a new image, block by block, with its digest.

One pass does it all: what a block holds is read, slice by slice, into a buffer that is
used again and again and so stays in the processor's cache, judged (all zero?), hashed and
written. Memory does not depend on the disk's size.

The digest (crash-safety §4) covers position and data of every block that holds anything
but zeros; for a differencing output, of every block that holds sectors, with the list of
the sectors held. It depends on content alone, not on how source or output are cut.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

import xxhash

from disks.engine.new_image import Holding, ImageWriter
from disks.engine.units import SECTOR_BYTES
from disks.operations.content import View
from disks.operations.counting import Amount
from disks.operations.output_blocks import (
    PIECE_BYTES,
    SLICE_BYTES,
    ZEROS,
    OutputBlock,
    cut,
    is_zero,
    sectors_per_block,
)
from disks.operations.progress import Progress

_POSITION = struct.Struct(">QQ")


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
    bitmaps       that take room apart from the blocks (`new_image.Holding`)
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

    for block in cut(view, sectors_per_block(block_bytes), tell):
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
    block: OutputBlock, buffer: memoryview, digest: _Digest, writer: ImageWriter | None
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
            digest.update(memoryview(ZEROS)[:start])
        digest.update(data)
        if writer is not None and not zero:
            writer.write(block.first_sector + start // SECTOR_BYTES, data)
    return Fate.STORED if begun else Fate.LEFT_OUT


def _pass_held(
    block: OutputBlock,
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


def _stated(block: OutputBlock, writer: ImageWriter | None) -> Fate:
    """A block that is held as a whole, and zeros, in a format that says so by a state."""
    if writer is not None:
        writer.hold_zeros(block.first_sector, block.length // SECTOR_BYTES)
    return Fate.STATED


def _pass_if_kept(
    block: OutputBlock,
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


def _write_held(writer: ImageWriter, block: OutputBlock, start: int, data: memoryview) -> None:
    """Write what is held of the part of a block that begins at start."""
    end = start + len(data)
    for at, length, zeros in block.pieces():
        first, last = max(at, start), min(at + length, end)
        if first >= last:
            continue
        sector = block.first_sector + first // SECTOR_BYTES
        if zeros:
            writer.hold_zeros(sector, (last - first) // SECTOR_BYTES)
        else:
            writer.write(sector, data[first - start : last - start])


def _sentence(verb: str, block: int, total: int) -> str:
    return f"{verb} block {block:,} of {total:,}" if total else f"{verb} block {block:,}"


class _Digest:
    """XXH3-128 over (position, data) of blocks."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()

    def begin(self, block: OutputBlock, held: list[tuple[int, int]] | None) -> None:
        """A block follows, with these sectors held (None: all of it counts)."""
        self._hash.update(_POSITION.pack(block.first_sector, block.length))
        for start, length in held or ():
            self._hash.update(_POSITION.pack(start, length))

    def update(self, data: memoryview) -> None:
        self._hash.update(data)

    def text(self) -> str:
        return f"xxh3-128:{self._hash.hexdigest()}"
