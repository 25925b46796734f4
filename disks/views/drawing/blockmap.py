"""The layout of a disk as a grid: one cell for a run of blocks, darker where more is stored."""

from __future__ import annotations

from collections.abc import Sequence

from django.utils.safestring import SafeString

from disks.services.blockmap import Cell
from disks.views.drawing import svg

CELL_PX = 10
GAP_PX = 1


def draw_block_map(
    cells: Sequence[Cell], *, width: int = 760, identifier: str = "blocks"
) -> SafeString:
    """SVG of the cells in reading order; one path per shade keeps the markup small."""
    step = CELL_PX + GAP_PX
    columns = max(1, width // step)
    paths: dict[str, list[str]] = {}
    for index, cell in enumerate(cells):
        x, y = index % columns * step, index // columns * step
        kind = "zero" if cell.state == "zeros" else str(cell.shade)
        paths.setdefault(kind, []).append(f"M{x} {y}h{CELL_PX}v{CELL_PX}h-{CELL_PX}z")
    rows = max(1, -(-len(cells) // columns))
    return svg.document(
        [
            svg.element("path", d="".join(paths[kind]), class_=f"vd-block-{kind}")
            for kind in sorted(paths)
        ],
        width=columns * step,
        height=rows * step,
        identifier=identifier,
        heading="Where this disk stores data",
        description=describe(cells),
        class_="vd-blockmap",
        role="img",
    )


def describe(cells: Sequence[Cell]) -> str:
    """How much is stored and how it is spread, in words."""
    total = sum(cell.count for cell in cells)
    stored = sum(cell.allocated for cell in cells)
    if not total:
        return "This disk has no blocks."
    runs = 0
    inside = False
    for cell in cells:
        if cell.allocated and not inside:
            runs += 1
        inside = bool(cell.allocated)
    spread = "in one run" if runs == 1 else f"in {runs:,} separate runs of cells"
    words = (
        f"{stored:,} of {total:,} blocks are stored ({100 * stored / total:.0f} %), {spread}."
        if stored
        else f"None of the {total:,} blocks is stored in this file."
    )
    zeros = sum(cell.zeros for cell in cells)
    if zeros:
        verb, hide = ("is", "It hides") if zeros == 1 else ("are", "They hide")
        words += f" {zeros:,} {verb} zeros by the block table. {hide} what the parent has there."
    return words
