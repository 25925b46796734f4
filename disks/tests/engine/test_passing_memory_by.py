"""Pieces of a file past the kernel's memory of it read and write as any others do."""

from __future__ import annotations

import errno
import fcntl
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from disks.engine import faults, files
from disks.engine.errors import ImageError
from disks.engine.files import ImageFile, in_pages, page_buffer

SIZE_BYTES = 96 * 1024 + 512
MOST_BYTES = 32 * 1024


BUFFER = page_buffer(MOST_BYTES)


@pytest.fixture(autouse=True)
def pieces_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGE_BYTES", 2048)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[ImageFile]:
    path = tmp_path / "disk.vhd"
    path.write_bytes(random.Random(1).randbytes(SIZE_BYTES))
    with open_file(path) as opened:
        yield opened


def open_file(path: Path) -> ImageFile:
    return ImageFile(os.open(path, os.O_RDWR), str(path), writable=True)


def read(file: ImageFile, offset: int, length: int) -> memoryview:
    piece = in_pages(BUFFER, offset, length)
    file.read_into(offset, piece)
    return piece


def write(file: ImageFile, offset: int, data: bytes) -> None:
    piece = in_pages(BUFFER, offset, len(data))
    piece[:] = data
    file.write_at(offset, piece)


def change_at_random(file: ImageFile) -> bytearray:
    """Pieces written one way and the other; the bytes that the file must hold now."""
    chance = random.Random(7)
    expected = bytearray(file.read_at(0, SIZE_BYTES))
    for _ in range(200):
        length = chance.randrange(1, MOST_BYTES // 512) * 512
        offset = chance.randrange(0, (SIZE_BYTES - length) // 512 + 1) * 512
        data = chance.randbytes(length)
        write(file, offset, data)
        expected[offset : offset + length] = data
        if chance.random() < 0.3:
            assert read(file, offset, length) == expected[offset : offset + length]
    return expected


def is_past_memory(fd: int) -> bool:
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)


def test_pieces_at_any_sector_read_back_as_they_were_written(file: ImageFile) -> None:
    file.pass_memory_by()
    expected = change_at_random(file)
    for offset in range(0, SIZE_BYTES - MOST_BYTES, 5 * 512):
        assert read(file, offset, MOST_BYTES) == expected[offset : offset + MOST_BYTES]
    assert file.read_at(0, SIZE_BYTES) == expected
    assert file.size_bytes == file.stat().st_size == SIZE_BYTES


def test_whole_pages_do_not_go_through_the_memory(
    file: ImageFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[bool, int, int]] = []

    def see(fd: int, path: str, offset: int, data: memoryview) -> int:
        written.append((is_past_memory(fd), offset, len(data)))
        return len(data)

    monkeypatch.setattr(faults, "writing", see)
    file.pass_memory_by()
    write(file, 3584, bytes(9216))
    write(file, 512, bytes(1024))
    usual = [(False, 3584, 512), (False, 12288, 512), (False, 512, 1024)]
    assert written == [(True, 4096, 8192), *usual]


def test_where_the_storage_cannot_they_go_the_usual_way(
    file: ImageFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, flags: int) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)

    monkeypatch.setattr(os, "open", refuse)
    file.pass_memory_by()
    expected = change_at_random(file)
    assert file.read_at(0, SIZE_BYTES) == expected


def test_storage_that_refuses_only_the_first_piece_gets_it_the_usual_way(
    file: ImageFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    refused = 0

    def refuse(fd: int, data: memoryview, offset: int) -> int:
        nonlocal refused
        if is_past_memory(fd):
            refused += 1
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", refuse)
    file.pass_memory_by()
    expected = change_at_random(file)
    assert refused == 1
    assert file.read_at(0, SIZE_BYTES) == expected


def test_bytes_that_lie_anywhere_do_not_end_it(
    file: ImageFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large log entry between two batches, say: most storage refuses what is not aligned."""
    ways: list[bool] = []

    def see(fd: int, path: str, offset: int, data: memoryview) -> int:
        ways.append(is_past_memory(fd))
        return len(data)

    monkeypatch.setattr(faults, "writing", see)
    file.pass_memory_by()
    file.write_at(4096, bytes(8192))
    write(file, 4096, bytes(8192))
    assert ways == [False, True]


def test_asked_for_again_it_opens_the_file_no_second_time(file: ImageFile) -> None:
    file.pass_memory_by()
    before = os.listdir("/proc/self/fd")
    file.pass_memory_by()
    assert os.listdir("/proc/self/fd") == before


def test_full_storage_is_told_at_once(file: ImageFile) -> None:
    file.pass_memory_by()
    faults.install(faults.Fault("write", 1, "enospc"))
    try:
        with pytest.raises(ImageError) as refused:
            write(file, 4096, bytes(8192))
    finally:
        faults.install(None)
    assert refused.value.code == "E_NOSPC"


def test_what_another_wrote_past_the_memory_is_read(file: ImageFile) -> None:
    """The ends of a piece, too, which are read through the memory."""
    file.pass_memory_by()
    read(file, 512, 12 * 1024)
    with open_file(Path(file.path)) as other:
        other.pass_memory_by()
        write(other, 0, b"\xa5" * (16 * 1024))
    assert read(file, 512, 12 * 1024) == b"\xa5" * (12 * 1024)


def test_what_another_wrote_otherwise_is_read_past_the_memory(file: ImageFile) -> None:
    file.pass_memory_by()
    read(file, 4096, 8192)
    with open_file(Path(file.path)) as other:
        other.write_at(6000, b"fresh")
    assert read(file, 4096, 8192)[6000 - 4096 :][:5] == b"fresh"
