"""Structures changed at random, with right checksums: typed errors or right bounds, never more."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disks.engine import chain
from disks.engine.errors import ImageError
from disks.engine.images import DiskType
from disks.engine.parent_link import NewParent
from disks.tests.builders import (
    MIB,
    build_differencing,
    build_differencing_vhdx,
    build_dynamic,
    build_dynamic_vhdx,
    checksum,
)
from disks.tests.builders.vhdx_parts import HEADER_AT, REGION_AT
from disks.tests.builders.vhdx_parts import sealed as sealed_vhdx
from disks.tests.engine.test_properties import DETERMINISTIC
from disks.tests.engine.world import World, examine

NUMBERS = st.sampled_from(
    [0, 1, 2, 7, 511, 512, 513, 1536, 4096, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF]
)

MEBIBYTES = st.integers(0, 16).map(lambda count: count * MIB | count % 8)


@st.composite
def changes(draw: st.DrawFn) -> list[tuple[str, int, bytes]]:
    """Up to four changes of aligned numbers in footers, header, BAT, locators, bitmaps."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        part = draw(st.sampled_from(["footer", "front", "header", "bat", "bitmap", "string"]))
        width = draw(st.sampled_from([1, 2, 4, 8]))
        room = {"footer": 88, "front": 88, "header": 768, "bat": 8, "bitmap": 512, "string": 40}
        offset = draw(st.integers(0, room[part] // width - 1)) * width
        value = draw(st.one_of(NUMBERS, st.integers(0, 2**64 - 1))) % 2 ** (8 * width)
        found.append((part, offset, value.to_bytes(width)))
    return found


def sealed(data: bytearray, offset: int, length: int, field: int) -> None:
    """Put the right checksum into a structure."""
    data[offset + field : offset + field + 4] = bytes(4)
    total = checksum(bytes(data[offset : offset + length]))
    data[offset + field : offset + field + 4] = total.to_bytes(4)


@DETERMINISTIC
@given(change=changes(), differencing=st.booleans(), cut=st.integers(0, 5000))
def test_nothing_but_typed_errors(
    tmp_path_factory: pytest.TempPathFactory,
    change: list[tuple[str, int, bytes]],
    differencing: bool,
    cut: int,
) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path_factory.getbasetemp()) as name:
        folder = Path(name)
        content = [(0, b"\1" * 1024), (15, b"\2" * 512)]
        base = build_dynamic(folder, "base.vhd", size=16384, block_size=8192, content=content)
        built = base
        if differencing:
            built = build_differencing(
                folder, "child.vhd", base, content=content, layout="packed", block_size=8192
            )
        data = bytearray(built.path.read_bytes())
        starts = {
            "footer": built.footer_offset,
            "front": 0,
            "header": 512,
            "bat": built.table_offset,
            "bitmap": built.blocks[0],
            "string": built.locators.get("W2ru", (built.table_offset, 0))[0],
        }
        for part, offset, value in change:
            at = starts[part] + offset
            data[at : at + len(value)] = value
        sealed(data, 0, 512, 64)
        sealed(data, 512, 1024, 36)
        sealed(data, built.footer_offset, 512, 64)
        if cut < 500:
            del data[len(data) - cut :]
        built.path.write_bytes(data)
        result = examine(built.path)
        if result.image is not None:
            assert result.image.virtual_size_bytes <= 2040 * 1024 * MIB
            lowest = 0 if result.image.disk_type is DiskType.FIXED else 1536
            sectors = min(64, result.image.virtual_size_bytes // 512)
            try:
                for extent in result.image.extents(0, sectors):
                    if extent.file_offset is not None:
                        end = extent.file_offset + extent.count_sectors * 512
                        assert lowest <= extent.file_offset < end <= len(data)
            except ImageError:
                pass
            if result.image.disk_type is DiskType.DIFFERENCING:
                try:
                    new = NewParent(base.identity, "b.vhd", ".\\b.vhd", "D:\\b.vhd")
                    rewrite = result.image.plan_parent_link(new)
                except ImageError:
                    pass
                else:
                    assert rewrite.size_after_bytes >= len(data)
            result.image.close()
        try:
            with chain.open_chain(str(built.path), World(folder)) as opened:
                opened.read(0, min(64, opened.sectors))
        except ImageError:
            pass


@st.composite
def vhdx_changes(draw: st.DrawFn) -> list[tuple[str, int, bytes]]:
    """The same for a VHDX: headers, region tables, metadata, BAT, bitmap, locator, log."""
    room = {
        "header1": 80,
        "header2": 80,
        "region1": 80,
        "region2": 80,
        "table": 224,
        "items": 40,
        "locator": 80,
        "bat": 32,
        "bitmap": 1024,
        "log": 128,
    }
    found = []
    for _ in range(draw(st.integers(1, 5))):
        part = draw(st.sampled_from(list(room)))
        width = draw(st.sampled_from([1, 2, 4, 8]))
        offset = draw(st.integers(0, room[part] // width - 1)) * width
        value = draw(st.one_of(NUMBERS, MEBIBYTES, st.integers(0, 2**64 - 1))) % 2 ** (8 * width)
        found.append((part, offset, value.to_bytes(width, "little")))
    return found


@DETERMINISTIC
@given(
    change=vhdx_changes(), differencing=st.booleans(), dirty=st.booleans(), cut=st.integers(0, 60)
)
def test_nothing_but_typed_errors_of_a_vhdx(
    tmp_path_factory: pytest.TempPathFactory,
    change: list[tuple[str, int, bytes]],
    differencing: bool,
    dirty: bool,
    cut: int,
) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path_factory.getbasetemp()) as name:
        folder = Path(name)
        content = [(0, b"\1" * 1024), (2047, b"\2" * 1024)]
        options = {"size": 3 * MIB, "block_size": MIB, "content": content}
        base = build_dynamic_vhdx(folder, "base.vhdx", **options)
        built = base
        if differencing:
            built = build_differencing_vhdx(folder, "child.vhdx", base, content=content)
        if dirty:
            built.move_into_log(built.table_offset, built.blocks[0])
        log = built.log_offset
        starts = {
            **{f"header{number}": offset for number, offset in HEADER_AT.items()},
            **{f"region{number}": offset for number, offset in REGION_AT.items()},
            "table": built.metadata_offset,
            "items": built.metadata_offset + 64 * 1024,
            "locator": built.items.get("parent_locator", (built.metadata_offset, 0))[0],
            "bat": built.table_offset,
            "bitmap": built.bitmaps.get(0, built.table_offset),
            "log": log,
        }
        for part, offset, value in change:
            built.patch(starts[part] + offset, value)
        for at in HEADER_AT.values():
            built.patch(at, sealed_vhdx(built.read(at, 4096)))
        for at in REGION_AT.values():
            built.patch(at, sealed_vhdx(built.read(at, 64 * 1024)))
        length = int.from_bytes(built.read(log + 8, 4), "little")
        if dirty and 64 <= length <= MIB:
            built.patch(log, sealed_vhdx(built.read(log, length)))
        if cut < 10:
            os.truncate(built.path, built.path.stat().st_size * cut // 10)
        size = built.path.stat().st_size
        result = examine(built.path)
        image = result.image
        if image is not None:
            assert image.virtual_size_bytes <= 64 * 1024 * 1024 * MIB
            most = max(size, image.file.size_bytes)
            assert most <= size + 1024 * MIB
            try:
                for extent in image.extents(0, min(9000, image.virtual_size_bytes // 512)):
                    if extent.file_offset is not None:
                        end = extent.file_offset + extent.count_sectors * 512
                        assert MIB <= extent.file_offset < end <= most
            except ImageError:
                pass
            for plan in (
                lambda: image.plan_parent_link(NewParent(base.identity, "b", ".\\b", "D:\\b")),
                image.plan_repair,
            ):
                try:
                    rewrite = plan()
                except ImageError:
                    continue
                assert rewrite.size_after_bytes == size
                for step in rewrite.steps:
                    for write in step:
                        assert write.offset >= 64 * 1024
                        assert write.offset + len(write.data) <= size
            image.close()
        try:
            with chain.open_chain(str(built.path), World(folder)) as opened:
                opened.read(0, min(64, opened.sectors))
        except ImageError:
            pass


@pytest.mark.parametrize("seed", range(3))
def test_noise_of_any_length(tmp_path: Path, seed: int) -> None:
    """bad-input A2."""
    for size in (511, 512, 513, 1024, 4096 + seed):
        path = tmp_path / f"{size}.vhd"
        path.write_bytes(os.urandom(size))
        assert examine(path).code in ("E_TOO_SMALL", "E_NO_FOOTER")
