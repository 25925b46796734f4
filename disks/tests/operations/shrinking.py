"""Disks with blocks that can go: every layout that a compaction in place has to cope with."""

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
    build_differencing,
    build_differencing_vhdx,
    build_dynamic,
    build_dynamic_vhdx,
    checksum,
)

KIB = 1024
BLOCK = 16 * KIB
PER_BLOCK = BLOCK // SECTOR
SIZE = 12 * BLOCK + 4 * KIB  # 12 blocks and a quarter
VHDX_SIZE = 9 * MIB + 100 * KIB


def noise(seed: int, sectors: int) -> bytes:
    return random.Random(seed).randbytes(sectors * SECTOR)


def zeros(sectors: int) -> bytes:
    return bytes(sectors * SECTOR)


@dataclass(frozen=True)
class Scene:
    """How a disk is made, and what is known of it.

    going        blocks that can go, by reason
    left         blocks that have room in the file afterwards
    size         of the file afterwards, in bytes, from the builder's places and left
    format_name  what the file is
    """

    make: Callable[[Path], Built]
    going: dict[str, int]
    left: int
    size: Callable[[Built, int], int]
    format_name: str = "vhd"


# Blocks 1, 3 and 7 are zeros, 4 holds nothing, 10 is absent; the last is cut by the size.
CONTENT = [
    (0, noise(1, 32)),
    (32, zeros(32)),
    (64, noise(2, 6)),
    (96, zeros(32)),
    (160, noise(3, 32)),
    (192, zeros(16) + noise(4, 16)),
    (224, zeros(5)),
    (256, noise(5, 64)),
    (352, noise(6, 32)),
    (384, noise(7, 8)),
]
DYNAMIC = {"zero": 3, "unwritten": 1}


def _places(built: Built, count: int) -> int:
    """The file's size when the lowest places of blocks are full, and the footer follows."""
    last = sorted(built.blocks.values())[count - 1]
    return last + SECTOR + built.block_size + SECTOR


def _dynamic(folder: Path, **options: Any) -> Built:
    values: dict[str, Any] = {
        "size": SIZE,
        "block_size": BLOCK,
        "content": CONTENT,
        "allocate": [4],
    }
    return build_dynamic(folder, "disk.vhd", **(values | options))


def _like(make: Callable[..., Built], **options: Any) -> Callable[[Path], Built]:
    return lambda folder: make(folder, **options)


def _far_apart(folder: Path) -> Built:
    """The blocks have their entries in different sectors and pages of the table."""
    content = [(0, zeros(32))]
    for number, block in enumerate((130, 300, 1400, 2800, 2900)):
        content.append((block * PER_BLOCK, noise(number, 20)))
    content += [(700 * PER_BLOCK, zeros(32)), (1401 * PER_BLOCK, zeros(1))]
    return _dynamic(folder, size=2901 * BLOCK - 2 * KIB, content=content, allocate=[])


def _cut_short(folder: Path) -> Built:
    """The last block's unused end is left out of the file, as some tools do."""
    built = _dynamic(folder)
    data = built.path.read_bytes()
    missing = BLOCK - SIZE % BLOCK
    built.path.write_bytes(data[: -512 - missing] + data[-512:])
    return built


def _with_gaps(folder: Path) -> Built:
    """Some room belongs to no block: two entries are gone, and something lies at the end."""
    built = _dynamic(folder, before_footer=noise(9, 3))
    for block in (2, 9):
        built.patch(built.table_offset + 4 * block, b"\xff" * 4)
        built.model[block * BLOCK : (block + 1) * BLOCK] = bytes(BLOCK)
    return built


