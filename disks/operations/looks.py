"""What must be the same after a disk's headers were rewritten."""

from __future__ import annotations

from dataclasses import dataclass

from disks.engine.errors import ImageError
from disks.engine.images import Extent, Image
from disks.engine.units import SECTOR_BYTES

_COMPARED_SECTORS = 64 * 1024  # at both ends of the virtual disk: 32 MiB each


@dataclass(frozen=True, slots=True)
class Looks:
    """Which disk it is, of which parent, how much it holds, and where both of its ends lie.

    extents: the code of the error where the block allocation table has damage of its own.
    """

    identity: str
    virtual_disk_id: str | None
    parent: tuple[object, ...]
    disk_type: str
    size_bytes: int
    extents: list[tuple[object, ...]] | str

    @classmethod
    def of(cls, image: Image, size_bytes: int | None = None, *, places: bool = True) -> Looks:
        """Of the first size_bytes of the disk (all of it); places: where in the file, too."""
        size = image.virtual_size_bytes if size_bytes is None else size_bytes
        sectors = size // SECTOR_BYTES
        count = min(_COMPARED_SECTORS, sectors)
        extents: list[tuple[object, ...]] | str
        try:
            found = [*image.extents(0, count), *image.extents(sectors - count, count)]
            extents = [_told(extent) for extent in found] if places else _joined(found)
        except ImageError as error:
            extents = error.code
        parent: tuple[object, ...] = ()
        if image.parent is not None:
            locators = ((one.code, one.raw) for one in image.parent.locators)
            parent = (image.parent.identity, image.parent.name, *locators)
        kind = str(image.disk_type)
        return cls(image.identity, image.virtual_disk_id, parent, kind, size, extents)


def _told(extent: Extent) -> tuple[object, ...]:
    return extent.first_sector, extent.count_sectors, str(extent.source), extent.file_offset


def _joined(extents: list[Extent]) -> list[tuple[object, ...]]:
    """Without their places, and so without what lies together in the file or apart."""
    runs: list[tuple[int, int, str]] = []  # first sector, end, source
    for extent in extents:
        end = extent.first_sector + extent.count_sectors
        source = str(extent.source)
        if runs and runs[-1][1:] == (extent.first_sector, source):
            runs[-1] = (runs[-1][0], end, source)
        else:
            runs.append((extent.first_sector, end, source))
    return [*runs]
