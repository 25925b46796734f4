"""The block map: shades, size and words."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from disks.views.drawing.blockmap import Cell, describe, draw_block_map

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("count", "allocated", "shade"), [(10, 0, 0), (10, 1, 1), (10, 5, 2), (10, 9, 3), (10, 10, 4)]
)
def test_a_cell_is_darker_where_more_is_stored(count: int, allocated: int, shade: int) -> None:
    assert Cell(0, count, allocated).shade == shade


def test_a_path_per_shade_and_a_row_per_width() -> None:
    cells = [Cell(index, 1, index % 2) for index in range(100)]
    tree = ET.fromstring(draw_block_map(cells, width=110))
    assert [path.get("class") for path in tree.findall(f"{SVG}path")] == [
        "vd-block-0",
        "vd-block-4",
    ]
    assert (tree.get("width"), tree.get("height")) == ("110", "110")
    assert tree.get("role") == "img"


def test_zeros_that_hide_a_parent_have_a_colour_and_words() -> None:
    cells = [Cell(0, 1, 1), Cell(1, 1, 0, zeros=1), Cell(2, 1), Cell(3, 2, 1, zeros=1)]
    assert [cell.state for cell in cells] == ["allocated", "zeros", "empty", "partial"]
    tree = ET.fromstring(draw_block_map(cells))
    drawn = [path.get("class") for path in tree.findall(f"{SVG}path")]
    assert drawn == ["vd-block-0", "vd-block-2", "vd-block-4", "vd-block-zero"]
    assert describe(cells).endswith(
        " 2 are zeros by the block table. They hide what the parent has there."
    )


def test_the_map_in_words() -> None:
    cells = [Cell(0, 2, 2), Cell(2, 2, 0), Cell(4, 4, 2)]
    assert describe(cells) == "4 of 8 blocks are stored (50 %), in 2 separate runs of cells."
    assert describe([Cell(0, 9, 0)]) == "None of the 9 blocks is stored in this file."
    assert describe([]) == "This disk has no blocks."
