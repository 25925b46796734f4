"""Rewriting a VHDX's parent link: a new locator item in unused room, then its table entry.

The item goes into pages of the metadata region that nothing else uses: metadata has no
checksum, and a torn page must not take a neighbour with it. The entry changes through the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from disks.engine.changes import FieldChange, HeaderRewrite, Write
from disks.engine.errors import ImageError
from disks.engine.parent_link import NewParent
from disks.engine.units import round_up
from disks.engine.vhdx import metadata, parent_locator
from disks.engine.vhdx.logged import PAGE_BYTES, patched_page, plan_logged
from disks.engine.vhdx.parent_locator import ParentLocator

if TYPE_CHECKING:
    from disks.engine.vhdx.image import VhdxImage


def _locator_of(image: VhdxImage) -> ParentLocator:
    if image.locator is None:
        raise ImageError(
            "E_NOT_DIFFERENCING",
            "Only a differencing disk has a parent.",
            file=image.file.path,
            field="disk_type",
            value=str(image.disk_type),
        )
    return image.locator


def is_linked_to(image: VhdxImage, parent: NewParent) -> bool:
    """Whether the locator says exactly this already."""
    locator = _locator_of(image)
    return locator.raw == parent_locator.pack(_pairs(locator, parent))


def _pairs(locator: ParentLocator, parent: NewParent) -> list[tuple[str, bytes]]:
    """The new link's keys; keys that are not known stay, those that would be stale go."""
    pairs = parent_locator.pairs_of(parent)
    unknown = [(pair.key, pair.raw) for pair in locator.pairs if not pair.is_known]
    return [*pairs, *unknown]


def plan_parent_link(image: VhdxImage, parent: NewParent) -> HeaderRewrite:
    """The steps that make parent the parent. Nothing but the locator item changes.

    Raises the image's write refusal, `E_NOT_DIFFERENCING`, `E_NAME`, `E_VHDX_METADATA` where
    the metadata region has no room left.
    """
    locator = _locator_of(image)
    if image.write_refusal is not None:
        raise image.write_refusal
    return _rewrite(image, locator, parent_locator.pack(_pairs(locator, parent)), None)


def plan_parent_identity(image: VhdxImage, identity: str) -> HeaderRewrite:
    """See `Image`: the locator with another parent_linkage, and nothing else another."""
    locator = _locator_of(image)
    if image.write_refusal is not None:
        raise image.write_refusal
    linkage = parent_locator.encode(f"{{{identity}}}")
    pairs = [
        (pair.key, linkage if pair.key == parent_locator.LINKAGE else pair.raw)
        for pair in locator.pairs
        if pair.key != parent_locator.LINKAGE2
    ]
    return _rewrite(image, locator, parent_locator.pack(pairs), None)


def recorded_link(image: VhdxImage) -> dict[str, Any]:
    """The locator item as stored; JSON-able."""
    locator = _locator_of(image)
    return {
        "format": "vhdx",
        "parent_locator": locator.raw.hex(),
        "parent_locator_offset": locator.offset,
    }


def plan_recorded_link(image: VhdxImage, recorded: dict[str, Any]) -> HeaderRewrite:
    """The steps that bring a recorded link back; its item is used where it still lies.

    Raises as plan_parent_link(); ValueError and KeyError for what recorded_link() never gave.
    """
    locator = _locator_of(image)
    if image.write_refusal is not None:
        raise image.write_refusal
    item = bytes.fromhex(recorded["parent_locator"])
    if recorded["format"] != "vhdx" or not 0 < len(item) <= metadata.MAX_ITEM_BYTES:
        raise ValueError("this is no recorded link of a VHDX")
    return _rewrite(image, locator, item, int(recorded["parent_locator_offset"]))


def _rewrite(
    image: VhdxImage, locator: ParentLocator, item: bytes, lies_at: int | None
) -> HeaderRewrite:
    region = image.metadata.region
    start = None
    if lies_at is not None and _lies_there(image, lies_at, item):
        start = lies_at - region.offset
    before = []
    if start is None:
        start = _free_place(image, len(item))
        before = [Write(region.offset + start, item)]
    entry = image.metadata.item(metadata.PARENT_LOCATOR)
    packed = metadata.ENTRY.pack(*entry._replace(offset=start, length=len(item)))
    page = patched_page(image, image.metadata.entry_offset(metadata.PARENT_LOCATOR), packed)
    after = parent_locator.parse(region.offset + start, item)
    return plan_logged(image, [page], list(_changes(locator, after)), before=before)


def _taken(image: VhdxImage) -> list[tuple[int, int]]:
    """Used ranges of the metadata region, from its start."""
    return [
        (0, metadata.TABLE_BYTES),
        *((item.offset, item.end) for item in image.metadata.items if item.length),
    ]


def _free_place(image: VhdxImage, length: int) -> int:
    """Whole unused pages of the metadata region. Raises `E_VHDX_METADATA` where none are left."""
    position = 0
    for start, end in sorted(_taken(image)):
        if position + length <= start // PAGE_BYTES * PAGE_BYTES:
            return position
        position = max(position, round_up(end, PAGE_BYTES))
    if position + length <= image.metadata.region.length:
        return position
    raise ImageError(
        "E_VHDX_METADATA",
        "The metadata region has no room left for a new parent locator.",
        advice="Copy the disk to a new one and update that.",
        file=image.file.path,
        field="parent_locator",
        offset=image.metadata.region.offset,
        value=length,
    )


def _lies_there(image: VhdxImage, offset: int, item: bytes) -> bool:
    """Whether a recorded item is still in the region, over nothing else."""
    region = image.metadata.region
    start, end = offset - region.offset, offset - region.offset + len(item)
    if start < metadata.TABLE_BYTES or end > region.length:
        return False
    own = image.metadata.item(metadata.PARENT_LOCATOR)
    for begin, stop in _taken(image):
        if start < stop and begin < end and (begin, stop) != (own.offset, own.end):
            return False
    return image.file.read_at(offset, len(item)) == item


def _changes(now: ParentLocator, after: ParentLocator) -> Iterator[FieldChange]:
    """One row for each key that becomes another."""
    keys = dict.fromkeys([pair.key for pair in (*after.pairs, *now.pairs)])
    for key in keys:
        old, new = now.get(key), after.get(key)
        if old is None or new is None or old.raw != new.raw:
            yield FieldChange(
                key,
                old.value if old is not None else None,
                new.value if new is not None else None,
                after.offset + new.at if new is not None else None,
                len(new.raw) if new is not None else None,
            )
