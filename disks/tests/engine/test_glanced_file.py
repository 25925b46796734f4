"""A file that is looked at once: the same bytes as from any other, in fewer reads."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from disks.engine.errors import ImageError
from disks.engine.files import GlancedFile
from disks.engine.formats import open_image
from disks.tests.builders import build_dynamic

HEAD = 16 * 1024


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What the storage is asked for: offset and length of each read."""
    seen: list[tuple[int, int]] = []
    pread = os.pread

    def counting(fd: int, length: int, offset: int) -> bytes:
        seen.append((offset, length))
        return pread(fd, length, offset)

    monkeypatch.setattr(os, "pread", counting)
    return seen


def glance(path: Path) -> GlancedFile:
    return GlancedFile(os.open(path, os.O_RDONLY), str(path))


@pytest.mark.parametrize("size", [0, 1, 511, 512, HEAD, HEAD + 1, 40_000])
def test_every_range_is_that_of_the_file_and_each_end_is_read_once(
    tmp_path: Path, size: int, asked: list[tuple[int, int]]
) -> None:
    content = random.Random(size).randbytes(size)
    path = tmp_path / "glanced"
    path.write_bytes(content)
    edges = {
        0,
        1,
        8,
        511,
        512,
        513,
        HEAD - 1,
        HEAD,
        HEAD + 1,
        size - 513,
        size - 512,
        size - 1,
        size,
    }
    places = sorted(edge for edge in edges if 0 <= edge <= size)
    with glance(path) as file:
        for start in places:
            for end in (place for place in places if place > start):
                assert file.read_at(start, end - start) == content[start:end]
        assert len([one for one in asked if one == (0, min(size, HEAD))]) <= 1
        assert asked.count((size - 512, 512)) <= 1
        with pytest.raises(ImageError) as refused:
            file.read_at(max(0, size - 1), 2)
    assert refused.value.code == "E_TRUNCATED"


def test_a_disk_is_known_and_opened_by_two_reads(
    tmp_path: Path, asked: list[tuple[int, int]]
) -> None:
    built = build_dynamic(tmp_path, "a.vhd", content=[(0, b"data" * 128)])
    with glance(built.path) as file:
        image = open_image(file)
        assert image.blocks_allocated() == 1
    size = built.path.stat().st_size
    assert sorted(asked) == [(0, HEAD), (size - 512, 512)]
