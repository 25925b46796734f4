"""How names and paths look, the same on every page. Built into all templates.

They come from disks and are hostile until shown through `name`, `winpath`, `place`, `told` or plain
autoescaping; the filters here escape everything that they wrap.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from django import template
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

from disks.services import windows_names

register = template.Library()


_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def odd_character(character: str) -> str | None:
    """What stands for a character that would hide, break or turn the text; None: it is fine.

    A byte that is not UTF-8 (kept by Python as a lone surrogate) shows as \\xff, controls
    and direction marks as their code point.
    """
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if unicodedata.category(character) in _INVISIBLE:
        return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
    return None


def plain_text(text: Any) -> str:
    """Text with every odd character spelt out; for titles, CSV and attributes."""
    text = str(text)
    if text.isprintable():  # nearly always: then no character is odd
        return text
    return "".join(odd_character(character) or character for character in text)


# What a sentence holds that must not be broken where a hyphen would allow it.
_WHOLE = re.compile(r"((?<!\S)\S*[\\/]\S*|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b)")


def _html(text: str, instead_of: str = "") -> SafeString:
    """A sentence or a name, escaped; paths and identities in it are boxes as in a path."""
    pieces = enumerate(_WHOLE.split(text))
    shown = "".join(_boxes(piece) if at % 2 else _shown(piece) for at, piece in pieces)
    return _isolated(shown, instead_of)


def _boxes(path: str) -> str:
    """Each name of a path in a box of its own, which goes to the next line whole."""
    parts = [_shown(piece) for piece in re.split(r"(?<=[\\/])", path)]
    return "<wbr>".join(f'<span class="part">{part}</span>' for part in parts if part)


def _isolated(shown: str, instead_of: str = "") -> SafeString:
    # dir=ltr isolates the name: letters of right-to-left scripts cannot reorder its neighbours
    title = f' title="{escape(plain_text(instead_of))}"' if instead_of else ""
    return mark_safe(f'<bdi dir="ltr" class="path"{title}>{shown}</bdi>')  # noqa: S308  escaped


def _shown(piece: str) -> str:
    return str(escape(piece)) if piece.isprintable() else "".join(map(_character, piece))


def _character(character: str) -> str:
    odd = odd_character(character)
    if odd is None:
        return str(escape(character))
    return f'<span class="odd" title="hidden character">{odd}</span>'


@register.filter
def winpath(path: Any) -> str:
    """A path, broken only after its separators, never inside a name; oddities made visible."""
    return _isolated(_boxes("" if path is None else str(path)))


@register.filter
def place(host_path: Any) -> str:
    """Where a file lies, as Windows names it if a storage root says how; the title: on this host.

    Not for what stands in a disk: that is shown as it is.
    """
    path = "" if host_path is None else str(host_path)
    named = windows_names.of(path)
    return _isolated(_boxes(named), path if named != path else "")


@register.filter
def told(sentence: Any, file: Any = None) -> str:
    """A sentence of ours, with the files in it named as by `place`.

    file: one that it is about, if that is known
    """
    text = "" if sentence is None else str(sentence)
    named = windows_names.within(text, str(file or ""))
    return _html(named, text if named != text else "")


@register.filter
def name(text: Any) -> str:
    """A file's name or any other text from a disk; oddities made visible."""
    return _html("" if text is None else str(text))


@register.filter
def visible(text: Any) -> str:
    """As plain text: oddities spelt out, for attributes."""
    return plain_text("" if text is None else text)


@register.filter
def folder(path: Any) -> str:
    """What stands before the last separator of either kind; empty for a bare name."""
    head = re.match(r"(.*)[\\/]", str(path or ""), re.DOTALL)
    return head[1] if head else ""
