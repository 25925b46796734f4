#!/usr/bin/env python3
"""Check of headers, BAT and every sector bitmap in process (goal 20 ms for 2 GiB), and damages.

Builds a differencing disk with partial bitmaps, checks it, and then shows which of seven
damages the check catches. Prints medians.

    python benchmarks/check.py --gib 2
"""

from __future__ import annotations

import argparse
import os
import shutil
import struct
import sys
import time
from collections.abc import Callable

import common

from disks.engine.chain import open_chain
from disks.engine.check import check_image
from disks.engine.errors import ImageError
from disks.engine.findings import Level
from disks.operations.paths import Roots
from disks.operations.storage_roots import Root

Damage = Callable[[str], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=2.0, help="allocated, GiB (2)")
    parser.add_argument("--rounds", type=int, default=9)
    common.add_format(parser)
    args = parser.parse_args()
    kind = args.format
    with common.workspace(None) as folder:
        blocks = max(16, int(args.gib * 512))
        common.make_disk(folder, f"base.{kind}", [(0, 8, False)], blocks=blocks, seed=1)
        extents = [(index * common.BLOCK_SECTORS + 7, 24, False) for index in range(blocks)]
        child = common.make_disk(folder, f"child.{kind}", extents, parent=f"base.{kind}", seed=2)
        roots = Roots([Root(folder)])
        for name, deep in (("headers and BAT", False), ("and every sector bitmap", True)):
            times = []
            for _ in range(args.rounds):
                started = time.perf_counter()
                with roots.open(child) as file:
                    found = check_image(file, deep=deep)
                times.append(time.perf_counter() - started)
                assert not [one for one in found if one.level is Level.ERROR]
            print(f"{name}, {blocks} blocks: median {common.median(times) * 1000:.1f} ms")
        damages = DAMAGES[kind]
        caught = [name for name, damage in damages.items() if _caught(folder, child, damage)]
        print(f"damages caught: {len(caught)} of {len(damages)} ({', '.join(caught)})")


def _caught(folder: str, child: str, damage: Damage) -> bool:
    """Whether checking a damaged copy, or opening its chain, says so."""
    copy = os.path.join(folder, f"damaged{os.path.splitext(child)[1]}")
    shutil.copyfile(child, copy)
    damage(copy)
    roots = Roots([Root(folder)])
    with roots.open(copy) as file:
        if any(one.level is not Level.NOTE for one in check_image(file, deep=True)):
            return True
    try:
        open_chain(copy, roots).close()
    except ImageError:
        return True
    return False


def _patch(path: str, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset, 2 if offset < 0 else 0)
        file.write(data)


def _table(path: str) -> int:
    with open(path, "rb") as file:
        file.seek(512 + 16)
        return int(struct.unpack(">Q", file.read(8))[0])


def _copy_entry(path: str) -> None:
    """Block 1 lies where block 0 lies."""
    with open(path, "rb") as file:
        file.seek(_table(path))
        entry = file.read(4)
    _patch(path, _table(path) + 4, entry)


def _other_parent(path: str) -> None:
    """The parent's identity differs; the header's checksum is right."""
    with open(path, "rb") as file:
        file.seek(512)
        header = bytearray(file.read(1024))
    header[40] ^= 0xFF
    header[36:40] = bytes(4)
    header[36:40] = struct.pack(">I", ~sum(header) & 0xFFFFFFFF)
    _patch(path, 512, bytes(header))


def _vhdx_table(path: str) -> int:
    """Where the BAT lies; its region is the first of the table."""
    with open(path, "rb") as file:
        file.seek(192 * 1024 + 16 + 16)
        return int(struct.unpack("<Q", file.read(8))[0])


def _vhdx_copy_entry(path: str) -> None:
    """Block 1 lies where block 0 lies."""
    with open(path, "rb") as file:
        file.seek(_vhdx_table(path))
        entry = file.read(8)
    _patch(path, _vhdx_table(path) + 8, entry)


def _vhdx_other_parent(path: str) -> None:
    """One digit of the parent_linkage is another."""
    with open(path, "rb") as file:
        file.seek(2 * 1024 * 1024)
        data = file.read(1024 * 1024)
    at = data.index("{".encode("utf-16-le")) + 2
    _patch(path, 2 * 1024 * 1024 + at, b"1" if data[at : at + 1] == b"0" else b"0")


_VHD: dict[str, Damage] = {
    "footer at the end": lambda path: _patch(path, -500, b"\xff" * 8),
    "footer copy": lambda path: _patch(path, 12, b"\xff" * 8),
    "header checksum": lambda path: _patch(path, 512 + 36, b"\xff" * 4),
    "block listed twice": _copy_entry,
    "block past the end": lambda path: _patch(path, _table(path), b"\x7f\xff\xff\x00"),
    "truncated file": lambda path: os.truncate(path, os.path.getsize(path) // 2),
    "parent's identity": _other_parent,
}
_VHDX: dict[str, Damage] = {
    "header 1": lambda path: _patch(path, 64 * 1024 + 40, b"\xff" * 8),
    "header 2": lambda path: _patch(path, 128 * 1024 + 40, b"\xff" * 8),
    "region table": lambda path: _patch(path, 192 * 1024 + 30, b"\xff" * 4),
    "block listed twice": _vhdx_copy_entry,
    "block past the end": lambda path: _patch(path, _vhdx_table(path) + 3, b"\x7f"),
    "truncated file": lambda path: os.truncate(path, os.path.getsize(path) // 2),
    "parent's identity": _vhdx_other_parent,
}
DAMAGES = {"vhd": _VHD, "vhdx": _VHDX}


if __name__ == "__main__":
    sys.exit(main())
