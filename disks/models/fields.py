"""A path column that keeps names which are not UTF-8."""

from __future__ import annotations

import re
from typing import Any

from django.db import models


def text_is_plain(text: str) -> bool:
    """Nearly always: nothing that would have to be escaped, found without a regex."""
    return text.isascii() and "\\" not in text


def to_column(path: str) -> str:
    """Text as os.fsdecode gives it, made storable: lone surrogates and `\\` are escaped."""
    if text_is_plain(path):
        return path
    return re.sub(
        r"[\\\udc80-\udcff]",
        lambda hit: "\\\\" if hit[0] == "\\" else f"\\x{ord(hit[0]) - 0xDC00:02x}",
        path,
    )


def from_column(text: str) -> str:
    """The inverse of to_column."""
    if "\\" not in text:
        return text
    return re.sub(
        r"\\(\\|x[0-9a-f]{2})",
        lambda hit: "\\" if hit[1] == "\\" else chr(0xDC00 + int(hit[1][1:], 16)),
        text,
    )


class PathField(models.TextField):
    """Holds any POSIX path; in Python it is the str that os.fsdecode gives."""

    def from_db_value(self, value: str | None, expression: Any, connection: Any) -> str | None:
        return None if value is None else from_column(value)

    def get_prep_value(self, value: Any) -> Any:
        value = super().get_prep_value(value)
        return None if value is None else to_column(value)
