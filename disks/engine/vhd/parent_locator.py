"""Parent locators: eight slots of the dynamic disk header that name the parent's file.

What they hold is text from outside: decoded to be shown and judged, never opened here.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.parent_link import Locator
from disks.engine.text import escape_surrogates, has_surrogates
from disks.engine.units import SECTOR_BYTES
from disks.engine.vhd.dynamic_header import LOCATOR_BYTES, LOCATOR_SLOTS, NAME_BYTES
from disks.engine.vhd.text import ascii_label

W2RU = b"W2ru"  # UTF-16LE, relative to the child
W2KU = b"W2ku"  # UTF-16LE, absolute (blktap: relative too)
MACX = b"MacX"  # UTF-8 file URL
WI2R = b"Wi2r"  # deprecated 8-bit path, relative
WI2K = b"Wi2k"  # deprecated 8-bit path, absolute
MAC = b"Mac "  # alias blob
NONE = b"\0\0\0\0"
KNOWN_CODES = frozenset({W2RU, W2KU, MACX, WI2R, WI2K, MAC})
MAX_LENGTH_BYTES = 64 * 1024

_LAYOUT = struct.Struct(">4sIIIQ")
assert _LAYOUT.size == LOCATOR_BYTES  # noqa: S101 - the layout itself, at import


class LocatorEntry(NamedTuple):
    """One slot as stored."""

    platform_code: bytes
    platform_data_space: int
    platform_data_length: int
    reserved: int
    platform_data_offset: int

    @property
    def is_free(self) -> bool:
        return self.platform_code == NONE


FREE = LocatorEntry(NONE, 0, 0, 0, 0)


def parse_entries(data: bytes) -> list[LocatorEntry]:
    """All eight slots of the header's 192 bytes."""
    return [
        FREE if fields == FREE else LocatorEntry._make(fields)
        for fields in _LAYOUT.iter_unpack(data)
    ]


def pack_entries(entries: Sequence[LocatorEntry]) -> bytes:
    """The header's 192 bytes; missing slots are free."""
    filled = list(entries) + [FREE] * (LOCATOR_SLOTS - len(entries))
    return b"".join(_LAYOUT.pack(*entry) for entry in filled)


class ReadLocator(NamedTuple):
    """A slot, what it says, and the code of what is wrong with it."""

    slot: int
    entry: LocatorEntry
    locator: Locator
    code: str | None


def platform_data_problem(entry: LocatorEntry, metadata_end: int, data_end: int) -> str | None:
    """Why the data of a slot cannot be read, or None.

    The specification's text counts the data space in sectors; Windows and most others write
    bytes. Only the length is believed: it has to fit the space in one of the two units.
    metadata_end: end of the footer copy and the header; data_end: where the file's data ends.
    """
    length, space = entry.platform_data_length, entry.platform_data_space
    if length == 0:
        return "its length is 0"
    if length > MAX_LENGTH_BYTES:
        return f"its length of {length:,} bytes is more than any path has"
    if space and length > space * SECTOR_BYTES:
        return f"its length of {length:,} bytes is more than its space"
    if entry.platform_data_offset < metadata_end:
        return f"its data would lie inside the headers, at byte {entry.platform_data_offset:,}"
    if entry.platform_data_offset + length > data_end:
        return f"its data would lie outside the file, at byte {entry.platform_data_offset:,}"
    return None


def _utf16(data: bytes) -> tuple[str, str | None, str | None]:
    """Text, problem and its code of little-endian UTF-16 data."""
    if len(data) % 2:
        text = data[:-1].decode("utf-16-le", "surrogatepass")
        return text, "its UTF-16 text has an odd number of bytes", "E_LOCATOR_ENCODING"
    text = data.decode("utf-16-le", "surrogatepass").rstrip("\0")
    if text[:1] in ("\ufeff", "\ufffe"):
        return text, "its UTF-16 text starts with a byte order mark", "E_LOCATOR_ENCODING"
    if has_surrogates(text):
        return text, "its UTF-16 text has unpaired surrogates", "E_LOCATOR_ENCODING"
    if text and not any(data[0::2]) and all(0x20 <= byte < 0x7F for byte in data[1::2]):
        turned = data.decode("utf-16-be")
        return turned, "its UTF-16 text is big-endian, where little is due", "E_LOCATOR_ENCODING"
    return text, None, None


def _mac_url(data: bytes) -> tuple[str, str | None, str | None]:
    """A file URL as a path. Percent signs are decoded once, never again."""
    from urllib.parse import unquote_to_bytes  # slow to import, and rarely needed

    try:
        url = data.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        shown = data.rstrip(b"\0").decode("utf-8", "backslashreplace")
        return shown, "its text is no UTF-8", "E_LOCATOR_ENCODING"
    if url[:7].lower() != "file://":
        return url, "it is no file URL", "E_LOCATOR"
    host, slash, path = url[7:].partition("/")
    try:
        path = unquote_to_bytes(slash + path).decode()
    except UnicodeDecodeError:
        return url, "the decoded URL is no UTF-8", "E_LOCATOR_ENCODING"
    if host.lower() in ("", "localhost"):
        # file:///C:/VMs/base.vhd names a drive, not a folder called C:.
        is_drive = len(path) > 2 and path[0] == "/" and path[1].isalpha() and path[2] == ":"
        return (path[1:] if is_drive else path), None, None
    if host in (".", ".."):
        return host + path, None, None
    return f"//{host}{path}", None, None


