"""What a batch moved is compared with what the storage has, not with what memory kept of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import xxhash

from disks.engine.files import LARGE_BYTES, ImageFile
from disks.engine.holding import Place
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
