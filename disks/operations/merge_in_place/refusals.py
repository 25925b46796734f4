"""What is said where a merge that has moved data finds files that it did not leave so.

It cannot be taken back by hand, as other operations can: only finished, when the files are right.
"""

from __future__ import annotations

from disks.engine.errors import ImageError
from disks.operations.windows import shown

_NEVERTHELESS = "The disks that are merged still hold all that is theirs: delete none of them."

GIVE_BACK = (
    "Give the file that the merge began with its name back (a copy of it is another file), then "
    f"go on with the merge. {_NEVERTHELESS}"
)
PUT_BACK = (
    "If somebody has written to it, write its content as it was when the merge was stopped, from a "
    "backup or a snapshot, back into this very file (cp onto it; a new file will not do), then go "
    f"on with the merge. {_NEVERTHELESS}"
)


def attention(path: str, why: str, advice: str) -> ImageError:
    """E_NEEDS_ATTENTION: why it cannot go on, and what would have to be so again."""
    return ImageError(
        "E_NEEDS_ATTENTION",
        f"{shown(path)} is part of a merge in place that is half-way, and {why}. No disk was "
        "written.",
        advice=advice,
        file=path,
    )


def another_file(path: str) -> ImageError:
    return attention(path, "another file has its name now", GIVE_BACK)
