"""Compacting in place, what both formats have in common: free ranges, and rounds of bounded size.

A round is one change that is there whole or not at all to whoever opens the disk, or whose
entries each stand for themselves. So every prefix of the rounds is a valid disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from disks.engine.changes import Drop, Move, Round
from disks.engine.errors import ImageError
from disks.engine.units import MIB

ROUND_BYTES = 64 * MIB
"""Most that one round moves: what a kill can cost, and what one flush has to wait for."""

_MOST_MOVES = 512  # the edges of small blocks share pages with others, which are journalled
_MOST_PAGES = 100  # of metadata in one change: they fit into a VHDX log of 1 MiB

Range = tuple[int, int]  # first byte, end (exclusive)


def free_ranges(taken: Iterable[Range], step_bytes: int) -> Iterator[Range]:
    """What lies between ranges that ascend by their start; begins are rounded up to step_bytes."""
    position = 0
    for start, end in taken:
        if start > position:
            yield position, start
        position = max(position, -(-end // step_bytes) * step_bytes)


def rounds_of_moves(moves: Iterable[Move], page_of: Callable[[Move], int]) -> Iterator[Round]:
    """page_of: the page of the table that holds a move's entry."""
    some: list[Move] = []
    pages: set[int] = set()
    size = 0
    for move in moves:
        full = size + move.room_bytes > ROUND_BYTES or len(some) >= _MOST_MOVES
        if some and (full or len(pages) >= _MOST_PAGES):
            yield Round(moves=tuple(some))
            some, pages, size = [], set(), 0
        some.append(move)
        pages.add(page_of(move))
        size += move.room_bytes
    if some:
        yield Round(moves=tuple(some))


def rounds_of_drops(
    drops: Iterable[Drop], pages_of: Callable[[Drop], Iterable[int]]
) -> Iterator[Round]:
    """pages_of: the pages of metadata that change with one."""
    some: list[Drop] = []
    pages: set[int] = set()
    for drop in drops:
        touched = set(pages_of(drop))
        if some and len(pages | touched) > _MOST_PAGES:
            yield Round(drops=tuple(some))
            some, pages = [], set()
        some.append(drop)
        pages |= touched
    if some:
        yield Round(drops=tuple(some))


def changed_table(path: str, index: int) -> ImageError:
    """E_CHANGED: the block table is not the one that the rounds were planned for."""
    return ImageError(
        "E_CHANGED",
        f"Entry {index:,} of the block allocation table of {path} is another one since the moves "
        "were planned. Nothing more was moved.",
        advice="Compact the disk again.",
        file=path,
        field="block_allocation_table",
        value=index,
    )
