"""Names from disks as text that can be drawn: nothing invisible, nothing too wide."""

from __future__ import annotations

import unicodedata

ELLIPSIS = "…"


def visible(text: str) -> str:
    """Text with every character that would hide, reorder or break the line written as an escape.

    Control characters, line separators, bidirectional overrides, unassigned and lone
    surrogate units become `\\n`, `\\u202e`, `\\xff`; a name can then neither forge its
    neighbours nor fail to be encoded.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if _is_plain(character) else _escaped(character) for character in text)


def _is_plain(character: str) -> bool:
    return character == " " or unicodedata.category(character)[0] not in "CZ"


def _escaped(character: str) -> str:
    number = ord(character)
    if character == "\u00a0":
        return " "
    if character in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[character]
    if 0xDC80 <= number <= 0xDCFF:  # one byte that is not UTF-8, as os.fsdecode keeps it
        return f"\\x{number - 0xDC00:02x}"
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def size_in_words(size_bytes: int) -> str:
    """1.9 GB: three digits that a person reads, powers of 1024 as administrators count."""
    size = float(size_bytes)
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if size < 1024 or unit == "TB":
            break
        size /= 1024
    if unit == "bytes":
        return f"{size_bytes:,} bytes"
    return f"{size:.1f} {unit}" if size < 100 and not size.is_integer() else f"{size:,.0f} {unit}"


def width_px(text: str, font_px: float) -> float:
    """A cautious guess of how wide text is drawn: wide scripts count double."""
    units = 0.0
    for character in text:
        if unicodedata.east_asian_width(character) in "WF":
            units += 1.05
        elif unicodedata.combining(character):
            units += 0
        elif character in "mwMW@%":
            units += 0.88
        elif character.isupper() or character.isdigit() or character in "_\\":
            units += 0.64
        elif character in "iljtf.,:;'|! ()[]/-":
            units += 0.38
        else:
            units += 0.56
    return units * font_px


def fitted(text: str, limit_px: float, font_px: float) -> str:
    """Text shortened in the middle, because a name differs at its end as often as at its start."""
    if width_px(text, font_px) <= limit_px:
        return text
    low, high = 1, max(1, len(text) - 1)
    while low < high:
        keep = (low + high + 1) // 2
        if width_px(_shortened(text, keep), font_px) <= limit_px:
            low = keep
        else:
            high = keep - 1
    return _shortened(text, low)


def _shortened(text: str, keep: int) -> str:
    tail = keep // 2
    head = keep - tail
    return text[:head] + ELLIPSIS + (text[-tail:] if tail else "")
