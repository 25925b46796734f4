"""What a chain holds, counted level by level: compared with a look at every single sector."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disks.engine.chain import open_chain
from disks.engine.images import DiskType, Extent, Source
from disks.operations import counting
from disks.operations.content import ChainContent
from disks.operations.counting import count, count_levels
from disks.operations.progress import Cancelled, Progress
from disks.tests.builders import SECTOR
from disks.tests.operations.worlds import BLOCK, chain

DATA, ZERO, PARENT = Source.DATA, Source.ZERO, Source.PARENT


class Level:
    """An image that consists of what its sectors say of themselves."""

    def __init__(self, sectors: list[Source], disk_type: DiskType = DiskType.DYNAMIC) -> None:
        self.disk_type = disk_type
        self.sectors = sectors
        self.virtual_size_bytes = len(sectors) * SECTOR

    def extents(self, first: int, count: int) -> Iterator[Extent]:
        at = first
        for source, run in itertools.groupby(self.sectors[first : first + count]):
            length = len(list(run))
            yield Extent(at, length, source, 0 if source is DATA else None)
            at += length


def sector_by_sector(levels: list[Level], block_sectors: int) -> tuple[int, int]:
    """The model: for each sector the first level that knows it decides.

    Zeros count where a parent could lie below them, and need room in blocks that hold more.
    """
    blocks, held, total = set(), 0, len(levels[0].sectors)
    partial = levels[-1].disk_type is DiskType.DIFFERENCING
    zeros = set()
    for sector in range(total):
        for level in levels:
            if sector >= len(level.sectors):
                break
            if level.sectors[sector] is ZERO:
                if partial and sector < len(levels[-1].sectors):
                    held += SECTOR
                    zeros.add(sector)
                break
            if level.sectors[sector] is DATA:
                held += SECTOR
                blocks.add(sector // block_sectors)
                break
    for sector in zeros:
        first = sector - sector % block_sectors
        if not zeros.issuperset(range(first, min(total, first + block_sectors))):
            blocks.add(sector // block_sectors)
    return len(blocks), held


@st.composite
def chains(draw: Any) -> list[Level]:
    sizes = sorted(draw(st.lists(st.integers(1, 90), min_size=1, max_size=6)), reverse=True)
    lowest = draw(st.sampled_from([DiskType.DYNAMIC, DiskType.DIFFERENCING]))
    said = st.sampled_from([DATA, ZERO, PARENT])
    return [Level(draw(st.lists(said, min_size=size, max_size=size)), lowest) for size in sizes]


@given(levels=chains(), block_sectors=st.sampled_from([1, 4, 16]), windows=st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_it_counts_what_each_sector_says(
    levels: list[Level], block_sectors: int, windows: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "_WINDOW_SECTORS", 16 * windows)
        amount = count_levels(levels, block_sectors * SECTOR)  # type: ignore[arg-type]
    assert (amount.blocks, amount.held_bytes) == sector_by_sector(levels, block_sectors)


@pytest.mark.parametrize("last", [1, 2])
@pytest.mark.parametrize("base_type", ["dynamic", "fixed"])
def test_it_says_what_reading_the_levels_would_say(
    tmp_path: Path, last: int, base_type: str
) -> None:
    world = chain(tmp_path, base_type=base_type, leaf_size=200 * 1024)
    with open_chain(str(world.leaf.path), world.roots) as opened:
        view = ChainContent(opened.levels(0, last))
        assert count_levels(opened.images[: last + 1], BLOCK) == count(view, BLOCK)


def test_a_cancel_is_heard_between_two_windows() -> None:
    class Stop(Progress):
        def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
            raise Cancelled

    with pytest.raises(Cancelled):
        count_levels([Level([DATA] * 8)], SECTOR, Stop())  # type: ignore[list-item]
