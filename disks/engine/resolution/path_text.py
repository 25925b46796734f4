"""The shapes of path texts that headers hold, in the styles of Windows and POSIX."""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache

_DRIVE = re.compile(r"^[A-Za-z]:")


class Shape(StrEnum):
    """What a path text is, whatever code it was stored under."""

    WINDOWS = "windows"  # C:\… or \\server\share\…
    POSIX = "posix"  # /…
    ROOTED = "rooted"  # \… : on whatever drive is current
    RELATIVE = "relative"


@lru_cache(64)  # asked again and again for what the children of one parent say
def shape_of(text: str) -> tuple[Shape, str]:
    r"""The shape of a path text, and the text without `\\?\` or a drive that says nothing.

    `\\?\Volume{…}\name` stays whole: without `\\?\` it would be a folder beside the child.
    `C:name` (relative to the drive's current folder) is taken as a bare name.
    """
    plain = text
    upper = text[:8].upper().replace("/", "\\")
    if upper.startswith("\\\\?\\UNC\\"):
        plain = "\\\\" + text[8:]
    elif upper.startswith("\\\\?\\") and _DRIVE.match(text[4:]):
        plain = text[4:]
    if plain[:2] in ("\\\\", "//", "\\/", "/\\"):
        return Shape.WINDOWS, plain
    if _DRIVE.match(plain):
        if plain[2:3] in ("\\", "/"):
            return Shape.WINDOWS, plain
        return Shape.RELATIVE, base_name(plain[2:])
    if plain[:1] == "/":
        return Shape.POSIX, plain
    if plain[:1] == "\\":
        return Shape.ROOTED, plain
    return Shape.RELATIVE, plain


def base_name(text: str) -> str:
    """The last component of a path text in either style."""
    return text.replace("/", "\\").rpartition("\\")[2]


def is_volume_path(text: str) -> bool:
    """A path below a volume's GUID, which is known to its own host alone."""
    return text.startswith("\\\\?\\Volume{")
