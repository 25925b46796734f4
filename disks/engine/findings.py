"""One observation about a file: the unit of every check."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from disks.engine.errors import ImageError

MAX_ALIKE = 20  # findings of one code; more say nothing new


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
        del row["file"], row["advice"]
        return cls(level=level, **row)


def _limited(findings: Iterable[Finding]) -> Iterator[Finding]:
    """At most MAX_ALIKE findings of one code, then one that says so; none twice."""
    counts: dict[str, int] = {}
    seen: set[Finding] = set()
    for finding in findings:
        if finding in seen:
            continue
        count = counts[finding.code] = counts.get(finding.code, 0) + 1
        if count <= MAX_ALIKE:
            seen.add(finding)
            yield finding
        elif count == MAX_ALIKE + 1:
            yield Finding(
                finding.level,
                finding.code,
                f"There are more findings of this kind ({finding.code}); they are not listed.",
                finding.field,
            )


def collected(findings: Iterable[Finding]) -> list[Finding]:
    """All of them, but of one code at most MAX_ALIKE.

    An error that ends them is one more: the storage failed or the file ends early; what was
    found so far still holds.
    """
    found: list[Finding] = []
    try:
        for finding in _limited(findings):
            found.append(finding)
    except ImageError as error:
        found.append(Finding.from_error(error))
    return found
