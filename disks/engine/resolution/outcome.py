"""What became of a search for the parent: its status, and the trace of every place looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from disks.engine.errors import ImageError, ParentMissing

EMPTY_IDENTITIES = ("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff")


class Status(StrEnum):
    FOUND = "found"
    MISSING = "missing"
    IN_USE = "in-use"
    IDENTITY_MISMATCH = "identity-mismatch"
    AMBIGUOUS = "ambiguous"
    OUTSIDE_ROOTS = "outside-roots"
    UNREADABLE = "unreadable"
    CYCLE = "cycle"


class Verdict(StrEnum):
    MATCH = "match"
    NOT_FOUND = "not-found"
    IDENTITY_MISMATCH = "identity-mismatch"
    OUTSIDE_ROOTS = "outside-roots"
    UNMAPPED = "unmapped"
    UNREADABLE = "unreadable"
    INVALID = "invalid"


class Step(NamedTuple):
    """One place: where the text stands, the text, the host path tried, and what came of it.

    same_chain: another identity, but the virtual disk id that the child's whole chain shares.
    """

    source: str
    raw: str
    candidate: str | None
    verdict: Verdict
    detail: str = ""
    same_chain: bool = False

    def as_dict(self) -> dict[str, Any]:
        row = {
            "source": self.source,
            "raw": self.raw,
            "candidate": self.candidate,
            "verdict": str(self.verdict),
            "detail": self.detail,
        }
        return row | {"same_chain": True} if self.same_chain else row


@dataclass(slots=True)
class Resolution:
    """path is the parent's host path when status is FOUND.

    twins      other files with the parent's identity (when FOUND)
    suggested  the one file with the right identity that the header does not lead to
    candidates every file with the right identity that was met, when there are several
    code       the error for those who need the parent; None when FOUND
    written_since  where the parent lies by its virtual disk id, with another identity by now:
               written after the child was made, or an older copy put back (when not FOUND)
    """

    status: Status
    path: str | None
    trace: list[Step] = field(default_factory=list)
    twins: list[str] = field(default_factory=list)
    reason: str = ""
    suggested: str | None = None
    candidates: list[str] = field(default_factory=list)
    code: str | None = None
    written_since: str | None = None

    def error(self, child_path: str) -> ImageError:
        """The refusal for an operation that needs this parent's data."""
        code = self.code or "E_PARENT_MISSING"
        kind = ParentMissing if code == "E_PARENT_MISSING" else ImageError
        return kind(code, self.reason, file=child_path, field="parent", value=self.suggested)


def as_trace(resolution: Resolution) -> list[dict[str, Any]]:
    """The trace as JSON-able rows."""
    return [step.as_dict() for step in resolution.trace]
