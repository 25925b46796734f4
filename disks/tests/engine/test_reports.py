"""Long reading tells how far it is every few MiB, and stops where it is told to."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from disks.engine import chain, formats, walk
from disks.engine.check import check_image
from disks.engine.files import ImageFile
from disks.engine.images import DiskType
from disks.engine.new_image import NewImage
from disks.engine.units import GIB, MIB, SECTOR_BYTES
from disks.tests.builders import build_differencing_vhdx, build_dynamic_vhdx
from disks.tests.engine.watched import (
    BLOCK_BYTES,
    MOST_BYTES,
    MOST_READS,
    Stop,
    Watched,
    blocks,
)
from disks.tests.engine.world import create_file


def full_bitmaps(folder: Path) -> Path:
    return blocks(folder / "full.vhd", 4096, empty=False)


def clear_sectors(folder: Path) -> Path:
    return blocks(folder / "clear.vhd", 48, empty=True)


def long_table(folder: Path) -> Path:
    """A table of 8 Mi entries in a file that holds no block at all."""
    path = folder / "table.vhd"
    with create_file(path) as file:
        new = NewImage(DiskType.DYNAMIC, 4 * GIB, block_size_bytes=512)
        formats.by_name("vhd").writer(file, new, blocks=0).finish()
    return path


@pytest.mark.parametrize("build", [full_bitmaps, clear_sectors, long_table])
def test_a_deep_check_tells_every_few_mib_how_far_it_is(
    tmp_path: Path, build: Callable[[Path], Path]
) -> None:
    with Watched(build(tmp_path)) as file:
        check_image(file, deep=True, report=file.report)
        assert file.most_bytes <= MOST_BYTES
        assert file.most_reads <= MOST_READS
        assert len(file.reports) >= 4
        assert {total for _, total in file.reports} == {file.size_bytes}
        assert all(0 < done <= file.size_bytes for done, _ in file.reports)
        assert file.reports == sorted(file.reports)  # the bar never goes back


@pytest.mark.parametrize("build", [full_bitmaps, clear_sectors, long_table])
def test_a_deep_check_stops_where_its_report_raises(
    tmp_path: Path, build: Callable[[Path], Path]
) -> None:
    with Watched(build(tmp_path)) as file:
        file.stop_at = 3
        with pytest.raises(Stop):
            check_image(file, deep=True, report=file.report)
        assert len(file.reports) == 3
        assert file.reads == 0  # nothing was read after it


def child_with_bitmaps(folder: Path) -> Path:
    """A VHDX whose blocks each hold a sector of their own: one bitmap to read for each."""
    base = build_dynamic_vhdx(folder, "base.vhdx", size=64 * MIB, block_size=MIB, content=[])
    sectors_per_block = MIB // SECTOR_BYTES
    content = [(block * sectors_per_block, b"x" * SECTOR_BYTES) for block in range(40)]
    return build_differencing_vhdx(folder, "child.vhdx", base, content=content).path


@pytest.mark.parametrize(
    "build", [full_bitmaps, clear_sectors, long_table, child_with_bitmaps], ids=lambda f: f.__name__
)
def test_on_slow_storage_a_deep_check_tells_by_time(
    tmp_path: Path, build: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each read takes a fifth of a second: a wish to stop is heard within one, all the same."""
    now, told = [0.0], [0.0]

    class Slow(Watched):
        def read_at(self, offset: int, length: int) -> bytes:
            now[0] += 0.2
            return super().read_at(offset, length)

        def report(self, done_bytes: int, total_bytes: int) -> None:
            told.append(now[0])
            super().report(done_bytes, total_bytes)

    monkeypatch.setattr(walk, "clock", lambda: now[0])
    with Slow(build(tmp_path)) as file:
        check_image(file, deep=True, report=file.report)
    # Headers, a dozen reads of any disk, come before and after.
    gaps = [after - before for before, after in itertools.pairwise(told)][1:]
    assert len(gaps) > 5
    assert max(gaps) <= 1


class Places:
    """One file, watched."""

    def __init__(self, file: Watched) -> None:
        self.file = file

    def open(self, path: str) -> ImageFile:
        return self.file

    def beside(self, child_path: str, text: str) -> str:
        raise AssertionError

    def from_windows(self, text: str) -> list[str]:
        return []

    def find_identity(self, identity: str) -> list[str]:
        return []


def test_hashing_allocated_but_empty_blocks_is_told_and_stopped_in_time(tmp_path: Path) -> None:
    """Nothing of them is hashed but zeros; their bitmaps have to be read all the same."""
    path = blocks(tmp_path / "empty.vhd", 512, empty=True)
    file = Watched(path)
    file.stop_at = 2
    places: Any = Places(file)
    with chain.open_chain(str(path), places) as opened:
        with pytest.raises(Stop):
            opened.sha256(file.report)
        assert file.reads == 0
        assert file.most_reads <= MOST_READS


def test_a_hash_ends_with_all_of_it_done(tmp_path: Path) -> None:
    path = blocks(tmp_path / "small.vhd", 16, empty=False)
    places: Any = Places(file := Watched(path))
    with chain.open_chain(str(path), places) as opened:
        opened.sha256(file.report)
    assert file.reports[-1] == (16 * BLOCK_BYTES, 16 * BLOCK_BYTES)
    assert file.most_bytes <= MOST_BYTES
