"""Bytes, sectors, rounding, and sizes for people: the only place that converts between them."""

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


_UNITS = ("bytes", "KB", "MB", "GB", "TB", "PB", "EB")


def size_text(count_bytes: int | float | None) -> str:
    """ "1.9 GB": steps of 1024 as Windows counts, two or three figures that matter."""
    if count_bytes is None:
        return "unknown"
    sign, value = ("−", -count_bytes) if count_bytes < 0 else ("", count_bytes)
    step = 0
    while value >= 1023.5 and step < len(_UNITS) - 1:
        value /= 1024
        step += 1
    if step == 0:
        return f"{sign}{int(value)} {'byte' if value == 1 else 'bytes'}"
    figures = f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
    return f"{sign}{figures.removesuffix('.0')} {_UNITS[step]}"
