"""Anything that reads like one disk: a chain, some levels of it, an image alone, plain bytes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from disks.engine.chain import ChainExtent, ChainView
from disks.engine.files import ImageFile, storage_error
from disks.engine.images import DiskType, Image, Source
from disks.engine.units import GIB, SECTOR_BYTES, round_up, sectors

_WINDOW_SECTORS = 1 * GIB // SECTOR_BYTES  # looked up between two reports, if all is empty


@dataclass(frozen=True, slots=True)
class Run:
    """Sectors that hold something. file None: zeros that are held all the same."""

    first_sector: int
    count_sectors: int
    file: ImageFile | None
    file_offset: int


class View(Protocol):
    """Anything that reads like one disk: its size, and its content as runs."""

    @property
    def virtual_size_bytes(self) -> int: ...

    def runs(self, first_sector: int, count_sectors: int) -> Iterator[Run]:
        """What is held in the range, ascending; gaps are zeros, or the parent's."""
        ...


class ChainExtents(Protocol):
    """A chain, or some levels of it (`engine.chain`)."""

    @property
    def images(self) -> list[Image]: ...
    @property
    def virtual_size_bytes(self) -> int: ...
    def extents(self, first_sector: int, count_sectors: int) -> Iterator[ChainExtent]: ...


class ChainContent:
    """A chain, or some levels of it, as one disk.

    Where levels below are left out, zeros that a level states (a VHDX block in the state ZERO)
    are held: they hide what the parent has. In a whole chain, and behind the end of the lowest
    level, where no parent has anything, they are gaps like others.
    """

    def __init__(self, chain: ChainExtents) -> None:
        self._chain = chain
        self._files = [image.file for image in chain.images]
        lowest = chain.images[-1]
        partial = lowest.disk_type is DiskType.DIFFERENCING
        self._zeros_end = sectors(lowest.virtual_size_bytes) if partial else 0

    @property
    def virtual_size_bytes(self) -> int:
        return self._chain.virtual_size_bytes

    def runs(self, first_sector: int, count_sectors: int) -> Iterator[Run]:
        files = self._files
        for extent in self._chain.extents(first_sector, count_sectors):
            if extent.level is None or extent.file_offset is None:
                count = min(extent.count_sectors, self._zeros_end - extent.first_sector)
                if extent.source is Source.ZERO and count > 0:
                    yield Run(extent.first_sector, count, None, 0)
                continue
            yield Run(
                extent.first_sector, extent.count_sectors, files[extent.level], extent.file_offset
            )


class HeldContent:
    """Levels of a chain, none larger than the one before it, over a parent that may hold anything.

    Zeros that a level states are held wherever it has them: also behind the end of a level below,
    where the parent may have got what was moved there before the zeros were written.
    """

    def __init__(self, levels: ChainView) -> None:
        self._size = levels.virtual_size_bytes
        self._parts: list[tuple[int, ChainContent]] = []  # end, and the levels that reach there
        for count in range(len(levels.images), 0, -1):
            part = ChainView(levels.images[:count], levels.paths[:count])
            self._parts.append((sectors(part.images[-1].virtual_size_bytes), ChainContent(part)))

    @property
    def virtual_size_bytes(self) -> int:
        return self._size

    def runs(self, first_sector: int, count_sectors: int) -> Iterator[Run]:
        position, end = first_sector, first_sector + count_sectors
        for part_end, content in self._parts:
            stop = min(end, part_end)
            if position < stop:
                yield from content.runs(position, stop - position)
                position = stop


class ImageContent:
    """What one image holds by itself."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._holds_zeros = image.disk_type is DiskType.DIFFERENCING

    @property
    def virtual_size_bytes(self) -> int:
        return self._image.virtual_size_bytes

    def runs(self, first_sector: int, count_sectors: int) -> Iterator[Run]:
        file = self._image.file
        for extent in self._image.extents(first_sector, count_sectors):
            if extent.source is Source.DATA and extent.file_offset is not None:
                yield Run(extent.first_sector, extent.count_sectors, file, extent.file_offset)
            elif self._holds_zeros and extent.source is Source.ZERO:
                yield Run(extent.first_sector, extent.count_sectors, None, 0)


class PlainContent:
    """A plain image: the file's bytes are the disk's. Its holes are passed over as zeros."""

    def __init__(self, file: ImageFile) -> None:
        self._file = file

    @property
    def virtual_size_bytes(self) -> int:
        return self._file.size_bytes

    def runs(self, first_sector: int, count_sectors: int) -> Iterator[Run]:
        position, end = first_sector * SECTOR_BYTES, (first_sector + count_sectors) * SECTOR_BYTES
        while position < end:
            start = self._seek(position, os.SEEK_DATA, end)
            start = max(position, start - start % SECTOR_BYTES)
            if start >= end:
                return
            stop = min(end, round_up(self._seek(start, os.SEEK_HOLE, end), SECTOR_BYTES))
            stop = max(stop, start + SECTOR_BYTES)
            sector = start // SECTOR_BYTES
            yield Run(sector, (stop - start) // SECTOR_BYTES, self._file, start)
            position = stop

    def _seek(self, offset: int, what: int, end: int) -> int:
        """Where data or a hole begins from offset on; end where there is none any more."""
        try:
            return os.lseek(self._file.fd, offset, what)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data behind offset
                return end
            if error.errno == errno.EINVAL:  # storage that does not tell: all of it is data
                return offset if what == os.SEEK_DATA else end
            raise storage_error(error, self._file.path, offset=offset, verb="read") from error


def all_runs(view: View, tell: Callable[[int], None]) -> Iterator[Run]:
    """All runs of a view, asked for in windows, so that a cancel is heard in long gaps.

    tell(first_sector) is called between windows and may raise.
    """
    total = sectors(view.virtual_size_bytes)
    for first in range(0, total, _WINDOW_SECTORS):
        if first:
            tell(first)
        yield from view.runs(first, min(_WINDOW_SECTORS, total - first))
