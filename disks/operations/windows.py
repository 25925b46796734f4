"""Windows paths as text: taken apart, put together, compared. Nothing here touches a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from disks.engine.errors import ImageError

_DEVICE_NAMES = re.compile(r"(?i)(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?")
_FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f]')
_SEPARATORS = re.compile(r"[\\/]")


@dataclass(frozen=True, slots=True)
class WindowsPath:
    """anchor: `C:` or `\\\\server\\share`; parts: folders and the name, no `.` or `..`."""

    anchor: str
    parts: tuple[str, ...]

    def __str__(self) -> str:
        """A drive alone is written with its backslash (`C:` is no folder), a share without."""
        if not self.parts and self.anchor.endswith(":"):
            return self.anchor + "\\"
        return "\\".join((self.anchor, *self.parts))

    def same_place(self, other: WindowsPath) -> bool:
        """One drive, or one share."""
        return self.anchor.casefold() == other.anchor.casefold()

    def below(self, other: WindowsPath) -> tuple[str, ...] | None:
        """The parts below other, None if this path is not below it (case does not count)."""
        count = len(other.parts)
        if not self.same_place(other) or len(self.parts) < count:
            return None
        for mine, theirs in zip(self.parts, other.parts, strict=False):
            if mine.casefold() != theirs.casefold():
                return None
        return self.parts[count:]


def parse_absolute(text: str) -> WindowsPath | None:
    """An absolute Windows path; None if text has another shape.

    `\\\\?\\` is stripped. `C:name` (relative to a drive's current folder), device paths
    and URLs are not absolute paths. Raises E_NAME or E_OUTSIDE_ROOTS for parts that no
    Windows path can have or that climb above the drive.
    """
    plain = _without_long_path_prefix(text)
    drive = re.match(r"([A-Za-z]):[\\/]", plain)
    if drive:
        return WindowsPath(f"{drive[1].upper()}:", _normalised(plain[3:], text))
    if re.match(r"[\\/]{2}[^\\/]", plain):
        pieces = [piece for piece in _SEPARATORS.split(plain[2:]) if piece]
        if len(pieces) < 2 or pieces[0] in (".", "?"):
            return None
        server, share, *rest = pieces
        for name in (server, share):
            check_name(name, text)
        return WindowsPath(f"\\\\{server}\\{share}", _normalised("\\".join(rest), text))
    return None


def is_absolute(text: str) -> bool:
    """Absolute by its shape: a drive, a share, a POSIX path or a URL."""
    return bool(re.match(r"[A-Za-z]:[\\/]|[\\/]|[A-Za-z][A-Za-z0-9+.-]+:", text))


def split_relative(text: str) -> list[str]:
    """The parts of a relative path, `..` kept, `.` and empty ones dropped; names checked.

    A drive-relative path (`C:name`) is taken by its last part: what lies beside the child.
    """
    if re.match(r"[A-Za-z]:(?![\\/])", text):
        text = _SEPARATORS.split(text[2:])[-1]
    parts = [part for part in _SEPARATORS.split(text) if part not in ("", ".")]
    for part in parts:
        if part != "..":
            check_name(part, text)
    return parts


def joined(folder: WindowsPath, parts: Sequence[str], text: str) -> WindowsPath:
    """folder and a relative path from it; E_OUTSIDE_ROOTS above the drive or share."""
    result = list(folder.parts)
    for part in parts:
        if part != "..":
            result.append(part)
        elif result:
            result.pop()
        else:
            raise climbs_out(text)
    return WindowsPath(folder.anchor, tuple(result))


def relative(child_folder: Sequence[str], parent: Sequence[str]) -> str:
    """Windows text that leads from a folder to a file, both given as parts of one tree."""
    common = 0
    for mine, theirs in zip(child_folder, parent[:-1], strict=False):
        if mine.casefold() != theirs.casefold():
            break
        common += 1
    climbs = len(child_folder) - common
    lead = [".."] * climbs if climbs else ["."]
    return "\\".join([*lead, *parent[common:]])


def check_name(name: str, text: str) -> None:
    """E_NAME for a name that Windows cannot have, or gives another meaning to."""
    why = None
    if "\0" in name:
        why = "it holds a NUL character"
    elif _FORBIDDEN.search(name):
        why = "it holds a character that Windows keeps for other uses"
    elif name.endswith((".", " ")):
        why = "it ends with a dot or a space, which Windows drops"
    elif _DEVICE_NAMES.fullmatch(name):
        why = "Windows keeps this name for a device"
    if why:
        raise ImageError(
            "E_NAME", f"“{shown(name)}” cannot be the name of a disk: {why}.", value=shown(text)
        )


def is_windows_name(name: str) -> bool:
    """True if Windows can have a file of this name and a locator can hold it."""
    try:
        check_name(name, name)
        name.encode("utf-8")
    except (ImageError, UnicodeEncodeError):
        return False
    return "\\" not in name and bool(name)


def climbs_out(text: str) -> ImageError:
    return ImageError(
        "E_OUTSIDE_ROOTS",
        f"“{shown(text)}” leads out of the storage roots; it was not looked at.",
        value=shown(text),
    )


def shown(text: str) -> str:
    """Text of an unknown origin, printable on one line."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text.encode("utf-8", "backslashreplace").decode()
    )


def _without_long_path_prefix(text: str) -> str:
    if re.match(r"(?i)\\\\\?\\UNC\\", text):
        return "\\\\" + text[8:]
    if text.startswith("\\\\?\\"):
        return text[4:]
    return text


def _normalised(rest: str, text: str) -> tuple[str, ...]:
    parts = split_relative(rest) if not re.match(r"[A-Za-z]:", rest) else [rest]
    for part in parts:
        if part != "..":
            check_name(part, text)
    return joined(WindowsPath("", ()), parts, text).parts
