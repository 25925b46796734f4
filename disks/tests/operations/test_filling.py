"""What is copied inside of a file is read back from the storage, however small it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from disks.engine.changes import Fill
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile
from disks.engine.units import KIB, MIB
from disks.operations import filling
from disks.operations.progress import Progress

SOURCE = 4 * MIB


@pytest.fixture(params=[64 * KIB, 2 * MIB + 64 * KIB], ids=["small", "with-a-small-end"])
def room(request: pytest.FixtureRequest) -> Fill:
    return Fill(0, request.param, copy_of=SOURCE)


@pytest.fixture
def file(tmp_path: Path) -> ImageFile:
    path = tmp_path / "disk.vhd"
    path.write_bytes(os.urandom(8 * MIB))
    return ImageFile(os.open(path, os.O_RDWR), str(path), writable=True)


def test_all_of_a_copy_is_forgotten_before_it_is_read_back(
    file: ImageFile, room: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: set[int] = set()
    kept: list[int] = []
    forget, read = ImageFile.forget, ImageFile.read_remembered

    def forgets(self: ImageFile, offset: int, length: int) -> None:
        forgotten.update(range(offset, offset + length, 4 * KIB))
        forget(self, offset, length)

    def reads(self: ImageFile, offset: int, buffer: memoryview) -> None:
        pages = range(offset, offset + len(buffer), 4 * KIB)
        kept.extend(page for page in pages if page < SOURCE and page not in forgotten)
        read(self, offset, buffer)

    with file:
        filling.fill(file, [room], Progress())
        file.sync()
        monkeypatch.setattr(ImageFile, "forget", forgets)
        monkeypatch.setattr(ImageFile, "read_remembered", reads)
        filling.require_filled(file, [room])
        assert kept == []
        assert file.read_at(0, room.length) == file.read_at(SOURCE, room.length)


def test_a_copy_that_reads_otherwise_is_refused(file: ImageFile, room: Fill) -> None:
    with file:
        filling.fill(file, [room], Progress())
        file.write_at(room.length - 1, bytes([file.read_at(room.length - 1, 1)[0] ^ 1]))
        file.sync()
        with pytest.raises(ImageError) as refused:
            filling.require_filled(file, [room])
    assert refused.value.code == "E_VERIFY"
