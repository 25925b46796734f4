"""Passes over a disk are told and stopped in time, also where there is nothing to copy."""

from __future__ import annotations

from pathlib import Path

import pytest

from disks.engine import formats
from disks.operations import content, counting, streaming
from disks.operations.progress import Progress
from disks.tests.engine.watched import BLOCK_BYTES, Watched, blocks

COUNT = 2048  # 4 GiB


class Reports(Progress):
    def __init__(self, file: Watched) -> None:
        self.file = file

    def report(self, done_bytes: int, total_bytes: int, sentence: str | None = None) -> None:
        self.file.report(done_bytes, total_bytes)


@pytest.mark.parametrize("what", ["count", "copy"])
def test_allocated_but_empty_blocks_are_passed_with_reports(tmp_path: Path, what: str) -> None:
    """Their bitmaps have to be read; nothing comes of them."""
    with Watched(blocks(tmp_path / "empty.vhd", COUNT, empty=True)) as file:
        view = content.ImageContent(formats.open_image(file))
        if what == "count":
            assert counting.count(view, BLOCK_BYTES, Reports(file)).blocks == 0
        else:
            done = streaming.stream(view, BLOCK_BYTES, holding=None, progress=Reports(file))
            assert (done.blocks, done.read_bytes) == (0, 0)
        assert file.most_reads <= 600
        assert len(file.reports) >= 3
        assert file.reports == sorted(file.reports)
