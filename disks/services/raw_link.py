"""The parent locators of a disk as they are stored now, bytes included: for the eye only."""

from __future__ import annotations

from disks.engine.formats import open_image
from disks.engine.parent_link import Locator
from disks.models import Disk
from disks.services import roots


def locators(disk: Disk) -> tuple[Locator, ...]:
    """Read from the file; the catalog keeps only the decoded paths.

    Raises ImageError where the file cannot be opened or its header is damaged.
    """
    scope = roots.operation_roots()
    try:
        with scope.open(disk.path) as file:
            image = open_image(file)
            return () if image.parent is None else image.parent.locators
    finally:
        scope.close()
