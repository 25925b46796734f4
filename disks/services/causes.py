"""What broke a group of disks, in words: "212 disks name one missing base"."""

from __future__ import annotations

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
    "written": ("stand", "stands", "on a disk that was written since"),
    "offline": ("stand", "stands", "on a disk in an offline storage root"),
}


def kind_of(cause: str) -> str:
    """The word before the colon: `missing`, `replaced`, …"""
    return cause.partition(":")[0]


def sentence(cause: str, count: int, named_path: str = "") -> str:
    """The cause for so many disks, with the path that they name where there is one."""
    many, one, rest = _SENTENCES.get(kind_of(cause), ("are", "is", "broken"))
    text = f"1 disk {one} {rest}" if count == 1 else f"{count:,} disks {many} {rest}"
    if named_path and kind_of(cause) not in ("cycle", "ancestor", "written", "offline"):
        text += f": {named_path}"
    return text