def _tap(folder: Path) -> Built:
    """A blktap disk with its map behind the table, whose bits are set for all full blocks."""
    made = _dynamic(folder, footer={"creator": b"tap\0", "creator_version": 0x00010003})
    data = bytearray(made.path.read_bytes())
    at, room = made.table_offset + 512, 1024
    bits = bytes([0b11010110, 0b11010000]).ljust(512, b"\0")
    head = b"tdbatmap" + struct.pack(">QIII", at + 512, 1, 0x00010002, checksum(bits))
    data[at:at] = head.ljust(512, b"\0") + bits
    count = -(-SIZE // BLOCK)
    entries = struct.unpack_from(f">{count}I", data, made.table_offset)
    moved = [one if one == 0xFFFFFFFF else one + room // SECTOR for one in entries]
    struct.pack_into(f">{count}I", data, made.table_offset, *moved)
    made.path.write_bytes(data)
    made.blocks = {block: offset + room for block, offset in made.blocks.items()}
    made.footer_offset += room
    return made


# Of a child: block 0 equals the parent, 1 hides it with zeros, 2 is zeros over zeros, 3 holds
# nothing, 5 has data over data, 6 is half zeros, 8 equals the parent where it is held.
CHILD = {"unwritten": 1, "same": 3}
PARENT_CONTENT = [(0, noise(20, 64)), (128, noise(21, 96)), (256, noise(22, 32))]
CHILD_CONTENT = [
    (0, noise(20, 32)),
    (32, zeros(32)),
    (64, zeros(7)),
    (160, noise(3, 32)),
    (192, zeros(16) + noise(4, 16)),
    (260, noise(22, 32)[4 * SECTOR : 9 * SECTOR]),
    (384, noise(7, 8)),
]


def _child(folder: Path, **options: Any) -> Built:
    parent = build_dynamic(
        folder, "parent.vhd", size=SIZE, block_size=BLOCK, content=PARENT_CONTENT
    )
    values: dict[str, Any] = {"block_size": BLOCK, "content": CHILD_CONTENT, "allocate": [3]}
    return build_differencing(folder, "disk.vhd", parent, **(values | options))


def _child_with_string_behind(folder: Path) -> Built:
    """A locator's string lies behind the blocks: it is not cut off."""
    built = _child(folder, layout="packed")
    data = built.path.read_bytes()
    string = "C:\\VMs\\elsewhere\\parent.vhd".encode("utf-16-le")
    built.path.write_bytes(data[:-512] + string.ljust(512, b"\0") + data[-512:])
    header = bytearray(data[512:1536])
    slot = header.index(b"W2ku")
    header[slot + 8 : slot + 12] = len(string).to_bytes(4)
    header[slot + 16 : slot + 24] = (len(data) - 512).to_bytes(8)
    built.patch(512, bytes(header))
    built.patch_header(locators=bytes(header[576:768]))
    return built


VHDX_CONTENT = [
    (0, noise(1, 70)),
    (2048, zeros(2048)),
    (4096, noise(2, 7)),
    (6144, zeros(2048)),
    (5 * 2048 + 5, noise(3, 32)),
    (6 * 2048, noise(4, 2048)),
    (7 * 2048, zeros(5)),
    (9 * 2048, noise(7, 8)),
]
VHDX_PARENT = [(0, noise(20, 4096)), (4 * 2048, noise(21, 6144)), (8 * 2048, noise(22, 100))]
# Block 0 equals the parent, 1 hides it with zeros in part, 2 is zeros over zeros, 3 holds
# nothing, 4 hides it with zeros whole, 5 has data, 8 equals the parent where it is held.
VHDX_CHILD_CONTENT = [
    (0, noise(20, 2048)),
    (2048, zeros(100)),
    (4096, zeros(7)),
    (4 * 2048, zeros(2048)),
    (5 * 2048 + 5, noise(3, 32)),
    (8 * 2048 + 4, noise(22, 32)[4 * SECTOR : 9 * SECTOR]),
    (9 * 2048, noise(7, 8)),
]


def _vhdx(folder: Path, **options: Any) -> Built:
    values: dict[str, Any] = {
        "size": VHDX_SIZE,
        "block_size": MIB,
        "content": VHDX_CONTENT,
        "allocate": [8],
    }
    return build_dynamic_vhdx(folder, "disk.vhdx", **(values | options))


def _vhdx_child(folder: Path, **options: Any) -> Built:
    parent = build_dynamic_vhdx(
        folder, "parent.vhdx", size=VHDX_SIZE, block_size=MIB, content=VHDX_PARENT
    )
    values: dict[str, Any] = {"block_size": MIB, "content": VHDX_CHILD_CONTENT, "allocate": [3]}
    return build_differencing_vhdx(folder, "disk.vhdx", parent, **(values | options))


def _two_chunks(folder: Path) -> Built:
    """Sector bitmaps between the blocks, one of which nobody needs once its block is gone."""
    far = 4096 * 2048  # the first sector of the second chunk
    parent = build_dynamic_vhdx(
        folder,
        "parent.vhdx",
        size=4098 * MIB,
        block_size=MIB,
        content=[(0, noise(1, 8)), (far, noise(2, 9))],
    )
    content = [(0, noise(1, 8)), (2048, noise(3, 4)), (far, noise(2, 9)), (far + 2048, noise(4, 1))]
    return build_differencing_vhdx(
        folder, "disk.vhdx", parent, block_size=MIB, content=content, order="descending"
    )


def _unread_places(folder: Path) -> Built:
    """Entries that name a place though their state has none, and one beyond the disk's end."""
    built = _vhdx(folder)
    built.patch(built.table_offset + 8 * 4, struct.pack("<Q", 3 | built.blocks[3]))
    built.patch(built.table_offset + 8 * 3, bytes(8))
    return built


def _of_vhdx(bitmaps: int = 0) -> Callable[[Built, int], int]:
    """Behind headers, log, metadata and table of 1 MiB each the blocks, without a hole."""
    return lambda built, left: (4 + bitmaps + left) * MIB


SCENES = {
    "dynamic": Scene(_dynamic, DYNAMIC, 8, _places),
    "dynamic, on page borders": Scene(_like(_dynamic, layout="windows"), DYNAMIC, 8, _places),
    "dynamic, downwards": Scene(_like(_dynamic, order="descending"), DYNAMIC, 8, _places),
    "dynamic, far apart": Scene(_far_apart, {"zero": 3}, 5, _places),
    "dynamic, blocks of a sector": Scene(
        _like(
            _dynamic,
            block_size=SECTOR,
            size=40 * SECTOR,
            content=[(0, noise(1, 3)), (3, zeros(9)), (20, noise(2, 20))],
            allocate=[15],
        ),
        {"zero": 9, "unwritten": 1},
        23,
        _places,
    ),
    "dynamic, last block cut short": Scene(_cut_short, DYNAMIC, 8, _places),
    "dynamic, room of nobody": Scene(_with_gaps, DYNAMIC, 6, _places),
    "dynamic, all zeros": Scene(
        _like(_dynamic, content=[(0, zeros(80))], allocate=[]),
        {"zero": 3},
        0,
        lambda built, left: built.table_offset + 2 * SECTOR,
    ),
    "blktap": Scene(_tap, DYNAMIC, 8, _places),
    # The gap before the first block is what the locators reserve: it stays free.
    "differencing": Scene(_child, CHILD, 4, _places),
    "differencing, packed": Scene(_like(_child, layout="packed"), CHILD, 4, _places),
    "differencing, string behind": Scene(
        _child_with_string_behind,
        CHILD,
        4,
        lambda built, left: max(built.blocks.values()) + SECTOR + BLOCK + 2 * SECTOR,
    ),
    "vhdx, dynamic": Scene(_vhdx, {"zero": 4}, 5, _of_vhdx(), "vhdx"),
    "vhdx, downwards": Scene(_like(_vhdx, order="descending"), {"zero": 4}, 5, _of_vhdx(), "vhdx"),
    "vhdx, space behind": Scene(_like(_vhdx, append=3 * MIB), {"zero": 4}, 5, _of_vhdx(), "vhdx"),
    "vhdx, places of nobody": Scene(_unread_places, {"zero": 3}, 5, _of_vhdx(), "vhdx"),
    "vhdx, differencing": Scene(
        _vhdx_child, {"unwritten": 1, "same": 3, "stated": 1}, 3, _of_vhdx(1), "vhdx"
    ),
    "vhdx, differencing, downwards": Scene(
        _like(_vhdx_child, order="descending"),
        {"unwritten": 1, "same": 3, "stated": 1},
        3,
        _of_vhdx(1),
        "vhdx",
    ),
    "vhdx, differencing, whole blocks": Scene(
        _like(_vhdx_child, bitmaps="none"), {"same": 4, "stated": 1}, 3, _of_vhdx(), "vhdx"
    ),
}
TWO_CHUNKS = Scene(_two_chunks, {"same": 2}, 2, _of_vhdx(2), "vhdx")
