"""Virtual Hard Disk v2 (VHDX, AVHDX): fixed, dynamic and differencing disks."""

from __future__ import annotations

from disks.engine.files import ImageFile
from disks.engine.findings import Finding
from disks.engine.images import DiskType, Image, RawRegion
from disks.engine.new_image import Choices, Holding, ImageWriter, NewImage
from disks.engine.units import GIB, MIB
from disks.engine.walk import Report, unreported

_SIGNATURE = b"vhdxfile"


class VhdxFormat:
    """Implements `Format` for VHDX. Slower parts are imported when they are first needed."""

    name = "vhdx"
    extensions: tuple[str, ...] = (".vhdx", ".avhdx")
    # Windows makes dynamic disks with blocks of 32 MiB, all others with blocks of 2 MiB.
    choices = Choices(
        tuple(size * MIB for size in (32, 1, 2, 4, 8, 16, 64, 128, 256)),
        2 * MIB,
        (512, 4096),
        64 * 1024 * GIB,
    )

    def matches(self, file: ImageFile) -> bool:
        """True if the file begins with the file type identifier."""
        return file.size_bytes >= 512 and file.read_at(0, len(_SIGNATURE)) == _SIGNATURE

    def open(self, file: ImageFile) -> Image:
        """Raises ImageError where the structures are not sound enough to read the disk."""
        from disks.engine.vhdx.image import VhdxImage

        return VhdxImage(file)

    def check(
        self, file: ImageFile, *, deep: bool = False, report: Report = unreported
    ) -> list[Finding]:
        """Every invariant that this one file can break; goes on after the first."""
        from disks.engine.vhdx.check import check_file

        return check_file(file, deep=deep, report=report)

    def named_parent(self, file: ImageFile) -> str | None:
        """See `Format`."""
        from disks.engine.vhdx.remains import named_parent

        return named_parent(file)

    def check_opened(self, image: Image) -> list[Finding]:
        """As check(), not deep, for an image that was opened: nothing is read twice."""
        from disks.engine.vhdx import check
        from disks.engine.vhdx.image import VhdxImage

        if not isinstance(image, VhdxImage):
            raise TypeError(f"{image.format_name} is not VHDX")
        return check.check_opened(image)

    def predicted_size_bytes(self, new: NewImage, blocks: int, bitmaps: int | None = None) -> int:
        """File size of a new image with that many allocated blocks."""
        from disks.engine.vhdx.writer import predicted_size_bytes

        return predicted_size_bytes(new, blocks, bitmaps)

    def holding(self, new: NewImage) -> Holding | None:
        """See `Target`: one sector bitmap for each chunk."""
        from disks.engine.vhdx.bat import chunk_sectors

        if new.disk_type is not DiskType.DIFFERENCING:
            return None
        return Holding(True, chunk_sectors(new.logical_sector_bytes))

    def writer(self, file: ImageFile, new: NewImage, *, blocks: int) -> ImageWriter:
        """A writer into an empty file; blocks is an upper bound of what will be written."""
        from disks.engine.vhdx.writer import open_writer

        return open_writer(file, new, blocks)

    def header_bytes(self, file: ImageFile) -> bytes:
        """Headers, region tables and metadata items, one behind the other."""
        from disks.engine.vhdx.raw_view import header_bytes

        return header_bytes(file)

    def raw_regions(self, file: ImageFile) -> list[RawRegion]:
        """The structures of a file that may be too damaged to open."""
        from disks.engine.vhdx.raw_view import raw_regions

        return raw_regions(file)


FORMAT = VhdxFormat()

__all__ = ["FORMAT", "VhdxFormat"]
