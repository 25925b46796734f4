"""What can be wrong with an image, as errors that a person can read."""

from __future__ import annotations

from typing import Any

from disks.engine.units import SECTOR_BYTES


class ImageError(Exception):
    """A refusal or a failure about one image.

    code     stable, `E_…`; its title and the advice live in `codes.py`
    message  what is wrong and why it matters, for a person
    advice   what to do next, where the code's own advice does not fit
    file     path of the image, as text (never opened because of this)
    field    the specification's name of the field, snake case
    offset   where that field lies, bytes from the file's start
    value    what was found there
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        advice: str = "",
        file: str | None = None,
        field: str | None = None,
        offset: int | None = None,
        value: Any = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.advice = advice
        self.file = file
        self.field = field
        self.offset = offset
        self.value = value

    def as_dict(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "message": self.message,
            "advice": self.advice,
            "file": self.file,
            "field": self.field,
            "offset": self.offset,
            "value": self.value if isinstance(self.value, int | str | None) else str(self.value),
        }

    @property
    def sentence(self) -> str:
        """The message and its own advice, where nothing else says what to do next."""
        return f"{self.message} {self.advice}".strip()

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class OutOfRange(ImageError):
    """A request beyond the end of the virtual disk (`E_RANGE`)."""


class ParentMissing(ImageError):
    """Data of an absent parent is needed (`E_PARENT_MISSING`); never read as zeros."""


class NotAnImage(ImageError):
    """The content is no disk of a known format (`E_TOO_SMALL`, `E_NO_FOOTER`)."""


def unreadable(error: ImageError, first_sector: int, file_offset: int) -> ImageError:
    """A reading error with the sector of the virtual disk that it concerns.

    first_sector: what lies at file_offset of the file that could not be read
    """
    inside = 0 if error.offset is None else max(0, error.offset - file_offset)
    sector = first_sector + inside // SECTOR_BYTES
    return type(error)(
        error.code,
        f"Sector (LBA) {sector:,} cannot be read. {error.message}",
        file=error.file,
        field="LBA",
        offset=error.offset,
        value=sector,
    )


def require_inside(
    first_sector: int, count_sectors: int, total_sectors: int, file: str | None
) -> None:
    """Raises OutOfRange unless a disk of so many sectors has all of these."""
    end = first_sector + count_sectors
    if first_sector < 0 or count_sectors < 0 or end > total_sectors:
        raise OutOfRange(
            "E_RANGE",
            f"Sectors {first_sector:,} to {end:,} were asked for; the disk has {total_sectors:,}.",
            file=file,
            value=end,
        )
