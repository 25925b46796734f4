"""Facts for people that only the file tells, not the catalog."""

from __future__ import annotations

from contextlib import closing

from disks.engine.errors import ImageError
from disks.engine.formats import open_image
from disks.models import Disk
from disks.services import roots


def read(disk: Disk) -> dict[str, str]:
    """What `Image.properties` says now, by label; nothing where the file cannot be read."""
    if not disk.disk_type or disk.missing_since is not None:
        return {}
    try:
        with closing(roots.operation_roots()) as scope, scope.open(disk.path) as file:
            return dict(open_image(file).properties())
    except ImageError:
        return {}
