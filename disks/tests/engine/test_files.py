"""Files that are passed once: the storage begins early, memory stays free, nothing else changes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from disks.engine.files import ImageFile
from disks.tests.builders import MIB
from disks.tests.engine.world import create_file, open_file

DROP, IN_ORDER = os.POSIX_FADV_DONTNEED, os.POSIX_FADV_SEQUENTIAL
PIECE = MIB // 2

Hints = list[tuple[int, int, int]]


@pytest.fixture
def hints(monkeypatch: pytest.MonkeyPatch) -> Hints:
    """What the storage was told: first byte, number of bytes, advice."""
    seen: Hints = []

    def told(fd: int, offset: int, length: int, advice: int) -> None:
        seen.append((offset, length, advice))

    monkeypatch.setattr(os, "posix_fadvise", told)
    return seen


def pieces(count_bytes: int) -> list[tuple[int, bytes]]:
    return [(at, bytes([1 + at // PIECE]) * PIECE) for at in range(0, count_bytes, PIECE)]


def write(file: ImageFile, count_bytes: int) -> None:
    for offset, data in pieces(count_bytes):
        file.write_at(offset, data)


def read(file: ImageFile, count_bytes: int) -> bytes:
    found = bytearray(count_bytes)
    for offset in range(0, count_bytes, PIECE):
        file.read_into(offset, memoryview(found)[offset : offset + PIECE])
    return bytes(found)


def test_what_was_written_is_let_go_every_few_mib(tmp_path: Path, hints: Hints) -> None:
    with create_file(tmp_path / "a") as file:
        file.pass_once()
        write(file, 20 * MIB)
    assert hints == [(0, 0, DROP), (0, 0, IN_ORDER), (0, 8 * MIB, DROP), (0, 16 * MIB, DROP)]


def test_what_was_read_is_let_go_and_nothing_behind_it(tmp_path: Path, hints: Hints) -> None:
    """What lies further on was perhaps read ahead already."""
    path = tmp_path / "a"
    path.write_bytes(bytes(20 * MIB))
    with open_file(path) as file:
        file.pass_once()
        read(file, 20 * MIB)
    assert hints == [(0, 0, DROP), (0, 0, IN_ORDER), (0, 8 * MIB, DROP), (0, 16 * MIB, DROP)]


def test_other_files_stay_in_memory(tmp_path: Path, hints: Hints) -> None:
    with create_file(tmp_path / "a") as file:
        write(file, 9 * MIB)
        read(file, 9 * MIB)
    assert hints == []


def test_bytes_are_the_same_on_a_storage_that_takes_no_hints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    def refuse(*_: int) -> None:
        nonlocal asked
        asked += 1
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "posix_fadvise", refuse)
    with create_file(tmp_path / "a") as file:
        file.pass_once()
        write(file, 9 * MIB)
        file.sync()
        assert read(file, 9 * MIB) == b"".join(data for _, data in pieces(9 * MIB))
    assert asked > 2
