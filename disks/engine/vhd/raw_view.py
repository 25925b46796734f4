"""Footer, header and BAT as labelled bytes for the hex view, also of damaged files."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from disks.engine.changes import FieldChange
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.images import RawField, RawRegion
from disks.engine.vhd import dynamic_header, footer, footer_copies, parent_locator
from disks.engine.vhd.text import ascii_label, identity_text, moment

MAX_REGION_BYTES = 4096


def value_text(name: str, data: bytes) -> str:
    """A field's bytes in the form that suits it."""
    if name in ("cookie", "creator_application", "creator_host_os"):
        return ascii_label(data)
    if name.endswith("unique_id"):
        return identity_text(data)
    if name == "parent_unicode_name":
        return parent_locator.decode_name(data)[0] or ""
    if name in ("reserved", "reserved2", "parent_locators"):
        return "zero" if not any(data) else f"{len(data) - data.count(0)} bytes in use"
    number = int.from_bytes(data)
    if name.endswith("timestamp"):
        return f"{moment(number):%Y-%m-%d %H:%M:%S} UTC" if number else "0"
    if name in ("features", "checksum", "file_format_version", "header_version"):
        return f"0x{number:08x}"
    if name == "creator_version":
        return f"{number >> 16}.{number & 0xFFFF}"
    return f"{number:,}"


def footer_changes(now: bytes, after: bytes, base: int) -> Iterator[FieldChange]:
    """The fields of a footer at base that become others; `now` may be any bytes."""
    if not any(now):
        return
    for name, (at, length) in footer.OFFSETS.items():
        old, new = now[at : at + length], after[at : at + length]
        if old != new:
            yield FieldChange(name, value_text(name, old), value_text(name, new), base + at, length)


def _fields(base: int, data: bytes, offsets: Mapping[str, tuple[int, int]]) -> list[RawField]:
    return [
        RawField(name, base + at, length, value_text(name, data[at : at + length]))
        for name, (at, length) in offsets.items()
        if at + length <= len(data)
    ]


def header_bytes(file: ImageFile) -> bytes:
    """Both footers, the header and the locator data: what a change of metadata changes.

    Whatever of it can be read; not the BAT, which grows with every new block.
    """
    try:
        footers = footer_copies.read_footers(file)
    except ImageError:
        return b""
    end, front = footers.end, footers.front
    known = footers.chosen or (end if end.footer is not None else front)
    pieces = [end.raw[: end.length]]
    if known.footer is None or known.footer.disk_type == footer.FIXED:
        return pieces[0]
    pieces.append(front.raw)
    try:
        data = file.read_at(known.footer.data_offset, dynamic_header.HEADER_BYTES)
        pieces.append(data)
        header = dynamic_header.DynamicHeader.parse(data)
        for entry in parent_locator.parse_entries(header.parent_locators):
            room = file.size_bytes - entry.platform_data_offset
            length = min(entry.platform_data_length, MAX_REGION_BYTES, room)
            if not entry.is_free and length > 0:
                pieces.append(file.read_at(entry.platform_data_offset, length))
    except (ImageError, OverflowError):
        pass  # a header that lies outside of the file is none
    return b"".join(pieces)


def regions(file: ImageFile) -> list[RawRegion]:
    """Whatever of the structures can be read; never raises for damage."""
    found: list[RawRegion] = []
    try:
        footers = footer_copies.read_footers(file)
    except ImageError:
        return found
    end, front = footers.end, footers.front
    found.append(
        RawRegion("Footer", end.offset, end.raw[: end.length],
                  _fields(end.offset, end.raw, footer.OFFSETS))
    )  # fmt: skip
    known = footers.chosen or (end if end.footer is not None else front)
    if known.footer is None or known.footer.disk_type == footer.FIXED:
        return found
    found.append(RawRegion("Footer copy", 0, front.raw, _fields(0, front.raw, footer.OFFSETS)))
    offset = known.footer.data_offset
    if offset + dynamic_header.HEADER_BYTES > file.size_bytes:
        return found
    try:
        data = file.read_at(offset, dynamic_header.HEADER_BYTES)
        fields = _fields(offset, data, dynamic_header.OFFSETS)
        found.append(RawRegion("Dynamic disk header", offset, data, fields))
        header = dynamic_header.DynamicHeader.parse(data)
        if header.cookie == dynamic_header.COOKIE:
            found += _table(file, header)
            found += _locators(file, header)
    except ImageError:
        pass
    return found


def _table(file: ImageFile, header: dynamic_header.DynamicHeader) -> list[RawRegion]:
    room = min(MAX_REGION_BYTES, header.max_table_entries * 4,
               file.size_bytes - header.table_offset)  # fmt: skip
    room -= room % 4
    if room <= 0:
        return []
    data = file.read_at(header.table_offset, room)
    fields = [
        RawField(
            f"block {index}",
            header.table_offset + index * 4,
            4,
            "not allocated" if entry == 0xFFFFFFFF else f"sector {entry:,}",
        )
        for index, (entry,) in enumerate(struct.iter_unpack(">I", data))
    ]
    return [RawRegion("Block allocation table", header.table_offset, data, fields)]


def _locators(file: ImageFile, header: dynamic_header.DynamicHeader) -> list[RawRegion]:
    found = []
    for slot, entry in enumerate(parent_locator.parse_entries(header.parent_locators)):
        offset = entry.platform_data_offset
        length = min(entry.platform_data_length, MAX_REGION_BYTES, file.size_bytes - offset)
        if entry.is_free or length <= 0:
            continue
        data = file.read_at(offset, length)
        text = parent_locator.decode(entry.platform_code, data)[0] or ""
        name = f"Parent locator {slot + 1} ({ascii_label(entry.platform_code)})"
        found.append(RawRegion(name, offset, data, [RawField("text", offset, length, text)]))
    return found
