"""A plain image: the bytes of the virtual disk in their order, and nothing else.

Nothing in such a file says what it is, so none is ever recognised by its content: it is
read only where somebody says that it is one. As a target of copies it is like a format.
"""

from __future__ import annotations

from disks.engine.errors import OutOfRange
from disks.engine.files import ImageFile
from disks.engine.new_image import Holding, ImageWriter, NewImage, Target
from disks.engine.units import SECTOR_BYTES


class RawTarget:
    """Implements `Target`; of a new image only its size counts."""

    name = "raw"
    extensions: tuple[str, ...] = (".raw", ".img")

    def predicted_size_bytes(self, new: NewImage, blocks: int, bitmaps: int | None = None) -> int:
        return new.virtual_size_bytes

    def holding(self, new: NewImage) -> Holding | None:
        return None

    def writer(self, file: ImageFile, new: NewImage, *, blocks: int) -> ImageWriter:
        """Reserves all room at once: no holes (R9), and a full volume shows now."""
        return RawWriter(file, new.virtual_size_bytes)


class RawWriter:
    """Implements `ImageWriter`: every sector goes where its number says."""

    def __init__(self, file: ImageFile, size_bytes: int) -> None:
        self.file = file
        self._size_bytes = size_bytes
        file.allocate(size_bytes)

    def place(self, first_sector: int, count_sectors: int) -> list[tuple[int, int]]:
        """See `ImageWriter`. Raises OutOfRange past the end."""
        offset, length = first_sector * SECTOR_BYTES, count_sectors * SECTOR_BYTES
        if offset + length > self._size_bytes:
            raise OutOfRange(
                "E_RANGE",
                f"Bytes up to {offset + length:,} were written; the disk has {self._size_bytes:,}.",
                file=self.file.path,
                value=first_sector + count_sectors,
            )
        return [(offset, length)] if length else []

    def write(self, first_sector: int, data: bytes | bytearray | memoryview) -> None:
        """See `ImageWriter`."""
        view = memoryview(data).cast("B")
        if len(view) % SECTOR_BYTES:
            raise ValueError(f"{len(view)} bytes are no whole sectors")
        for offset, _ in self.place(first_sector, len(view) // SECTOR_BYTES):
            self.file.write_at(offset, view)

    def hold_zeros(self, first_sector: int, count_sectors: int) -> None:
        """See `ImageWriter`: reserved room reads as zeros."""
        self.place(first_sector, count_sectors)

    def finish(self) -> None:
        self.file.sync()


RAW: Target = RawTarget()
