"""A labelled hex view of the structures of an image: text lines and a table of fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from disks.engine.images import RawRegion
from disks.views.drawing.text import visible

BYTES_PER_LINE = 16


@dataclass(frozen=True, slots=True)
class LabelledField:
    """One field as the table shows it; offset in hexadecimal, from the file's start."""

    name: str
    offset: str
    length: int
    value: str


@dataclass(frozen=True, slots=True)
class HexView:
    name: str
    offset: str
    length: int
    lines: str
    fields: tuple[LabelledField, ...]


def hex_views(regions: Sequence[RawRegion]) -> list[HexView]:
    return [
        HexView(
            name=region.name,
            offset=f"0x{region.offset:x}",
            length=len(region.data),
            lines=dump(region.data, region.offset),
            fields=tuple(
                LabelledField(
                    visible(field.name), f"0x{field.offset:x}", field.length, visible(field.value)
                )
                for field in region.fields
            ),
        )
        for region in regions
    ]


def dump(data: bytes, offset: int = 0) -> str:
    """Lines of offset, sixteen bytes and their printable ASCII; repeated lines become `*`."""
    lines: list[str] = []
    previous: bytes | None = None
    for start in range(0, len(data), BYTES_PER_LINE):
        piece = data[start : start + BYTES_PER_LINE]
        if piece == previous and start + BYTES_PER_LINE < len(data):
            if lines[-1] != "*":
                lines.append("*")
            continue
        previous = piece
        shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in piece)
        lines.append(f"{offset + start:08x}  {piece.hex(' '):<47}  {shown}")
    return "\n".join(lines)
