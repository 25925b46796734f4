"""The rows of a repair plan that were chosen."""

from __future__ import annotations

import re

from disks.models import Disk

MOST_ROWS = 5_000
_ROW = re.compile(r"([1-9][0-9]{0,17}):([1-9][0-9]{0,17})")


def chosen_rows(values: list[str]) -> list[tuple[Disk, Disk]]:
    """Child and proposed parent of each checkbox; what is no row of the catalog is left out."""
    pairs: dict[int, int] = {}
    for value in values[:MOST_ROWS]:
        match = _ROW.fullmatch(value)
        if match:
            pairs[int(match[1])] = int(match[2])
    found = {
        disk.pk: disk
        for disk in Disk.objects.select_related("root", "parent_link").filter(
            pk__in={*pairs, *pairs.values()}
        )
    }
    return [
        (found[child], found[parent])
        for child, parent in pairs.items()
        if child in found and parent in found
    ]
