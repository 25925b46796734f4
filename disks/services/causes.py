"""What broke a group of disks: one word for all of them, and a sentence for people.

"212 disks name one missing base."
"""

from __future__ import annotations

from disks.models import ParentLink

Status = ParentLink.Status

_KINDS = {
    Status.MISSING: "missing",
    Status.OUTSIDE_ROOTS: "outside",
    Status.IDENTITY_MISMATCH: "replaced",
    Status.AMBIGUOUS: "ambiguous",
    Status.UNREADABLE: "unreadable",
    Status.CYCLE: "cycle",
}
# The plural's verb, the singular's, and the rest.
_SENTENCES = {
    "missing": ("name", "names", "one missing base"),
    "outside": ("name", "names", "a base outside of the storage roots"),
    "replaced": ("name", "names", "a base in whose place another disk lies"),
    "rewritten": ("name", "names", "a base whose content is another one by now"),
    "ambiguous": ("name", "names", "a base of which there are several copies"),
    "unreadable": ("name", "names", "a base that cannot be read"),
    "cycle": ("stand", "stands", "in a circle of parents"),
    "ancestor": ("stand", "stands", "on a damaged disk"),
    "offline": ("stand", "stands", "on a disk in an offline storage root"),
}


def cause_of(status: str, named_identity: str, *, rewritten: bool = False) -> str:
    """Links that one event broke share it: the same base gone, replaced, copied.

    rewritten: it lies in its place, and its content is another one by now.
    """
    kind = _KINDS.get(Status(status))
    if rewritten and kind == "replaced":
        kind = "rewritten"
    return f"{kind}:{named_identity}" if kind else ""


def kind_of(cause: str) -> str:
    """The word before the colon: `missing`, `replaced`, …"""
    return cause.partition(":")[0]


def sentence(cause: str, count: int, named_path: str = "") -> str:
    """The cause for so many disks, with the path that they name where there is one."""
    many, one, rest = _SENTENCES.get(kind_of(cause), ("are", "is", "broken"))
    text = f"1 disk {one} {rest}" if count == 1 else f"{count:,} disks {many} {rest}"
    if named_path and kind_of(cause) not in ("cycle", "ancestor", "offline"):
        text += f": {named_path}"
    return text
