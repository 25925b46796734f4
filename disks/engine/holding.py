"""How a disk is made to hold sectors in place, one bounded batch at a time (merge in place).

Whoever carries a batch out does it in this order, each stage durable before the next: the file
gets its new size, `room`; then the data at `places`, along with `beside`; then each of `steps`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from disks.engine.changes import HeaderRewrite, Write


class Wanted(NamedTuple):
    """Sectors that the disk shall hold; zeros: they become zeros, and nothing is stored for them
    where the format can say so."""

    first_sector: int
    count_sectors: int
    zeros: bool


class Place(NamedTuple):
    """Where sectors go: in the file, at an offset in bytes. zeros: they are to become zeros."""

    first_sector: int
    count_sectors: int
    file_offset: int
    zeros: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a batch ends at the latest: bytes of data, and pages of 4 KiB that it touches."""

    data_bytes: int
    pages: int


@dataclass(frozen=True, slots=True)
class HoldPlan:
    """One batch.

    until_sector      where it ends; None: all that was wanted is in it
    size_after_bytes  of the file, never smaller; what is added reads as zeros
    room              what must be there before anything else changes
    places            ascending by sector, cut as they were wanted and at block borders
    beside            metadata that may be written along with the data
    steps             what makes the disk refer to all of it
    logged            the steps go through the format's own log: no old page of theirs is needed
    """

    until_sector: int | None
    size_after_bytes: int
    room: tuple[Write, ...]
    places: tuple[Place, ...]
    beside: tuple[Write, ...]
    steps: tuple[tuple[Write, ...], ...]
    logged: bool = False


def steps_of(rewrite: HeaderRewrite) -> tuple[tuple[Write, ...], ...]:
    """The steps of a rewrite that has no Fill."""
    return tuple(
        tuple(piece for piece in step if isinstance(piece, Write)) for step in rewrite.steps
    )


def by_block(
    wanted: Iterator[Wanted], sectors_per_block: int
) -> Iterator[tuple[int, int, int, bool]]:
    """(block, first sector in it, sectors, zeros): what is wanted, cut at block borders."""
    for first, count, zeros in wanted:
        position, end = first, first + count
        while position < end:
            block, inside = divmod(position, sectors_per_block)
            length = min(end - position, sectors_per_block - inside)
            yield block, inside, length, zeros
            position += length
