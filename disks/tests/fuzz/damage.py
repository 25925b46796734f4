"""Sound small disks, and the ways in which a fuzzer's bytes change them.

Most readers stop at the first wrong checksum. So the bytes say which fields are changed, and
the structures around them are sealed again: what is behind the checksums is reached, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from disks.tests.builders import (
    MIB,
    SECTOR,
    Built,
    build_differencing,
    build_differencing_vhdx,
    build_dynamic,
    build_dynamic_vhdx,
    build_fixed,
    checksum,
)
from disks.tests.builders.vhdx_parts import HEADER_AT, REGION_AT
from disks.tests.builders.vhdx_parts import sealed as sealed_vhdx
from disks.tests.operations.shrinking import SCENES

_PART_BYTES = 1024
_PAGE_BYTES = 4096
_MOST_CHANGES = 24


@dataclass(frozen=True)
class Template:
    """A disk, where its parts lie, and what makes its checksums right again."""

    built: Built
    parts: tuple[int, ...]
    seal: Callable[[], None]


class Bytes:
    """A fuzzer's bytes, taken from the front; zeros when they are used up."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        self._at += count
        return piece.ljust(count, b"\0")

    def number(self, count: int = 1) -> int:
        return int.from_bytes(self.take(count))


def templates(folder: Path) -> list[Template]:
    """Disks of every type in both formats; the differencing ones beside their parents."""
    content = [(0, b"\1" * 1024), (15, b"\2" * 512)]
    base = build_dynamic(folder, "base.vhd", size=16384, block_size=8192, content=content)
    child = build_differencing(
        folder, "child.vhd", base, content=content, layout="packed", block_size=8192
    )
    fixed = build_fixed(folder, "fixed.vhd", size=8192, content=content)
    mapped = SCENES["blktap"].make(folder)
    wide = [(0, b"\1" * 1024), (2047, b"\2" * 1024)]
    options = {"size": 3 * MIB, "block_size": MIB, "content": wide}
    basex = build_dynamic_vhdx(folder, "base.vhdx", **options)
    childx = build_differencing_vhdx(folder, "child.vhdx", basex, content=wide)
    dirty = build_differencing_vhdx(folder, "dirty.vhdx", basex, content=wide)
    dirty.move_into_log(dirty.table_offset, dirty.blocks[0])
    return [
        *(_vhd(built) for built in (base, child, fixed)),
        _vhd(mapped, mapped.table_offset + SECTOR),
        *(_vhdx(built) for built in (basex, childx, dirty)),
    ]


def _vhd(built: Built, *more: int) -> Template:
    """more: where else something lies; its own checksum is the fuzzer's to find."""
    parts = [built.footer_offset, 0, *more]
    if built.block_size:
        first = min(built.blocks.values())
        parts += [512, 1024, built.table_offset, first]
        parts += [offset for offset, _ in built.locators.values()]

    def seal() -> None:
        for offset, length, field in (
            (0, 512, 64),
            (512, 1024, 36),
            (built.footer_offset, 512, 64),
        ):
            if offset != built.footer_offset and not built.block_size:
                continue
            data = bytearray(built.read(offset, length))
            data[field : field + 4] = bytes(4)
            built.patch(offset + field, checksum(bytes(data)).to_bytes(4))

    return Template(built, tuple(parts), seal)


def _vhdx(built: Built) -> Template:
    log = built.log_offset
    parts = [*HEADER_AT.values(), *REGION_AT.values()]
    parts += [built.metadata_offset, built.metadata_offset + 64 * 1024]
    parts += [built.items["parent_locator"][0]] if "parent_locator" in built.items else []
    parts += [built.table_offset, built.bitmaps.get(0, built.table_offset)]
    parts += [log, log + 4096, log + 8192]

    def seal() -> None:
        for at in HEADER_AT.values():
            built.patch(at, sealed_vhdx(built.read(at, 4096)))
        for at in REGION_AT.values():
            built.patch(at, sealed_vhdx(built.read(at, 64 * 1024)))
        length = int.from_bytes(built.read(log + 8, 4), "little")
        if built.read(log, 4) == b"loge" and 64 <= length <= MIB:
            built.patch(log, sealed_vhdx(built.read(log, length)))

    return Template(built, tuple(parts), seal)


@contextmanager
def damaged(template: Template, data: Bytes) -> Iterator[Path]:
    """The disk with changes as the bytes say; as it was afterwards."""
    built = template.built
    path = built.path
    before = path.stat()
    # What may be changed is little, however large the disk is.
    kept = [(at, built.read(at, _PAGE_BYTES)) for at in _pages_of(template)]
    how = data.number()
    for _ in range(_MOST_CHANGES):
        if not data:
            break
        at = template.parts[data.number() % len(template.parts)]
        at += data.number(2) % _PART_BYTES
        built.patch(at, data.take(data.number() % 9))
    if how & 3:  # mostly sealed
        template.seal()
    behind, cut = b"", before.st_size
    if how & 0x3C == 0x3C:
        cut = before.st_size * data.number() // 256
        behind = built.read(cut, before.st_size - cut)
        os.truncate(path, cut)
    try:
        yield path
    finally:
        built.patch(cut, behind)
        for at, piece in kept:
            built.patch(at, piece)


def _pages_of(template: Template) -> list[int]:
    pages = set()
    for part in template.parts:
        pages |= {part // _PAGE_BYTES, part // _PAGE_BYTES + 1}
    return [page * _PAGE_BYTES for page in sorted(pages)]
