"""Where a disk stores data, coarsely: for the picture on its page, read from the BAT now."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from disks.engine.formats import open_image
from disks.engine.images import Source
from disks.models import Disk
from disks.services import roots

MOST_CELLS = 2_000
_SHADES = 4


@dataclass(slots=True)
class Cell:
    """count blocks from first_block on, allocated of them stored in this file.

    zeros: blocks of a differencing disk that the table says to be zeros: nothing is stored, and
    they hide what the parent has there.
    """

    first_block: int
    count: int
    allocated: int = 0
    zeros: int = 0

    @property
    def state(self) -> str:
        """`empty`, `zeros`, `partial` or `allocated`."""
        if not self.allocated:
            return "zeros" if self.zeros else "empty"
        return "allocated" if self.allocated == self.count else "partial"

    @property
    def shade(self) -> int:
        """How much is stored: 0 nothing, 1 to 3 part, 4 every block."""
        if self.allocated <= 0:
            return 0
        if self.allocated >= self.count:
            return _SHADES
        return 1 + min(_SHADES - 2, (_SHADES - 1) * self.allocated // self.count)


def block_map(disk: Disk, most: int = MOST_CELLS) -> list[Cell]:
    """At most that many cells in the disk's order; none for a disk without blocks.

    Raises ImageError where the file cannot be read.
    """
    with closing(roots.operation_roots()) as scope, scope.open(disk.path) as file:
        image = open_image(file)
        total = image.blocks_total
        if not total:
            return []
        size = -(-total // most)
        cells = [Cell(first, min(size, total - first)) for first in range(0, total, size)]
        hides = image.parent is not None  # elsewhere blocks that are absent read as zeros, too
        for first, count, source in image.block_runs():
            if source is Source.DATA or (hides and source is Source.ZERO):
                _add(cells, size, first, count, is_data=source is Source.DATA)
        return cells


def _add(cells: list[Cell], size: int, first: int, count: int, *, is_data: bool) -> None:
    """A run of blocks to the cells that it lies in."""
    end = first + count
    while first < end:
        cell = cells[first // size]
        inside = min(end, cell.first_block + cell.count) - first
        if is_data:
            cell.allocated += inside
        else:
            cell.zeros += inside
        first += inside
