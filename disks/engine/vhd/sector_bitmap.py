"""The sector bitmap of one block: which sectors it holds. Bit order: first sector is 0x80."""

from __future__ import annotations

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
