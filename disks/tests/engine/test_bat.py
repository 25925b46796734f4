"""The block allocation table against a plain list: counts, searches, pieces of any size."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from disks.engine.files import ImageFile
from disks.engine.vhd.bat import ABSENT, PIECE_ENTRIES, BlockAllocationTable

BEFORE = 1536  # bytes of the file before the table


def some_entries(kind: str, count: int) -> list[int]:
    numbers = random.Random(f"{kind} {count}")
    if kind == "empty":
        return [ABSENT] * count
    if kind == "full":
        return [24 + 4097 * block for block in range(count)]
    # Entries that have bytes of ABSENT in them are still in use.
    odd = [0, 1, 0xFFFFFF00, 0x00FFFFFF, 0xFFFF00FF, ABSENT - 1]
    return [numbers.choice([ABSENT, ABSENT, numbers.randrange(2**32), *odd]) for _ in range(count)]


@pytest.fixture(params=["empty", "full", "mixed"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[1, 31, PIECE_ENTRIES, PIECE_ENTRIES + 1, 2 * PIECE_ENTRIES + 77])
def entries(request: pytest.FixtureRequest, kind: str) -> list[int]:
    return some_entries(kind, request.param)


@pytest.fixture(params=["file", "head"])
def table(
    request: pytest.FixtureRequest, entries: list[int], tmp_path: Path
) -> Iterator[BlockAllocationTable]:
    """Read from the file, or from what was read of its beginning already."""
    stored = struct.pack(f">{len(entries)}I", *entries)
    path = tmp_path / "table"
    path.write_bytes(bytes(BEFORE) + stored)
    head = path.read_bytes() if request.param == "head" else b""
    with ImageFile(os.open(path, os.O_RDONLY), str(path)) as file:
        yield BlockAllocationTable(file, BEFORE, len(entries), head)


def test_every_answer_is_that_of_a_plain_list(
    table: BlockAllocationTable, entries: list[int]
) -> None:
    used = [(block, entry) for block, entry in enumerate(entries) if entry != ABSENT]
    assert list(table.allocated()) == used
    assert table.count_allocated() == len(used)
    assert table.lowest() == min((entry for _, entry in used), default=None)
    for sector in (1, 65_535, 65_536, 65_537, 2**31, ABSENT):
        below = [(block, entry) for block, entry in used if entry < sector]
        assert list(table.below(sector)) == below
    pieces = [table.in_use(piece) for piece in range(-(-len(entries) // PIECE_ENTRIES))]
    assert [block for blocks, _ in pieces for block in blocks] == [block for block, _ in used]
    assert [entry for _, found in pieces for entry in found] == [entry for _, entry in used]
    for block in {0, len(entries) // 2, len(entries) - 1, min(PIECE_ENTRIES, len(entries)) - 1}:
        assert table.entry(block) == entries[block]
        following = (at for at, entry in used if at >= block)
        assert table.next_allocated(block, len(entries)) == next(following, len(entries))
