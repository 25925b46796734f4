"""GUIDs as VHDX stores them (first three groups little-endian) and as people read them.

The standard library's `uuid` takes longer to import than inspecting a disk does.
"""

from __future__ import annotations

import os
import struct

GUID_BYTES = 16
NIL = bytes(GUID_BYTES)
NIL_TEXT = "00000000-0000-0000-0000-000000000000"

_LITTLE = struct.Struct("<IHH8s")
_BIG = struct.Struct(">IHH8s")


def guid_text(data: bytes) -> str:
    """Lower case with hyphens, as Windows prints it."""
    first, second, third, rest = _LITTLE.unpack(data)
    return f"{first:08x}-{second:04x}-{third:04x}-{rest[:2].hex()}-{rest[2:].hex()}"


def guid_bytes(text: str) -> bytes:
    """The stored bytes of a GUID as guid_text() prints it. ValueError if it is none."""
    data = bytes.fromhex(text.replace("-", ""))
    if len(data) != GUID_BYTES:
        raise ValueError(f"{text!r} is no GUID")
    return _LITTLE.pack(*_BIG.unpack(data))


def new_guid() -> bytes:
    """A random GUID (version 4), stored form."""
    data = bytearray(os.urandom(GUID_BYTES))
    data[7] = data[7] & 0x0F | 0x40
    data[8] = data[8] & 0x3F | 0x80
    return bytes(data)
