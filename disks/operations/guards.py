"""Who else may have a say: managers beside the disks, and the declaration that overrules them."""

from __future__ import annotations

import os
from collections.abc import Iterable

from disks.engine.errors import ImageError
from disks.operations.managers import Manager, manager_of
from disks.operations.paths import Roots


def managers(roots: Roots, paths: Iterable[str]) -> list[dict[str, str]]:
    """What manages these disks, as rows with the path; nothing for those nobody manages."""
    return [manager.as_dict() | {"path": path} for path, manager in _found(roots, paths)]


def require_offline(roots: Roots, paths: Iterable[str], *, offline: bool) -> None:
    """E_MANAGED if something manages one of the disks and nobody declared them offline.

    What is open on this storage is told by the locks; Windows hosts ignore those, so the
    console asks for the declaration in any case where a root is opened by them.
    """
    if offline:
        return
    for path, manager in _found(roots, paths):
        raise ImageError(
            "E_MANAGED",
            f"{path}: {manager.sentence} {manager.way_out} To go on all the same, declare that "
            "the disks are offline and that the manager does not know them any more.",
            file=path,
            field="manager",
            value=manager.code,
        )


def _found(roots: Roots, paths: Iterable[str]) -> Iterable[tuple[str, Manager]]:
    listings: dict[str, list[str]] = {}
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listings:
            listings[folder] = [entry.name for entry in roots.list(folder)]
        manager = manager_of(listings[folder], name)
        if manager is not None:
            yield path, manager
