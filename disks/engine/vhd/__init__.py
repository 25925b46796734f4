"""Virtual Hard Disk (VHD), version 1.0: fixed, dynamic and differencing disks."""

from __future__ import annotations

from disks.engine.files import ImageFile
from disks.engine.findings import Finding
from disks.engine.images import DiskType, Image, RawRegion
from disks.engine.new_image import Choices, Holding, ImageWriter, NewImage
from disks.engine.units import GIB, MIB
from disks.engine.walk import Report, unreported


class VhdFormat:
    """Implements `Format` for VHD. Slower parts are imported when they are first needed."""

    name = "vhd"
    extensions: tuple[str, ...] = (".vhd", ".avhd")
    choices = Choices((2 * MIB, MIB // 2), 2 * MIB, (512,), 2040 * GIB)

    def matches(self, file: ImageFile) -> bool:
        """True if a footer's cookie is at the end of the file or at its beginning."""
        from disks.engine.vhd.footer import COOKIE, POISON

        size = file.size_bytes
        if size < 512:
            return False
        tail = file.read_at(size - 512, 9)
        if tail[:8] in (COOKIE, POISON) or tail[1:] in (COOKIE, POISON):
            return True
        return file.read_at(0, 8) in (COOKIE, POISON)

    def open(self, file: ImageFile) -> Image:
        """Raises ImageError where the headers are not sound enough to read the disk."""
        from disks.engine.vhd.image import VhdImage

        return VhdImage(file)

    def check(
        self, file: ImageFile, *, deep: bool = False, report: Report = unreported
    ) -> list[Finding]:
        """Every invariant that this one file can break; goes on after the first."""
        from disks.engine.vhd.check import check_file

        return check_file(file, deep=deep, report=report)

    def named_parent(self, file: ImageFile) -> str | None:
        """See `Format`."""
        from disks.engine.vhd.remains import named_parent

        return named_parent(file, self.extensions)

    def predicted_size_bytes(self, new: NewImage, blocks: int, bitmaps: int | None = None) -> int:
        """File size of a new image with that many allocated blocks."""
        from disks.engine.vhd.writer import predicted_size_bytes

        return predicted_size_bytes(new, blocks)

    def holding(self, new: NewImage) -> Holding | None:
        """See `Target`: each block begins with its bitmap, and zeros are stored."""
        return Holding(False, 0) if new.disk_type is DiskType.DIFFERENCING else None

    def writer(self, file: ImageFile, new: NewImage, *, blocks: int) -> ImageWriter:
        """A writer into an empty file; blocks is an upper bound of what will be written."""
        from disks.engine.vhd.writer import open_writer

        return open_writer(file, new, blocks)

    def header_bytes(self, file: ImageFile) -> bytes:
        """Footers, header and locator data, one behind the other."""
        from disks.engine.vhd.raw_view import header_bytes

        return header_bytes(file)

    def check_opened(self, image: Image) -> list[Finding]:
        """As check(), not deep, for an image that was opened: nothing is read twice."""
        from disks.engine.vhd import check
        from disks.engine.vhd.image import VhdImage

        if not isinstance(image, VhdImage):
            raise TypeError(f"{image.format_name} is not VHD")
        return check.check_opened(image)

    def raw_regions(self, file: ImageFile) -> list[RawRegion]:
        """The structures of a file that may be too damaged to open."""
        from disks.engine.vhd.raw_view import regions

        return regions(file)


FORMAT = VhdFormat()

__all__ = ["FORMAT", "VhdFormat"]
