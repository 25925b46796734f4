"""Disks that are to become larger: every layout that an expansion has to cope with."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from disks.tests.builders import (
    MIB,
    SECTOR,
    Built,
    BuiltVhdx,
    build_differencing,
    build_differencing_vhdx,
    build_dynamic,
    build_dynamic_vhdx,
    build_fixed,
    build_fixed_vhdx,
    checksum,
)

KIB = 1024
BLOCK = 16 * KIB


def noise(seed: int, sectors: int) -> bytes:
    return random.Random(seed).randbytes(sectors * SECTOR)


@dataclass(frozen=True)
class Scene:
    """How a disk is made, and what it is to become.

    sizes    new virtual sizes in bytes, each from a fresh disk
    readers  other programs that read it before, and so must read it afterwards
    """

    make: Callable[[Path], Built]
    sizes: tuple[int, ...]
    readers: frozenset[str] = frozenset({"7-Zip", "qemu"})
    differencing: bool = False
    format_name: str = "vhd"
    sector: int = SECTOR  # sizes are multiples of it


CONTENT = [(0, noise(1, 70)), (130, noise(2, 7)), (195, noise(3, 5))]
SIZE = 100 * KIB  # 6 blocks and a quarter


def _fixed(folder: Path, **options: Any) -> Built:
    return build_fixed(folder, "disk.vhd", size=SIZE, content=CONTENT, **options)


def _page_border(folder: Path) -> Built:
    content = [(0, noise(1, 70)), (248, noise(2, 8))]
    return build_fixed(folder, "disk.vhd", size=128 * KIB, content=content)


def _longer_than_needed(folder: Path) -> Built:
    """A fixed disk with bytes between its end and its footer that are not zero."""
    built = build_fixed(
        folder, "disk.vhd", size=SIZE, content=CONTENT, footer={"current_size": 90 * KIB}
    )
    del built.model[90 * KIB :]
    built.patch(90 * KIB, noise(9, 20))
    return built


def _dynamic(folder: Path, **options: Any) -> Built:
    values: dict[str, Any] = {"size": SIZE, "block_size": BLOCK, "content": CONTENT}
    return build_dynamic(folder, "disk.vhd", **(values | options))


def _far_apart(folder: Path) -> Built:
    """The lowest blocks in the file have entries in different sectors of the table."""
    content = [(300 * 32, noise(1, 20)), (140 * 32, noise(2, 20)), (0, noise(3, 20))]
    size = 301 * BLOCK - 2 * KIB
    return _dynamic(folder, size=size, content=content, order="descending")


def _stale(folder: Path, **options: Any) -> Built:
    """What the size cuts off the last block holds leftovers, marked as written."""
    built = _dynamic(folder, **options)
    offset = built.blocks[SIZE // BLOCK]
    inside = SIZE % BLOCK // SECTOR
    built.patch(offset, b"\xff" * 4)  # all 32 sectors
    built.patch(offset + 512 + inside * SECTOR, noise(8, BLOCK // SECTOR - inside))
    for sector in range(inside):  # builder left unwritten ones out
        start = SIZE // BLOCK * BLOCK + sector * SECTOR
        built.patch(offset + 512 + sector * SECTOR, bytes(built.model[start : start + SECTOR]))
    return built


def _empty(folder: Path) -> Built:
    return _dynamic(folder, content=[])


def _cut_short(folder: Path) -> Built:
    """The last block's unused end is left out of the file, as some tools do."""
    built = _dynamic(folder)
    data = built.path.read_bytes()
    missing = BLOCK - SIZE % BLOCK
    built.path.write_bytes(data[: -512 - missing] + data[-512:])
    return built


def _beyond(folder: Path) -> Built:
    """The table is longer than needed and has entries behind the disk's end."""
    built = _dynamic(folder, extra_entries=3)
    old = built.blocks[0] // SECTOR
    entry = SIZE // BLOCK + 2
    built.patch(built.table_offset + entry * 4, struct.pack(">I", old))
    return built


