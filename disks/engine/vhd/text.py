"""Identities, times and codes of VHD structures in the forms that people read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


def identity_text(unique_id: bytes) -> str:
    """The 16 bytes in print order, lower case with hyphens."""
    text = unique_id.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def identity_bytes(text: str) -> bytes:
    """The 16 stored bytes of an identity as identity_text() prints it. ValueError if it is none."""
    data = bytes.fromhex(text.replace("-", "").strip("{}"))
    if len(data) != 16:
        raise ValueError(f"{text!r} is no identity of 16 bytes")
    return data


def windows_guid(unique_id: bytes) -> str:
    """The same bytes as Windows prints them: the first three groups are little-endian."""
    swapped = unique_id[3::-1] + unique_id[5:3:-1] + unique_id[7:5:-1] + unique_id[8:]
    return "{" + identity_text(swapped).upper() + "}"


def moment(timestamp: int) -> datetime:
    """Seconds since 2000-01-01T00:00Z as a moment."""
    return EPOCH + timedelta(seconds=timestamp)


def timestamp_of(when: datetime | None) -> int:
    """The stored form of a moment; None and times outside of 32 bits give 0."""
    if when is None:
        return 0
    seconds = int((when - EPOCH).total_seconds())
    return seconds if 0 <= seconds <= 0xFFFFFFFF else 0


@lru_cache(64)
def ascii_label(data: bytes) -> str:
    r"""A four-byte code as text: printable characters as they are, others as \xNN."""
    plain = data.rstrip(b"\0")
    if plain.isalnum():
        return plain.decode("ascii")
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in plain)
