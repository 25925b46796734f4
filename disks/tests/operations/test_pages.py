"""What a crash, and another one during its recovery, may have made of a page of a table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from disks.operations.pages import PAGE_BYTES, Page, PageState, standing
from disks.tests.engine.world import open_file
from disks.tests.operations.worlds import noise

SECTOR = 512
OLD = noise(1, PAGE_BYTES // SECTOR)
NEW = b"newentry" + OLD[8:]
GARBAGE = noise(2, PAGE_BYTES // SECTOR)
ENTRIES = [(0, SECTOR)]  # the sector that holds them


def mended(folder: Path, page: Page, current: bytes) -> list[bytes] | None:
    path = folder / "disk"
    path.write_bytes(current)
    with open_file(path) as file:
        found = standing(file, [page], ENTRIES, 8)
    return None if found is None else [one.new for one in found]


def test_an_entry_that_stands_leaves_what_others_wrote_beside_it(tmp_path: Path) -> None:
    page = Page(0, OLD, NEW, 0)
    written_since = NEW[:SECTOR] + noise(3, 1) + NEW[2 * SECTOR :]
    assert mended(tmp_path, page, written_since) == []
    assert mended(tmp_path, page, OLD) is None


def test_what_an_interrupted_recovery_left_of_a_garbled_page_is_mended(tmp_path: Path) -> None:
    """bad-input F87: some sectors were put back, some are what the first crash made of them."""
    page = Page(0, OLD, NEW, 0, found=GARBAGE)
    half = NEW[: 3 * SECTOR] + GARBAGE[3 * SECTOR : 5 * SECTOR] + NEW[5 * SECTOR :]
    assert mended(tmp_path, page, half) == [NEW]
    assert page.state(half) is PageState.TORN
    stranger = replace(page, found=b"")
    assert mended(tmp_path, stranger, half) == []
    assert stranger.state(half) is PageState.FOREIGN