def _tap(folder: Path) -> Built:
    """A blktap disk with its map behind the table, whose bits are set for all blocks."""
    made = _dynamic(folder, footer=TAP)
    data = bytearray(made.path.read_bytes())
    at = made.table_offset + 512
    room = 1024
    bits = b"\xfe".ljust(512, b"\0")
    head = b"tdbatmap" + struct.pack(">QIII", at + 512, 1, 0x00010002, checksum(bits))
    data[at:at] = head.ljust(512, b"\0") + bits
    entries = struct.unpack_from(">7I", data, made.table_offset)
    moved = [one if one == 0xFFFFFFFF else one + room // SECTOR for one in entries]
    struct.pack_into(">7I", data, made.table_offset, *moved)
    made.path.write_bytes(data)
    made.blocks = {block: offset + room for block, offset in made.blocks.items()}
    made.footer_offset += room
    return made


def _child(folder: Path, **options: Any) -> Built:
    parent = build_dynamic(
        folder, "parent.vhd", size=SIZE, block_size=BLOCK, content=[(20, noise(5, 150))]
    )
    values: dict[str, Any] = {"block_size": BLOCK, "content": CONTENT}
    return build_differencing(folder, "disk.vhd", parent, **(values | options))


def _child_with_string_behind(folder: Path) -> Built:
    """A locator's string lies right behind the table, another one behind the blocks."""
    built = _child(folder, layout="packed")
    data = built.path.read_bytes()
    string = "C:\\VMs\\elsewhere\\parent.vhd".encode("utf-16-le")
    built.path.write_bytes(data[:-512] + string.ljust(512, b"\0") + data[-512:])
    offset, _ = built.locators["W2ku"]
    header = bytearray(data[512:1536])
    slot = header.index(b"W2ku")
    assert int.from_bytes(header[slot + 16 : slot + 24]) == offset
    header[slot + 8 : slot + 12] = len(string).to_bytes(4)
    header[slot + 16 : slot + 24] = (len(data) - 512).to_bytes(8)
    built.patch(512, bytes(header))
    built.patch_header(locators=bytes(header[576:768]))
    return built


def _vhdx(folder: Path, builder: Callable[..., Built], **options: Any) -> Built:
    values: dict[str, Any] = {"size": VHDX_SIZE, "block_size": MIB, "content": VHDX_CONTENT}
    return builder(folder, "disk.vhdx", **(values | options))


def _stale_vhdx(folder: Path, **options: Any) -> Built:
    """What the size cuts off the last block holds leftovers."""
    built = _vhdx(folder, build_dynamic_vhdx, **options)
    last, inside = divmod(len(built.model), MIB)
    built.patch(built.blocks[last] + inside, noise(8, (MIB - inside) // SECTOR))
    return built


def _stale_vhdx_in_a_page(folder: Path) -> Built:
    """The size ends within a page, which holds the disk's last sectors and leftovers."""
    size = VHDX_SIZE + 3 * SECTOR
    content = [*VHDX_CONTENT[:2], (size // SECTOR - 8, noise(3, 8))]
    return _stale_vhdx(folder, size=size, content=content)


def _vhdx_child(folder: Path) -> Built:
    """A child with leftovers behind its end, marked as held."""
    parent = build_dynamic_vhdx(
        folder, "parent.vhdx", size=VHDX_SIZE, block_size=MIB, content=[(20, noise(5, 6300))]
    )
    content = [*VHDX_CONTENT, (6148, noise(7, 30))]
    built = build_differencing_vhdx(folder, "disk.vhdx", parent, block_size=MIB, content=content)
    last, inside = divmod(VHDX_SIZE, MIB)
    built.patch(built.blocks[last] + inside, noise(8, (MIB - inside) // SECTOR))
    assert isinstance(built, BuiltVhdx)
    first, end = (last * MIB + inside) // SECTOR // 8, (last + 1) * MIB // SECTOR // 8
    built.patch(built.bitmaps[0] + first, b"\xff" * (end - first))
    return built


VHDX_SIZE = 3 * MIB + 100 * KIB
VHDX_CONTENT = [(0, noise(1, 70)), (2100, noise(2, 7)), (VHDX_SIZE // SECTOR - 8, noise(3, 8))]

MORE = SIZE + 512  # within the last block
FEW = 160 * KIB  # the table's padding has room
MANY = 128 * BLOCK + 3 * 512  # one entry more than 512 bytes hold
LARGE = 12 * 1024 * KIB  # a table of 3 KiB
HUGE = 96 * 1024 * KIB  # a table of 24 KiB: more than one block makes room

TAP = {"creator": b"tap\0", "creator_version": 0x00010003}  # of a blktap that writes maps

NOBODY_ELSE: frozenset[str] = frozenset()
ONLY_7_ZIP = frozenset({"7-Zip"})
ONLY_QEMU = frozenset({"qemu"})


def _like(make: Callable[..., Built], **options: Any) -> Callable[[Path], Built]:
    return lambda folder: make(folder, **options)


SCENES: dict[str, Scene] = {
    "fixed": Scene(_fixed, (MORE, FEW, LARGE)),
    "fixed, old footer": Scene(_like(_fixed, footer_length=511), (MORE, LARGE), NOBODY_ELSE),
    "fixed, ends with a page": Scene(_page_border, (128 * KIB + 512, LARGE)),
    "fixed, longer than needed": Scene(
        _longer_than_needed, (95 * KIB, SIZE, 100 * KIB + 512, LARGE), NOBODY_ELSE
    ),
    "dynamic": Scene(_dynamic, (MORE, FEW, MANY, LARGE, HUGE)),
    "dynamic, old footer": Scene(_like(_dynamic, footer_length=511), (MORE, HUGE), NOBODY_ELSE),
    "dynamic, downwards": Scene(_like(_dynamic, order="descending"), (MANY, HUGE)),
    "dynamic, pages": Scene(_like(_dynamic, layout="windows"), (MORE, LARGE, HUGE)),
    "dynamic, small blocks": Scene(
        _like(_dynamic, block_size=1024), (MORE, MANY, LARGE), ONLY_7_ZIP
    ),
    "dynamic, stale end": Scene(_stale, (MORE, FEW, LARGE, HUGE)),
    "dynamic, stale end downwards": Scene(_like(_stale, order="descending"), (MORE, HUGE)),
    "dynamic, far apart": Scene(_far_apart, (LARGE, HUGE)),
    "dynamic, empty": Scene(_empty, (MORE, MANY, HUGE)),
    "dynamic, last block cut short": Scene(_cut_short, (MORE, MANY, HUGE), NOBODY_ELSE),
    "dynamic, entries beyond the end": Scene(_beyond, (MORE, FEW, MANY), ONLY_QEMU),
    "blktap": Scene(_tap, (MORE, FEW, MANY, HUGE)),
    "blktap, without a map": Scene(_like(_dynamic, footer=TAP), (MORE, HUGE)),
    "blktap, without a map, differencing": Scene(
        _like(_child, layout="packed", footer=TAP), (MORE,), ONLY_7_ZIP, True
    ),
    "differencing": Scene(_child, (MORE, FEW, MANY, LARGE, HUGE), ONLY_7_ZIP, True),
    "differencing, packed": Scene(
        _like(_child, layout="packed"), (MORE, MANY, HUGE), ONLY_7_ZIP, True
    ),
    "differencing, strings everywhere": Scene(
        _child_with_string_behind, (MANY, LARGE, HUGE), ONLY_7_ZIP, True
    ),
}
VHDX_SIZES = (VHDX_SIZE + 4096, 4 * MIB, 5 * MIB + 512 * KIB)
SCENES |= {
    "vhdx, fixed": Scene(_like(_vhdx, builder=build_fixed_vhdx), VHDX_SIZES, format_name="vhdx"),
    "vhdx, dynamic": Scene(_stale_vhdx, VHDX_SIZES, format_name="vhdx"),
    "vhdx, downwards": Scene(
        _like(_stale_vhdx, order="descending"), VHDX_SIZES, format_name="vhdx"
    ),
    "vhdx, ends within a page": Scene(
        _stale_vhdx_in_a_page, VHDX_SIZES, ONLY_QEMU, format_name="vhdx"
    ),
    "vhdx, sectors of 4096": Scene(
        _like(
            _vhdx,
            builder=build_dynamic_vhdx,
            logical_sector=4096,
            content=[(0, noise(1, 64))],
        ),
        VHDX_SIZES,
        NOBODY_ELSE,
        format_name="vhdx",
        sector=4096,
    ),
    "vhdx, differencing": Scene(_vhdx_child, VHDX_SIZES, ONLY_7_ZIP, True, "vhdx"),
}

EVERY = [(name, size) for name, scene in SCENES.items() for size in scene.sizes]
IDS = [f"{name} to {size}" for name, size in EVERY]
