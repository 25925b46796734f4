"""Pieces of a file past the kernel's memory of it read and write as any others do."""

from __future__ import annotations

import errno
import fcntl
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from disks.engine import faults
from disks.engine.direct import Direct
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile

SIZE_BYTES = 96 * 1024 + 512
MOST_BYTES = 32 * 1024


@pytest.fixture
def file(tmp_path: Path) -> Iterator[ImageFile]:
    path = tmp_path / "disk.vhd"
    path.write_bytes(random.Random(1).randbytes(SIZE_BYTES))
    with ImageFile(os.open(path, os.O_RDWR), str(path), writable=True) as opened:
        yield opened


def change_at_random(file: ImageFile, direct: Direct) -> bytearray:
    """Pieces written one way and the other; the bytes that the file must hold now."""
    chance = random.Random(7)
    expected = bytearray(file.read_at(0, SIZE_BYTES))
    for _ in range(200):
        length = chance.randrange(1, MOST_BYTES // 512) * 512
        offset = chance.randrange(0, (SIZE_BYTES - length) // 512 + 1) * 512
        data = chance.randbytes(length)
        if chance.random() < 0.3:
            file.write_at(offset, data)
        else:
            piece = direct.buffer(offset, length)
            piece[:] = data
            direct.write(offset, piece)
        expected[offset : offset + length] = data
        if chance.random() < 0.3:
            assert direct.read(offset, length) == expected[offset : offset + length]
    return expected


def test_pieces_at_any_sector_read_back_as_they_were_written(file: ImageFile) -> None:
    with Direct(file, MOST_BYTES) as direct:
        expected = change_at_random(file, direct)
        for offset in range(0, SIZE_BYTES - MOST_BYTES, 5 * 512):
            assert direct.read(offset, MOST_BYTES) == expected[offset : offset + MOST_BYTES]
    assert file.read_at(0, SIZE_BYTES) == expected
    assert file.size_bytes == file.stat().st_size == SIZE_BYTES


def test_whole_pages_do_not_go_through_the_memory(
    file: ImageFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[bool, int, int]] = []

    def see(fd: int, path: str, offset: int, data: memoryview) -> int:
        written.append((bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT), offset, len(data)))
        return len(data)

    monkeypatch.setattr(faults, "writing", see)
    with Direct(file, MOST_BYTES) as direct:
        direct.write(3584, direct.buffer(3584, 9216))
    assert written == [(True, 4096, 8192), (False, 3584, 512), (False, 12288, 512)]


def test_where_the_storage_cannot_they_go_the_usual_way(
    file: ImageFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, flags: int) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)

    monkeypatch.setattr(os, "open", refuse)
    with Direct(file, MOST_BYTES) as direct:
        expected = change_at_random(file, direct)
    assert file.read_at(0, SIZE_BYTES) == expected


def test_storage_that_refuses_only_the_first_piece_gets_it_the_usual_way(
    file: ImageFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    past = os.pwrite
    refused = 0

    def refuse(fd: int, data: memoryview, offset: int) -> int:
        nonlocal refused
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            refused += 1
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return past(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", refuse)
    with Direct(file, MOST_BYTES) as direct:
        expected = change_at_random(file, direct)
    assert refused == 1
    assert file.read_at(0, SIZE_BYTES) == expected


def test_full_storage_is_told_at_once(file: ImageFile) -> None:
    faults.install(faults.Fault("write", 1, "enospc"))
    try:
        with Direct(file, MOST_BYTES) as direct, pytest.raises(ImageError) as refused:
            direct.write(4096, direct.buffer(4096, 8192))
    finally:
        faults.install(None)
    assert refused.value.code == "E_NOSPC"


def test_what_another_wrote_past_the_memory_is_read(file: ImageFile) -> None:
    """The ends of a piece, too, which are read through the memory."""
    with Direct(file, MOST_BYTES) as direct:
        direct.read(512, 12 * 1024)
        with Direct(file, MOST_BYTES) as other:
            piece = other.buffer(0, 16 * 1024)
            piece[:] = b"\xa5" * len(piece)
            other.write(0, piece)
        assert direct.read(512, 12 * 1024) == b"\xa5" * (12 * 1024)
