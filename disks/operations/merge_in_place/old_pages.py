"""The old pages of one batch, in a file beside the disk: binary, for there are thousands.

Two slots take turns. While a batch is written, its slot is durable and whole; before the next
one is begun the other slot is written over. So the newest slot whose checksum is right belongs
to the only batch that can be half done, and says where that began.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.units import round_up
from disks.operations import durable
from disks.operations.pages import PAGE_BYTES
from disks.operations.paths import Roots

MOST_PAGES = 4096
"""More are never kept for one batch, however large the merge is."""

LEAST_PAGES = 256
"""Kept even for a small merge: a leaf that is used while that is stopped may hold more after."""

SPARE_PAGES = 96
"""What the last block of a batch may touch beyond the limit that ends it."""

_HEAD = struct.Struct("<8sIIQQQQ")  # magic, CRC of all behind it, pages, batch, position, size, job
_MAGIC = b"vdpages1"
_ROW = struct.Struct("<QHH")  # offset in the disk, bytes that follow, mask of our sectors


@dataclass(frozen=True, slots=True)
class OldPage:
    """One page as it was (shorter at the file's end); ours: bit n, sector n of it is changed."""

    offset: int
    old: bytes
    ours: int


@dataclass(frozen=True, slots=True)
class Slot:
    """What one batch changes: where it begins (sector), the file's size before, old pages."""

    batch: int
    position: int
    size_bytes: int
    pages: tuple[OldPage, ...]


def file_bytes(pages: int) -> int:
    """Size of a file whose slots hold that many pages each."""
    return 2 * round_up(_HEAD.size + pages * (_ROW.size + PAGE_BYTES), PAGE_BYTES)


def pages_in(file: ImageFile) -> int:
    """How many pages a slot of this file holds."""
    return (_slot_bytes(file) - _HEAD.size) // (_ROW.size + PAGE_BYTES)


def create(roots: Roots, path: str, pages: int, *, disk: str) -> None:
    """A new file for two slots of that many pages each, of this disk.

    Its room is reserved: a full volume is met before anything moves.
    """
    durable.unlink(roots, path, missing_ok=True)
    with durable.create(roots, path, rights_of=disk) as file:
        file.allocate(file_bytes(pages))
        file.sync()
    durable.sync_folder_of(roots, path)


def is_there(roots: Roots, path: str) -> bool:
    """Whether the file is there, and as long as the shortest one."""
    return roots.exists(path) and roots.stat(path).st_size >= file_bytes(LEAST_PAGES)


def write(file: ImageFile, slot: Slot, key: int) -> None:
    """Durable when this returns. key: tells the slots of this merge from others'."""
    body = b"".join(
        part
        for page in slot.pages
        for part in (_ROW.pack(page.offset, len(page.old), page.ours), page.old)
    )
    rest = struct.pack("<IQQQQ", len(slot.pages), slot.batch, slot.position, slot.size_bytes, key)
    crc = zlib.crc32(body, zlib.crc32(rest))
    data = (
        _HEAD.pack(_MAGIC, crc, len(slot.pages), slot.batch, slot.position, slot.size_bytes, key)
        + body
    )
    slot_bytes = _slot_bytes(file)
    if len(data) > slot_bytes:
        raise ValueError(f"{len(slot.pages)} pages do not fit into a slot")
    file.write_at(slot.batch % 2 * slot_bytes, data)
    file.sync()


def _slot_bytes(file: ImageFile) -> int:
    return file.size_bytes // 2


def newest(roots: Roots, path: str, key: int, after: int) -> Slot | None:
    """The newest whole slot of a batch later than one; None: nothing was begun since."""
    try:
        file = roots.open(path)
    except ImageError as error:
        if error.code == "E_NOT_FOUND":
            return None
        raise
    with file:
        found = [_read(file, at, key) for at in (0, _slot_bytes(file))]
    slots = [slot for slot in found if slot is not None and slot.batch > after]
    return max(slots, key=lambda slot: slot.batch, default=None)


def _read(file: ImageFile, at: int, key: int) -> Slot | None:
    length = min(_slot_bytes(file), file.size_bytes - at)
    if length < _HEAD.size:
        return None
    magic, crc, count, batch, position, size, owner = _HEAD.unpack(file.read_at(at, _HEAD.size))
    if magic != _MAGIC or owner != key or count > MOST_PAGES * 2:
        return None
    length = min(length, _HEAD.size + count * (_ROW.size + PAGE_BYTES))
    data = file.read_at(at, length)
    pages = []
    end = _HEAD.size
    for _ in range(count):
        if end + _ROW.size > length:
            return None
        offset, size_here, ours = _ROW.unpack_from(data, end)
        end += _ROW.size
        pages.append(OldPage(offset, data[end : end + size_here], ours))
        end += size_here
    if end > length or zlib.crc32(data[12:end]) != crc:
        return None
    return Slot(batch, position, size, tuple(pages))


def collect(file: ImageFile, changed: Iterable[tuple[int, int, bool]]) -> tuple[OldPage, ...]:
    """The pages of a file that writing (offset, length, whole) touches, as they are now.

    whole: what lies under it is of no use any more (a child hides it): then only the pages that
    it covers in part are kept, for the sake of what else is in them.
    """
    masks: dict[int, int] = {}
    size = file.size_bytes
    for offset, length, hidden in changed:
        end = offset + length
        first = offset - offset % PAGE_BYTES
        last = (end - 1) - (end - 1) % PAGE_BYTES
        if hidden:
            starts = {
                start for start in (first, last) if start < offset or start + PAGE_BYTES > end
            }
        else:
            starts = set(range(first, last + 1, PAGE_BYTES))
        for start in starts:
            if start < size:
                low = max(0, offset - start) // 512
                high = min(PAGE_BYTES, end - start + 511) // 512
                masks[start] = masks.get(start, 0) | ((1 << high) - (1 << low))
    return tuple(
        OldPage(start, file.read_at(start, min(PAGE_BYTES, size - start)), mask)
        for start, mask in sorted(masks.items())
    )


def is_foreign(file: ImageFile, page: OldPage) -> bool:
    """Whether somebody else wrote there: other sectors are another, and ours are as they were.

    A page that a crash garbled looks otherwise where we were writing, too.
    """
    if file.size_bytes < page.offset + len(page.old):
        return True
    ours, others = _changed_sectors(file, page)
    return bool(others) and not ours


def is_garbled(file: ImageFile, page: OldPage) -> bool:
    """Whether more than our sectors is another than before. Half put back, it looks foreign."""
    return bool(_changed_sectors(file, page)[1])


def _changed_sectors(file: ImageFile, page: OldPage) -> tuple[list[int], list[int]]:
    """Sectors of the page that read otherwise than before: ours, others'."""
    length = max(0, min(len(page.old), file.size_bytes - page.offset))
    now = file.read_at(page.offset, length)
    changed = [
        number
        for number in range(-(-len(page.old) // 512))
        if now[number * 512 : (number + 1) * 512] != page.old[number * 512 : (number + 1) * 512]
    ]
    ours = [number for number in changed if page.ours >> number & 1]
    return ours, [number for number in changed if number not in ours]


def put_back(file: ImageFile, slot: Slot) -> None:
    """The old pages; not yet durable. May be repeated."""
    for page in slot.pages:
        # After an fsync that failed, memory may say what the storage never got (R3).
        file.forget(page.offset, len(page.old))
        if file.read_at(page.offset, len(page.old)) != page.old:
            file.write_at(page.offset, page.old)
