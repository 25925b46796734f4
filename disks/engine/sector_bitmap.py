"""The sector bitmap of one block: which sectors it holds.

Bit order here is VHD's: the first sector is 0x80. VHDX counts from the lowest bit.
"""

from __future__ import annotations

from collections import OrderedDict

from disks.engine.errors import ImageError

REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
"""For bytes.translate(): a bitmap of one order in the other."""

Run = tuple[int, int]  # first sector in the block, end sector (exclusive)


def held_runs(bitmap: bytes, sectors: int) -> list[Run]:
    """Runs of set bits among the first `sectors` bits, ascending.

    Full and empty bitmaps, nearly all there are, need one comparison. Others become a
    string of 0 and 1, in which str.find jumps from run to run at the speed of C.
    """
    if bitmap.count(0xFF) * 8 >= sectors:
        return [(0, sectors)]
    if bitmap.count(0) == len(bitmap):
        return []
    bits = format(int.from_bytes(bitmap), f"0{len(bitmap) * 8}b")[:sectors]
    runs = []
    find = bits.find
    start = find("1")
    while start >= 0:
        end = find("0", start)
        if end < 0:
            runs.append((start, sectors))
            break
        runs.append((start, end))
        start = find("1", end)
    return runs


def set_range(bitmap: bytearray, first: int, count: int) -> None:
    """Set count bits from first on."""
    end = first + count
    first_byte, last_byte = first >> 3, (end - 1) >> 3
    head = 0xFF >> (first & 7)
    tail = 0xFF << (7 - (end - 1 & 7)) & 0xFF
    if first_byte == last_byte:
        bitmap[first_byte] |= head & tail
        return
    bitmap[first_byte] |= head
    if last_byte > first_byte + 1:
        bitmap[first_byte + 1 : last_byte] = b"\xff" * (last_byte - first_byte - 1)
    bitmap[last_byte] |= tail


class RunCache:
    """The runs of the blocks that were asked for last; bounded by the number of runs."""

    _MOST = 32 * 1024

    def __init__(self) -> None:
        self._runs: OrderedDict[int, list[Run]] = OrderedDict()
        self._kept = 0

    def get(self, block: int) -> list[Run] | None:
        runs = self._runs.get(block)
        if runs is not None:
            self._runs.move_to_end(block)
        return runs

    def put(self, block: int, runs: list[Run]) -> list[Run]:
        self._runs[block] = runs
        self._kept += len(runs) + 1
        while self._kept > self._MOST and len(self._runs) > 1:
            _, dropped = self._runs.popitem(last=False)
            self._kept -= len(dropped) + 1
        return runs


def unreadable(error: ImageError, block: int, first_sector: int) -> ImageError:
    """The same error with the block whose bitmap could not be read, and its first sector."""
    return ImageError(
        error.code,
        f"The sector bitmap of block {block:,}, first sector (LBA) {first_sector:,}, cannot be "
        f"read. {error.message}",
        file=error.file,
        field="sector_bitmap",
        offset=error.offset,
        value=first_sector,
    )
