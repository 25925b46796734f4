"""How much room the old pages of a merge get: enough for batches that are worth their flushes.

Every batch is cut to the room there is, so too little is never wrong, only slow: each batch waits
for the storage several times.
"""

from __future__ import annotations

import contextlib

from disks.engine.errors import ImageError
from disks.engine.formats import open_image
from disks.engine.images import DiskType, Image
from disks.engine.units import SECTOR_BYTES
from disks.operations import durable, rules
from disks.operations.counting import Counting
from disks.operations.merge_in_place import old_pages
from disks.operations.merge_in_place.batches import Levels
from disks.operations.merge_in_place.work import Work
from disks.operations.pages import PAGE_BYTES
from disks.operations.paths import Roots

_BLOCK_BYTES_PER_PAGE = PAGE_BYTES * 8 * SECTOR_BYTES  # of its sector bitmap


def journal_pages(places: int, blocks: int, base: Image) -> int:
    """How many old pages one batch of a merge keeps at most.

    places  runs of sectors that are moved, at most: each shares two pages with its neighbours
    blocks  of base that they lie in
    """
    block_bytes = 0 if base.disk_type is DiskType.FIXED else base.block_size_bytes
    each = block_bytes // _BLOCK_BYTES_PER_PAGE + 3  # a block's bitmap, and its entry
    blocks = max(blocks, 1)  # of an empty leaf, too: it may be written while the merge is stopped
    most = 2 * (places + blocks) + each * (blocks + 1) + old_pages.SPARE_PAGES
    return min(old_pages.MOST_PAGES, max(old_pages.LEAST_PAGES, most))


def journal_bytes(pages: int) -> int:
    """The room that the journal of a merge takes."""
    return old_pages.file_bytes(pages)


def follow(roots: Roots, work: Work) -> None:
    """More room where the levels hold much more than was planned: a leaf was used meanwhile.

    The files are consistent, and none of the old pages is needed any more. Without room on the
    storage it stays as it is.
    """
    wanted = _pages_now(roots, work)
    with roots.open(work.pages_path) as file:
        if old_pages.pages_in(file) >= wanted:
            return
    aside = f"{work.pages_path}.vdtmp"
    try:
        old_pages.create(roots, aside, wanted, disk=work.base)
        durable.rename(roots, aside, work.pages_path)
    except ImageError as error:
        with contextlib.suppress(ImageError):
            durable.unlink(roots, aside, missing_ok=True)
        if error.code != "E_NOSPC":
            raise


def _pages_now(roots: Roots, work: Work) -> int:
    with Levels(roots, work) as levels, roots.open(work.base) as file:
        base = open_image(file)
        counting = Counting(rules.block_bytes_of(base), work.size_bytes)
        for run in levels.runs(work.position):
            counting.add(run.first_sector, run.count_sectors, zeros=run.file is None)
        return journal_pages(counting.runs, counting.amount.blocks, base)
