"""Texts out of images: what no encoding can carry is escaped before it is stored or shown."""

from __future__ import annotations


def has_surrogates(text: str) -> bool:
    """Whether a text holds unpaired surrogates, which no encoding can carry."""
    if text.isascii():  # nearly all are; and this is asked for every disk of a scan
        return False
    return any("\ud800" <= character <= "\udfff" for character in text)


def escape_surrogates(text: str) -> str:
    r"""Unpaired surrogates as \udXXX, so that the text can be stored and shown."""
    if not has_surrogates(text):
        return text
    return "".join(
        f"\\u{ord(character):04x}" if "\ud800" <= character <= "\udfff" else character
        for character in text
    )
