"""Values for JSON columns: file names that are not UTF-8 survive, or are shown escaped.

PostgreSQL refuses lone surrogates (as os.fsdecode makes them) and NUL in JSON and text;
SQLite takes both. So nothing of the kind is ever handed to a database.
"""

from __future__ import annotations

import json
import re
from typing import Any

from disks.models.fields import from_column, to_column

_MARK = "escaped path"
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_ESCAPABLE = re.compile("[\udc80-\udcff]")
_encode = json.JSONEncoder(check_circular=False).encode


def storable(value: Any) -> Any:
    """The value with undecodable names marked, so that restored() gives them back exactly.

    Raises ValueError for text that cannot be a file name either (NUL, other surrogates).
    """
    if isinstance(value, str):
        if not _UNSTORABLE.search(value):
            return value
        if _UNSTORABLE.search(_ESCAPABLE.sub("", value)):
            raise ValueError("text with NUL or broken UTF-16 cannot be stored")
        return {_MARK: to_column(value)}
    if isinstance(value, dict):
        return {readable(str(key)): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return value


def restored(value: Any) -> Any:
    """The inverse of storable()."""
    if isinstance(value, dict):
        if value.keys() == {_MARK}:
            return from_column(value[_MARK])
        return {key: restored(item) for key, item in value.items()}
    if isinstance(value, list):
        return [restored(item) for item in value]
    return value


def readable(value: Any) -> Any:
    """The value for people: what cannot be stored becomes `\\udc80`, `\\x00`. One way only."""
    if isinstance(value, str):
        if value.isascii() and "\0" not in value:
            return value
        return _UNSTORABLE.sub(
            lambda hit: f"\\u{ord(hit[0]):04x}" if ord(hit[0]) else "\\x00", value
        )
    if isinstance(value, dict):
        return {readable(str(key)): readable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [readable(item) for item in value]
    return value


class JsonText(str):
    """A JSON column's value that was encoded already, by json_text()."""

    __slots__ = ()


def json_text(value: Any) -> str:
    """JSON of readable(value): encoded once, where nothing has to be escaped, as nearly always."""
    if isinstance(value, JsonText):
        return value
    if not value:
        return "[]" if isinstance(value, list) else _encode(value)
    text = _encode(value)
    if "\\ud" in text or "\\u0000" in text:  # may be a whole character of two halves
        return _encode(readable(value))
    return text
