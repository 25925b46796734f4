"""Bytes, sectors and rounding: the only place that converts between them."""

SECTOR_BYTES = 512
KIB = 1024
MIB = 1024 * 1024
GIB = 1024 * MIB


def sectors(count_bytes: int) -> int:
    """Whole sectors that hold count_bytes (rounded up)."""
    return -(-count_bytes // SECTOR_BYTES)


def to_bytes(count_sectors: int) -> int:
    return count_sectors * SECTOR_BYTES


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
