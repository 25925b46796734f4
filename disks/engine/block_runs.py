"""A block table in runs: what lies between the entries that are in use is one run, too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from disks.engine.images import Source


def block_runs(
    used: Iterable[tuple[int, Source]], total: int, absent: Source
) -> Iterator[tuple[int, int, Source]]:
    """(first block, blocks, source) of all blocks below total, neighbours of one source joined.

    used: (block, source) of the entries in use, ascending. absent: what the others are.
    """
    first, source = 0, absent
    for block, found in _with_gaps(used, total, absent):
        if found is not source:
            if block > first:
                yield first, block - first, source
            first, source = block, found
    if total > first:
        yield first, total - first, source


def _with_gaps(
    used: Iterable[tuple[int, Source]], total: int, absent: Source
) -> Iterator[tuple[int, Source]]:
    """The used blocks, and the first of every gap behind one."""
    after = 0
    for block, source in used:
        if block >= total:
            break
        if block > after:
            yield after, absent
        yield block, source
        after = block + 1
    if after < total:
        yield after, absent
