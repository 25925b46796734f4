"""Names from disks as text that can be drawn: nothing invisible, nothing too wide."""

from __future__ import annotations

import unicodedata

from disks.engine.units import size_text as size_in_words
from disks.templatetags.names import plain_text as visible

__all__ = ["fitted", "size_in_words", "visible", "width_px"]

ELLIPSIS = "…"


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
        elif character.isupper():
            units += 0.7
        elif character.isdigit() or character in "_\\":
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
