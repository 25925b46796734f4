"""One observation about a file: the unit of every check."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from disks.engine.errors import ImageError


class Level(StrEnum):
    """An error never passes; a warning or a note never blocks."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """code, message, field, offset, value: as in ImageError."""

    level: Level
    code: str
    message: str
    field: str | None = None
    offset: int | None = None
    value: int | str | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "level": str(self.level),
            "code": self.code,
            "message": self.message,
            "field": self.field,
            "offset": self.offset,
            "value": self.value,
        }

    @classmethod
    def from_error(cls, error: ImageError, level: Level = Level.ERROR) -> Finding:
        row = error.as_dict()
        del row["file"]
        return cls(level=level, **row)
