"""Who else may have a say: managers beside the disks, and the declaration that overrules them."""

from __future__ import annotations

from collections.abc import Iterable

from disks.engine.errors import ImageError
from disks.engine.images import Image
from disks.operations.inspection import managed_by
from disks.operations.paths import Roots


def managers(roots: Roots, disks: Iterable[tuple[str, Image]]) -> list[dict[str, str]]:
    """What manages these disks: code, sentence, way_out, path; nothing for the others."""
    found = []
    for path, image in disks:
        manager = managed_by(path, roots, hidden=image.hidden)
        if manager is not None:
            found.append(manager.as_dict() | {"path": path})
    return found


def in_short(managed: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """Each manager once, with the number of its disks where it has several."""
    found: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in managed:
        found.setdefault((row["code"], row["sentence"]), []).append(row)
    return [
        rows[0] | ({"sentence": f"{len(rows):,} disks: {sentence}"} if len(rows) > 1 else {})
        for (_, sentence), rows in found.items()
    ]


def require_offline(managed: Iterable[dict[str, str]], *, offline: bool) -> None:
    """E_MANAGED if something manages one of the disks and nobody declared them offline.

    What is open on this storage is told by the locks; Windows hosts ignore those, so the
    console asks for the declaration in any case where a root is opened by them.
    """
    for row in managed:
        if offline:
            return
        raise ImageError(
            "E_MANAGED",
            f"{row['path']}: {row['sentence']} {row['way_out']}",
            file=row["path"],
            field="managed_by",
            value=row["code"],
        )
