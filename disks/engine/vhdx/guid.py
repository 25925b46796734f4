"""GUIDs as VHDX stores them (first three groups little-endian) and as people read them."""

from __future__ import annotations

import uuid

GUID_BYTES = 16
NIL = bytes(GUID_BYTES)
NIL_TEXT = "00000000-0000-0000-0000-000000000000"


def guid_text(data: bytes) -> str:
    """Lower case with hyphens, as Windows prints it."""
    return str(uuid.UUID(bytes_le=data))


def guid_bytes(text: str) -> bytes:
    """The stored bytes of a GUID as guid_text() prints it. ValueError if it is none."""
    return uuid.UUID(text).bytes_le


def new_guid() -> bytes:
    """A random GUID, stored form."""
    return uuid.uuid4().bytes_le