@lru_cache(64)  # the same for all children of one parent
def decode(code: bytes, data: bytes) -> tuple[str | None, str | None, str | None]:
    """What platform data says: text, why it cannot be used, and that problem's code."""
    if code in (W2RU, W2KU):
        text, problem, finding = _utf16(data)
    elif code == MACX:
        text, problem, finding = _mac_url(data)
    elif code in (WI2R, WI2K):
        text, problem, finding = data.rstrip(b"\0").decode("cp1252", "replace"), None, None
    elif code == MAC:
        return None, "a Macintosh alias is no path", None
    else:
        return None, f"its code “{ascii_label(code)}” is not known", "W_LOCATOR_CODE"
    if problem is None and "\0" in text:
        problem, finding = "its text has a NUL in the middle", "E_LOCATOR_ENCODING"
    if problem is None and not text:
        problem, finding = "its text is empty", "E_LOCATOR"
    return escape_surrogates(text).replace("\0", "\\x00"), problem, finding


def read_locators(
    file: ImageFile,
    entries: Sequence[LocatorEntry],
    head: bytes,
    metadata_end: int,
    data_end: int,
    blocks: Sequence[tuple[int, int]] = (),
) -> list[ReadLocator]:
    """Read every slot in use. blocks: (start, end) of allocated blocks that reach so low."""
    found = []
    for slot, entry in enumerate(entries):
        if entry.is_free:
            continue
        offset, length = entry.platform_data_offset, entry.platform_data_length
        text: str | None = None
        code: str | None = "E_LOCATOR"
        data = b""
        problem = platform_data_problem(entry, metadata_end, data_end)
        if problem is None and any(
            start < offset + length and offset < end for start, end in blocks
        ):
            problem = "its data would lie inside a block of the disk or another structure"
        if problem is None:
            try:
                if offset + length <= len(head):
                    data = head[offset : offset + length]
                else:
                    data = file.read_at(offset, length)
            except ImageError as error:
                problem, code = f"its data could not be read ({error.message})", error.code
            else:
                text, problem, code = decode(entry.platform_code, data)
        if entry.platform_code not in KNOWN_CODES:
            code = "W_LOCATOR_CODE"
        sentence = None if problem is None else f"Unusable: {problem}."
        locator = Locator(
            ascii_label(entry.platform_code),
            text,
            data,
            offset,
            entry.platform_data_space,
            sentence,
        )
        found.append(ReadLocator(slot, entry, locator, code))
    return found


@lru_cache(64)  # asked twice of every disk, and the same for all children of one parent
def decode_name(field: bytes) -> tuple[str | None, str | None]:
    """The parent unicode name (UTF-16BE, up to its first NUL), and why it cannot be used."""
    text = field.decode("utf-16-be", "surrogatepass")
    name, _, rest = text.partition("\0")
    problem = None
    if rest.strip("\0"):
        problem = "The parent name has a NUL in the middle."
    elif has_surrogates(name):
        problem = "The parent name has unpaired surrogates."
    return (escape_surrogates(name) or None), problem


def encode_path(text: str) -> bytes:
    """A path as W2ru and W2ku hold it: UTF-16LE without NUL. Raises ImageError `E_NAME`."""
    return _encoded(text, "utf-16-le")


def encode_name(name: str) -> bytes:
    """The header's 512 bytes of parent name: UTF-16BE, NUL padded. Raises ImageError `E_NAME`."""
    data = _encoded(name, "utf-16-be")
    if len(data) > NAME_BYTES - 2:
        raise ImageError(
            "E_NAME",
            f"The parent's name has {len(data) // 2} UTF-16 units; a VHD has room for 255.",
            field="parent_unicode_name",
            value=name,
        )
    return data.ljust(NAME_BYTES, b"\0")


def _encoded(text: str, encoding: str) -> bytes:
    if not text or "\0" in text:
        raise ImageError(
            "E_NAME", "The parent's path is empty or has a NUL in it.", field="parent", value=text
        )
    try:
        data = text.encode(encoding)
    except UnicodeEncodeError as error:
        shown = text.encode("utf-8", "backslashreplace").decode()
        raise ImageError(
            "E_NAME",
            f"The path {shown} has bytes that are no characters; a VHD cannot name it.",
            field="parent",
            value=shown,
        ) from error
    if len(data) > MAX_LENGTH_BYTES:
        raise ImageError("E_NAME", "The parent's path is too long.", field="parent")
    return data
