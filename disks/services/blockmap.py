"""Where a disk stores data, coarsely: for the picture on its page, read from the BAT now."""

from __future__ import annotations

from dataclasses import dataclass

from disks.engine.formats import open_image
from disks.engine.images import Image, Source
from disks.models import Disk
from disks.services import roots

MOST_CELLS = 2_000
_SHADES = 4


@dataclass(frozen=True, slots=True)
class Cell:
    """count blocks from first_block on, allocated of them stored in this file."""

    first_block: int
    count: int
    allocated: int

    @property
    def state(self) -> str:
        """`empty`, `partial` or `allocated`."""
        if not self.allocated:
            return "empty"
        return "allocated" if self.allocated == self.count else "partial"

    @property
    def shade(self) -> int:
        """0 nothing, 1 to 3 part, 4 every block."""
        if self.allocated <= 0:
            return 0
        if self.allocated >= self.count:
            return _SHADES
        return 1 + min(_SHADES - 2, (_SHADES - 1) * self.allocated // self.count)


def block_map(disk: Disk, most: int = MOST_CELLS) -> list[Cell]:
    """At most that many cells in the disk's order; none for a fixed disk.

    Raises ImageError where the file cannot be read.
    """
    scope = roots.operation_roots()
    try:
        with scope.open(disk.path) as file:
            image = open_image(file)
            total = image.blocks_total
            if not total:
                return []
            per_cell = -(-total // most)
            counts = [0] * -(-total // per_cell)
            for block in _allocated(image):
                if block < total:
                    counts[block // per_cell] += 1
    finally:
        scope.close()
    return [
        Cell(index * per_cell, min(per_cell, total - index * per_cell), count)
        for index, count in enumerate(counts)
    ]


def _allocated(image: Image) -> list[int]:
    """Blocks that are in the file; from the BAT where the format has one to walk through."""
    bat = getattr(image, "bat", None)
    if bat is not None:
        return [block for block, _ in bat.allocated()]
    sectors = image.block_size_bytes // image.logical_sector_bytes
    found: set[int] = set()
    for extent in image.extents(0, image.virtual_size_bytes // image.logical_sector_bytes):
        if extent.source is Source.DATA:
            last = extent.first_sector + extent.count_sectors - 1
            found.update(range(extent.first_sector // sectors, last // sectors + 1))
    return sorted(found)
