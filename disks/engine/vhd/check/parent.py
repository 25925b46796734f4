"""What the header of a differencing VHD says about its parent, judged by itself."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from disks.engine.findings import Finding, Level
from disks.engine.images import DiskType
from disks.engine.units import SECTOR_BYTES
from disks.engine.vhd import dynamic_header
from disks.engine.vhd.dynamic_header import DynamicHeader
from disks.engine.vhd.image import VhdImage, now_timestamp
from disks.engine.vhd.parent_locator import FREE, KNOWN_CODES, decode_name
from disks.engine.vhd.text import ascii_label


@lru_cache(16)
def _header_places(base: int) -> dict[str, int]:
    """Where the header's fields lie in the file; base is nearly always 512."""
    return {name: base + place[0] for name, place in dynamic_header.OFFSETS.items()}


def parent_findings(image: VhdImage, header: DynamicHeader) -> Iterator[Finding]:
    at = _header_places(image.footer.data_offset)
    if image.disk_type is not DiskType.DIFFERENCING:
        for name in ("parent_unique_id", "parent_unicode_name", "parent_locators"):
            if any(getattr(header, name)):
                yield Finding(
                    Level.WARNING,
                    "W_PARENT_FIELDS",
                    "The disk has no parent, but its header has parent fields.",
                    name,
                    at[name],
                )
        return
    if header.parent_unique_id == b"\xff" * 16:
        yield Finding(
            Level.ERROR,
            "E_PARENT_IDENTITY",
            "The header names no identity of its parent.",
            "parent_unique_id",
            at["parent_unique_id"],
            header.parent_unique_id.hex(),
        )
    elif header.parent_unique_id == image.footer.unique_id:
        yield Finding(
            Level.ERROR,
            "E_CYCLE",
            "The disk names itself as its parent.",
            "parent_unique_id",
            at["parent_unique_id"],
            image.identity,
        )
    if header.parent_timestamp > now_timestamp() + 1800:
        yield Finding(
            Level.WARNING,
            "W_PARENT_TIMESTAMP",
            "The recorded modification time of the parent lies in the future.",
            "parent_timestamp",
            at["parent_timestamp"],
            header.parent_timestamp,
        )
    yield from _locator_findings(image, header, at)


def _locator_findings(
    image: VhdImage, header: DynamicHeader, at: dict[str, int]
) -> Iterator[Finding]:
    name, problem = decode_name(header.parent_unicode_name)
    if problem is not None:
        yield Finding(
            Level.WARNING,
            "W_PARENT_NAME",
            problem,
            "parent_unicode_name",
            at["parent_unicode_name"],
            name,
        )
    locators = image.read_locators()
    codes: set[bytes] = set()
    for one in locators:
        field = f"parent_locator {one.locator.code}"
        slot_at = at["parent_locators"] + one.slot * dynamic_header.LOCATOR_BYTES
        entry = one.entry
        if entry.platform_code in codes:
            yield Finding(
                Level.WARNING,
                "W_LOCATOR_TWICE",
                f"There is more than one parent locator {one.locator.code}.",
                field,
                slot_at,
            )
        codes.add(entry.platform_code)
        if entry.platform_code not in KNOWN_CODES:
            yield Finding(
                Level.WARNING,
                "W_LOCATOR_CODE",
                f"The parent locator code “{one.locator.code}” is not known; it is kept as it is.",
                field,
                slot_at,
                ascii_label(entry.platform_code),
            )
        elif one.locator.problem is not None and one.code is not None:
            # One bad locator does not make a disk unreadable; without any, see below.
            yield Finding(
                Level.ERROR,
                one.code,
                f"Parent locator {one.locator.code}: {one.locator.problem}",
                field,
                slot_at,
                one.locator.path or entry.platform_data_length,
            )
        space = entry.platform_data_space
        if (space % SECTOR_BYTES and space > 128) or space == 0:
            yield Finding(
                Level.NOTE,
                "N_LOCATOR_SPACE",
                f"The data space of parent locator {one.locator.code} is {space:,}, neither bytes "
                "in whole sectors nor a likely number of sectors.",
                field,
                slot_at + 4,
                space,
            )
        if entry.reserved:
            yield Finding(
                Level.WARNING, "W_RESERVED", "A parent locator's reserved field is not zero.",
                field, slot_at + 12, entry.reserved,
            )  # fmt: skip
    usable = [one.locator.path for one in locators if one.locator.problem is None]
    if not usable and (name is None or problem is not None):
        yield Finding(
            Level.ERROR,
            "E_NO_PARENT_NAME",
            "Neither a parent locator nor the parent name can be used to find the parent.",
            "parent_locators",
            at["parent_locators"],
        )
    yield from _base_name_findings(name if problem is None else None, usable, at)
    if any(entry.is_free for entry in image.locator_entries if entry != FREE):
        yield Finding(
            Level.NOTE,
            "N_LOCATOR_SLOT",
            "A free parent locator slot has leftovers in it.",
            "parent_locators",
            at["parent_locators"],
        )


def _base_name_findings(
    name: str | None, usable: list[str | None], at: dict[str, int]
) -> Iterator[Finding]:
    names = {
        text.replace("\\", "/").rsplit("/", 1)[-1].casefold() for text in [name, *usable] if text
    }
    if len(names) > 1:
        yield Finding(
            Level.WARNING,
            "W_PARENT_NAMES_DIFFER",
            f"The header names the parent differently: {', '.join(sorted(names))}.",
            "parent_unicode_name",
            at["parent_unicode_name"],
        )
