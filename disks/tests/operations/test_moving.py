"""What a batch moved is compared with what the storage has, not with what memory kept of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import xxhash

from disks.engine.errors import ImageError
from disks.engine.files import LARGE_BYTES, ImageFile
from disks.engine.holding import Place
from disks.operations.content import Run
from disks.operations.merge_in_place import moving


@pytest.mark.parametrize("length", [4096, LARGE_BYTES, moving.PIECE_BYTES + 8192])
def test_no_piece_is_read_back_before_its_memory_was_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    """Also the last one of a large place, which is too small to pass the memory by."""
    path = tmp_path / "disk.vhd"
    path.write_bytes(data := os.urandom(length))
    forgotten: set[int] = set()
    read = ImageFile.read_remembered
    forget = ImageFile.forget

    def see(file: ImageFile, offset: int, count_bytes: int) -> None:
        forgotten.update(range(offset, offset + count_bytes, 512))
        forget(file, offset, count_bytes)

    def through_memory(file: ImageFile, offset: int, buffer: memoryview) -> None:
        assert forgotten >= set(range(offset, offset + len(buffer), 512))
        read(file, offset, buffer)

    monkeypatch.setattr(ImageFile, "forget", see)
    monkeypatch.setattr(ImageFile, "read_remembered", through_memory)
    with ImageFile(os.open(path, os.O_RDWR), str(path), writable=True) as file:
        file.pass_memory_by()
        digest = xxhash.xxh3_128_hexdigest(data)
        moving.prove(file, [Place(0, length // 512, 0, False)], digest, lambda count: None)


@pytest.mark.parametrize(
    "lengths", [[8] * 300, [2048, 1, 8, 600, 513, 4096], [1, 3, 1023, 1025, 7]], ids=str
)
def test_every_place_gets_what_belongs_there_wherever_it_lies_in_its_page(
    tmp_path: Path, lengths: list[int]
) -> None:
    """Small places share a buffer, large ones are cut; between them nothing is touched."""
    source, target = tmp_path / "child", tmp_path / "base"
    at = held = 1
    places, runs, expected = [], [], bytearray(b"\xaa" * 512 * (3 * sum(lengths) + 8))
    source.write_bytes(data := os.urandom(512 * (sum(lengths) + 2)))
    with (
        ImageFile(os.open(source, os.O_RDONLY), "child") as child,
        ImageFile(os.open(target, os.O_RDWR | os.O_CREAT), "base", writable=True) as base,
    ):
        base.write_at(0, bytes(expected))
        for number, count in enumerate(lengths):
            zeros = number % 5 == 4
            places.append(Place(at, count, at * 512, zeros))
            runs.append(Run(at, count, None if zeros else child, held * 512))
            piece = bytes(512 * count) if zeros else data[held * 512 : (held + count) * 512]
            expected[at * 512 : (at + count) * 512] = piece
            at += count + 1 + number % 2
            held += count
        base.pass_memory_by()
        told: list[int] = []
        digest = moving.move(base, places, runs, told.append)
        base.sync()
        moving.prove(base, places, digest, told.append)
        assert sum(told) == 2 * 512 * sum(lengths)
        assert target.read_bytes() == bytes(expected)
        base.write_at(places[-1].file_offset, b"\x55" * 512)
        base.sync()
        with pytest.raises(ImageError, match="reads otherwise"):
            moving.prove(base, places, digest, told.append)
