"""Reading that is watched: how much of it happens between two reports of how far it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from disks.engine import formats
from disks.engine.files import ImageFile
from disks.engine.images import DiskType
from disks.engine.new_image import NewImage
from disks.engine.units import MIB, SECTOR_BYTES
from disks.tests.engine.world import create_file

BLOCK_BYTES = 2 * MIB
SECTORS_PER_BLOCK = BLOCK_BYTES // SECTOR_BYTES
MOST_BYTES = 6 * MIB  # between two reports; with the piece at work
MOST_READS = 128  # each may take 10 ms on slow storage


class Stop(Exception):
    pass


class Watched(ImageFile):
    """Remembers the most that was read between two reports."""

    def __init__(self, path: Path) -> None:
        super().__init__(os.open(path, os.O_RDONLY), str(path))
        self.reads = self.bytes_read = self.most_reads = self.most_bytes = 0
        self.reports: list[tuple[int, int]] = []
        self.stop_at: int | None = None

    def _count(self, length: int) -> None:
        self.reads += 1
        self.bytes_read += length
        self.most_reads = max(self.most_reads, self.reads)
        self.most_bytes = max(self.most_bytes, self.bytes_read)

    def read_at(self, offset: int, length: int) -> bytes:
        self._count(length)
        return super().read_at(offset, length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._count(len(buffer))
        super().read_into(offset, buffer)

    def report(self, done_bytes: int, total_bytes: int) -> None:
        self.reads = self.bytes_read = 0
        self.reports.append((done_bytes, total_bytes))
        if len(self.reports) == self.stop_at:
            raise Stop


def blocks(path: Path, count: int, *, empty: bool) -> Path:
    """A sparse dynamic disk with count allocated blocks: bitmaps full, or all clear."""
    with create_file(path) as file:
        file.allocate = file.truncate  # type: ignore[method-assign] # no room for noughts
        new = NewImage(DiskType.DYNAMIC, count * BLOCK_BYTES)
        writer = formats.by_name("vhd").writer(file, new, blocks=count)
        for block in range(count):
            writer.place(block * SECTORS_PER_BLOCK, SECTORS_PER_BLOCK)
        writer.finish()
        if empty:
            image: Any = formats.open_image(file)
            for block in range(count):
                os.pwrite(file.fd, bytes(image.bitmap_bytes), image.bat.entry(block) * SECTOR_BYTES)
    return path
