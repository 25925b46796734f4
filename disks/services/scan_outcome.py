"""What a scan found: its numbers, its problems, and the sentence for people."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from disks.engine.errors import ImageError
from disks.services.stored_json import readable

_PROBLEMS_SHOWN = 20


@dataclass
class Outcome:
    """The numbers of a scan's result, counted while it goes on."""

    files: int = 0
    disks: int = 0
    new: int = 0
    changed: int = 0
    moved: int = 0
    missing: int = 0
    returned: int = 0
    unreadable: int = 0
    in_use: int = 0
    links_resolved: int = 0
    problems: list[dict[str, Any]] = field(default_factory=list)

    def problem(self, error: ImageError) -> None:
        self.problems.append(readable(error.as_dict()))

    def as_dict(self) -> dict[str, Any]:
        result = dict(vars(self))
        result["problem_count"] = len(self.problems)
        result["problems"] = self.problems[:_PROBLEMS_SHOWN]
        return result


def sentence(result: dict[str, Any]) -> str:
    """The result in words, with what could not be read: never a bare "complete"."""
    parts = [f"{result['disks']:,} disks seen"]
    for key, words in (
        ("new", "new"),
        ("changed", "changed"),
        ("moved", "moved"),
        ("missing", "missing"),
        ("returned", "back again"),
        ("in_use", "in use and not read"),
        ("unreadable", "could not be read"),
    ):
        if result[key]:
            parts.append(f"{result[key]:,} {words}")
    text = ", ".join(parts) + "."
    if result.get("offline"):
        text += f" Offline and not scanned: {', '.join(result['offline'])}."
    return text
