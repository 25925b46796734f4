"""Rewriting a VHD's parent link: where new strings may go, and in which order.

New strings go only where nothing lives: into gaps before the first block, else to the end of
the file with the footer moved first. The header, one write of 1,024 bytes, comes last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from disks.engine.changes import FieldChange, HeaderRewrite, Write
from disks.engine.errors import ImageError
from disks.engine.images import DiskType
from disks.engine.parent_link import NewParent
from disks.engine.units import SECTOR_BYTES, round_up
from disks.engine.vhd import dynamic_header, parent_locator, room
from disks.engine.vhd.batmap import find_batmap
from disks.engine.vhd.dynamic_header import DynamicHeader
from disks.engine.vhd.parent_locator import LocatorEntry, pack_entries, parse_entries
from disks.engine.vhd.text import identity_bytes, identity_text, moment, timestamp_of

if TYPE_CHECKING:
    from disks.engine.vhd.image import VhdImage


class _String(NamedTuple):
    """A locator to be written. entry: keep this slot as it is, its data is in the file."""

    code: bytes
    data: bytes
    entry: LocatorEntry | None = None


class _Placed(NamedTuple):
    entries: list[LocatorEntry]
    steps: list[tuple[Write, ...]]
    size_after_bytes: int


def _header_of(image: VhdImage) -> DynamicHeader:
    if image.disk_type is not DiskType.DIFFERENCING or image.header is None:
        raise ImageError(
            "E_NOT_DIFFERENCING",
            "Only a differencing disk has a parent.",
            file=image.file.path,
            field="disk_type",
            value=str(image.disk_type),
        )
    return image.header


def _place(image: VhdImage, strings: Sequence[_String]) -> _Placed:
    """Find room for every string that is not in the file yet."""
    taken = room.metadata(image)
    for string in strings:
        if string.entry is not None:
            start = string.entry.platform_data_offset
            taken.append((start, round_up(start + len(string.data), SECTOR_BYTES)))
    lowest = image.bat.lowest()
    limit = image.data_end if lowest is None else min(image.data_end, lowest * SECTOR_BYTES)
    limit -= limit % SECTOR_BYTES
    entries: list[LocatorEntry] = []
    inside: list[Write] = []
    behind: list[Write] = []
    end = first_behind = round_up(max(image.data_end, _end_of_cut_block(image)), SECTOR_BYTES)
    for code, data, kept in strings:
        if kept is not None:
            entries.append(kept)
            continue
        space = round_up(len(data), SECTOR_BYTES)
        padded = data.ljust(space, b"\0")
        gaps = room.gaps(taken, limit)
        offset = next((start for start, stop in gaps if stop - start >= space), None)
        if offset is None:
            offset = end
            end += space
            behind.append(Write(offset, padded))
        else:
            taken.append((offset, offset + space))
            inside.append(Write(offset, padded))
        entries.append(LocatorEntry(code, space, len(data), 0, offset))
    steps: list[tuple[Write, ...]] = []
    size = image.file.size_bytes
    if behind:
        # A footer at the new end first: then every prefix of these steps ends with one. The
        # old footer lies where the first string goes, or in what a short block lacks.
        copy = image.footers.end
        if first_behind > image.data_end:
            over = min(first_behind - image.data_end, copy.length)
            behind.append(Write(image.data_end, bytes(over)))
        moved = copy.raw[: copy.length]
        steps.append((Write(size, bytes(end - size) + moved),))
        size = end + copy.length
    if inside or behind:
        steps.append((*inside, *behind))
    return _Placed(entries, steps, size)


def _end_of_cut_block(image: VhdImage) -> int:
    """Where a last block would end that was written short: what lies before that is its own."""
    from disks.engine.vhd import expand  # inspecting does not need it

    try:
        return expand.end_of_cut_block(image)
    except ImageError:
        return 0  # a damaged entry has no room that would have to be kept


def _rewrite(
    image: VhdImage, header: DynamicHeader, changed: DynamicHeader, placed: _Placed
) -> HeaderRewrite:
    changed = changed._replace(parent_locators=pack_entries(placed.entries))
    offset = image.footer.data_offset
    steps = [*placed.steps, (Write(offset, changed.pack()),)]
    return HeaderRewrite(
        tuple(steps), placed.size_after_bytes, tuple(_changes(image, header, changed, placed))
    )


def _changes(
    image: VhdImage, header: DynamicHeader, changed: DynamicHeader, placed: _Placed
) -> list[FieldChange]:
    base = image.footer.data_offset
    rows = []
    for name, show in (
        ("parent_unique_id", identity_text),
        ("parent_unicode_name", _name_text),
        ("parent_timestamp", _time_text),
    ):
        now, after = getattr(header, name), getattr(changed, name)
        if now != after:
            at, length = dynamic_header.OFFSETS[name]
            rows.append(FieldChange(name, show(now), show(after), base + at, length))
    written = {write.offset: write.data for step in placed.steps for write in step}
    before = {one.entry.platform_code: one for one in image.read_locators()}
    codes = [*(entry.platform_code for entry in placed.entries), *before]
    for code in dict.fromkeys(codes):
        old = before.get(code)
        now = old.locator.path if old is not None else None
        entry = next((e for e in placed.entries if e.platform_code == code), None)
        after = None
        if entry is not None:
            offset, length = entry.platform_data_offset, entry.platform_data_length
            if offset in written:
                after = parent_locator.decode(code, written[offset][:length])[0]
            elif length <= parent_locator.MAX_LENGTH_BYTES and (
                offset + length <= image.file.size_bytes
            ):
                after = parent_locator.decode(code, image.file.read_at(offset, length))[0]
        if entry is None or old is None or entry != old.entry or now != after:
            label = parent_locator.ascii_label(code)
            rows.append(
                FieldChange(
                    f"parent_locator {label}",
                    now,
                    after,
                    entry.platform_data_offset if entry is not None else None,
                    entry.platform_data_length if entry is not None else None,
                )
            )
    return rows


def _name_text(field: bytes) -> str | None:
    return parent_locator.decode_name(field)[0]


def _time_text(timestamp: int) -> str | None:
    return f"{moment(timestamp):%Y-%m-%dT%H:%M:%SZ}" if timestamp else None


def is_linked_to(image: VhdImage, new: NewParent) -> bool:
    """Whether the header says all of this already, and nothing else."""
    link = image.parent
    if link is None:
        return False
    wanted = {"W2ru": new.relative_path, "W2ku": new.windows_path}
    return (
        (link.identity, link.name, link.timestamp) == (new.identity, new.name, new.timestamp)
        and all(locator.problem is None for locator in link.locators)
        and len(link.locators) == len({locator.code for locator in link.locators})
        and {locator.code: locator.path for locator in link.locators}
        == {code: path for code, path in wanted.items() if path is not None}
    )


def plan_parent_link(image: VhdImage, parent: NewParent) -> HeaderRewrite:
    """The steps that make parent the parent; W2ru and W2ku as given, every other one removed.

    Nothing but the parent fields of the header changes. Raises the image's write refusal,
    `E_NOT_DIFFERENCING`, `E_NAME`.
    """
    header = _header_of(image)
    if image.write_refusal is not None:
        raise image.write_refusal
    strings = []
    if parent.relative_path:
        data = parent_locator.encode_path(parent.relative_path)
        strings.append(_String(parent_locator.W2RU, data))
    if parent.windows_path:
        data = parent_locator.encode_path(parent.windows_path)
        strings.append(_String(parent_locator.W2KU, data))
    changed = header._replace(
        parent_unique_id=identity_bytes(parent.identity),
        parent_timestamp=timestamp_of(parent.timestamp),
        parent_unicode_name=parent_locator.encode_name(parent.name),
    )
    return _rewrite(image, header, changed, _place(image, strings))


def plan_parent_identity(image: VhdImage, identity: str) -> HeaderRewrite:
    """See `Image`: one write of the header, in which nothing else changes."""
    header = _header_of(image)
    if image.write_refusal is not None:
        raise image.write_refusal
    changed = header._replace(parent_unique_id=identity_bytes(identity))
    entries = parse_entries(header.parent_locators)
    return _rewrite(image, header, changed, _Placed(entries, [], image.file.size_bytes))


def recorded_link(image: VhdImage) -> dict[str, Any]:
    """The parent fields as stored, with every string that can be read; JSON-able."""
    header = _header_of(image)
    locators: list[dict[str, Any]] = []
    strings = {one.slot: one.locator.raw for one in image.read_locators()}
    for slot, entry in enumerate(parse_entries(header.parent_locators)):
        data = strings.get(slot, b"")
        locators.append(
            {
                "platform_code": entry.platform_code.hex(),
                "platform_data_space": entry.platform_data_space,
                "platform_data_length": entry.platform_data_length,
                "reserved": entry.reserved,
                "platform_data_offset": entry.platform_data_offset,
                "data": data.hex() if data else None,
            }
        )
    return {
        "format": "vhd",
        "parent_unique_id": header.parent_unique_id.hex(),
        "parent_timestamp": header.parent_timestamp,
        "parent_unicode_name": header.parent_unicode_name.hex(),
        "parent_locators": locators,
    }


def _lies_there(image: VhdImage, header: DynamicHeader, entry: LocatorEntry, data: bytes) -> bool:
    """Whether a recorded string is still in the file, outside of everything else."""
    start, end = entry.platform_data_offset, entry.platform_data_offset + len(data)
    if end > image.data_end or entry.platform_data_length != len(data):
        return False
    fixed = [
        (0, image.metadata_end),
        (header.table_offset, image.table_end),
        *image.blocks_over([(start, end)]),
    ]
    batmap = find_batmap(image)
    if batmap is not None:
        fixed += batmap.ranges
    if any(start < stop and begin < end for begin, stop in fixed):
        return False
    return image.file.read_at(start, len(data)) == data


def plan_recorded_link(image: VhdImage, recorded: dict[str, Any]) -> HeaderRewrite:
    """The steps that bring a recorded link back.

    Where the old strings still lie untouched they are used where they are, so that the header
    comes back byte for byte; others are written anew. Raises as plan_parent_link();
    ValueError and KeyError for what recorded_link() never returned.
    """
    header = _header_of(image)
    if image.write_refusal is not None:
        raise image.write_refusal
    strings = []
    for row in recorded["parent_locators"]:
        entry = LocatorEntry(
            bytes.fromhex(row["platform_code"]),
            int(row["platform_data_space"]),
            int(row["platform_data_length"]),
            int(row["reserved"]),
            int(row["platform_data_offset"]),
        )
        data = bytes.fromhex(row["data"] or "")
        keep = entry.is_free or not data or _lies_there(image, header, entry, data)
        strings.append(_String(entry.platform_code, data, entry if keep else None))
    name = bytes.fromhex(recorded["parent_unicode_name"])
    unique_id = bytes.fromhex(recorded["parent_unique_id"])
    if len(name) != dynamic_header.NAME_BYTES or len(unique_id) != 16:
        raise ValueError("this is no recorded link of a VHD")
    changed = header._replace(
        parent_unique_id=unique_id,
        parent_timestamp=int(recorded["parent_timestamp"]),
        parent_unicode_name=name,
    )
    return _rewrite(image, header, changed, _place(image, strings))
