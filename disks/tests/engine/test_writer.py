"""New images: layout, order, refusals, and files that count only when finished."""

from __future__ import annotations

import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from disks.engine import chain, formats
from disks.engine.check import check_image
from disks.engine.errors import ImageError, NotAnImage, OutOfRange
from disks.engine.formats import Format
from disks.engine.images import DiskType, Source
from disks.engine.new_image import NewImage
from disks.engine.parent_link import NewParent
from disks.tests.builders import MIB, Family
from disks.tests.builders import VHD as VHD_FAMILY
from disks.tests.engine.world import World, create_file, open_file

VHD = formats.by_name("vhd")
KINDS = [DiskType.FIXED, DiskType.DYNAMIC, DiskType.DIFFERENCING]


@pytest.fixture
def format_(family: Family) -> Format:
    return formats.by_name(family.name)


def new_image(kind: DiskType, size: int = 5 * MIB + 512, **options: Any) -> NewImage:
    parent = None
    if kind is DiskType.DIFFERENCING:
        parent = NewParent(
            "01234567-89ab-cdef-0123-456789abcdef", "p.vhd", ".\\p.vhd", "C:\\VMs\\p.vhd"
        )
    return NewImage(kind, size, parent=parent, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_is_as_predicted(tmp_path: Path, format_: Format, kind: DiskType) -> None:
    new = new_image(kind)
    for blocks in (0, 1, 3):
        with create_file(tmp_path / f"{blocks}.disk") as file:
            writer = format_.writer(file, new, blocks=3)
            for block in range(blocks):
                writer.write(block * 4096, b"\1" * 512)
            writer.finish()
            assert os.fstat(file.fd).st_size == format_.predicted_size_bytes(new, blocks)
            assert check_image(file, deep=True) == []


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_a_disk_before_finish(tmp_path: Path, format_: Format, kind: DiskType) -> None:
    with create_file(tmp_path / "a.disk") as file:
        writer = format_.writer(file, new_image(kind), blocks=3)
        writer.write(0, b"\1" * 4096)
        with pytest.raises(NotAnImage):
            formats.open_image(file)


@pytest.mark.parametrize("kind", KINDS)
def test_the_front_footer_is_written_last(
    tmp_path: Path, kind: DiskType, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    with create_file(tmp_path / "a.vhd") as file:
        writer = VHD.writer(file, new_image(kind), blocks=3)
        writer.write(0, b"\1" * 4096)
        write_at, sync = file.write_at, file.sync

        def watched(offset: int, data: bytes) -> None:
            is_footer = bytes(data[:8]) == b"conectix"
            events.append(f"footer@{'0' if offset == 0 else 'end'}" if is_footer else "write")
            write_at(offset, data)

        monkeypatch.setattr(file, "write_at", watched)
        monkeypatch.setattr(file, "sync", lambda: (events.append("sync"), sync()))
        writer.finish()
    tail = ["sync", "footer@end", "sync"]
    if kind is not DiskType.FIXED:
        tail += ["footer@0", "sync"]
    assert events[-len(tail) :] == tail
    assert sum(event.startswith("footer") for event in events) == len(tail) // 2


@pytest.mark.parametrize("kind", KINDS)
def test_files_have_no_holes(tmp_path: Path, format_: Format, kind: DiskType) -> None:
    with create_file(tmp_path / "a.disk") as file:
        writer = format_.writer(file, new_image(kind), blocks=3)
        writer.write(4096, b"\1" * 512)
        writer.finish()
        stat = file.stat()
        assert stat.st_blocks * 512 >= stat.st_size


def test_a_differencing_disk_looks_like_windows_made_it(tmp_path: Path) -> None:
    with create_file(tmp_path / "a.vhd") as file:
        writer = VHD.writer(file, new_image(DiskType.DIFFERENCING), blocks=1)
        writer.write(4097, b"\1" * 1024)
        writer.finish()
        image = formats.open_image(file)
        data = [e for e in image.extents(0, 10241) if e.source is Source.DATA]
        assert [(e.first_sector, e.count_sectors) for e in data] == [(4097, 2)]
        assert data[0].file_offset is not None
        assert (data[0].file_offset - 512) % 4096 == 0
        parent = image.parent
        assert parent is not None
        assert (parent.name, parent.timestamp) == ("p.vhd", None)
        assert [(one.code, one.path, one.offset) for one in parent.locators] == [
            ("W2ru", ".\\p.vhd", 12288),
            ("W2ku", "C:\\VMs\\p.vhd", 4096),
        ]


def test_place_hands_out_room_to_fill(tmp_path: Path, format_: Format) -> None:
    with create_file(tmp_path / "a.disk") as file:
        writer = format_.writer(file, new_image(DiskType.DYNAMIC), blocks=2)
        pieces = writer.place(4090, 10)
        assert [length for _, length in pieces] == [6 * 512, 4 * 512]
        for offset, length in pieces:
            file.write_at(offset, b"\3" * length)
        assert writer.place(4100, 0) == []
        writer.finish()
    with chain.open_chain(str(tmp_path / "a.disk"), World(tmp_path)) as opened:
        assert opened.read(4089, 12) == bytes(512) + b"\3" * 5120 + bytes(512)


def test_more_blocks_than_announced_are_fine(tmp_path: Path, format_: Format) -> None:
    with create_file(tmp_path / "a.disk") as file:
        writer = format_.writer(file, new_image(DiskType.DYNAMIC), blocks=0)
        writer.write(0, b"\1" * 5 * MIB)
        writer.finish()
        assert formats.open_image(file).blocks_allocated() == 3


def test_traits_of_the_source_are_kept(tmp_path: Path) -> None:
    created = datetime(2012, 5, 6, 7, 8, 9, tzinfo=UTC)
    new = NewImage(
        DiskType.DYNAMIC,
        8 * MIB,
        identity="01234567-89ab-cdef-0123-456789abcdef",
        creator=(b"vpc ", 0x00050000, b"Wi2k"),
        created=created,
        geometry=(1, 2, 3),
    )
    with create_file(tmp_path / "a.vhd") as file:
        writer = VHD.writer(file, new, blocks=0)
        writer.finish()
        image = formats.open_image(file)
    assert (image.identity, image.creator, image.created) == (new.identity, "vpc  5.0", created)
    assert image.copy_traits() == {
        "creator": new.creator,
        "created": created,
        "geometry": (1, 2, 3),
    }


def test_fresh_images_have_fresh_identities(tmp_path: Path, format_: Format) -> None:
    seen = set()
    for name in ("a.vhd", "b.vhd"):
        with create_file(tmp_path / name) as file:
            format_.writer(file, new_image(DiskType.DYNAMIC), blocks=0).finish()
            seen.add(formats.open_image(file).identity)
    assert len(seen) == 2


def test_misuse_is_noticed(tmp_path: Path, format_: Format) -> None:
    with create_file(tmp_path / "a.disk") as file:
        writer = format_.writer(file, new_image(DiskType.DYNAMIC), blocks=1)
        writer.write(10, b"\1" * 512)
        with pytest.raises(ValueError, match="comes after"):
            writer.write(10, b"\1" * 512)
        with pytest.raises(ValueError, match="whole sectors"):
            writer.write(11, b"\1" * 100)
        with pytest.raises(OutOfRange):
            writer.write(10240, b"\1" * 1024)
        writer.finish()
        with pytest.raises(ValueError, match="finished"):
            writer.write(100, b"\1" * 512)


IMPOSSIBLE = [
    ("vhd", NewImage(DiskType.FIXED, 0), "E_SIZE"),
    ("vhd", NewImage(DiskType.DYNAMIC, 1000), "E_SIZE"),
    ("vhd", NewImage(DiskType.DYNAMIC, 2041 * 1024 * MIB), "E_TOO_LARGE"),
    ("vhd", NewImage(DiskType.DYNAMIC, MIB, block_size_bytes=3 * MIB), "E_BLOCK_SIZE"),
    ("vhd", NewImage(DiskType.DIFFERENCING, MIB), "E_NO_PARENT"),
    ("vhdx", NewImage(DiskType.FIXED, 0), "E_SIZE"),
    ("vhdx", NewImage(DiskType.DYNAMIC, 1000), "E_SIZE"),
    ("vhdx", NewImage(DiskType.DYNAMIC, 512, logical_sector_bytes=4096), "E_SIZE"),
    ("vhdx", NewImage(DiskType.DYNAMIC, 64 * 1024 * 1024 * MIB + 512), "E_TOO_LARGE"),
    ("vhdx", NewImage(DiskType.DYNAMIC, MIB, block_size_bytes=3 * MIB), "E_BLOCK_SIZE"),
    ("vhdx", NewImage(DiskType.DYNAMIC, MIB, block_size_bytes=512 * 1024), "E_BLOCK_SIZE"),
    ("vhdx", NewImage(DiskType.DYNAMIC, MIB, block_size_bytes=512 * MIB), "E_BLOCK_SIZE"),
    ("vhdx", NewImage(DiskType.DYNAMIC, MIB, logical_sector_bytes=520), "E_BLOCK_SIZE"),
    ("vhdx", NewImage(DiskType.DYNAMIC, MIB, physical_sector_bytes=0), "E_BLOCK_SIZE"),
    ("vhdx", NewImage(DiskType.DIFFERENCING, MIB), "E_NO_PARENT"),
]


@pytest.mark.parametrize(("name", "new", "code"), IMPOSSIBLE)
def test_impossible_images_are_refused(tmp_path: Path, name: str, new: NewImage, code: str) -> None:
    format_ = formats.by_name(name)
    with create_file(tmp_path / "a.disk") as file:
        with pytest.raises(ImageError) as caught:
            format_.writer(file, new, blocks=0)
        assert caught.value.code == code
        assert file.size_bytes == 0
        if code != "E_NO_PARENT" or name == "vhd":
            with pytest.raises(ImageError):
                format_.predicted_size_bytes(new, 0)


def test_qemu_reads_flat_disks_at_their_true_size(
    tmp_path: Path, family: Family, format_: Format
) -> None:
    """Independent of 7-Zip; only for disks without parent, which qemu reads right."""
    program = shutil.which("qemu-img")
    if program is None:
        pytest.skip("qemu-img is not installed")
    driver = "vpc" if family is VHD_FAMILY else "vhdx"
    for kind in (DiskType.FIXED, DiskType.DYNAMIC):
        path, raw = tmp_path / f"{kind}.disk", tmp_path / "raw"
        model = bytearray(100 * MIB)
        with create_file(path) as file:
            writer = format_.writer(file, NewImage(kind, len(model)), blocks=4)
            for sector, data in (
                (5, b"\1" * 512),
                (4090, b"\2" * 9999 * 512),
                (204799, b"e" * 512),
            ):
                writer.write(sector, data)
                model[sector * 512 : sector * 512 + len(data)] = data
            writer.finish()
        subprocess.run(
            [program, "convert", "-f", driver, "-O", "raw", str(path), str(raw)], check=True
        )
        assert raw.read_bytes() == bytes(model)
    with open_file(path) as file:
        assert formats.open_image(file).virtual_size_bytes == len(model)
