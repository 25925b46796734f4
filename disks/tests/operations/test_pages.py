"""What a crash, and another one during its recovery, may have made of a page of a table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from disks.engine import faults
from disks.engine.changes import Fill, HeaderRewrite, Write
from disks.operations.pages import PAGE_BYTES, Page, PageState, changed_writes, put_back, standing
from disks.operations.rewriting.writing import write_straight
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


def test_bytes_are_not_appended_to_a_page_that_others_end_in(tmp_path: Path) -> None:
    """bad-input F86: garbled, and its growth lost, it would look like somebody else's writing."""
    path = tmp_path / "disk"
    path.write_bytes(OLD[:700])
    footer = b"f" * SECTOR
    with open_file(path) as file:
        behind = HeaderRewrite(((Write(SECTOR * 2, footer),),), SECTOR * 3, ())
        with pytest.raises(ValueError, match="appended"):
            changed_writes(file, behind)
        apart = HeaderRewrite(((Write(PAGE_BYTES, footer),),), PAGE_BYTES + SECTOR, ())
        steps, pages = changed_writes(file, apart)
    assert steps == [[Write(PAGE_BYTES, footer)]]
    assert [page.offset for page in pages] == [PAGE_BYTES]


def test_what_a_file_grows_by_is_reserved_and_reads_as_zeros(tmp_path: Path) -> None:
    """Zeros are not written past the end; the footer is there before the room is."""
    path = tmp_path / "disk"
    path.write_bytes(OLD)
    room, footer = Fill(SECTOR, 8 * PAGE_BYTES - SECTOR), Write(8 * PAGE_BYTES, b"f" * SECTOR)
    seen: list[str] = []
    with open_file(path, writable=True) as file:
        planned = HeaderRewrite(((footer,), (room,)), footer.offset + SECTOR, ())
        faults.watch(lambda event: seen.append(event.operation))
        try:
            write_straight(file, planned)
        finally:
            faults.watch(None)
    assert seen == ["write", "allocate", "fsync", "write", "fsync"]
    assert path.read_bytes() == OLD[:SECTOR].ljust(footer.offset, b"\0") + footer.data
    assert path.stat().st_blocks * SECTOR >= footer.offset


@pytest.mark.parametrize("is_ours", [True, False])
def test_no_page_is_cut_that_could_not_be_put_back(tmp_path: Path, is_ours: bool) -> None:
    """bad-input F86: the power may fail while the rest of a cut page is written once more."""
    path, end = tmp_path / "disk", PAGE_BYTES + 900
    before = noise(1, 20)[:end]
    path.write_bytes(before.ljust(3 * PAGE_BYTES, b"\0") + b"footer")
    old = before[PAGE_BYTES:]
    pages = [Page(PAGE_BYTES, old, b"x" + old[1:], 0)] if is_ours else []
    with open_file(path, writable=True) as file:
        put_back(file, pages, end)
    assert path.read_bytes() == (before if is_ours else before.ljust(2 * PAGE_BYTES, b"\0"))
